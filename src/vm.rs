//! A virtual machine and its life cycle.
//!
//! Lock order: `lifecycle` before a virtual CPU's power lock. Neither is held
//! while guest code runs or while images are loaded.

#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use log::{error, info};
use spin::mutex::TicketMutex;

use crate::address::{Instant, VcpuId};
use crate::backend::{Backend, Machine};
use crate::bus::Bus;
use crate::config::VmConfig;
use crate::exit::PowerAnswer;
use crate::statistics::Total;
use crate::vcpu::{Power, VcpuHandle};

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
    /// Copy of "not running" that is read at every exit without the lock.
    stopping: AtomicBool,
    /// How often it was started, resets included.
    starts: AtomicU64,
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
            stopping: AtomicBool::new(true),
            starts: AtomicU64::new(0),
        }
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

    /// Loads the images and lets the first virtual CPU start. Only a virtual
    /// machine that does not run starts; false for any other, or when loading failed.
    pub fn start(&self, backend: &B) -> bool {
        let before = {
            let mut lifecycle = self.lifecycle.lock();
            let before = lifecycle.state;
            if !matches!(before, State::Created | State::Stopped) {
                return false;
            }
            lifecycle.state = State::Changing;
            before
        };
        self.boot(backend, before)
    }

    /// Asks for a transition. The first request wins, but what ends a run
    /// replaces a pause. False when none is possible because the virtual
    /// machine does not run, or stands still already.
    pub fn request(&self, backend: &B, transition: Transition) -> bool {
        let idle = {
            let mut lifecycle = self.lifecycle.lock();
            match (lifecycle.state, transition) {
                (State::Running, _) => {}
                (State::Paused(_) | State::Draining(Transition::Pause), transition)
                    if transition != Transition::Pause => {}
                _ => return false,
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
            self.carry_out(backend, transition);
        } else {
            self.kick_all(backend);
        }
        true
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
    pub(crate) fn leave(&self, backend: &B) {
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
        if let Some(transition) = due {
            self.carry_out(backend, transition);
        }
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

    fn carry_out(&self, backend: &B, transition: Transition) {
        if transition == Transition::Pause {
            info!("vm \"{}\": paused", self.config.name);
            self.lifecycle.lock().state = State::Paused(backend.now());
            return;
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
                self.boot(backend, State::Stopped);
            }
        }
    }

    /// From `Changing` to `Running`, or to `otherwise` when the images cannot
    /// be loaded.
    fn boot(&self, backend: &B, otherwise: State) -> bool {
        self.bus.reset();
        let booted = self.machine.reset();
        if booted.is_ok() {
            let (name, free) = (&self.config.name, backend.free_memory() >> 10);
            info!("vm \"{name}\": started, {free} KiB of host memory free");
        }
        let mut lifecycle = self.lifecycle.lock();
        let Some(first) = self.vcpus.first() else {
            lifecycle.state = otherwise;
            return false;
        };
        match booted {
            Ok(boot) => {
                for vcpu in &self.vcpus {
                    vcpu.turn_off();
                }
                lifecycle.state = State::Running;
                self.starts.fetch_add(1, Ordering::Relaxed);
                self.stopping.store(false, Ordering::Release);
                let answer = first.turn_on(boot.entry, boot.context);
                drop(lifecycle);
                backend.kick(first.home());
                answer == PowerAnswer::Success
            }
            Err(reason) => {
                lifecycle.state = otherwise;
                drop(lifecycle);
                error!("vm \"{}\": {reason}", self.config.name);
                false
            }
        }
    }
}
