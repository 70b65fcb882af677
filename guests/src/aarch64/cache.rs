//! Cache maintenance by address.

use core::arch::asm;

/// Stride that no implementation's line falls below.
const STRIDE: u64 = 16;

/// Makes stores to `start..start + length` visible to observers without caches.
pub fn clean_to_coherency(start: u64, length: u64) {
    for address in (start & !(STRIDE - 1)..start + length).step_by(STRIDE as usize) {
        // SAFETY: cleaning and invalidating keeps the contents of memory.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack)) };
    }
    barrier();
}

/// Makes stores to `start..start + length` visible to instruction fetch.
pub fn synchronise_instructions(start: u64, length: u64) {
    let range = start & !(STRIDE - 1)..start + length;
    for address in range.clone().step_by(STRIDE as usize) {
        // SAFETY: cleaning keeps the contents of memory.
        unsafe { asm!("dc cvau, {}", in(reg) address, options(nostack)) };
    }
    barrier();
    for address in range.step_by(STRIDE as usize) {
        // SAFETY: invalidating the instruction cache keeps the contents of memory.
        unsafe { asm!("ic ivau, {}", in(reg) address, options(nostack)) };
    }
    barrier();
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack)) };
}

/// Waits until all accesses before have completed for the whole system.
pub fn barrier() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
}
