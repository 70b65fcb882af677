//! A virtual machine and its life cycle.
//!
//! Lock order: `preparation`, `lifecycle`, a virtual CPU's power lock. None is held
//! while guest code runs, and only `preparation` while images are loaded.

#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use log::{error, info};
use spin::mutex::TicketMutex;

use crate::address::{Instant, VcpuId};
use crate::assembly::DeviceHandles;
use crate::backend::{Backend, Machine, Reset};
use crate::bus::{Bus, Progress};
use crate::config::VmConfig;
use crate::network::Port;
use crate::statistics::Total;
use crate::vcpu::{Power, VcpuHandle};
use crate::virtio::Transport;
use crate::virtio::balloon::Balloon;

/// Why a virtual machine leaves the running state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Turned off by its guest or by the user.
    Off,
    /// Restarted from its images.
    Reset,
    /// The guest could not go on.
    Crash,
    /// Stands still until it is resumed.
    Pause,
}

/// What a virtual machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Has not run yet.
    Created,
    /// Has run, and does not any more.
    Stopped,
    /// Its virtual CPUs may run.
    Running,
    /// Stands still since then, and so does its time.
    Paused(Instant),
    /// Virtual CPUs are leaving their host CPUs; the last one completes the
    /// transition.
    Draining(Transition),
    /// One host CPU is carrying out the transition.
    Changing,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The virtual machine is in no state for it.
    Impossible,
    /// It is carried out, or somebody else carries it out.
    UnderWay,
    /// Whoever asked has to see that the virtual machine is prepared for its start.
    Prepare,
}

/// A boot that is under way.
#[derive(Debug, Clone, Copy)]
struct Preparation {
    /// Where the machine's reset goes on.
    position: u64,
    /// What the virtual machine is if its images cannot be loaded.
    otherwise: State,
}

#[derive(Debug)]
struct Lifecycle {
    state: State,
    /// Virtual CPUs that are loaded on a host CPU.
    active: usize,
}

/// One virtual machine.
pub struct Vm<B: Backend> {
    /// Its configuration.
    pub config: VmConfig,
    /// Its devices.
    pub bus: Bus,
    /// Its architecture's part.
    pub machine: Arc<B::Machine>,
    /// Its virtual CPUs, by number.
    pub vcpus: Vec<Arc<VcpuHandle>>,
    lifecycle: TicketMutex<Lifecycle>,
    preparation: TicketMutex<Option<Preparation>>,
    /// Copy of "not running" that is read at every exit without the lock.
    stopping: AtomicBool,
    /// How often it was started, resets included.
    starts: AtomicU64,
    /// Devices that the user may look at and ask of.
    devices: DeviceHandles,
}

impl<B: Backend> Vm<B> {
    /// A virtual machine that has not run yet.
    pub fn new(
        config: VmConfig,
        bus: Bus,
        machine: Arc<B::Machine>,
        vcpus: Vec<Arc<VcpuHandle>>,
    ) -> Self {
        Vm {
            config,
            bus,
            machine,
            vcpus,
            lifecycle: TicketMutex::new(Lifecycle { state: State::Created, active: 0 }),
            preparation: TicketMutex::new(None),
            stopping: AtomicBool::new(true),
            starts: AtomicU64::new(0),
            devices: DeviceHandles::default(),
        }
    }

    /// The same with devices that the user may look at.
    pub fn with_devices(self, devices: DeviceHandles) -> Self {
        Vm { devices, ..self }
    }

    /// Its ports of the virtual network, by number.
    pub fn ports(&self) -> &[Arc<Port>] {
        &self.devices.ports
    }

    /// Its balloon, if it has one.
    pub fn balloon(&self) -> Option<&Arc<Transport<Balloon>>> {
        self.devices.balloon.as_ref()
    }

    /// Bytes of its memory that it has at this moment.
    pub fn present_memory(&self) -> u64 {
        self.config.memory.saturating_sub(self.machine.absent_memory())
    }

    /// How often it was started, resets included.
    pub fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// What it is doing at this moment.
    pub fn state(&self) -> State {
        self.lifecycle.lock().state
    }

    /// Whether its virtual CPUs have to leave their host CPUs.
    #[inline]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Loads the images and lets the first virtual CPU start, at once. Only a virtual
    /// machine that does not run starts; false for any other, or when loading failed.
    pub fn start(&self, backend: &B) -> bool {
        let starts = self.begin_start();
        while starts && self.prepare(backend) == Progress::Again {}
        starts && self.state() == State::Running
    }

    /// Begins a start, which [`Self::prepare`] carries out; false unless the virtual
    /// machine is one that does not run.
    pub(crate) fn begin_start(&self) -> bool {
        let before = {
            let mut lifecycle = self.lifecycle.lock();
            let before = lifecycle.state;
            if !matches!(before, State::Created | State::Stopped) {
                return false;
            }
            lifecycle.state = State::Changing;
            before
        };
        self.begin_boot(before);
        true
    }

    /// Asks for a transition. The first request wins, but what ends a run
    /// replaces a pause. None is possible when the virtual machine does not run, or
    /// stands still already.
    pub fn request(&self, backend: &B, transition: Transition) -> Outcome {
        let idle = {
            let mut lifecycle = self.lifecycle.lock();
            match (lifecycle.state, transition) {
                (State::Running, _) => {}
                (State::Paused(_) | State::Draining(Transition::Pause), transition)
                    if transition != Transition::Pause => {}
                _ => return Outcome::Impossible,
            }
            self.stopping.store(true, Ordering::Release);
            if lifecycle.active == 0 {
                lifecycle.state = State::Changing;
                true
            } else {
                lifecycle.state = State::Draining(transition);
                false
            }
        };
        if idle {
            return self.carry_out(backend, transition);
        }
        self.kick_all(backend);
        Outcome::UnderWay
    }

