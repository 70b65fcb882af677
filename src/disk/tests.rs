use super::image::{Extent, PAGE};
use super::*;
use crate::virtio::block::{SECTOR, Storage, StorageError};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use gpt_disk_types::{
    BlockSize, GptHeader, GptPartitionEntry, GptPartitionEntryArray, GptPartitionType, LbaLe,
    MasterBootRecord, U32Le, guid,
};
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Gives pages full of garbage, as host memory is, up to a number.
struct Heap {
    left: Arc<AtomicUsize>,
}

struct HeapPage(Vec<u8>, Arc<AtomicUsize>);

impl Page for HeapPage {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for HeapPage {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

impl PageSource for Heap {
    fn take(&self) -> Option<Box<dyn Page>> {
        let take = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok()?;
        Some(Box::new(HeapPage(vec![0xa5; PAGE], self.left.clone())))
    }
}

fn pages(count: usize) -> (Arc<dyn PageSource>, Arc<AtomicUsize>) {
    let left = Arc::new(AtomicUsize::new(count));
    (Arc::new(Heap { left: left.clone() }), left)
}

/// A disk with something in a few places, and the same as plain bytes.
fn image(size: usize, count: usize) -> (ImageDisk, Vec<u8>, Arc<AtomicUsize>) {
    static DATA: [u8; 2 * PAGE] = [0x11; 2 * PAGE];
    let mut model = vec![0; size];
    let mut extents = Vec::new();
    for (start, length) in [(0, 4096), (PAGE - 4096, 8192), (3 * PAGE, 2 * PAGE)] {
        let Some(place) = model.get_mut(start..start + length) else { continue };
        place.fill(0x11);
        extents.push(Extent { start: start as u64, data: &DATA[..length] });
    }
    let (source, left) = pages(count);
    (ImageDisk::new(size as u64, extents, false, source), model, left)
}

fn contents(disk: &dyn Storage) -> Vec<u8> {
    let mut bytes = vec![0xee; disk.capacity_sectors() as usize * SECTOR];
    disk.read(0, &mut bytes).unwrap();
    bytes
}

#[derive(Debug, Clone)]
enum Op {
    Read(usize, usize),
    Write(usize, usize, u8),
    WriteZeroes(usize, usize),
    Discard(usize, usize),
}

const SECTORS: usize = 7 * PAGE / SECTOR + 3;

fn op() -> impl Strategy<Value = Op> {
    let range = (0..SECTORS).prop_flat_map(|at| (Just(at), 1..=(SECTORS - at).min(300)));
    prop_oneof![
        range.clone().prop_map(|(at, n)| Op::Read(at, n)),
        (range.clone(), any::<u8>()).prop_map(|((at, n), fill)| Op::Write(at, n, fill)),
        range.clone().prop_map(|(at, n)| Op::WriteZeroes(at, n)),
        range.prop_map(|(at, n)| Op::Discard(at, n)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 5 } else { 300 }))]

    #[test]
    fn a_disk_image_is_like_plain_bytes(ops in prop::collection::vec(op(), 1..40)) {
        let (disk, mut model, _) = image(SECTORS * SECTOR, usize::MAX);
        for op in ops {
            match op {
                Op::Read(at, n) => {
                    let mut bytes = vec![0xee; n * SECTOR];
                    disk.read(at as u64, &mut bytes).unwrap();
                    prop_assert!(bytes == model[at * SECTOR..][..n * SECTOR]);
                }
                Op::Write(at, n, fill) => {
                    disk.write(at as u64, &vec![fill; n * SECTOR]).unwrap();
                    model[at * SECTOR..][..n * SECTOR].fill(fill);
                }
                Op::WriteZeroes(at, n) => {
                    disk.write_zeroes(at as u64, n as u64).unwrap();
                    model[at * SECTOR..][..n * SECTOR].fill(0);
                }
                Op::Discard(at, n) => {
                    disk.discard(at as u64, n as u64).unwrap();
                    // What was discarded may be anything; all else is as it was.
                    let now = contents(&disk);
                    prop_assert!(now[..at * SECTOR] == model[..at * SECTOR]);
                    prop_assert!(now[(at + n) * SECTOR..] == model[(at + n) * SECTOR..]);
                    model = now;
                }
            }
        }
        prop_assert!(contents(&disk) == model);
        prop_assert!(disk.memory() <= (SECTORS * SECTOR).next_multiple_of(PAGE) as u64);
    }
}

