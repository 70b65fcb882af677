//! Scripted virtual CPUs and their machine.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

use super::world::{Action, World};
use super::{Host, here};
use crate::address::{GuestAddress, Instant};
use crate::backend::{BootState, LoadError, Machine, Provided, Reset, Vcpu};
use crate::exit::{Completion, Exit, PowerAnswer, PowerRequest, RawExit};
use crate::vcpu::VcpuHandle;

/// One step of a guest.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    /// Leaves with this exit.
    Exit(Exit),
    /// Has the test do something while the guest runs.
    Do(Action),
    /// Computes for so many ticks.
    Work(u64),
    /// Interrupts another virtual CPU.
    Raise(usize),
    /// Disturbs another virtual CPU for nothing.
    Disturb(usize),
    /// Sets its timer so many ticks ahead.
    Timer(u64),
    /// Idles until an interrupt has been taken.
    Await,
    /// Stores a byte at this offset of memory.
    Store(usize, u8),
    /// Starts over.
    Repeat,
}

/// What happened to the virtual CPU with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The machine as a whole was reset.
    MachineReset,
    /// It went on after so many ticks.
    StoodStill(u64),
    Start(usize, u64, u64),
    Load(usize),
    Save(usize),
    Completed(usize, u64),
    Faulted(usize, Completion),
    Repeated(usize),
    AccessFaulted(usize),
    CallRefused(usize),
    Answered(usize, PowerAnswer),
    Interrupt(usize),
}

/// What the fake machines share with the tests.
pub(crate) struct FakeMachine {
    /// Guest code by entry address.
    pub(crate) programs: BTreeMap<u64, Vec<Op>>,
    /// Entry address of each boot in turn; the last serves all that follow.
    pub(crate) boots: Vec<u64>,
    pub(crate) memory: Mutex<Vec<u8>>,
    pub(crate) resets: AtomicUsize,
    pub(crate) loadable: AtomicBool,
    pub(crate) trace: Mutex<Vec<Event>>,
    /// How many parts a reset has before the last, and the ticks that each takes.
    pub(crate) reset_parts: Mutex<(u64, u64)>,
    /// Addresses that the guest gave up, and whether it can have them again.
    pub(crate) absent: Mutex<BTreeMap<u64, bool>>,
    handles: OnceLock<Vec<Arc<VcpuHandle>>>,
    pending: Vec<AtomicBool>,
    loaded: AtomicUsize,
    host: Arc<Host>,
}

/// What the loader puts into memory.
pub(crate) const IMAGE: &[u8; 8] = b"an image";

/// Context of the first virtual CPU.
pub(crate) const BOOT_CONTEXT: u64 = 0x0d7b;

impl FakeMachine {
    pub(crate) fn new(host: &Arc<Host>, boots: &[&[Op]], others: &[(u64, &[Op])]) -> Self {
        let first = boots.iter().enumerate().map(|(i, ops)| (0x4000_0000 + i as u64, ops.to_vec()));
        let others = others.iter().map(|(entry, ops)| (*entry, ops.to_vec()));
        let programs: BTreeMap<_, _> = first.chain(others).collect();
        FakeMachine {
            programs,
            boots: (0..boots.len()).map(|i| 0x4000_0000 + i as u64).collect(),
            memory: Mutex::default(),
            resets: AtomicUsize::default(),
            loadable: AtomicBool::new(true),
            trace: Mutex::default(),
            reset_parts: Mutex::new((1, 0)),
            absent: Mutex::default(),
            handles: OnceLock::new(),
            pending: (0..64).map(|_| AtomicBool::default()).collect(),
            loaded: AtomicUsize::default(),
            host: host.clone(),
        }
    }

    pub(crate) fn connect(&self, handles: Vec<Arc<VcpuHandle>>) {
        assert!(self.handles.set(handles).is_ok());
    }

    fn note(&self, event: Event) {
        self.trace.lock().unwrap().push(event);
    }

    /// What has happened since the last call.
    pub(crate) fn take_trace(&self) -> Vec<Event> {
        std::mem::take(&mut self.trace.lock().unwrap())
    }

    /// Interrupts a virtual CPU, from any host CPU or device.
    pub(crate) fn raise(&self, target: usize) {
        self.host.point();
        self.pending[target].store(true, SeqCst);
        self.disturb(target);
    }

