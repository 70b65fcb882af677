//! What the user types: an interrupt of COM1 through the IOAPIC, and bytes on
//! their way to the guest that has the keyboard.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use platform::acpi::{Acpi, IoApic, Polarity, SignalMode};
use spin::mutex::TicketMutex;
use x86_backend::machine::uart16550::Uart16550;

use super::{apic, console};

/// ISA interrupt of COM1.
const COM1_IRQ: u8 = 4;
/// Bytes that wait for the guest at most; more is dropped, as by a serial port
/// without flow control.
const LIMIT: usize = 4096;

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

/// The guest whose serial port gets what the user types.
struct Focus {
    port: Option<Arc<Uart16550>>,
    waiting: VecDeque<u8>,
}

static FOCUS: TicketMutex<Focus> = TicketMutex::new(Focus { port: None, waiting: VecDeque::new() });

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

/// COM1's interrupt came; the bytes are fetched when no lock is held.
pub(super) fn interrupt() {
    PENDING.store(true, Ordering::Release);
}

/// Gives the keyboard to the first guest that asks.
pub(crate) fn attach(port: &Arc<Uart16550>) {
    FOCUS.lock().port.get_or_insert_with(|| port.clone());
}

/// Fetches what came, if something came.
#[inline]
pub(super) fn pump() {
    if PENDING.load(Ordering::Relaxed) && PENDING.swap(false, Ordering::Acquire) {
        {
            let mut focus = FOCUS.lock();
            while let Some(byte) = console::get() {
                if focus.waiting.len() < LIMIT {
                    focus.waiting.push_back(byte);
                }
            }
        }
        deliver();
    }
}

/// Hands waiting bytes to the guest as far as it has space. No lock is held
/// while the guest's port is called, which may call back.
pub(crate) fn deliver() {
    loop {
        let (port, byte) = {
            let mut focus = FOCUS.lock();
            let Some(port) = focus.port.clone() else { return };
            let Some(byte) = focus.waiting.pop_front() else { return };
            (port, byte)
        };
        if port.receive(&[byte]) == 0 {
            FOCUS.lock().waiting.push_front(byte);
            return;
        }
    }
}
