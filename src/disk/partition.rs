//! One partition of a disk, found in its GPT (UEFI 2.10, chapter 5) or MBR.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use gpt_disk_types::{GptHeader, GptPartitionEntry, GptPartitionEntryArray, MasterBootRecord};

use gpt_disk_types::BlockSize;

use crate::virtio::block::{SECTOR, Storage, StorageError};

/// `OSIndicator` of a partition that protects a GPT (UEFI 2.10, 5.2.3).
const GPT_PROTECTIVE: u8 = 0xee;
/// Partitions that hold a chain of others.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// `Signature` of a master boot record.
const MBR_SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// Most partitions of a GPT that are looked at; usual are 128.
const MAX_ENTRIES: u32 = 1024;

/// Why a partition cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// The disk cannot be read.
    #[error("the partition table can't be read: {0}")]
    Disk(#[from] StorageError),
    /// No table, or a damaged one.
    #[error("the disk has no partition table (GPT or MBR); partition it, or give all of it")]
    NoTable,
    /// The table has no such partition.
    #[error("the disk has no partition {0}")]
    Absent(u32),
    /// The partition holds a chain of others, which is not followed.
    #[error("partition {0} is an extended one; use a GPT, or a primary partition")]
    Extended(u32),
    /// The partition reaches beyond the disk.
    #[error("partition {0} does not lie on the disk; repair the table")]
    Outside(u32),
}

/// A part of a disk.
pub struct Partition {
    disk: Arc<dyn Storage>,
    first: u64,
    sectors: u64,
}

impl Partition {
    /// Partition `number`, from 1, of `disk`.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub fn open(disk: Arc<dyn Storage>, number: u32) -> Result<Self, PartitionError> {
        let mbr: MasterBootRecord = read(&*disk, 0)?;
        if mbr.signature != MBR_SIGNATURE {
            return Err(PartitionError::NoTable);
        }
        let is_gpt = mbr.partitions.iter().any(|record| record.os_indicator == GPT_PROTECTIVE);
        let (first, sectors) = if is_gpt { gpt(&*disk, number)? } else { primary(&mbr, number)? };
        let end = first.checked_add(sectors);
        match end {
            Some(end) if first > 0 && sectors > 0 && end <= disk.capacity_sectors() => {
                Ok(Partition { disk, first, sectors })
            }
            _ => Err(PartitionError::Outside(number)),
        }
    }

    /// Where `sector` and `length` bytes behind it are on the disk; an error
    /// unless all of it is in the partition.
    fn place(&self, sector: u64, length: u64) -> Result<u64, StorageError> {
        let end = sector.checked_add(length.div_ceil(SECTOR as u64));
        match end {
            Some(end) if end <= self.sectors => {
                self.first.checked_add(sector).ok_or(StorageError::Failed)
            }
            _ => Err(StorageError::Failed),
        }
    }
}

/// A structure at the start of a sector.
fn read<T: bytemuck::AnyBitPattern>(disk: &dyn Storage, sector: u64) -> Result<T, PartitionError> {
    let mut bytes = [0; SECTOR];
    disk.read(sector, &mut bytes)?;
    let structure = bytes.get(..size_of::<T>()).unwrap_or_default();
    bytemuck::try_pod_read_unaligned(structure).map_err(|_| PartitionError::NoTable)
}

/// First sector and number of sectors of a primary partition.
fn primary(mbr: &MasterBootRecord, number: u32) -> Result<(u64, u64), PartitionError> {
    let index = number.checked_sub(1).and_then(|index| usize::try_from(index).ok());
    let record = index.and_then(|index| mbr.partitions.get(index));
    match record {
        Some(record) if EXTENDED.contains(&record.os_indicator) => {
            Err(PartitionError::Extended(number))
        }
        Some(record) if record.os_indicator != 0 => {
            Ok((record.starting_lba.to_u32().into(), record.size_in_lba.to_u32().into()))
        }
        _ => Err(PartitionError::Absent(number)),
    }
}

