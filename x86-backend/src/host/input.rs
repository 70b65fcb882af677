//! The interrupt of COM1, through the IOAPIC.

use core::sync::atomic::{AtomicBool, Ordering};

use platform::acpi::{Acpi, IoApic, Polarity, SignalMode};

use super::{apic, console};

/// ISA interrupt of COM1.
const COM1_IRQ: u8 = 4;

/// Offsets of an IOAPIC's registers: index and data.
const INDEX: u64 = 0x00;
const DATA: u64 = 0x10;
/// Index of the version register, with the last input in bits 23:16.
const VERSION: u32 = 1;
/// Index of the low half of the first input's entry.
const FIRST_ENTRY: u32 = 0x10;
/// Entry: active low.
const ACTIVE_LOW: u32 = 1 << 13;
/// Entry: level-triggered.
const LEVEL: u32 = 1 << 15;

/// COM1 has interrupted.
static PENDING: AtomicBool = AtomicBool::new(false);

fn register(ioapic: &IoApic, offset: u64) -> *mut u32 {
    (ioapic.address.get() + offset) as *mut u32
}

fn write(ioapic: &IoApic, index: u32, value: u32) {
    // SAFETY: the firmware's tables name an IOAPIC there, below 4 GiB and so mapped; start-up of the
    // first processor is its only user.
    unsafe {
        register(ioapic, INDEX).write_volatile(index);
        register(ioapic, DATA).write_volatile(value);
    }
}

fn inputs(ioapic: &IoApic) -> u32 {
    // SAFETY: as for `write`.
    unsafe {
        register(ioapic, INDEX).write_volatile(VERSION);
        (register(ioapic, DATA).read_volatile() >> 16 & 0xff) + 1
    }
}

/// Routes COM1's interrupt to the processor that runs this.
pub(super) fn init(tables: &Acpi) {
    let special = tables.madt.overrides.iter().find(|special| special.isa_irq == COM1_IRQ);
    let gsi = special.map_or(u32::from(COM1_IRQ), |special| special.gsi);
    let mut flags = 0;
    if special.is_some_and(|special| special.polarity == Polarity::Low) {
        flags |= ACTIVE_LOW;
    }
    if special.is_some_and(|special| special.mode == SignalMode::Level) {
        flags |= LEVEL;
    }
    let target = apic::id();
    for ioapic in tables.madt.io_apics.iter().filter(|ioapic| ioapic.address.get() >> 32 == 0) {
        let Some(input) = gsi.checked_sub(ioapic.first_gsi) else { continue };
        // Without interrupt remapping an entry names 8-bit identifiers only.
        if input < inputs(ioapic) && target < 0xff {
            let entry = FIRST_ENTRY + input * 2;
            write(ioapic, entry + 1, target << 24);
            write(ioapic, entry, u32::from(apic::CONSOLE_VECTOR) | flags);
            console::enable_receive_interrupt();
            return;
        }
    }
}

/// COM1's interrupt came; it is served when no lock is held.
pub(super) fn interrupt() {
    PENDING.store(true, Ordering::Release);
}

/// Serves COM1's interrupt, if it came.
#[inline]
pub(super) fn pump() {
    if PENDING.load(Ordering::Relaxed) && PENDING.swap(false, Ordering::Acquire) {
        console::CONSOLE.interrupt();
    }
}
