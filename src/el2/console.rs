//! The host's serial line as the core sees it.

use core::fmt::{self, Write};

use bunshin::address::Instant;
use bunshin::console::{Console, HostLine};
use log::LevelFilter;
use spin::Once;

use crate::el2::registers::read_register;
use crate::el2::uart::Port;
use crate::el2::{interrupts, percpu};

/// The consoles of all virtual machines, the log and the monitor.
pub(crate) static CONSOLE: Console = Console::new();

/// The serial line; silence before it is opened, and on a machine without one.
static PORT: Once<Port> = Once::new();

/// The line, whether open or not.
struct SerialLine;

impl HostLine for SerialLine {
    fn put(&self, byte: u8) -> bool {
        // A byte for a line that is not there is gone.
        port().is_none_or(|port| port.try_put(byte))
    }

    fn get(&self) -> Option<u8> {
        port()?.get()
    }

    fn want_space(&self, wanted: bool) {
        if let Some(port) = port() {
            port.want_space(wanted);
        }
    }

    fn now(&self) -> Instant {
        Instant(interrupts::counter())
    }

    fn frequency(&self) -> u64 {
        read_register!("cntfrq_el0")
    }

    fn nudge(&self) {
        percpu::this().ask(percpu::Asks::RECONSIDER);
    }
}

/// Makes a serial port the console.
pub(crate) fn open(port: Port) {
    PORT.call_once(|| port);
}

fn port() -> Option<&'static Port> {
    PORT.get()
}

/// Has received bytes raise the console's interrupt.
pub(crate) fn enable_receive_interrupt() {
    if let Some(port) = port() {
        port.enable_receive_interrupt();
    }
}

/// The console's interrupt came.
pub(crate) fn interrupt() {
    if let Some(port) = port() {
        // Unread bytes raise it again.
        port.acknowledge_receive_interrupt();
    }
    CONSOLE.interrupt();
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

/// Writes at once: whoever has the console may be what broke.
pub(crate) fn emergency(text: fmt::Arguments<'_>) {
    if let Some(port) = port() {
        // Writing to this line never fails.
        let _ = Line(port).write_fmt(text);
    }
}

/// Sends the log to the console.
pub(crate) fn init_log() {
    CONSOLE.open(&SerialLine);
    if log::set_logger(&CONSOLE).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}
