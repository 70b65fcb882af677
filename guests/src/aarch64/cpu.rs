//! The CPU that runs this code.

use core::arch::asm;

use crate::mrs;

/// Affinity fields of `MPIDR_EL1`.
pub const AFFINITY: u64 = 0xff_00ff_ffff;

/// Affinity of this CPU as PSCI and the device tree write it.
pub fn affinity() -> u64 {
    mrs!("mpidr_el1") & AFFINITY
}

/// Masks IRQ and FIQ.
pub fn mask_interrupts() {
    // SAFETY: later interrupts stay pending.
    unsafe { asm!("msr daifset, #3", options(nostack)) };
}

/// Takes interrupts from now on.
pub fn unmask_interrupts() {
    // SAFETY: the vector table has a handler for every interrupt.
    unsafe { asm!("msr daifclr, #3", "isb", options(nostack)) };
}

/// Waits for an interrupt, taken or masked.
pub fn wait_for_interrupt() {
    // SAFETY: no effect on memory.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) };
}

/// Tells who shares this CPU that nothing useful goes on. Returns soon: the
/// event stream of the timer ends the wait.
pub fn relax() {
    // SAFETY: no effect on memory.
    unsafe { asm!("wfe", options(nostack)) };
}

/// Wakes the CPUs in [`relax`].
pub fn wake_others() {
    // SAFETY: no effect on memory.
    unsafe { asm!("dsb ishst", "sev", options(nostack)) };
}

/// Synchronises the context.
pub fn isb() {
    // SAFETY: no effect on memory.
    unsafe { asm!("isb", options(nostack)) };
}

/// Lets the timer wake [`relax`] about every 2^16 ticks.
pub(super) fn start_event_stream() {
    const EVNTEN: u64 = 1 << 2;
    const EVNTI: u64 = 15 << 4;
    let control = mrs!("cntkctl_el1");
    crate::msr!("cntkctl_el1", control | EVNTEN | EVNTI);
}
