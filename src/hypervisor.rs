//! The whole: the backend, the virtual machines, and the mailbox of each
//! host CPU.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use log::warn;
use spin::mutex::TicketMutex;

use crate::address::{CpuId, Instant};
use crate::backend::{Backend, Vcpu};
use crate::console::{Channel, Console};
use crate::monitor::Session;
use crate::trace::Recorder;
use crate::uplink::Uplinks;
use crate::vm::{State, Transition, Vm};

/// What a host CPU is told to do.
pub(crate) enum Mail<B: Backend> {
    /// Take in a virtual CPU.
    Arrival {
        /// The virtual CPU.
        vcpu: B::Vcpu,
        /// Its virtual machine.
        vm: Arc<Vm<B>>,
    },
    /// Load the images of a virtual machine and start it.
    Start(Arc<Vm<B>>),
    /// Ask for a transition.
    Request(Arc<Vm<B>>, Transition),
}

/// What others leave for a host CPU.
pub(crate) struct Mailbox<B: Backend> {
    mail: TicketMutex<Vec<Mail<B>>>,
    full: AtomicBool,
}

impl<B: Backend> Mailbox<B> {
    fn new() -> Self {
        Mailbox { mail: TicketMutex::new(Vec::new()), full: AtomicBool::new(false) }
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    pub(crate) fn take(&self) -> Vec<Mail<B>> {
        let mut mail = self.mail.lock();
        self.full.store(false, Ordering::Release);
        core::mem::take(&mut mail)
    }

    fn put(&self, letter: Mail<B>) {
        let mut mail = self.mail.lock();
        mail.push(letter);
        self.full.store(true, Ordering::Release);
    }
}

/// The hypervisor. Shared by all host CPUs; each runs a
/// [`crate::cpu::Cpu`] over it.
pub struct Hypervisor<B: Backend> {
    /// The architecture.
    pub backend: B,
    /// The consoles.
    pub console: &'static Console,
    mailboxes: Vec<Mailbox<B>>,
    vms: TicketMutex<Vec<Arc<Vm<B>>>>,
    /// The host's network devices on the virtual network.
    pub uplinks: Uplinks,
    /// Start-up is over: every virtual machine that is to start has been told to.
    complete: AtomicBool,
    /// The host stays on although no virtual machine runs.
    stay_on: AtomicBool,
    /// Last exits of each host CPU.
    recorders: Vec<Recorder>,
    /// Whoever is at the monitor, by channel.
    sessions: TicketMutex<Vec<(Channel, Session)>>,
}

/// The host CPU that looks at devices without interrupt.
const POLLER: CpuId = CpuId(0);

impl<B: Backend> Hypervisor<B> {
    /// A hypervisor on `cpus` host CPUs, without virtual machines.
    pub fn new(backend: B, cpus: usize, console: &'static Console) -> Self {
        Hypervisor {
            backend,
            console,
            mailboxes: (0..cpus).map(|_| Mailbox::new()).collect(),
            vms: TicketMutex::new(Vec::new()),
            uplinks: Uplinks::new(),
            complete: AtomicBool::new(false),
            stay_on: AtomicBool::new(false),
            recorders: (0..cpus).map(|_| Recorder::new()).collect(),
            sessions: TicketMutex::new(Vec::new()),
        }
    }

    /// The flight recorder of a host CPU.
    pub fn recorder(&self, cpu: CpuId) -> Option<&Recorder> {
        self.recorders.get(cpu.0)
    }

    /// The number of a virtual machine in the order in which they were added.
    pub(crate) fn number(&self, vm: &Arc<Vm<B>>) -> Option<usize> {
        self.vms.lock().iter().position(|other| Arc::ptr_eq(other, vm))
    }

    /// Has a virtual machine started where it lives: that takes a while.
    pub fn start(&self, vm: &Arc<Vm<B>>) {
        self.send(vm, Mail::Start(vm.clone()));
    }

    /// Has a virtual machine asked for a transition where it lives.
    pub fn ask(&self, vm: &Arc<Vm<B>>, transition: Transition) {
        self.send(vm, Mail::Request(vm.clone(), transition));
    }

    /// Whether the host stays on although no virtual machine runs.
    pub(crate) fn stay_on(&self, on: bool) {
        self.stay_on.store(on, Ordering::Release);
    }

    /// Sends mail to the home of the first virtual CPU.
    fn send(&self, vm: &Arc<Vm<B>>, mail: Mail<B>) {
        let Some(home) = vm.vcpus.first().map(|vcpu| vcpu.home()) else { return };
        if let Some(mailbox) = self.mailbox(home) {
            mailbox.put(mail);
            self.backend.kick(home);
        }
    }

    /// Number of host CPUs.
    pub fn cpus(&self) -> usize {
        self.mailboxes.len()
    }

    pub(crate) fn mailbox(&self, cpu: CpuId) -> Option<&Mailbox<B>> {
        self.mailboxes.get(cpu.0)
    }

    /// Takes in a virtual machine, stopped, and gives its virtual CPUs to
    /// their host CPUs.
    pub fn add(&self, vm: Arc<Vm<B>>, vcpus: Vec<B::Vcpu>) {
        self.vms.lock().push(vm.clone());
        for vcpu in vcpus {
            let home = vcpu.handle().home();
            match self.mailboxes.get(home.0) {
                Some(mailbox) => {
                    mailbox.put(Mail::Arrival { vcpu, vm: vm.clone() });
                    self.backend.kick(home);
                }
                None => warn!("vm \"{}\": no host CPU {}", vm.config.name, home.0),
            }
        }
    }

    /// Whether `cpu` has to [`Self::attend`].
    #[inline]
    pub(crate) fn wants_attention(&self, cpu: CpuId) -> bool {
        self.console.wants_attention() || self.uplinks.wants_attention(cpu == POLLER)
    }

    /// Looks after the console, the monitor and the uplinks, on `cpu`. Returns
    /// when that has to be done again, if nothing happens before.
    pub(crate) fn attend(&self, cpu: CpuId) -> Option<Instant> {
        let console = self.console.work();
        self.obey();
        let (now, frequency) = (self.backend.now(), self.backend.frequency());
        let uplinks = self.uplinks.serve(now, frequency, cpu == POLLER);
        [console, uplinks].into_iter().flatten().min()
    }

    /// Has the monitor read what was typed for it.
    fn obey(&self) {
        // Whoever has the sessions looks for more before it goes.
        while let Some(mut sessions) = self.sessions.try_lock() {
            let Some((channel, commands)) = self.console.take_commands() else { break };
            let place = sessions.iter().position(|(other, _)| *other == channel);
            let place = place.unwrap_or_else(|| {
                sessions.push((channel, Session::new(self.console.is_terminal(channel))));
                sessions.len().saturating_sub(1)
            });
            if let Some((_, session)) = sessions.get_mut(place) {
                let answer = session.feed(self, &commands);
                self.console.answer(channel, &answer);
            }
        }
    }

    /// The virtual machines at this moment.
    pub fn vms(&self) -> Vec<Arc<Vm<B>>> {
        self.vms.lock().clone()
    }

    /// Says that start-up is over. From now on the host is turned off when the
    /// last virtual machine stops.
    pub fn complete_start(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Whether some virtual machine has run and none does any more.
    pub(crate) fn all_stopped(&self) -> bool {
        if !self.complete.load(Ordering::Acquire) || self.stay_on.load(Ordering::Acquire) {
            return false;
        }
        let vms = self.vms.lock();
        vms.iter().any(|vm| vm.state() == State::Stopped)
            && vms.iter().all(|vm| matches!(vm.state(), State::Stopped | State::Created))
    }
}
