//! The host's serial port COM1 and the log on it.

use core::fmt::{self, Write};

use log::{Level, LevelFilter, Metadata, Record};
use spin::mutex::TicketMutex;
use x86_64::instructions::port::Port;

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
/// Line status: a received byte waits.
const STATUS_DATA_READY: u8 = 1 << 0;
/// Line status: the transmitter takes a byte.
const STATUS_TRANSMIT_EMPTY: u8 = 1 << 5;
/// Divisor of 115200 baud.
const DIVISOR: u8 = 1;
/// Polls for the transmitter before a byte is given up, so that a missing or
/// stuck port hangs nobody.
const PATIENCE: u32 = 100_000;

/// The port, if there is one.
struct Serial {
    present: bool,
}

static SERIAL: TicketMutex<Serial> = TicketMutex::new(Serial { present: false });

fn read(register: u16) -> u8 {
    // SAFETY: COM1 belongs to this module alone; reading its registers has no effect on memory.
    unsafe { Port::new(BASE + register).read() }
}

fn write(register: u16, value: u8) {
    // SAFETY: as for `read`.
    unsafe { Port::new(BASE + register).write(value) }
}

impl Serial {
    fn put(&self, byte: u8) {
        if !self.present {
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
}

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

/// Sets up COM1 and makes it the log.
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
    SERIAL.lock().present = present;
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Sends one byte as it is.
pub(crate) fn put(byte: u8) {
    SERIAL.lock().put(byte);
}

/// Has received bytes interrupt. OUT2 connects the interrupt on PCs.
pub(super) fn enable_receive_interrupt() {
    let serial = SERIAL.lock();
    if serial.present {
        write(register::MODEM_CONTROL, MODEM_READY | MODEM_OUT2);
        write(register::INTERRUPT_ENABLE, INTERRUPT_RECEIVED);
    }
}

/// A byte that the user typed.
pub(super) fn get() -> Option<u8> {
    let serial = SERIAL.lock();
    (serial.present && read(register::LINE_STATUS) & STATUS_DATA_READY != 0)
        .then(|| read(register::DATA))
}

/// Writes a report although another processor, or this one, may hold the
/// lock: nothing runs after it.
pub(super) fn last_words(words: fmt::Arguments<'_>) {
    let _ = match SERIAL.try_lock() {
        Some(mut serial) => serial.write_fmt(words),
        None => Serial { present: true }.write_fmt(words),
    };
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let prefix = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        // Writing to the port cannot fail.
        let _ = writeln!(SERIAL.lock(), "bunshin: {prefix}{}", record.args());
    }

    fn flush(&self) {}
}
