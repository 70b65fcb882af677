//! Output on the PL011 that the device tree names.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Mutex;

use super::mmio;

/// Where the port is on the machine that guests expect.
pub const DEFAULT: u64 = 0x0900_0000;

/// `UARTDR`.
pub const DR: u64 = 0x00;
/// `UARTFR`.
pub const FR: u64 = 0x18;
const FR_TXFF: u32 = 1 << 5;
/// `UARTCR`.
pub const CR: u64 = 0x30;
/// `UARTEN`, `TXE` and `RXE`.
const CR_ENABLE: u32 = 1 << 0 | 1 << 8 | 1 << 9;
/// Tries to get the lock before a dying guest prints without it.
const PATIENCE: u32 = 1_000_000;

static BASE: AtomicU64 = AtomicU64::new(DEFAULT);
static LOCK: Mutex<()> = Mutex::new(());

/// Base address of the port.
pub fn base() -> u64 {
    BASE.load(Ordering::Relaxed)
}

pub(super) fn set_base(base: u64) {
    BASE.store(base, Ordering::Relaxed);
}

/// Has the port transmit and receive, whatever was written to its control register.
pub fn enable() {
    mmio::write32(base() + CR, CR_ENABLE);
}

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while mmio::read32(base() + FR) & FR_TXFF != 0 {}
            mmio::write32(base() + DR, u32::from(byte));
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
