//! What a driver needs of a device's memory.

/// A block of registers. Offsets are in bytes from its start; an access outside of it reads zero and writes nothing.
///
/// Several CPUs may access a block at once: each access is a single one.
pub trait Registers {
    /// Reads the byte at `offset`.
    fn read8(&self, offset: usize) -> u8;
    /// Writes the byte at `offset`.
    fn write8(&self, offset: usize, value: u8);
    /// Reads the 32-bit register at `offset`.
    fn read32(&self, offset: usize) -> u32;
    /// Writes the 32-bit register at `offset`.
    fn write32(&self, offset: usize, value: u32);
}
