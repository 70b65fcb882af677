//! Registers in device memory.
#![allow(unsafe_code)]

use core::ptr::NonNull;

use safe_mmio::UniqueMmioPointer;
use safe_mmio::fields::ReadPureWrite;

/// A block of 8-, 32- and 64-bit registers. Copies are the same block.
///
/// Registers of the GIC may be read and written by several CPUs at once: setting and clearing bits is done by writing
/// ones to separate registers, and what needs more is documented where it is offered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: the block is device memory that every CPU may access by single volatile reads and writes (see `new`).
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl Registers {
    /// The block at `address`, aligned to 8 bytes; `None` at address 0.
    ///
    /// # Safety
    ///
    /// `size` bytes from `address` on must be mapped as device memory for as long as the block or a copy of it is used,
    /// and hold registers that are safe to read and write in any order and from any CPU.
    pub(super) unsafe fn new(address: usize, size: usize) -> Option<Self> {
        let base = NonNull::new(core::ptr::with_exposed_provenance_mut::<u8>(address))?;
        if !address.is_multiple_of(8) {
            return None;
        }
        Some(Self { base, size })
    }

    /// The part of the block from `offset` on.
    pub(super) fn part(self, offset: usize, size: usize) -> Option<Self> {
        if !offset.is_multiple_of(8) || offset.checked_add(size)? > self.size {
            return None;
        }
        // SAFETY: the part lies inside of this block.
        Some(Self { base: unsafe { self.base.byte_add(offset) }, size })
    }

    #[inline(always)]
    fn register<T>(&self, offset: usize) -> Option<NonNull<ReadPureWrite<T>>> {
        let inside = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.size);
        if !inside || !offset.is_multiple_of(size_of::<T>()) {
            return None;
        }
        // SAFETY: the register lies inside of the block.
        Some(unsafe { self.base.byte_add(offset) }.cast())
    }

    /// Reads the 32-bit register at `offset`; 0 outside of the block.
    #[inline(always)]
    pub(super) fn read(&self, offset: usize) -> u32 {
        let Some(register) = self.register::<u32>(offset) else { return 0 };
        // SAFETY: `new` promises that this is a register that may be accessed at any time, and it is aligned. The
        // pointer lives for one access.
        unsafe { UniqueMmioPointer::new(register) }.read()
    }

    /// Writes the 32-bit register at `offset`; nothing outside of the block.
    #[inline(always)]
    pub(super) fn write(&self, offset: usize, value: u32) {
        let Some(register) = self.register::<u32>(offset) else { return };
        // SAFETY: as in `read`.
        unsafe { UniqueMmioPointer::new(register) }.write(value);
    }

    /// Reads the 64-bit register at `offset`; 0 outside of the block.
    pub(super) fn read64(&self, offset: usize) -> u64 {
        let Some(register) = self.register::<u64>(offset) else { return 0 };
        // SAFETY: as in `read`.
        unsafe { UniqueMmioPointer::new(register) }.read()
    }

    /// Writes the 64-bit register at `offset`; nothing outside of the block.
    pub(super) fn write64(&self, offset: usize, value: u64) {
        let Some(register) = self.register::<u64>(offset) else { return };
        // SAFETY: as in `read`.
        unsafe { UniqueMmioPointer::new(register) }.write(value);
    }

    /// Reads the byte at `offset`; 0 outside of the block.
    pub(super) fn read8(&self, offset: usize) -> u8 {
        let Some(register) = self.register::<u8>(offset) else { return 0 };
        // SAFETY: as in `read`.
        unsafe { UniqueMmioPointer::new(register) }.read()
    }

    /// Writes the byte at `offset`; nothing outside of the block.
    pub(super) fn write8(&self, offset: usize, value: u8) {
        let Some(register) = self.register::<u8>(offset) else { return };
        // SAFETY: as in `read`.
        unsafe { UniqueMmioPointer::new(register) }.write(value);
    }
}