    /// Lets a paused virtual machine go on; false for any other. Its time goes
    /// on where it stopped.
    pub fn resume(&self, backend: &B) -> bool {
        {
            let mut lifecycle = self.lifecycle.lock();
            let State::Paused(since) = lifecycle.state else { return false };
            // Nobody runs and nobody changes the state while the lock is held.
            self.machine.stood_still(backend.now().0.saturating_sub(since.0));
            lifecycle.state = State::Running;
            self.stopping.store(false, Ordering::Release);
        }
        info!("vm \"{}\": goes on", self.config.name);
        self.kick_all(backend);
        true
    }

    /// A virtual CPU is about to be loaded on its host CPU; false when it
    /// must not. Every `true` is followed by one [`Vm::leave`].
    pub(crate) fn enter(&self) -> bool {
        let mut lifecycle = self.lifecycle.lock();
        let running = lifecycle.state == State::Running;
        if running {
            lifecycle.active = lifecycle.active.saturating_add(1);
        }
        running
    }

    /// A virtual CPU has been taken off its host CPU. The last one to leave a
    /// draining virtual machine carries out the transition.
    pub(crate) fn leave(&self, backend: &B) -> Outcome {
        let due = {
            let mut lifecycle = self.lifecycle.lock();
            lifecycle.active = lifecycle.active.saturating_sub(1);
            match lifecycle.state {
                State::Draining(transition) if lifecycle.active == 0 => {
                    lifecycle.state = State::Changing;
                    Some(transition)
                }
                _ => None,
            }
        };
        due.map_or(Outcome::UnderWay, |transition| self.carry_out(backend, transition))
    }

    /// Whether all virtual CPUs but `except` are off.
    pub fn others_are_off(&self, except: VcpuId) -> bool {
        self.vcpus.iter().all(|vcpu| vcpu.id() == except || vcpu.power() == Power::Off)
    }

    /// Kicks the host CPUs of all virtual CPUs.
    pub fn kick_all(&self, backend: &B) {
        for vcpu in &self.vcpus {
            backend.kick(vcpu.home());
        }
    }

    fn carry_out(&self, backend: &B, transition: Transition) -> Outcome {
        if transition == Transition::Pause {
            info!("vm \"{}\": paused", self.config.name);
            self.lifecycle.lock().state = State::Paused(backend.now());
            return Outcome::UnderWay;
        }
        for vcpu in &self.vcpus {
            vcpu.turn_off();
        }
        let name = &self.config.name;
        if transition != Transition::Reset {
            let exits = Total(self.vcpus.iter().map(|vcpu| &vcpu.exits));
            info!("vm \"{name}\": exits: {exits}");
            // Nothing more comes from outside into the memory of a machine that is off.
            self.bus.reset();
        }
        match transition {
            // Done above.
            Transition::Pause => {}
            Transition::Off => {
                info!("vm \"{name}\": off");
                self.lifecycle.lock().state = State::Stopped;
            }
            Transition::Crash => {
                error!("vm \"{name}\": stopped after a fatal error");
                self.lifecycle.lock().state = State::Stopped;
            }
            Transition::Reset => {
                info!("vm \"{name}\": reset");
                self.begin_boot(State::Stopped);
                return Outcome::Prepare;
            }
        }
        Outcome::UnderWay
    }

    /// From `Changing` on to `Running`, or to `otherwise` when the images cannot
    /// be loaded.
    fn begin_boot(&self, otherwise: State) {
        self.bus.reset();
        *self.preparation.lock() = Some(Preparation { position: 0, otherwise });
    }

    /// Does a part of what a start or a reset has begun. `Again` until it runs,
    /// or cannot.
    pub(crate) fn prepare(&self, backend: &B) -> Progress {
        let mut preparation = self.preparation.lock();
        let Some(Preparation { position, otherwise }) = *preparation else {
            return Progress::Done;
        };
        let booted = match self.machine.reset(position) {
            Ok(Reset::More(position)) => {
                *preparation = Some(Preparation { position, otherwise });
                return Progress::Again;
            }
            Ok(Reset::Ready(boot)) => Ok(boot),
            Err(reason) => Err(reason),
        };
        *preparation = None;
        drop(preparation);
        if booted.is_ok() {
            let (name, free) = (&self.config.name, backend.free_memory() >> 10);
            info!("vm \"{name}\": started, {free} KiB of host memory free");
        }
        let mut lifecycle = self.lifecycle.lock();
        let Some(first) = self.vcpus.first() else {
            lifecycle.state = otherwise;
            return Progress::Done;
        };
        match booted {
            Ok(boot) => {
                for vcpu in &self.vcpus {
                    vcpu.turn_off();
                }
                lifecycle.state = State::Running;
                self.starts.fetch_add(1, Ordering::Relaxed);
                self.stopping.store(false, Ordering::Release);
                first.turn_on(boot.entry, boot.context);
                drop(lifecycle);
                backend.kick(first.home());
            }
            Err(reason) => {
                lifecycle.state = otherwise;
                drop(lifecycle);
                error!("vm \"{}\": {reason}", self.config.name);
            }
        }
        Progress::Done
    }
}
