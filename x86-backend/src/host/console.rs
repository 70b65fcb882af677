//! The host's serial port COM1 as the core sees it.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use bunshin::address::Instant;
use bunshin::console::{Console, HostLine};
use log::LevelFilter;
use x86_64::instructions::port::Port;

use super::{PerCpu, timer};

/// First port of COM1.
const BASE: u16 = 0x3f8;
/// Offsets of the registers of a 16550 (data sheet, table 2).
mod register {
    pub(super) const DATA: u16 = 0;
    pub(super) const INTERRUPT_ENABLE: u16 = 1;
    pub(super) const FIFO_CONTROL: u16 = 2;
    pub(super) const LINE_CONTROL: u16 = 3;
    pub(super) const MODEM_CONTROL: u16 = 4;
    pub(super) const LINE_STATUS: u16 = 5;
    pub(super) const SCRATCH: u16 = 7;
}
/// Line control: 8 data bits, no parity, 1 stop bit.
const LINE_8N1: u8 = 0x03;
/// Line control: the first two registers are the divisor.
const LINE_DIVISOR: u8 = 0x80;
/// FIFO control: enabled, both directions cleared.
const FIFO_ENABLE_AND_CLEAR: u8 = 0x07;
/// Modem control: data terminal ready, request to send.
const MODEM_READY: u8 = 0x03;
/// Modem control: OUT2.
const MODEM_OUT2: u8 = 1 << 3;
/// Interrupt enable: a byte was received.
const INTERRUPT_RECEIVED: u8 = 1 << 0;
/// Interrupt enable: the transmitter is empty.
const INTERRUPT_EMPTY: u8 = 1 << 1;
/// Bytes that an empty transmitter takes.
const TRANSMIT_FIFO: u8 = 16;
/// Line status: a received byte waits.
const STATUS_DATA_READY: u8 = 1 << 0;
/// Line status: the transmitter takes a byte.
const STATUS_TRANSMIT_EMPTY: u8 = 1 << 5;
/// Line status: the last byte has left.
const STATUS_IDLE: u8 = 1 << 6;
/// Divisor of 115200 baud.
const DIVISOR: u8 = 1;
/// Polls for the transmitter before a byte is given up, so that a missing or
/// stuck port hangs nobody.
const PATIENCE: u32 = 100_000;

/// There is such a port.
static PRESENT: AtomicBool = AtomicBool::new(false);
/// Bytes that the transmitter has space for without another look.
static SPACE: AtomicU8 = AtomicU8::new(0);

/// The consoles of all virtual machines, the log and the monitor.
pub(crate) static CONSOLE: Console = Console::new();

/// COM1.
struct SerialLine;

impl HostLine for SerialLine {
    fn put(&self, byte: u8) -> bool {
        if !PRESENT.load(Ordering::Relaxed) {
            // A byte for a line that is not there is gone.
            return true;
        }
        let mut space = SPACE.load(Ordering::Relaxed);
        if space == 0 && read(register::LINE_STATUS) & STATUS_TRANSMIT_EMPTY != 0 {
            space = TRANSMIT_FIFO;
        }
        let left = space.checked_sub(1);
        if let Some(left) = left {
            SPACE.store(left, Ordering::Relaxed);
            write(register::DATA, byte);
        }
        left.is_some()
    }

    fn get(&self) -> Option<u8> {
        let waits =
            PRESENT.load(Ordering::Relaxed) && read(register::LINE_STATUS) & STATUS_DATA_READY != 0;
        waits.then(|| read(register::DATA))
    }

    fn want_space(&self, wanted: bool) {
        let space = if wanted { INTERRUPT_EMPTY } else { 0 };
        write(register::INTERRUPT_ENABLE, INTERRUPT_RECEIVED | space);
    }

    fn now(&self) -> Instant {
        timer::now()
    }

    fn frequency(&self) -> u64 {
        timer::frequency()
    }

    fn nudge(&self) {
        super::kick(PerCpu::current().id);
    }
}

fn read(register: u16) -> u8 {
    // SAFETY: COM1 belongs to this module alone; reading its registers has no effect on memory.
    unsafe { Port::new(BASE + register).read() }
}

fn write(register: u16, value: u8) {
    // SAFETY: as for `read`.
    unsafe { Port::new(BASE + register).write(value) }
}

/// Text at once, whoever has the console.
struct Direct;

impl Write for Direct {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                put_direct(b'\r');
            }
            put_direct(byte);
        }
        Ok(())
    }
}

fn put_direct(byte: u8) {
    if !PRESENT.load(Ordering::Relaxed) {
        return;
    }
    for _ in 0..PATIENCE {
        if read(register::LINE_STATUS) & STATUS_TRANSMIT_EMPTY != 0 {
            break;
        }
        core::hint::spin_loop();
    }
    write(register::DATA, byte);
}

/// Sets up COM1.
pub(super) fn init() {
    write(register::SCRATCH, 0x5a);
    let present = read(register::SCRATCH) == 0x5a;
    if present {
        write(register::INTERRUPT_ENABLE, 0);
        write(register::LINE_CONTROL, LINE_DIVISOR);
        write(register::DATA, DIVISOR);
        write(register::INTERRUPT_ENABLE, 0);
        write(register::LINE_CONTROL, LINE_8N1);
        write(register::FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
        write(register::MODEM_CONTROL, MODEM_READY);
    }
    PRESENT.store(present, Ordering::Relaxed);
}

/// Makes COM1 the log. Needs the heap.
pub(super) fn init_log() {
    CONSOLE.open(&SerialLine);
    if log::set_logger(&CONSOLE).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Has received bytes interrupt. OUT2 connects the interrupt on PCs.
pub(super) fn enable_receive_interrupt() {
    if PRESENT.load(Ordering::Relaxed) {
        write(register::MODEM_CONTROL, MODEM_READY | MODEM_OUT2);
        write(register::INTERRUPT_ENABLE, INTERRUPT_RECEIVED);
    }
}

/// Waits until the last byte has left: the machine is about to lose its power.
pub(super) fn drain() {
    if PRESENT.load(Ordering::Relaxed) {
        let idle = || read(register::LINE_STATUS) & STATUS_IDLE != 0;
        // As many bytes as the port may hold, each with the usual patience.
        for _ in 0..u32::from(TRANSMIT_FIFO) * PATIENCE {
            if idle() {
                break;
            }
            core::hint::spin_loop();
        }
    }
}

/// Writes a report although another processor, or this one, may hold the
/// console's lock: nothing runs after it.
pub(super) fn last_words(words: fmt::Arguments<'_>) {
    // Writing to the port cannot fail.
    let _ = Direct.write_fmt(words);
}
