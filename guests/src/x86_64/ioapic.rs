//! The IOAPIC.

use super::acpi::acpi;

/// Where the IOAPIC is on every PC.
const USUAL: u64 = 0xfec0_0000;
/// Index of the identifier.
pub const IDENTIFIER: u32 = 0;
/// Index of the version.
pub const VERSION: u32 = 1;
/// Index of the first entry's low half.
const ENTRIES: u32 = 0x10;

/// Entry: masked.
pub const MASKED: u64 = 1 << 16;
/// Entry: level-triggered.
pub const LEVEL: u64 = 1 << 15;
/// Entry: the target has accepted it and not ended it.
pub const REMOTE_IRR: u64 = 1 << 14;

fn base() -> u64 {
    acpi().map_or(USUAL, |acpi| acpi.io_apic)
}

/// Reads the register with an index.
pub fn read(index: u32) -> u32 {
    let base = base() as *mut u32;
    // SAFETY: the IOAPIC is mapped there; its index and data registers are 16 bytes apart.
    unsafe {
        base.write_volatile(index);
        base.byte_add(0x10).read_volatile()
    }
}

/// Writes the register with an index.
pub fn write(index: u32, value: u32) {
    let base = base() as *mut u32;
    // SAFETY: as for `read`.
    unsafe {
        base.write_volatile(index);
        base.byte_add(0x10).write_volatile(value);
    }
}

/// Number of inputs.
pub fn pins() -> u32 {
    (read(VERSION) >> 16 & 0xff) + 1
}

/// The entry of an input.
pub fn entry(pin: u32) -> u64 {
    u64::from(read(ENTRIES + 2 * pin + 1)) << 32 | u64::from(read(ENTRIES + 2 * pin))
}

/// Sets the entry of an input.
pub fn set_entry(pin: u32, value: u64) {
    write(ENTRIES + 2 * pin + 1, (value >> 32) as u32);
    write(ENTRIES + 2 * pin, value as u32);
}

/// Masks every input.
pub fn mask_all() {
    for pin in 0..pins() {
        set_entry(pin, MASKED);
    }
}
