//! The host's serial line and the log on it.

use core::fmt::{self, Write};

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use bunshin::console::ConsoleInput;
use bunshin::device::pl011::Pl011;

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Once;
use spin::mutex::TicketMutex;

use crate::el2::uart::Port;

/// The serial line; silence before it is opened, and on a machine without one.
static PORT: Once<Port> = Once::new();

/// Held while one line or one guest byte is written.
static LOCK: TicketMutex<()> = TicketMutex::new(());

/// Makes a serial port the console.
pub(crate) fn open(port: Port) {
    PORT.call_once(|| port);
}

fn port() -> Option<&'static Port> {
    PORT.get()
}

/// Writes one byte of a guest.
pub(crate) fn put(byte: u8) {
    if let Some(port) = port() {
        let _guard = LOCK.lock();
        port.put(byte);
    }
}

/// A byte from the user, if there is one.
pub(crate) fn get() -> Option<u8> {
    let _guard = LOCK.lock();
    port()?.get()
}

/// Has received bytes raise the console's interrupt.
pub(crate) fn enable_receive_interrupt() {
    if let Some(port) = port() {
        port.enable_receive_interrupt();
    }
}

/// Puts the receive interrupt down; unread bytes raise it again.
pub(crate) fn acknowledge_receive_interrupt() {
    if let Some(port) = port() {
        port.acknowledge_receive_interrupt();
    }
}

struct Line<'p>(&'p Port);

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.put(b'\r');
            }
            self.0.put(byte);
        }
        Ok(())
    }
}

/// Writes without the lock: whoever holds it may be what broke.
pub(crate) fn emergency(text: fmt::Arguments<'_>) {
    if let Some(port) = port() {
        // Writing to this line never fails.
        let _ = Line(port).write_fmt(text);
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
        let Some(port) = port() else { return };
        let mark = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        let _guard = LOCK.lock();
        // Writing to this line never fails.
        let _ = writeln!(Line(port), "bunshin: {mark}{}", record.args());
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
