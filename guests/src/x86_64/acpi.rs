//! What the ACPI tables say: processors, IOAPIC, timer, how to turn off.

use spin::Once;

use super::boot::{self, read};
use super::smp::MAX_CPUS;

/// Where firmware of PCs puts the root pointer, at multiples of 16.
const SEARCH: core::ops::Range<u64> = 0xe_0000..0x10_0000;
const RSDP_SIGNATURE: &[u8; 8] = b"RSD PTR ";

/// What was found.
#[derive(Debug, Clone)]
pub struct Acpi {
    /// Whether every table's bytes add up to zero.
    pub checksums: bool,
    apic_ids: [u32; MAX_CPUS],
    cpus: usize,
    /// Base of the IOAPIC.
    pub io_apic: u64,
    /// Port of the power-management timer, 0 if there is none.
    pub timer: u16,
    /// Whether the machine is hardware-reduced.
    pub reduced: bool,
    /// Port of the reset register and its value.
    pub reset: (u16, u8),
    /// Port of the sleep control register of a hardware-reduced machine.
    pub sleep: u16,
}

impl Acpi {
    /// Identifiers of the processors' local APICs.
    pub fn apic_ids(&self) -> &[u32] {
        &self.apic_ids[..self.cpus]
    }
}

static ACPI: Once<Option<Acpi>> = Once::new();

/// The tables, if there are any.
pub fn acpi() -> Option<&'static Acpi> {
    ACPI.get().and_then(Option::as_ref)
}

fn read32(address: u64) -> u32 {
    read(address) as u32
}

fn read16(address: u64) -> u16 {
    read(address) as u16
}

fn read8(address: u64) -> u8 {
    read(address) as u8
}

fn adds_up(address: u64, length: u64) -> bool {
    (0..length).fold(0u8, |sum, at| sum.wrapping_add(read8(address + at))) == 0
}

pub(super) fn probe() {
    ACPI.call_once(parse);
}

fn parse() -> Option<Acpi> {
    let signature = u64::from_le_bytes(*RSDP_SIGNATURE);
    let scanned = || SEARCH.step_by(16).find(|at| read(*at) == signature);
    let rsdp = boot::rsdp().or_else(scanned)?;
    let extended = read8(rsdp + 15) >= 2;
    let mut acpi = Acpi {
        checksums: adds_up(rsdp, 20),
        apic_ids: [0; MAX_CPUS],
        cpus: 0,
        io_apic: 0,
        timer: 0,
        reduced: false,
        reset: (0, 0),
        sleep: 0,
    };
    let (root, width) = match extended {
        true => (read(rsdp + 24), 8),
        false => (u64::from(read32(rsdp + 16)), 4),
    };
    let length = u64::from(read32(root + 4));
    acpi.checksums &= adds_up(root, length);
    for at in (root + 36..root + length).step_by(width) {
        let table = if width == 8 { read(at) } else { u64::from(read32(at)) };
        let length = u64::from(read32(table + 4));
        acpi.checksums &= adds_up(table, length);
        match &read32(table).to_le_bytes() {
            b"APIC" => madt(&mut acpi, table, length),
            b"FACP" => fadt(&mut acpi, table, length),
            _ => {}
        }
    }
    Some(acpi)
}

fn madt(acpi: &mut Acpi, table: u64, length: u64) {
    let mut at = table + 44;
    while at + 2 <= table + length {
        let (kind, size) = (read8(at), read8(at + 1));
        let id = match kind {
            // Local APIC, enabled.
            0 if read8(at + 4) & 1 != 0 => Some(u32::from(read8(at + 3))),
            // Local x2APIC, enabled.
            9 if read8(at + 8) & 1 != 0 => Some(read32(at + 4)),
            1 => {
                acpi.io_apic = u64::from(read32(at + 4));
                None
            }
            _ => None,
        };
        if let Some(id) = id
            && let Some(slot) = acpi.apic_ids.get_mut(acpi.cpus)
        {
            *slot = id;
            acpi.cpus += 1;
        }
        at += u64::from(size.max(2));
    }
}

fn fadt(acpi: &mut Acpi, table: u64, length: u64) {
    const HW_REDUCED: u32 = 1 << 20;
    acpi.timer = read16(table + 76);
    let dsdt = u64::from(read32(table + 40));
    acpi.checksums &= adds_up(dsdt, u64::from(read32(dsdt + 4)));
    if length >= 129 {
        acpi.reduced = read32(table + 112) & HW_REDUCED != 0;
        acpi.reset = (read(table + 120) as u16, read8(table + 128));
    }
    if length >= 268 {
        acpi.sleep = read(table + 248) as u16;
    }
}