#[test]
fn memory_is_taken_by_writes_alone_and_given_back() {
    let (disk, model, left) = image(SECTORS * SECTOR, 3);
    assert_eq!((contents(&disk), disk.memory()), (model.clone(), 0));
    // Page 2 holds nothing of the image.
    disk.write(2 * (PAGE / SECTOR) as u64, &[1; SECTOR]).unwrap();
    disk.write(2 * (PAGE / SECTOR) as u64 + 5, &[1; SECTOR]).unwrap();
    assert_eq!((disk.memory(), left.load(Ordering::SeqCst)), (PAGE as u64, 2));
    disk.write_zeroes(0, 2 * (PAGE / SECTOR) as u64).unwrap();
    assert_eq!(left.load(Ordering::SeqCst), 0);
    // No memory is left: the write fails and changes nothing.
    let before = contents(&disk);
    assert_eq!(disk.write(4 * (PAGE / SECTOR) as u64, &[9; SECTOR]), Err(StorageError::Failed));
    assert_eq!(contents(&disk), before);
    disk.discard(0, SECTORS as u64).unwrap();
    assert_eq!(left.load(Ordering::SeqCst), 1);
    drop(disk);
    assert_eq!(left.load(Ordering::SeqCst), 3);
}

#[test]
fn zeroes_on_a_blank_disk_take_no_memory() {
    let (source, _) = pages(0);
    let disk = ImageDisk::new(1 << 40, vec![], false, source);
    disk.write_zeroes(0, 1 << 20).unwrap();
    let mut sector = [1; SECTOR];
    disk.read((1 << 31) - 1, &mut sector).unwrap();
    assert_eq!((sector, disk.capacity_sectors()), ([0; SECTOR], 1 << 31));
}

#[test]
fn a_read_only_disk_takes_no_write() {
    let (source, _) = pages(9);
    let image = ImageDisk::new(1 << 20, vec![], true, source);
    let (writable, _, _) = self::image(SECTORS * SECTOR, 9);
    let wrapped = ReadOnly(Arc::new(writable));
    for disk in [&image as &dyn Storage, &wrapped] {
        assert!(disk.is_read_only());
        assert_eq!(disk.write(0, &[1; SECTOR]), Err(StorageError::Unsupported));
        assert_eq!(disk.write_zeroes(0, 1), Err(StorageError::Unsupported));
        disk.read(0, &mut [0; SECTOR]).unwrap();
        disk.flush().unwrap();
    }
}

const LAST: u64 = 2047;

fn blank() -> Arc<dyn Storage> {
    let (source, _) = pages(usize::MAX);
    Arc::new(ImageDisk::new((LAST + 1) * 512, vec![], false, source))
}

fn write_gpt(disk: &dyn Storage) {
    let mut table = vec![0; 128 * 128];
    let header = |own: u64, other: u64, start: u64| GptHeader {
        my_lba: LbaLe::from_u64(own),
        alternate_lba: LbaLe::from_u64(other),
        partition_entry_lba: LbaLe::from_u64(start),
        first_usable_lba: LbaLe::from_u64(34),
        last_usable_lba: LbaLe::from_u64(LAST - 33),
        number_of_partition_entries: U32Le::from_u32(128),
        ..GptHeader::default()
    };
    let layout = header(1, LAST, 2).get_partition_entry_array_layout().unwrap();
    let mut array = GptPartitionEntryArray::new(layout, BlockSize::BS_512, &mut table).unwrap();
    let linux = GptPartitionType(guid!("0fc63daf-8483-4772-8e79-3d69d8477de4"));
    for (index, first, last) in [(0, 64, 127), (2, 128, 1023), (3, 1024, LAST + 5)] {
        *array.get_partition_entry_mut(index).unwrap() = GptPartitionEntry {
            partition_type_guid: linux,
            unique_partition_guid: guid!("37c75ffd-8932-467a-9c56-8cf1f0456b12"),
            starting_lba: LbaLe::from_u64(first),
            ending_lba: LbaLe::from_u64(last),
            ..GptPartitionEntry::default()
        };
    }
    let crc = array.calculate_crc32();
    for (own, other, start) in [(1, LAST, 2), (LAST, 1, LAST - 32)] {
        let mut header = header(own, other, start);
        header.partition_entry_array_crc32 = crc;
        header.update_header_crc32();
        let mut sector = [0; SECTOR];
        sector[..92].copy_from_slice(bytemuck::bytes_of(&header));
        disk.write(own, &sector).unwrap();
        disk.write(start, array.storage()).unwrap();
    }
    disk.write(0, bytemuck::bytes_of(&MasterBootRecord::protective_mbr(LAST + 1))).unwrap();
}

fn opened(disk: &Arc<dyn Storage>, number: u32) -> Result<u64, PartitionError> {
    Partition::open(disk.clone(), number).map(|partition| partition.capacity_sectors())
}

