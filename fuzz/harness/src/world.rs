//! What surrounds a device: memory, an interrupt line, a disk, a terminal.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bunshin::address::GuestAddress;
use bunshin::bus::InterruptLine;
use bunshin::device::clock::WallClock;
use bunshin::device::console::ConsoleSink;
use bunshin::memory::{GuestMemory, OutOfMemoryRange};
use bunshin::network::PortSink;
use bunshin::virtio::balloon::PageOwner;
use bunshin::virtio::block::{SECTOR, Storage, StorageError};
use bunshin::virtio::rng::Entropy;

/// Where the guest's memory starts.
pub(crate) const BASE: u64 = 0x4000_0000;
/// Its length in bytes.
pub(crate) const SIZE: usize = 64 << 10;
/// Sectors of the disk.
const SECTORS: u64 = 256;

/// Guest memory that counts what is done to it.
pub(crate) struct Memory {
    bytes: Mutex<Vec<u8>>,
    pub(crate) moved: AtomicUsize,
    pub(crate) writes: AtomicUsize,
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        let bytes = Mutex::new(vec![0; SIZE]);
        Arc::new(Memory { bytes, moved: AtomicUsize::new(0), writes: AtomicUsize::new(0) })
    }

    fn range(
        address: GuestAddress,
        size: usize,
    ) -> Result<std::ops::Range<usize>, OutOfMemoryRange> {
        let refused = OutOfMemoryRange { address, size: size as u64 };
        let start = address.0.checked_sub(BASE).ok_or(refused)?;
        let end = start.checked_add(size as u64).filter(|end| *end <= SIZE as u64);
        Ok(start as usize..end.ok_or(refused)? as usize)
    }

    /// Writes as the guest does, as far as there is memory.
    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) {
        let mut memory = self.bytes.lock().unwrap();
        for (target, source) in memory.iter_mut().skip(offset).zip(bytes) {
            *target = *source;
        }
    }
}

impl GuestMemory for Memory {
    fn read(&self, address: GuestAddress, bytes: &mut [u8]) -> Result<(), OutOfMemoryRange> {
        let range = Self::range(address, bytes.len())?;
        self.moved.fetch_add(bytes.len(), SeqCst);
        bytes.copy_from_slice(&self.bytes.lock().unwrap()[range]);
        Ok(())
    }

    fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), OutOfMemoryRange> {
        let range = Self::range(address, bytes.len())?;
        self.moved.fetch_add(bytes.len(), SeqCst);
        self.writes.fetch_add(1, SeqCst);
        self.bytes.lock().unwrap()[range].copy_from_slice(bytes);
        Ok(())
    }
}

/// An interrupt line.
#[derive(Default)]
pub(crate) struct Line(pub(crate) AtomicBool);

impl InterruptLine for Line {
    fn set(&self, asserted: bool) {
        self.0.store(asserted, SeqCst);
    }
}

/// Takes everything from everybody.
#[derive(Default)]
pub(crate) struct Outside {
    counter: AtomicU64,
}

impl ConsoleSink for Outside {
    fn put(&self, byte: u8) {
        self.counter.fetch_add(byte.into(), SeqCst);
    }
}

impl WallClock for Outside {
    fn seconds(&self) -> u64 {
        self.counter.fetch_add(1, SeqCst)
    }
}

impl Entropy for Outside {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(self.counter.fetch_add(1, SeqCst) as u8);
    }
}

impl PortSink for Outside {
    fn deliver(&self, frame: &[u8]) -> bool {
        assert!((14..=1518).contains(&frame.len()));
        true
    }
}

impl PageOwner for Outside {
    fn take(&self, pages: &[GuestAddress]) {
        assert!(pages.len() <= 256);
    }

    fn give_back(&self, pages: &[GuestAddress]) {
        assert!(pages.len() <= 256);
    }

    fn give_back_all(&self) {}
}

/// A disk in memory that insists on what [`Storage`] promises.
pub(crate) struct Disk {
    bytes: Mutex<Vec<u8>>,
    broken: AtomicBool,
}

impl Disk {
    pub(crate) fn new() -> Arc<Self> {
        let bytes = Mutex::new(vec![0x5a; SECTORS as usize * SECTOR]);
        Arc::new(Disk { bytes, broken: AtomicBool::new(false) })
    }

    /// Has it fail, or work again.
    pub(crate) fn break_down(&self, broken: bool) {
        self.broken.store(broken, SeqCst);
    }

    fn access(&self, sector: u64, length: usize) -> Result<std::ops::Range<usize>, StorageError> {
        assert!(length.is_multiple_of(SECTOR) && length > 0);
        assert!(sector + (length / SECTOR) as u64 <= SECTORS);
        if self.broken.load(SeqCst) {
            return Err(StorageError::Failed);
        }
        let start = sector as usize * SECTOR;
        Ok(start..start + length)
    }
}

impl Storage for Disk {
    fn capacity_sectors(&self) -> u64 {
        SECTORS
    }

    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        let range = self.access(sector, bytes.len())?;
        bytes.copy_from_slice(&self.bytes.lock().unwrap()[range]);
        Ok(())
    }

    fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let range = self.access(sector, bytes.len())?;
        self.bytes.lock().unwrap()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        if self.broken.load(SeqCst) { Err(StorageError::Failed) } else { Ok(()) }
    }

    fn discard(&self, sector: u64, count: u64) -> Result<(), StorageError> {
        self.access(sector, count as usize * SECTOR).map(|_| ())
    }

    fn discard_block_size(&self) -> Option<u32> {
        Some(512)
    }
}