/// First sector and number of sectors of a partition of a GPT.
fn gpt(disk: &dyn Storage, number: u32) -> Result<(u64, u64), PartitionError> {
    let last = disk.capacity_sectors().checked_sub(1).ok_or(PartitionError::NoTable)?;
    // The second table is there for when the first one is damaged.
    let entries = entries(disk, 1).or_else(|_| entries(disk, last))?;
    let index = number.checked_sub(1).and_then(|index| usize::try_from(index).ok());
    let entry = index.and_then(|index| entries.get(index)).filter(|entry| entry.is_used());
    let entry = entry.ok_or(PartitionError::Absent(number))?;
    let range = entry.lba_range().ok_or(PartitionError::Outside(number))?;
    Ok((range.start().to_u64(), range.num_blocks()))
}

/// All entries of the table whose header is at `sector`, checked.
fn entries(disk: &dyn Storage, sector: u64) -> Result<Vec<GptPartitionEntry>, PartitionError> {
    let header: GptHeader = read(disk, sector)?;
    let layout = header.get_partition_entry_array_layout();
    let layout = layout.map_err(|_| PartitionError::NoTable)?;
    let good = header.is_signature_valid()
        && header.my_lba.to_u64() == sector
        && header.header_crc32 == header.calculate_header_crc32()
        && layout.num_entries <= MAX_ENTRIES
        && u64::from(header.size_of_partition_entry.to_u32()) <= SECTOR as u64;
    let size = layout.num_bytes_rounded_to_block_as_usize(BlockSize::BS_512);
    let (true, Some(size)) = (good, size) else { return Err(PartitionError::NoTable) };
    let sectors = size.div_ceil(SECTOR) as u64;
    let end = layout.start_lba.to_u64().checked_add(sectors);
    if end.is_none_or(|end| end > disk.capacity_sectors()) {
        return Err(PartitionError::NoTable);
    }
    let mut bytes = vec![0; size];
    disk.read(layout.start_lba.to_u64(), &mut bytes)?;
    let table = GptPartitionEntryArray::new(layout, BlockSize::BS_512, &mut bytes);
    let table = table.map_err(|_| PartitionError::NoTable)?;
    if table.calculate_crc32() != header.partition_entry_array_crc32 {
        return Err(PartitionError::NoTable);
    }
    Ok((0..layout.num_entries).filter_map(|n| table.get_partition_entry(n)).copied().collect())
}

impl Storage for Partition {
    fn capacity_sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        self.disk.read(self.place(sector, bytes.len() as u64)?, bytes)
    }

    fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.disk.write(self.place(sector, bytes.len() as u64)?, bytes)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.disk.flush()
    }

    fn discard(&self, sector: u64, count: u64) -> Result<(), StorageError> {
        let place = self.place(sector, count.saturating_mul(SECTOR as u64))?;
        self.disk.discard(place, count)
    }

    fn write_zeroes(&self, sector: u64, count: u64) -> Result<(), StorageError> {
        let place = self.place(sector, count.saturating_mul(SECTOR as u64))?;
        self.disk.write_zeroes(place, count)
    }

    fn discard_block_size(&self) -> Option<u32> {
        // Blocks of the disk are none of the partition where it begins inside of one.
        let size = self.disk.discard_block_size()?;
        let begins = self.first.checked_mul(SECTOR as u64)?;
        begins.is_multiple_of(size.into()).then_some(size)
    }

    fn is_read_only(&self) -> bool {
        self.disk.is_read_only()
    }

    fn block_size(&self) -> u32 {
        self.disk.block_size()
    }

    fn physical_block_size(&self) -> u32 {
        self.disk.physical_block_size()
    }
}

/// A disk that can only be read, whatever it could do.
pub struct ReadOnly(pub Arc<dyn Storage>);

impl Storage for ReadOnly {
    fn capacity_sectors(&self) -> u64 {
        self.0.capacity_sectors()
    }

    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        self.0.read(sector, bytes)
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), StorageError> {
        Err(StorageError::Unsupported)
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn write_zeroes(&self, _: u64, _: u64) -> Result<(), StorageError> {
        Err(StorageError::Unsupported)
    }

    fn is_read_only(&self) -> bool {
        true
    }

    fn block_size(&self) -> u32 {
        self.0.block_size()
    }

    fn physical_block_size(&self) -> u32 {
        self.0.physical_block_size()
    }
}