#[test]
fn partitions_of_a_gpt_are_found_even_when_its_first_table_is_damaged() {
    let disk = blank();
    write_gpt(&*disk);
    for damage in [None, Some(1), Some(2), Some(LAST)] {
        if let Some(sector) = damage {
            disk.write(sector, &[0xff; SECTOR]).unwrap();
        }
        if damage == Some(LAST) {
            assert_eq!(opened(&disk, 1), Err(PartitionError::NoTable));
            break;
        }
        assert_eq!(opened(&disk, 1), Ok(64));
        assert_eq!(opened(&disk, 3), Ok(896));
        assert_eq!(opened(&disk, 2), Err(PartitionError::Absent(2)));
        assert_eq!(opened(&disk, 4), Err(PartitionError::Outside(4)));
        assert_eq!(opened(&disk, 0), Err(PartitionError::Absent(0)));
        assert_eq!(opened(&disk, 129), Err(PartitionError::Absent(129)));
    }
}

#[test]
fn a_partition_is_a_window_that_nothing_leaves() {
    let disk = blank();
    write_gpt(&*disk);
    let partition = Partition::open(disk.clone(), 1).unwrap();
    disk.write(63, &[1; 66 * SECTOR]).unwrap();
    partition.write(0, &[2; SECTOR]).unwrap();
    partition.write_zeroes(62, 2).unwrap();
    let mut bytes = vec![0; 66 * SECTOR];
    disk.read(63, &mut bytes).unwrap();
    let sectors: Vec<u8> = bytes.chunks(SECTOR).map(|sector| sector[0]).collect();
    assert_eq!(sectors[..3], [1, 2, 1]);
    assert_eq!(sectors[62..], [1, 0, 0, 1]);
    for (sector, count) in [(64, 1), (63, 2), (u64::MAX, 1), (0, 65)] {
        let mut buffer = vec![0; count * SECTOR];
        assert!(partition.read(sector, &mut buffer).is_err(), "{sector} {count}");
        assert!(partition.write(sector, &buffer).is_err());
        assert!(partition.write_zeroes(sector, count as u64).is_err());
        assert!(partition.discard(sector, count as u64).is_err());
    }
    assert!(partition.discard(1, u64::MAX).is_err());
}

#[test]
fn a_partition_that_begins_inside_a_block_discards_nothing() {
    let disk = blank();
    write_gpt(&*disk);
    for (number, size) in [(1, None), (3, Some(PAGE as u32))] {
        let partition = Partition::open(disk.clone(), number).unwrap();
        assert_eq!(partition.discard_block_size(), size, "partition {number}");
    }
}

#[test]
fn primary_partitions_of_an_mbr_are_found() {
    let disk = blank();
    let mut sector = [0; SECTOR];
    let record = |kind: u8, start: u32, size: u32| {
        let mut record = [0; 16];
        record[4] = kind;
        record[8..12].copy_from_slice(&start.to_le_bytes());
        record[12..].copy_from_slice(&size.to_le_bytes());
        record
    };
    for (index, record) in
        [record(0x83, 64, 100), record(5, 200, 100), record(0x83, 0, 10), record(0, 0, 0)]
            .iter()
            .enumerate()
    {
        sector[446 + index * 16..][..16].copy_from_slice(record);
    }
    disk.write(0, &sector).unwrap();
    assert_eq!(opened(&disk, 1), Err(PartitionError::NoTable));
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.write(0, &sector).unwrap();
    assert_eq!(opened(&disk, 1), Ok(100));
    assert_eq!(opened(&disk, 2), Err(PartitionError::Extended(2)));
    assert_eq!(opened(&disk, 3), Err(PartitionError::Outside(3)));
    assert_eq!(opened(&disk, 4), Err(PartitionError::Absent(4)));
    assert_eq!(opened(&disk, 5), Err(PartitionError::Absent(5)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 5 } else { 500 }))]

    #[test]
    fn no_partition_table_brings_the_reader_down(
        edits in prop::collection::vec((0usize..3 * SECTOR, any::<u8>()), 0..20),
        number in 0u32..140,
    ) {
        let disk = blank();
        write_gpt(&*disk);
        let mut bytes = vec![0; 3 * SECTOR];
        disk.read(0, &mut bytes).unwrap();
        for (at, value) in edits {
            bytes[at] = value;
        }
        disk.write(0, &bytes).unwrap();
        if let Ok(partition) = Partition::open(disk.clone(), number) {
            let mut last = [0; SECTOR];
            prop_assert!(partition.read(partition.capacity_sectors() - 1, &mut last).is_ok());
        }
    }
}
