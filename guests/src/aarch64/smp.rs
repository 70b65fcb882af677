//! The other CPUs: started by PSCI, they wait for functions to run.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::exception::Expectation;
use super::{cache, cpu, machine, mmu, psci, start, timer};
use crate::msr;

/// CPUs that a guest can use.
pub const MAX_CPUS: usize = 8;

/// What a CPU can be given to do.
pub type Job = fn(u64) -> u64;

const OFF: u32 = 0;
const IDLE: u32 = 1;
const BUSY: u32 = 2;

/// A CPU as the others see it. The start-up code reads the first two words
/// before the MMU is on.
#[repr(C, align(128))]
pub struct Record {
    stack: AtomicU64,
    root: AtomicU64,
    state: AtomicU32,
    index: AtomicUsize,
    job: AtomicUsize,
    argument: AtomicU64,
    result: AtomicU64,
    entry: [AtomicU64; 3],
    pub(super) expectation: Expectation,
}

impl Record {
    const fn new() -> Self {
        Record {
            stack: AtomicU64::new(0),
            root: AtomicU64::new(0),
            state: AtomicU32::new(OFF),
            index: AtomicUsize::new(0),
            job: AtomicUsize::new(0),
            argument: AtomicU64::new(0),
            result: AtomicU64::new(0),
            entry: [const { AtomicU64::new(0) }; 3],
            expectation: Expectation::new(),
        }
    }

    pub(super) fn note_entry(&self, state: EntryState) {
        for (slot, value) in self.entry.iter().zip([state.sctlr, state.daif, state.el]) {
            slot.store(value, Ordering::Relaxed);
        }
    }
}

/// What a CPU held when it entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryState {
    /// `SCTLR_EL1`.
    pub sctlr: u64,
    /// `DAIF`.
    pub daif: u64,
    /// Exception level.
    pub el: u64,
}

/// What a CPU held when it entered last.
pub fn entry_state(index: usize) -> EntryState {
    let [sctlr, daif, el] = &RECORDS[index].entry;
    EntryState {
        sctlr: sctlr.load(Ordering::Relaxed),
        daif: daif.load(Ordering::Relaxed),
        el: el.load(Ordering::Relaxed),
    }
}

static RECORDS: [Record; MAX_CPUS] = [const { Record::new() }; MAX_CPUS];

unsafe extern "C" {
    fn secondary_entry();
}

/// The record of this CPU.
pub(super) fn this() -> &'static Record {
    let pointer = crate::mrs!("tpidr_el1") as *const Record;
    // SAFETY: the start-up code of every CPU puts the address of a static record there.
    unsafe { &*pointer }
}

/// Number of this CPU in [`Machine::cpus`](machine::Machine::cpus).
pub fn index() -> usize {
    this().index.load(Ordering::Relaxed)
}

/// How many CPUs there are.
pub fn count() -> usize {
    machine().cpus().len()
}

/// All CPUs but this one.
pub fn others() -> impl Iterator<Item = usize> {
    let this = index();
    (0..count()).filter(move |&other| other != this)
}

/// Makes this the CPU of `record`.
pub(super) fn adopt(record: &'static Record) {
    record.state.store(BUSY, Ordering::Relaxed);
    msr!("tpidr_el1", core::ptr::from_ref(record) as u64);
}

/// The record of the CPU that booted: the first in the device tree.
pub(super) fn boot_record() -> &'static Record {
    &RECORDS[0]
}

/// Address where a CPU enters to serve jobs, and the context that it needs.
pub fn entry(index: usize) -> (u64, u64) {
    let record = &RECORDS[index];
    let stacks = &raw const start::STACKS as u64;
    record.stack.store(stacks + ((index + 1) * start::STACK) as u64, Ordering::Relaxed);
    record.root.store(mmu::ROOT.address(), Ordering::Relaxed);
    record.index.store(index, Ordering::Relaxed);
    record.job.store(0, Ordering::Relaxed);
    record.state.store(OFF, Ordering::Relaxed);
    record.note_entry(EntryState { sctlr: 0, daif: 0, el: 0 });
    let context = core::ptr::from_ref(record) as u64;
    cache::clean_to_coherency(context, size_of::<Record>() as u64);
    (secondary_entry as *const () as u64, context)
}

/// Whether a CPU has started and waits for work.
pub fn is_idle(index: usize) -> bool {
    RECORDS[index].state.load(Ordering::Acquire) == IDLE
}

/// Starts a CPU unless it runs already; whether it runs.
pub fn start(index: usize) -> bool {
    if RECORDS[index].state.load(Ordering::Acquire) != OFF {
        return true;
    }
    let (entry, context) = entry(index);
    let affinity = machine().cpus()[index];
    let mut answer = psci::cpu_on(affinity, entry, context);
    // A CPU that switches itself off is on a little longer than its record says.
    timer::wait_until(|| {
        if answer == psci::result::ALREADY_ON {
            answer = psci::cpu_on(affinity, entry, context);
        }
        answer != psci::result::ALREADY_ON
    });
    if answer != psci::result::SUCCESS {
        crate::println!("# CPU_ON of CPU {index}: {answer}");
        return false;
    }
    timer::wait_until(|| is_idle(index))
}

/// Starts every CPU; whether all run.
pub fn start_all() -> bool {
    others().all(start)
}

/// Gives a running CPU a job.
pub fn begin(index: usize, job: Job, argument: u64) {
    let record = &RECORDS[index];
    record.argument.store(argument, Ordering::Relaxed);
    record.state.store(BUSY, Ordering::Relaxed);
    record.job.store(job as *const () as usize, Ordering::Release);
    cpu::wake_others();
}

/// Waits for the end of the job; `None` when that takes too long.
pub fn finish(index: usize) -> Option<u64> {
    let done = timer::wait_until(|| is_idle(index));
    done.then(|| RECORDS[index].result.load(Ordering::Relaxed))
}

/// Runs a job on a CPU, this one or another.
pub fn run(index: usize, job: Job, argument: u64) -> Option<u64> {
    if index == self::index() {
        return Some(job(argument));
    }
    begin(index, job, argument);
    finish(index)
}

/// A job that never ends: the CPU switches itself off.
pub fn switch_off(_: u64) -> u64 {
    cpu::mask_interrupts();
    this().state.store(OFF, Ordering::Release);
    let answer = psci::call32(psci::function::CPU_OFF, 0, 0, 0);
    panic!("CPU_OFF returned {answer}");
}

pub(super) fn serve(record: &'static Record) -> ! {
    record.state.store(IDLE, Ordering::Release);
    cpu::wake_others();
    loop {
        let job = record.job.swap(0, Ordering::Acquire);
        if job == 0 {
            cpu::relax();
            continue;
        }
        // SAFETY: `begin` stored a function of this type.
        let job: Job = unsafe { core::mem::transmute::<usize, Job>(job) };
        let result = job(record.argument.load(Ordering::Relaxed));
        record.result.store(result, Ordering::Relaxed);
        record.state.store(IDLE, Ordering::Release);
        cpu::wake_others();
    }
}
