use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::virtio::testing::{Guest, INDIRECT, INDIRECT_DESC, NEXT, WRITE, put_descriptor};

const SECTORS: u64 = 4096;
const FLUSH: u64 = 1 << 9;
const CONFIG_WCE: u64 = 1 << 11;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// A disk in memory.
struct Disk {
    bytes: Mutex<Vec<u8>>,
    flushes: AtomicUsize,
    discards: Mutex<Vec<(u64, u64)>>,
    broken: AtomicBool,
    read_only: bool,
}

impl Disk {
    fn new(read_only: bool) -> Arc<Self> {
        Arc::new(Disk {
            bytes: Mutex::new((0..SECTORS as usize * SECTOR).map(|i| (i / 7) as u8).collect()),
            flushes: AtomicUsize::default(),
            discards: Mutex::default(),
            broken: AtomicBool::default(),
            read_only,
        })
    }

    fn check(&self) -> Result<(), StorageError> {
        if self.broken.load(SeqCst) { Err(StorageError::Failed) } else { Ok(()) }
    }
}

impl Storage for Disk {
    fn capacity_sectors(&self) -> u64 {
        SECTORS
    }

    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        self.check()?;
        let start = sector as usize * SECTOR;
        bytes.copy_from_slice(&self.bytes.lock().unwrap()[start..start + bytes.len()]);
        Ok(())
    }

    fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.check()?;
        let start = sector as usize * SECTOR;
        self.bytes.lock().unwrap()[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.flushes.fetch_add(1, SeqCst);
        self.check()
    }

    fn discard(&self, sector: u64, count: u64) -> Result<(), StorageError> {
        self.discards.lock().unwrap().push((sector, count));
        Ok(())
    }

    fn discard_block_size(&self) -> Option<u32> {
        Some(SECTOR as u32)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }
}

fn guest(disk: &Arc<Disk>, features: u64) -> Guest<Block> {
    Guest::ready(Block::new(disk.clone(), "disk-0"), features)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &[0; 4], &sector.to_le_bytes()].concat()
}

/// Makes a request: what the device reads after the header, how many bytes it
/// may write before the status. Returns these, the status, the used length.
fn request(
    guest: &mut Guest<Block>,
    kind: u32,
    sector: u64,
    data: &[u8],
    space: usize,
) -> (Vec<u8>, u8, u32) {
    let head = guest.buffer(&header(kind, sector));
    let status = guest.buffer(&[0xff]);
    let mut buffers = vec![(head, 16, false)];
    // In uneven parts: no framing may be assumed (virtio 2.7.4.1).
    for part in data.chunks(300) {
        buffers.push((guest.buffer(part), part.len() as u32, false));
    }
    let answer = guest.allocate(space);
    let mut place = 0;
    while place < space {
        let part = (space - place).min(700);
        buffers.push((answer + place as u64, part as u32, true));
        place += part;
    }
    buffers.push((status, 1, true));
    let head = guest.add(0, &buffers);
    guest.notify(0);
    let (used, length) = guest.take(0).expect("the request comes back");
    assert_eq!(used, head);
    (guest.memory.get(answer, space), guest.memory.get(status, 1)[0], length)
}

#[test]
fn sectors_are_read_and_written() {
    let disk = Disk::new(false);
    let mut guest = guest(&disk, FLUSH);
    let before = disk.bytes.lock().unwrap().clone();
    let (data, status, length) = request(&mut guest, 0, 3, &[], 1024);
    assert_eq!((status, length), (0, 1025));
    assert_eq!(data, before[3 * SECTOR..5 * SECTOR]);
    let new: Vec<u8> = (0..1024).map(|i| (i * 3) as u8).collect();
    assert_eq!(request(&mut guest, 1, 60, &new, 0).1, 0);
    assert_eq!(disk.bytes.lock().unwrap()[60 * SECTOR..62 * SECTOR], new);
    assert_eq!(disk.bytes.lock().unwrap()[..60 * SECTOR], before[..60 * SECTOR]);
    assert_eq!(disk.flushes.load(SeqCst), 0);
    assert_eq!(request(&mut guest, 4, 0, &[], 0).1, 0);
    assert_eq!(disk.flushes.load(SeqCst), 1);
    assert!(!guest.needs_reset());
}