    fn disturb(&self, target: usize) {
        self.host.point();
        let handle = &self.handles.get().unwrap()[target];
        if handle.wake() {
            self.host.kick(handle.home().0);
        }
    }
}

impl Machine for FakeMachine {
    fn reset(&self, position: u64) -> Result<Reset, LoadError> {
        self.host.point();
        assert_eq!(self.loaded.load(SeqCst), 0, "a virtual CPU runs");
        let (parts, ticks) = *self.reset_parts.lock().unwrap();
        if position < parts {
            self.host.advance_to(self.host.now() + ticks);
            return Ok(Reset::More(position + 1));
        }
        self.note(Event::MachineReset);
        for pending in &self.pending {
            pending.store(false, SeqCst);
        }
        if !self.loadable.load(SeqCst) {
            return Err(LoadError("kernel: not there; put it there".into()));
        }
        *self.memory.lock().unwrap() = IMAGE.to_vec();
        let boot = self.resets.fetch_add(1, SeqCst);
        let entry = self.boots.get(boot).or(self.boots.last()).copied().unwrap();
        Ok(Reset::Ready(BootState { entry: GuestAddress(entry), context: BOOT_CONTEXT }))
    }

    fn provide(&self, address: GuestAddress) -> Provided {
        let mut absent = self.absent.lock().unwrap();
        match absent.get(&address.0).copied() {
            Some(true) => {
                absent.remove(&address.0);
                Provided::Present
            }
            Some(false) => Provided::Short,
            None => Provided::NotMemory,
        }
    }

    fn absent_memory(&self) -> u64 {
        self.absent.lock().unwrap().len() as u64 * crate::frames::FRAME
    }

    fn stood_still(&self, ticks: u64) {
        assert_eq!(self.loaded.load(SeqCst), 0, "a virtual CPU runs");
        self.note(Event::StoodStill(ticks));
    }
}

/// A virtual CPU that follows a script.
pub(crate) struct FakeVcpu {
    handle: Arc<VcpuHandle>,
    machine: Arc<FakeMachine>,
    host: Arc<Host>,
    entry: u64,
    context: u64,
    position: usize,
    /// Left of the [`Op::Work`] at `position`.
    work: Option<u64>,
    loaded: bool,
    /// An interrupt that the next entry delivers.
    deliverable: bool,
    /// Interrupts that the guest has taken and not used up.
    taken: u64,
    timer: Option<u64>,
}

impl FakeVcpu {
    pub(crate) fn new(machine: Arc<FakeMachine>, handle: Arc<VcpuHandle>) -> Self {
        FakeVcpu {
            handle,
            host: machine.host.clone(),
            machine,
            entry: 0,
            context: 0,
            position: 0,
            work: None,
            loaded: false,
            deliverable: false,
            taken: 0,
            timer: None,
        }
    }

    fn id(&self) -> usize {
        self.handle.id().0
    }

    fn note(&self, event: Event) {
        self.machine.note(event);
    }

    /// Takes in what others have changed.
    fn fill(&mut self) {
        self.deliverable |= self.machine.pending[self.id()].swap(false, SeqCst);
    }

    fn set_timer(&mut self, timer: Option<u64>) {
        self.timer = timer;
        *self.host.this().guest_timer.lock().unwrap() = timer;
    }

    /// Its own timer interrupts it.
    fn look_at_timer(&mut self) {
        if self.timer.is_some_and(|due| due <= self.host.now()) {
            self.set_timer(None);
            self.deliverable = true;
        }
    }

    /// Passes up to `ticks`; what is left when a timer goes off first.
    fn pass(&self, ticks: u64) -> u64 {
        let end = self.host.now() + ticks;
        let reached = self.host.deadline(here()).map_or(end, |due| due.min(end));
        self.host.advance_to(reached);
        end.saturating_sub(reached.max(self.host.now()))
    }

