//! How deep the stacks have been: they are painted before they are used, and looked at when the machine goes off.

use alloc::vec::Vec;
use core::arch::asm;
use core::ops::Range;

use spin::mutex::TicketMutex;

use crate::el2::mmu;

/// What a word of a stack holds that nobody has used.
const PAINT: u64 = 0x7061_696e_7465_6421;
/// Bytes below its stack pointer that the function that paints may use itself.
const MARGIN: u64 = 1 << 10;
const WORD: usize = size_of::<u64>();

/// Where the stacks are.
static STACKS: TicketMutex<Vec<Range<u64>>> = TicketMutex::new(Vec::new());

/// Paints what the boot CPU, which calls this, has not used yet of its stack.
pub(crate) fn paint_boot() {
    let pointer: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) pointer, options(nomem, nostack)) };
    let stack = mmu::boot_stack();
    let unused = stack.start..pointer.saturating_sub(MARGIN);
    // SAFETY: this is the CPU's stack, further down than anything in use.
    unsafe { paint(unused) };
    STACKS.lock().push(stack);
}

/// Paints the stack of a CPU that does not run yet.
///
/// # Safety
/// The range is mapped memory, aligned to 8 bytes, and nobody else's.
pub(crate) unsafe fn paint_other(stack: Range<u64>) {
    // SAFETY: as the caller's promise.
    unsafe { paint(stack.clone()) };
    STACKS.lock().push(stack);
}

/// # Safety
/// As [`paint_other`].
unsafe fn paint(range: Range<u64>) {
    for at in range.step_by(WORD) {
        // SAFETY: the caller promises that the memory is mapped and unused.
        unsafe { (at as *mut u64).write_volatile(PAINT) };
    }
}

/// The most that any CPU has used of its stack, and the size of that stack, in bytes.
pub(crate) fn deepest() -> Option<(u64, u64)> {
    let stacks = STACKS.lock();
    let depths = stacks.iter().map(|stack| {
        let untouched = |at: &u64| {
            // SAFETY: stacks stay mapped; a word that its owner is writing is not paint any more, or still.
            unsafe { (*at as *const u64).read_volatile() == PAINT }
        };
        let lowest = stack.clone().step_by(WORD).find(|at| !untouched(at)).unwrap_or(stack.end);
        (stack.end.saturating_sub(lowest), stack.end.saturating_sub(stack.start))
    });
    depths.max()
}
