//! Consoles: the serial ports of virtual machines and the monitor share the
//! host's serial line.

/// The near end of a virtual serial line: a port that takes what the user types.
pub trait ConsoleInput: Send + Sync {
    /// Offers one byte. False when there is no space for it; then the port
    /// keeps nothing and calls [`ConsoleSink::ready`] as soon as there is.
    ///
    /// [`ConsoleSink::ready`]: crate::device::console::ConsoleSink::ready
    fn receive(&self, byte: u8) -> bool;
}
