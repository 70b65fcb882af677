//! Output on COM1.

use core::fmt::{self, Write};

use spin::Mutex;

use super::port;

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// Interrupt of COM1.
pub const COM1_IRQ: u8 = 4;
/// Offset of the line status register.
pub const LINE_STATUS: u16 = 5;
/// Offset of the interrupt enable register.
pub const INTERRUPT_ENABLE: u16 = 1;
/// Offset of the interrupt identification register.
pub const INTERRUPT_IDENTIFICATION: u16 = 2;
/// Offset of the modem control register.
pub const MODEM_CONTROL: u16 = 4;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Tries to get the lock before a dying guest prints without it.
const PATIENCE: u32 = 1_000_000;

static LOCK: Mutex<()> = Mutex::new(());

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while port::read8(COM1 + LINE_STATUS) & TRANSMITTER_EMPTY == 0 {}
            port::write8(COM1, byte);
        }
        Ok(())
    }
}

/// Prints one line unbroken by other CPUs' lines.
pub fn print_line(line: fmt::Arguments<'_>) {
    let _guard = LOCK.lock();
    // The port cannot fail.
    let _ = writeln!(Port, "{line}");
}

/// Prints one line even when the holder of the lock has died.
pub(super) fn print_last_line(line: fmt::Arguments<'_>) {
    let _guard = (0..PATIENCE).find_map(|_| LOCK.try_lock());
    let _ = writeln!(Port, "{line}");
}
