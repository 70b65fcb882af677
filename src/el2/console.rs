//! The host's serial line and the log on it.

use core::fmt::{self, Write};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use bunshin::console::ConsoleInput;
use bunshin::device::pl011::Pl011;

use arm_pl011_uart::{Interrupts, PL011Registers, Uart};
use log::{Level, LevelFilter, Log, Metadata, Record};
use safe_mmio::UniqueMmioPointer;
use spin::mutex::TicketMutex;

/// Address of the PL011; 0 without one.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Held while one line or one guest byte is written.
static LOCK: TicketMutex<()> = TicketMutex::new(());

/// Offset and bits of the control register `UARTCR`.
const CONTROL: u64 = 0x30;
const UART_ENABLE: u32 = 1 << 0;
const TRANSMIT_ENABLE: u32 = 1 << 8;
const RECEIVE_ENABLE: u32 = 1 << 9;

/// Says which PL011 is the console. Its registers must be mapped as device memory.
pub(crate) fn set_pl011(base: u64) {
    let control = (base + CONTROL) as *mut u32;
    // SAFETY: the caller says that this is a mapped PL011. Line and speed stay as firmware
    // set them; some firmware leaves the port off.
    unsafe {
        let value = control.read_volatile();
        control.write_volatile(value | UART_ENABLE | TRANSMIT_ENABLE | RECEIVE_ENABLE);
    }
    BASE.store(base, Ordering::Release);
}

/// The console's UART; `None` without one. Firmware has set line and speed.
fn uart() -> Option<Uart<'static>> {
    let base = BASE.load(Ordering::Acquire);
    let registers = NonNull::new(base as *mut PL011Registers)?;
    // SAFETY: `set_pl011` was given the address of a mapped PL011. Several
    // drivers at once cannot break memory: each operation is one access.
    Some(Uart::new(unsafe { UniqueMmioPointer::new(registers) }))
}

fn put_raw(uart: &mut Uart<'_>, byte: u8) {
    while uart.is_tx_fifo_full() {
        core::hint::spin_loop();
    }
    uart.write_word(byte);
}

/// Writes one byte of a guest.
pub(crate) fn put(byte: u8) {
    if let Some(mut uart) = uart() {
        let _guard = LOCK.lock();
        put_raw(&mut uart, byte);
    }
}

/// A byte from the user, if there is one.
pub(crate) fn get() -> Option<u8> {
    let _guard = LOCK.lock();
    // A byte with a framing error is not input.
    uart()?.read_word().ok().flatten()
}

/// Has received bytes raise the console's interrupt.
pub(crate) fn enable_receive_interrupt() {
    if let Some(mut uart) = uart() {
        uart.clear_interrupts(Interrupts::all());
        uart.set_interrupt_masks(Interrupts::RXI | Interrupts::RTI);
    }
}

/// Puts the receive interrupt down; unread bytes raise it again.
pub(crate) fn acknowledge_receive_interrupt() {
    if let Some(mut uart) = uart() {
        uart.clear_interrupts(Interrupts::RXI | Interrupts::RTI);
    }
}

struct Line<'u>(Uart<'u>);

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put_raw(&mut self.0, b'\r');
            }
            put_raw(&mut self.0, byte);
        }
        Ok(())
    }
}

/// Writes without the lock: whoever holds it may be what broke.
pub(crate) fn emergency(text: fmt::Arguments<'_>) {
    if let Some(uart) = uart() {
        // Writing to this line never fails.
        let _ = Line(uart).write_fmt(text);
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(uart) = uart() else { return };
        let mark = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        let _guard = LOCK.lock();
        // Writing to this line never fails.
        let _ = writeln!(Line(uart), "bunshin: {mark}{}", record.args());
    }

    fn flush(&self) {}
}

/// Sends the log to the console.
pub(crate) fn init_log() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// What the user typed waits here while the guest's FIFO is full. More is dropped, as by a
/// serial port without flow control.
const INPUT: usize = 4096;

/// The guest whose serial port gets what the user types.
struct Focus {
    port: Option<Arc<Pl011>>,
    input: VecDeque<u8>,
}

static FOCUS: TicketMutex<Focus> = TicketMutex::new(Focus { port: None, input: VecDeque::new() });

/// Gives the keyboard to the first guest that asks.
pub(crate) fn attach(port: &Arc<Pl011>) {
    FOCUS.lock().port.get_or_insert_with(|| port.clone());
}

/// Takes what the user typed and hands it to the guest that has the keyboard.
pub(crate) fn receive() {
    acknowledge_receive_interrupt();
    {
        let mut focus = FOCUS.lock();
        while let Some(byte) = get() {
            if focus.input.len() < INPUT {
                focus.input.push_back(byte);
            }
        }
    }
    deliver();
}

/// Hands waiting input to the guest as far as it has space. Holds no lock while the guest's
/// port is called, which may call back.
pub(crate) fn deliver() {
    loop {
        let (port, byte) = {
            let mut focus = FOCUS.lock();
            let Some(port) = focus.port.clone() else { return };
            let Some(byte) = focus.input.pop_front() else { return };
            (port, byte)
        };
        if !port.receive(byte) {
            FOCUS.lock().input.push_front(byte);
            return;
        }
    }
}
