//! Consoles: the serial ports of virtual machines, the log and the monitor
//! share the host's serial line.
//!
//! The virtual machine with the *focus* gets what the user types, and what it
//! sends appears as it is. What others send appears line by line with
//! `[name] ` before it, so that nothing is hidden. Ctrl-A and a key moves the
//! focus ([`keys`]). Lines of others wait while the line on the terminal is not
//! ended, but not for long.
//!
//! Nobody waits for the serial line: output waits in a ring for each channel,
//! and the line's driver says when it has space ([`HostLine`]). What does not
//! fit into the ring is lost and counted. Channels take turns by lines, so that
//! one that floods its console does not keep the others from theirs.

mod history;
pub mod keys;
mod multiplexer;
mod terminal;

pub use multiplexer::{Channel, Console, Port};

use crate::address::Instant;

/// The near end of a virtual serial line: a port that takes what the user types.
pub trait ConsoleInput: Send + Sync {
    /// Offers one byte. False when there is no space for it; then the port
    /// keeps nothing and calls [`ConsoleSink::ready`] as soon as there is.
    ///
    /// [`ConsoleSink::ready`]: crate::device::console::ConsoleSink::ready
    fn receive(&self, byte: u8) -> bool;
}

/// The host's serial line. Never called by two CPUs at the same time.
pub trait HostLine: Send + Sync {
    /// Sends one byte; false when the transmitter has no space for it.
    fn put(&self, byte: u8) -> bool;

    /// A byte that was received.
    fn get(&self) -> Option<u8>;

    /// Whether the line is to interrupt as soon as its transmitter has space,
    /// and so lead to [`Console::interrupt`].
    fn want_space(&self, wanted: bool);

    /// Time on this host.
    fn now(&self) -> Instant;

    /// Ticks of [`HostLine::now`] per second.
    fn frequency(&self) -> u64;

    /// Has this CPU's loop look around soon.
    fn nudge(&self);
}
