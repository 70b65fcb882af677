//! Other CPUs: started by INIT and start-up messages, then given work.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::acpi::acpi;
use super::{apic, cpu, start, time};

/// Most CPUs that the guests use.
pub const MAX_CPUS: usize = 16;

/// Page of the trampoline, below 640 KiB.
const TRAMPOLINE: u64 = 0x8000;
/// Vector that wakes a CPU.
pub const WAKE: u8 = 0xf0;
/// Milliseconds until a CPU must have done something.
pub const PATIENCE: u64 = 5000;

/// Top of the stack of the next CPU to start; it takes its number from it.
pub(super) static NEXT_STACK: AtomicU32 = AtomicU32::new(0);
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// What a CPU is to do and has done.
struct Slot {
    /// Times that it came up.
    starts: AtomicU64,
    /// Address of the function to run, 0 for none.
    work: AtomicUsize,
}

static SLOTS: [Slot; MAX_CPUS] =
    [const { Slot { starts: AtomicU64::new(0), work: AtomicUsize::new(0) } }; MAX_CPUS];

/// Number of CPUs.
pub fn count() -> usize {
    acpi().map_or(1, |acpi| acpi.apic_ids().len())
}

/// Identifier of the local APIC of CPU `number`.
pub fn apic_id(number: usize) -> u32 {
    acpi().and_then(|acpi| acpi.apic_ids().get(number).copied()).unwrap_or(0)
}

/// How often CPU `number` came up.
pub fn starts(number: usize) -> u64 {
    SLOTS[number].starts.load(Ordering::Acquire)
}

/// Sends INIT to CPU `number`, which stops it.
pub fn stop(number: usize) {
    SLOTS[number].work.store(0, Ordering::Release);
    apic::send(apic_id(number), apic::ICR_INIT);
}

/// Starts or restarts CPU `number`; says whether it came up.
pub fn start(number: usize) -> bool {
    unsafe extern "C" {
        static trampoline_start: u8;
        static trampoline_end: u8;
    }
    let code = &raw const trampoline_start;
    let length = &raw const trampoline_end as usize - code as usize;
    // SAFETY: nothing of Rust's lies below 1 MiB; the stack is that of a CPU that does not run.
    unsafe {
        core::ptr::copy_nonoverlapping(code, TRAMPOLINE as *mut u8, length);
        let stack = (&raw mut start::STACKS.0[number]).add(1) as u32;
        NEXT_STACK.store(stack, Ordering::Relaxed);
    }
    stop(number);
    NEXT.store(number, Ordering::Release);
    let before = starts(number);
    let page = TRAMPOLINE >> 12;
    for _ in 0..2 {
        apic::send(apic_id(number), apic::ICR_STARTUP | page);
    }
    time::wait_for(PATIENCE, || starts(number) != before)
}

/// Has CPU `number` run `work` once; see [`is_idle`].
pub fn run(number: usize, work: fn()) {
    SLOTS[number].work.store(work as usize, Ordering::Release);
    apic::send(apic_id(number), WAKE.into());
}

/// Whether CPU `number` has done its work.
pub fn is_idle(number: usize) -> bool {
    SLOTS[number].work.load(Ordering::Acquire) == 0
}

/// Where other CPUs spend their lives.
pub(super) fn serve() -> ! {
    let slot = &SLOTS[NEXT.load(Ordering::Acquire)];
    slot.starts.fetch_add(1, Ordering::AcqRel);
    loop {
        let work = slot.work.load(Ordering::Acquire);
        if work == 0 {
            cpu::halt();
            continue;
        }
        // SAFETY: only `run` stores there, a function of this type.
        let work: fn() = unsafe { core::mem::transmute(work) };
        work();
        slot.work.store(0, Ordering::Release);
    }
}
