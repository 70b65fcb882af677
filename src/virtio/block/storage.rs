//! What keeps a disk's bytes.

/// Bytes of a sector, the unit of all addresses on a disk (virtio 5.2).
pub const SECTOR: usize = 512;

/// A disk did not do what was asked. The guest sees an error of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The medium or the way to it failed.
    #[error("the disk failed")]
    Failed,
    /// The storage has no such operation.
    #[error("the disk cannot do this")]
    Unsupported,
}

/// A disk behind a block device. Called with no lock held, for one request
/// of a device at a time; sectors are below the capacity, and buffers whole
/// sectors. Locks itself where disks share something.
pub trait Storage: Send + Sync {
    /// Number of sectors of 512 bytes; constant.
    fn capacity_sectors(&self) -> u64;

    /// Reads sectors from `sector` on.
    ///
    /// # Errors
    /// [`StorageError`]; the bytes are then of no meaning.
    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), StorageError>;

    /// Writes sectors from `sector` on. They last after the next
    /// [`Storage::flush`].
    ///
    /// # Errors
    /// [`StorageError`]; some of the sectors may have been written.
    fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), StorageError>;

    /// Makes all that was written last.
    ///
    /// # Errors
    /// [`StorageError`].
    fn flush(&self) -> Result<(), StorageError>;

    /// The guest needs the contents of `count` sectors no more.
    ///
    /// # Errors
    /// [`StorageError`].
    fn discard(&self, sector: u64, count: u64) -> Result<(), StorageError> {
        let _ = (sector, count);
        Ok(())
    }

    /// Fills `count` sectors with zeros, as a write would.
    ///
    /// # Errors
    /// [`StorageError`]; some of the sectors may have been written.
    fn write_zeroes(&self, sector: u64, count: u64) -> Result<(), StorageError> {
        (0..count).try_for_each(|offset| self.write(sector.saturating_add(offset), &[0; SECTOR]))
    }

    /// Bytes that [`Storage::discard`] needs to do anything, a power of two from
    /// [`Storage::block_size`] on and aligned to themselves; `None` if it does nothing.
    fn discard_block_size(&self) -> Option<u32> {
        None
    }

    /// Whether writes are refused.
    fn is_read_only(&self) -> bool {
        false
    }

    /// Smallest unit of a request in bytes, a power of two from 512 on.
    fn block_size(&self) -> u32 {
        SECTOR as u32
    }

    /// Smallest unit that the medium writes without reading, in bytes, a power
    /// of two from [`Storage::block_size`] on.
    fn physical_block_size(&self) -> u32 {
        self.block_size()
    }
}
