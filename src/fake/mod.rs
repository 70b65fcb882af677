//! A backend without hardware: scripted virtual CPUs, memory of the host,
//! simulated time. The whole core runs on it under `cargo test`.
//!
//! A host CPU is stepped by hand (see [`world::World`]) or is a thread that a
//! [`baton::Baton`] lets run when its turn comes, so that a test decides how
//! the steps of several host CPUs interleave. Like real backends, this one
//! serves a kick wherever the core allows it, so that a core that relies on a
//! kick to be there later loses wake-ups here as well.

pub(crate) mod baton;
pub(crate) mod device;
pub(crate) mod journal;
pub(crate) mod vcpu;
pub(crate) mod world;

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

use crate::address::{CpuId, Instant};
use crate::backend::Backend;
use baton::Baton;
use vcpu::{FakeMachine, FakeVcpu};
use world::{Action, World};

/// Ticks of the simulated clock per second; a slice is 10 ticks.
pub(crate) const FREQUENCY: u64 = 2000;

/// Memory for guests, which no fake machine takes, in bytes.
pub(crate) const FREE_MEMORY: u64 = 1 << 30;

thread_local! {
    /// The host CPU that executes at the moment.
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// The host CPU that executes at the moment.
pub(crate) fn here() -> usize {
    HERE.get()
}

/// Makes this thread host CPU `cpu` and returns which one it was.
pub(crate) fn move_to(cpu: usize) -> usize {
    HERE.replace(cpu)
}

/// What unwinds a host CPU that has turned the host off.
pub(crate) struct PoweredOff;

/// One host CPU.
#[derive(Default)]
pub(crate) struct HostCpu {
    kick: AtomicBool,
    /// Kicks that it has got.
    pub(crate) kicks: AtomicUsize,
    /// What the core has armed.
    timer: Mutex<Option<u64>>,
    /// The timer of the virtual CPU that is loaded.
    guest_timer: Mutex<Option<u64>>,
    loaded: AtomicBool,
    /// It idled with nothing in sight that would wake it.
    asleep: AtomicBool,
}

/// The simulated host.
#[derive(Default)]
pub(crate) struct Host {
    clock: AtomicU64,
    pub(crate) cpus: Vec<HostCpu>,
    baton: OnceLock<Baton>,
    idle_actions: Mutex<VecDeque<Action>>,
    pub(crate) powered_off: AtomicBool,
}

impl Host {
    fn new(cpus: usize) -> Arc<Self> {
        let cpus = (0..cpus).map(|_| HostCpu::default()).collect();
        Arc::new(Host { cpus, ..Host::default() })
    }

    fn this(&self) -> &HostCpu {
        &self.cpus[here()]
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.load(SeqCst)
    }

    fn advance_to(&self, time: u64) {
        self.clock.fetch_max(time, SeqCst);
    }

    /// Here another host CPU may have its turn.
    pub(crate) fn point(&self) {
        if let Some(baton) = self.baton.get() {
            baton.pass(here());
        }
    }

    pub(crate) fn kick(&self, cpu: usize) {
        self.point();
        let target = &self.cpus[cpu];
        target.kicks.fetch_add(1, SeqCst);
        target.kick.store(true, SeqCst);
        if let Some(baton) = self.baton.get() {
            baton.unblock(cpu);
        }
    }

    /// Serves what is pending on this host CPU; whether there was anything.
    fn serve(&self) -> bool {
        let this = self.this();
        let timer = this.timer.lock().unwrap().take_if(|due| *due <= self.now()).is_some();
        this.kick.swap(false, SeqCst) || timer
    }

    /// When a timer of `cpu` is due.
    fn deadline(&self, cpu: usize) -> Option<u64> {
        let cpu = &self.cpus[cpu];
        let timer = *cpu.timer.lock().unwrap();
        let guest = cpu.guest_timer.lock().unwrap().filter(|_| cpu.loaded.load(SeqCst));
        [timer, guest].into_iter().flatten().min()
    }

    fn idle(&self) {
        self.point();
        let this = self.this();
        let waits =
            || !this.kick.load(SeqCst) && self.deadline(here()).is_none_or(|d| d > self.now());
        if waits() {
            let action = self.idle_actions.lock().unwrap().pop_front();
            if let Some(baton) = self.baton.get() {
                baton.block(here(), || self.next_timer());
            } else if let Some(action) = action {
                World::with(action);
            } else if let Some(due) = self.deadline(here()) {
                self.advance_to(due);
            } else {
                assert!(!this.loaded.load(SeqCst), "host CPU {} sleeps for ever", here());
                this.asleep.store(true, SeqCst);
                return;
            }
        }
        this.asleep.store(false, SeqCst);
        // With a virtual CPU loaded, what came stays until that is asked.
        if !this.loaded.load(SeqCst) {
            self.serve();
        }
    }

    /// Everybody sleeps: passes the time until the next timer and tells whose
    /// it is.
    fn next_timer(&self) -> Option<usize> {
        let (due, cpu) =
            (0..self.cpus.len()).filter_map(|cpu| Some((self.deadline(cpu)?, cpu))).min()?;
        self.advance_to(due);
        Some(cpu)
    }
}

/// The simulated host as the core's backend.
pub(crate) struct Fake(pub(crate) Arc<Host>);

impl Backend for Fake {
    type Vcpu = FakeVcpu;
    type Machine = FakeMachine;

    fn now(&self) -> Instant {
        self.0.point();
        Instant(self.0.now())
    }

    fn frequency(&self) -> u64 {
        FREQUENCY
    }

    fn kick(&self, cpu: CpuId) {
        self.0.kick(cpu.0);
    }

    fn set_timer(&self, deadline: Option<Instant>) {
        self.0.point();
        *self.0.this().timer.lock().unwrap() = deadline.map(|due| due.0);
    }

    fn idle(&self) {
        self.0.idle();
    }

    fn free_memory(&self) -> u64 {
        FREE_MEMORY
    }

    fn power_off(&self) -> ! {
        self.0.powered_off.store(true, SeqCst);
        resume_unwind(Box::new(PoweredOff))
    }
}