#[test]
fn requests_that_cannot_be_done_fail_with_their_status() {
    let segment = |sector: u64, count: u32, flags: u32| {
        [sector.to_le_bytes().as_slice(), &count.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    let past = segment(SECTORS - 1, 2, 0);
    let wrap = segment(u64::MAX, 2, 0);
    let huge = segment(0, u32::MAX, 0);
    let unmap = segment(0, 1, 1);
    let unknown = segment(0, 1, 2);
    let cases: [(u32, u64, &[u8], usize, u8); 15] = [
        (0, SECTORS, &[], 512, 1),
        (0, SECTORS - 1, &[], 1024, 1),
        (0, u64::MAX, &[], 512, 1),
        (0, 0, &[], 511, 1),
        (1, SECTORS, &[0; 512], 0, 1),
        (1, 0, &[0; 513], 0, 1),
        (2, 0, &[], 0, 2),
        (14, 0, &[0; 16], 0, 2),
        (11, 0, &past, 0, 1),
        (13, 0, &wrap, 0, 1),
        (13, 0, &huge, 0, 1),
        (13, 0, &[0; 15], 0, 1),
        (11, 0, &unmap, 0, 2),
        (13, 0, &unknown, 0, 2),
        (u32::MAX, 0, &[], 0, 2),
    ];
    let disk = Disk::new(false);
    let before = disk.bytes.lock().unwrap().clone();
    let mut guest = guest(&disk, FLUSH | DISCARD | WRITE_ZEROES);
    for (kind, sector, data, space, expected) in cases {
        let (_, status, _) = request(&mut guest, kind, sector, data, space);
        assert_eq!(status, expected, "type {kind} sector {sector:#x}");
    }
    assert!(!guest.needs_reset());
    assert_eq!(*disk.bytes.lock().unwrap(), before);
    assert!(disk.discards.lock().unwrap().is_empty());
}

#[test]
fn ranges_are_zeroed_and_discarded() {
    let disk = Disk::new(false);
    let mut guest = guest(&disk, FLUSH | DISCARD | WRITE_ZEROES);
    let before = disk.bytes.lock().unwrap().clone();
    let segments = [(2u64, 3u32, 1u32), (10, 0, 0), (SECTORS - 1, 1, 0)]
        .map(|(s, n, f)| [&s.to_le_bytes()[..], &n.to_le_bytes(), &f.to_le_bytes()].concat())
        .concat();
    assert_eq!(request(&mut guest, 13, 0, &segments, 0).1, 0);
    for (sector, (now, then)) in
        disk.bytes.lock().unwrap().chunks(SECTOR).zip(before.chunks(SECTOR)).enumerate()
    {
        let zeroed = [2, 3, 4, SECTORS as usize - 1].contains(&sector);
        assert_eq!(now, if zeroed { &[0; SECTOR] } else { then }, "{sector}");
    }
    let segment = [&5u64.to_le_bytes()[..], &6u32.to_le_bytes(), &[0; 4]].concat();
    assert_eq!(request(&mut guest, 11, 0, &segment, 0).1, 0);
    assert_eq!(*disk.discards.lock().unwrap(), [(5, 6)]);
}

#[test]
fn a_long_range_is_cut_where_blocks_of_the_medium_end() {
    let disk = Disk::new(false);
    let mut guest = guest(&disk, FLUSH | DISCARD);
    let segment = [&5u64.to_le_bytes()[..], &4090u32.to_le_bytes(), &[0; 4]].concat();
    assert_eq!(request(&mut guest, 11, 0, &segment, 0).1, 0);
    assert_eq!(*disk.discards.lock().unwrap(), [(5, 2043), (2048, 2047)]);
}

#[test]
fn a_write_lasts_when_the_driver_cannot_flush_or_asks_for_it() {
    for (features, writeback, flushes) in [
        (0, None, 1),
        (FLUSH, None, 0),
        (FLUSH | CONFIG_WCE, None, 0),
        (FLUSH | CONFIG_WCE, Some(0), 1),
        (FLUSH | CONFIG_WCE, Some(1), 0),
        (FLUSH, Some(0), 0),
    ] {
        let disk = Disk::new(false);
        let mut guest = guest(&disk, features);
        if let Some(value) = writeback {
            use crate::bus::{Device, Width};
            guest.device.write(0x100 + 32, Width::Byte, value).unwrap();
        }
        assert_eq!(request(&mut guest, 1, 0, &[1; 512], 0).1, 0);
        assert_eq!(disk.flushes.load(SeqCst), flushes, "{features:#x} {writeback:?}");
    }
}

#[test]
fn a_broken_disk_fails_requests_and_not_the_device() {
    let disk = Disk::new(false);
    let mut guest = guest(&disk, FLUSH);
    disk.broken.store(true, SeqCst);
    for (kind, data, space) in [(0, &[][..], 512), (1, &[0; 512], 0), (4, &[], 0)] {
        assert_eq!(request(&mut guest, kind, 0, data, space).1, 1, "{kind}");
    }
    disk.broken.store(false, SeqCst);
    assert_eq!(request(&mut guest, 0, 0, &[], 512).1, 0);
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let disk = Disk::new(true);
    let guest_features = Guest::new(Block::new(disk.clone(), "")).read(0x10);
    assert_eq!(guest_features & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5);
    let mut guest = guest(&disk, 1 << 5);
    let before = disk.bytes.lock().unwrap().clone();
    assert_eq!(request(&mut guest, 1, 0, &[9; 512], 0).1, 1);
    assert_eq!(request(&mut guest, 13, 0, &[0; 16], 0).1, 1);
    assert_eq!(*disk.bytes.lock().unwrap(), before);
}

#[test]
fn the_identity_is_what_the_machine_gave() {
    let mut guest = guest(&Disk::new(false), 0);
    let (id, status, _) = request(&mut guest, 8, 0, &[], 20);
    assert_eq!((id.as_slice(), status), (&b"disk-0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], 0));
    assert_eq!(request(&mut guest, 8, 0, &[], 3), (b"dis".to_vec(), 0, 4));
}

#[test]
fn the_configuration_describes_the_disk() {
    let guest = guest(&Disk::new(false), 0);
    for (offset, expected) in
        [(0, 4096), (4, 0), (12, 254), (20, 512), (24, 0), (32, 1), (34, 1), (40, 16), (52, 16)]
    {
        let mut bytes = [0; 4];
        copy_config(&guest.read(0x100 + (offset & !3)).to_le_bytes(), 0, &mut bytes);
        let value = u32::from_le_bytes(bytes) >> (8 * (offset & 3));
        let value = if offset == 32 { value & 0xff } else { value };
        assert_eq!(value, expected, "{offset}");
    }
    assert_eq!(guest.read(0x1fc), 0);
}

#[test]
fn a_request_without_header_or_status_breaks_the_device() {
    for readable in [&[(0, 15)][..], &[(0, 16)]] {
        let mut guest = guest(&Disk::new(false), 0);
        let address = guest.buffer(&[0; 32]);
        let writable = readable[0].1 == 15;
        let mut buffers = vec![(address, readable[0].1, false)];
        if writable {
            buffers.push((address + 16, 1, true));
        }
        guest.add(0, &buffers);
        guest.notify(0);
        assert!(guest.needs_reset());
        assert_eq!(guest.take(0), None);
        assert_eq!(guest.interrupt(), 2);
    }
}

#[test]
fn much_work_takes_many_accesses() {
    let disk = Disk::new(false);
    let mut guest = guest(&disk, FLUSH | INDIRECT_DESC);
    // 1 MiB into the same buffer.
    let (space, pieces, length) = (guest.allocate(16 << 10), 64, 16 << 10);
    let (head, status) = (guest.buffer(&header(0, 0)), guest.buffer(&[0xff]));
    let table = guest.allocate(16 * (pieces as usize + 2));
    put_descriptor(&guest.memory, table, (head, 16, NEXT, 1));
    for piece in 1..=pieces {
        let address = table + 16 * u64::from(piece);
        put_descriptor(&guest.memory, address, (space, length, NEXT | WRITE, piece + 1));
    }
    let last = table + 16 * u64::from(pieces + 1);
    put_descriptor(&guest.memory, last, (status, 1, WRITE, 0));
    guest.descriptor(0, 0, (table, 16 * (u32::from(pieces) + 2), INDIRECT, 0));
    guest.offer(0, 0);
    let accesses = guest.notify(0);
    assert!((4..10).contains(&accesses), "{accesses}");
    assert_eq!(guest.take(0), Some((0, (1 << 20) + 1)));
    assert_eq!(guest.memory.get(status, 1), [0]);
    let end = (1 << 20) - length as usize;
    assert_eq!(guest.memory.get(space, 512), disk.bytes.lock().unwrap()[end..end + 512]);
}
