//! The port space.

use core::arch::asm;

/// Reads a byte.
pub fn read8(port: u16) -> u8 {
    let value;
    // SAFETY: the guest owns its machine; reading a port changes no memory of Rust's.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack)) }
    value
}

/// Reads two bytes.
pub fn read16(port: u16) -> u16 {
    let value;
    // SAFETY: as for `read8`.
    unsafe { asm!("in ax, dx", out("ax") value, in("dx") port, options(nomem, nostack)) }
    value
}

/// Reads four bytes.
pub fn read32(port: u16) -> u32 {
    let value;
    // SAFETY: as for `read8`.
    unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(nomem, nostack)) }
    value
}

/// Writes a byte.
pub fn write8(port: u16, value: u8) {
    // SAFETY: the guest owns its machine; no device of it reaches memory by itself.
    unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(nomem, nostack)) }
}

/// Writes two bytes.
pub fn write16(port: u16, value: u16) {
    // SAFETY: as for `write8`.
    unsafe { asm!("out dx, ax", in("ax") value, in("dx") port, options(nomem, nostack)) }
}

/// Writes four bytes.
pub fn write32(port: u16, value: u32) {
    // SAFETY: as for `write8`.
    unsafe { asm!("out dx, eax", in("eax") value, in("dx") port, options(nomem, nostack)) }
}

/// Reads bytes from one port by `rep insb`.
pub fn read_string(port: u16, into: &mut [u8]) {
    // SAFETY: exactly the bytes of the slice are written.
    unsafe {
        asm!("cld", "rep insb", in("dx") port, inout("rdi") into.as_mut_ptr() => _,
            inout("rcx") into.len() => _, options(nostack));
    }
}

/// Writes bytes to one port by `rep outsb`.
pub fn write_string(port: u16, from: &[u8]) {
    // SAFETY: exactly the bytes of the slice are read.
    unsafe {
        asm!("cld", "rep outsb", in("dx") port, inout("rsi") from.as_ptr() => _,
            inout("rcx") from.len() => _, options(nostack, readonly));
    }
}
