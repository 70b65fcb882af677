//! Guest memory as loaders and devices see it: bytes behind bounds checks.

use alloc::sync::Arc;

use crate::address::GuestAddress;

/// Part of the range is not memory of this virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address:#x}..+{size:#x} is not all memory of this virtual machine")]
pub struct OutOfMemoryRange {
    /// First address of the refused range.
    pub address: GuestAddress,
    /// Its length in bytes.
    pub size: u64,
}

/// Memory of one virtual machine.
pub trait GuestMemory {
    /// Copies from guest memory.
    ///
    /// # Errors
    /// [`OutOfMemoryRange`]; nothing was copied then.
    fn read(&self, address: GuestAddress, bytes: &mut [u8]) -> Result<(), OutOfMemoryRange>;

    /// Copies into guest memory.
    ///
    /// # Errors
    /// [`OutOfMemoryRange`]; nothing was written then.
    fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), OutOfMemoryRange>;

    /// Reads a little-endian number of 2 bytes in one access, which a guest's
    /// write at the same time cannot tear. `address` is even.
    ///
    /// # Errors
    /// [`OutOfMemoryRange`].
    fn load_u16(&self, address: GuestAddress) -> Result<u16, OutOfMemoryRange> {
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Writes a little-endian number of 2 bytes in one access. `address` is even.
    ///
    /// # Errors
    /// [`OutOfMemoryRange`]; nothing was written then.
    fn store_u16(&self, address: GuestAddress, value: u16) -> Result<(), OutOfMemoryRange> {
        self.write(address, &value.to_le_bytes())
    }

    /// Reads a little-endian number of 8 bytes in one access where it can, as a
    /// processor reads an entry of a page table. `address` is a multiple of 8.
    ///
    /// # Errors
    /// [`OutOfMemoryRange`].
    fn load_u64(&self, address: GuestAddress) -> Result<u64, OutOfMemoryRange> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

impl<M: GuestMemory + ?Sized> GuestMemory for Arc<M> {
    fn read(&self, address: GuestAddress, bytes: &mut [u8]) -> Result<(), OutOfMemoryRange> {
        (**self).read(address, bytes)
    }

    fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), OutOfMemoryRange> {
        (**self).write(address, bytes)
    }

    fn load_u16(&self, address: GuestAddress) -> Result<u16, OutOfMemoryRange> {
        (**self).load_u16(address)
    }

    fn store_u16(&self, address: GuestAddress, value: u16) -> Result<(), OutOfMemoryRange> {
        (**self).store_u16(address, value)
    }

    fn load_u64(&self, address: GuestAddress) -> Result<u64, OutOfMemoryRange> {
        (**self).load_u64(address)
    }
}
