//! The IOAPIC.

use super::acpi::acpi;
use super::mmio;

/// Where the IOAPIC is on every PC.
const USUAL: u64 = 0xfec0_0000;
/// Index of the identifier.
pub const IDENTIFIER: u32 = 0;
/// Index of the version.
pub const VERSION: u32 = 1;
/// Index of the first entry's low half.
const ENTRIES: u32 = 0x10;
/// Offset of the data register.
const DATA: u64 = 0x10;

/// Entry: masked.
pub const MASKED: u64 = 1 << 16;
/// Entry: level-triggered.
pub const LEVEL: u64 = 1 << 15;
/// Entry: the target has accepted it and not ended it.
pub const REMOTE_IRR: u64 = 1 << 14;

fn base() -> u64 {
    acpi().map_or(USUAL, |acpi| acpi.io_apic)
}

/// Addresses of the index register and of the data register.
pub fn registers() -> (u64, u64) {
    (base(), base() + DATA)
}

/// Reads the register with an index.
pub fn read(index: u32) -> u32 {
    let (select, data) = registers();
    mmio::write32(select, index);
    mmio::read32(data)
}

/// Writes the register with an index.
pub fn write(index: u32, value: u32) {
    let (select, data) = registers();
    mmio::write32(select, index);
    mmio::write32(data, value);
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