    /// The guest's next step; an exit, if it leaves.
    fn step(&mut self) -> Option<Exit> {
        let program = self.machine.programs.get(&self.entry).expect("guest code at the entry");
        let Some(op) = program.get(self.position).copied() else {
            return Some(Exit::Power(PowerRequest::CpuOff));
        };
        self.position += 1;
        match op {
            Op::Exit(exit) => return Some(exit),
            Op::Do(action) => World::with(action),
            Op::Work(ticks) => {
                let ticks = self.work.take().unwrap_or(ticks);
                let left = self.pass(ticks);
                if left > 0 {
                    self.work = Some(left);
                    self.position -= 1;
                }
            }
            Op::Raise(target) => self.machine.raise(target),
            Op::Disturb(target) => self.machine.disturb(target),
            Op::Timer(ticks) => self.set_timer(Some(self.host.now() + ticks)),
            Op::Await if self.taken > 0 => self.taken -= 1,
            Op::Await => {
                self.position -= 1;
                return Some(Exit::Idle);
            }
            Op::Store(offset, value) => self.machine.memory.lock().unwrap()[offset] = value,
            Op::Repeat => self.position = 0,
        }
        None
    }
}

impl Vcpu for FakeVcpu {
    fn load(&mut self, _: bool) {
        self.host.point();
        assert!(!self.loaded);
        let this = self.host.this();
        assert!(!this.loaded.swap(true, SeqCst), "another one is loaded");
        self.machine.loaded.fetch_add(1, SeqCst);
        self.loaded = true;
        *this.guest_timer.lock().unwrap() = self.timer;
        self.fill();
        self.note(Event::Load(self.id()));
    }

    fn save(&mut self) {
        self.host.point();
        assert!(self.loaded);
        let this = self.host.this();
        assert!(this.loaded.swap(false, SeqCst));
        *this.guest_timer.lock().unwrap() = None;
        self.machine.loaded.fetch_sub(1, SeqCst);
        self.loaded = false;
        self.note(Event::Save(self.id()));
    }

    fn run(&mut self) -> Exit {
        assert!(self.loaded);
        assert_eq!(self.handle.home().0, here());
        loop {
            self.host.point();
            if self.handle.take_wake() {
                self.fill();
            }
            if self.host.serve() {
                return Exit::HostInterrupt;
            }
            self.look_at_timer();
            if self.deliverable {
                self.deliverable = false;
                self.taken += 1;
                self.note(Event::Interrupt(self.id()));
            }
            self.host.point();
            if let Some(exit) = self.step() {
                return exit;
            }
        }
    }

    fn complete(&mut self, completion: Completion, value: u64) {
        let mut value = value;
        if completion.sign_extend {
            let unused = 64 - 8 * completion.width.bytes();
            value = ((value << unused).cast_signed() >> unused).cast_unsigned();
        }
        if !completion.wide {
            value &= u64::from(u32::MAX);
        }
        self.note(Event::Completed(self.id(), value));
    }

    fn fault(&mut self, completion: Completion) {
        self.note(Event::Faulted(self.id(), completion));
    }

    fn repeat(&mut self, _: Completion) {
        self.position -= 1;
        self.note(Event::Repeated(self.id()));
    }

    fn fault_access(&mut self) {
        self.note(Event::AccessFaulted(self.id()));
    }

    fn refuse_call(&mut self) {
        self.note(Event::CallRefused(self.id()));
    }

    fn answer(&mut self, answer: PowerAnswer) {
        self.note(Event::Answered(self.id(), answer));
    }

    fn start(&mut self, entry: GuestAddress, context: u64) {
        assert!(!self.loaded);
        self.note(Event::Start(self.id(), entry.0, context));
        (self.entry, self.context, self.position, self.work) = (entry.0, context, 0, None);
        (self.deliverable, self.taken, self.timer) = (false, 0, None);
    }

    fn interrupt_pending(&mut self) -> bool {
        self.host.point();
        if self.loaded {
            self.host.serve();
            self.look_at_timer();
            self.host.point();
        }
        self.fill();
        self.deliverable
    }

    fn wake_deadline(&self) -> Option<Instant> {
        assert!(!self.loaded, "its timer is in hardware");
        self.host.point();
        self.timer.map(Instant)
    }

    fn raw_exit(&self) -> RawExit {
        RawExit { cause: 0xc0de, detail: 0xde7, address: 0xadd }
    }

    fn report(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "  entry {:#x}  context {:#x}", self.entry, self.context)
    }

    fn handle(&self) -> &Arc<VcpuHandle> {
        self.host.point();
        &self.handle
    }
}
