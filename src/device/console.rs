//! Where the output of a serial port goes.

/// The far end of a virtual serial line.
pub trait ConsoleSink: Send + Sync {
    /// Takes one byte that the guest sent. May buffer it; must not block.
    fn put(&self, byte: u8);

    /// Takes several, as [`ConsoleSink::put`] each.
    fn write(&self, bytes: &[u8]) {
        for byte in bytes {
            self.put(*byte);
        }
    }

    /// The port, which had refused input for want of space, has space again.
    fn ready(&self) {}
}
