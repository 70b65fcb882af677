//! Loads and stores that devices see, one instruction each.

use core::arch::asm;

/// Reads four bytes.
pub fn read32(address: u64) -> u32 {
    let value;
    // SAFETY: the address is a device's or a hole's, where no Rust object lives.
    unsafe {
        asm!("mov {:e}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags));
    }
    value
}

/// Writes four bytes.
pub fn write32(address: u64, value: u32) {
    // SAFETY: as for `read32`.
    unsafe {
        asm!("mov [{}], {:e}", in(reg) address, in(reg) value, options(nostack, preserves_flags));
    }
}
