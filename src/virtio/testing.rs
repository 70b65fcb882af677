//! A guest for tests: memory, an interrupt line, and a simple driver that
//! writes its rings as virtio 2.7 says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use core::convert::Infallible;

use alloc::sync::Arc;
use virtio_spec::Id;

use crate::address::GuestAddress;
use crate::bus::{Device, InterruptLine, Progress, Width};
use crate::memory::{GuestMemory, OutOfMemoryRange};
use crate::virtio::chain::Chain;
use crate::virtio::device::{Broken, Features, Io, Step, VirtioDevice, copy_config};
use crate::virtio::transport::Transport;

/// Where the guest's memory starts.
pub(crate) const BASE: u64 = 0x4000_0000;
/// Its length in bytes.
pub(crate) const SIZE: usize = 1 << 20;

/// Guest memory.
pub(crate) struct Memory(Mutex<Vec<u8>>);

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Memory(Mutex::new(vec![0; SIZE])))
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

    pub(crate) fn get(&self, address: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        self.read(GuestAddress(address), &mut bytes).unwrap();
        bytes
    }

    pub(crate) fn put(&self, address: u64, bytes: &[u8]) {
        self.write(GuestAddress(address), bytes).unwrap();
    }

    pub(crate) fn u16(&self, address: u64) -> u16 {
        self.load_u16(GuestAddress(address)).unwrap()
    }

    pub(crate) fn u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.get(address, 4).try_into().unwrap())
    }
}

impl GuestMemory for Memory {
    fn read(&self, address: GuestAddress, bytes: &mut [u8]) -> Result<(), OutOfMemoryRange> {
        let range = Self::range(address, bytes.len())?;
        bytes.copy_from_slice(&self.0.lock().unwrap()[range]);
        Ok(())
    }

    fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), OutOfMemoryRange> {
        let range = Self::range(address, bytes.len())?;
        self.0.lock().unwrap()[range].copy_from_slice(bytes);
        Ok(())
    }
}

/// An interrupt line that counts its rising edges.
#[derive(Default)]
pub(crate) struct Line {
    pub(crate) level: AtomicBool,
    edges: AtomicUsize,
}

impl Line {
    /// Rising edges since the last call.
    pub(crate) fn edges(&self) -> usize {
        self.edges.swap(0, SeqCst)
    }
}

impl InterruptLine for Line {
    fn set(&self, asserted: bool) {
        if !self.level.swap(asserted, SeqCst) && asserted {
            self.edges.fetch_add(1, SeqCst);
        }
    }
}

/// One descriptor: address, length, flags, next.
pub(crate) type Descriptor = (u64, u32, u16, u16);

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const RING_RESET: u64 = 1 << 40;
pub(crate) const INDIRECT_DESC: u64 = 1 << 28;

/// Number of descriptors in the driver's queues, unless the device has fewer.
pub(crate) const QUEUE: u16 = 16;

/// The driver's side of one queue.
pub(crate) struct Ring {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// Number of descriptors.
    size: u16,
    next_available: u16,
    next_used: u16,
    /// Next descriptor to write; chains are short-lived, so there is no free list.
    free: u16,
}

/// A driver with its device.
pub(crate) struct Guest<D: VirtioDevice> {
    pub(crate) device: Arc<Transport<D>>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) line: Arc<Line>,
    pub(crate) rings: Vec<Ring>,
    /// Next free byte for buffers.
    heap: u64,
}

impl<D: VirtioDevice> Guest<D> {
    /// A guest that has not touched its device.
    pub(crate) fn new(device: D) -> Self {
        let (memory, line) = (Memory::new(), Arc::new(Line::default()));
        let device = Arc::new(Transport::new(device, memory.clone(), line.clone()));
        Guest { device, memory, line, rings: Vec::new(), heap: BASE + 0x1_0000 }
    }

    /// A guest whose driver is ready, with `features` of the device.
    pub(crate) fn ready(device: D, features: u64) -> Self {
        let mut guest = Guest::new(device);
        guest.start(features);
        guest
    }

    pub(crate) fn read(&self, offset: u64) -> u32 {
        self.device.read(offset, Width::Word).unwrap() as u32
    }

    /// Writes as often as it takes; how often that was.
    pub(crate) fn write(&self, offset: u64, value: u32) -> usize {
        let mut times = 1;
        while self.device.write_some(offset, Width::Word, value.into()).unwrap() == Progress::Again
        {
            times += 1;
            assert!(times < 100_000, "the write does not end");
        }
        times
    }

    pub(crate) fn status(&self) -> u32 {
        self.read(0x70)
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.status() & 64 != 0
    }

    /// Reset and initialisation (virtio 3.1.1).
    pub(crate) fn start(&mut self, features: u64) {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 1 | 2);
        self.write(0x24, 0);
        self.write(0x20, features as u32);
        self.write(0x24, 1);
        self.write(0x20, ((features | VERSION_1) >> 32) as u32);
        self.write(0x70, 1 | 2 | 8);
        assert_eq!(self.status(), 1 | 2 | 8, "features refused");
        self.rings.clear();
        for index in 0.. {
            self.write(0x30, index);
            if self.read(0x34) == 0 {
                break;
            }
            self.add_queue(index);
        }
        self.write(0x70, 1 | 2 | 8 | 4);
        assert_eq!(self.status(), 1 | 2 | 8 | 4);
    }

    /// Lays out queue `index` and enables it.
    pub(crate) fn add_queue(&mut self, index: u32) {
        self.write(0x30, index);
        let size = QUEUE.min(self.read(0x34) as u16);
        let base = BASE + 0x2000 * u64::from(index);
        let ring = Ring {
            descriptors: base,
            available: base + 0x1000,
            used: base + 0x1800,
            size,
            next_available: 0,
            next_used: 0,
            free: 0,
        };
        self.memory.put(base, &[0; 0x2000]);
        assert_eq!(self.read(0x44), 0, "the queue is in use");
        self.write(0x38, size.into());
        for (low, address) in [(0x80, ring.descriptors), (0x90, ring.available), (0xa0, ring.used)]
        {
            self.write(low, address as u32);
            self.write(low + 4, (address >> 32) as u32);
        }
        self.write(0x44, 1);
        assert_eq!(self.read(0x44), 1);
        self.rings.truncate(index as usize);
        self.rings.push(ring);
    }

    /// Space for a buffer, reused in time.
    pub(crate) fn allocate(&mut self, size: usize) -> u64 {
        if self.heap + size as u64 > BASE + SIZE as u64 {
            self.heap = BASE + 0x1_0000;
        }
        let address = self.heap;
        self.heap += size as u64;
        address
    }

    /// A buffer with these bytes.
    pub(crate) fn buffer(&mut self, bytes: &[u8]) -> u64 {
        let address = self.allocate(bytes.len());
        self.memory.put(address, bytes);
        address
    }

    /// Writes a descriptor into the queue's table.
    pub(crate) fn descriptor(&self, queue: usize, index: u16, descriptor: Descriptor) {
        let table = self.rings[queue].descriptors;
        put_descriptor(&self.memory, table + 16 * u64::from(index), descriptor);
    }

    /// Offers the chain that starts at descriptor `head`.
    pub(crate) fn offer(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let place = ring.available + 4 + 2 * u64::from(ring.next_available % ring.size);
        self.memory.put(place, &head.to_le_bytes());
        ring.next_available = ring.next_available.wrapping_add(1);
        self.memory.put(ring.available + 2, &ring.next_available.to_le_bytes());
    }

    /// Offers buffers as a chain: address, length, writable. Returns its head.
    pub(crate) fn add(&mut self, queue: usize, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.rings[queue].free;
        for (number, (address, length, writable)) in buffers.iter().enumerate() {
            let index = self.rings[queue].free;
            let next = (index + 1) % self.rings[queue].size;
            let more = if number + 1 < buffers.len() { NEXT } else { 0 };
            let flags = more | if *writable { WRITE } else { 0 };
            self.descriptor(queue, index, (*address, *length, flags, next));
            self.rings[queue].free = next;
        }
        self.offer(queue, head);
        head
    }

    /// Asks for an interrupt with the next used buffer, by event index.
    pub(crate) fn listen(&self, queue: usize) {
        let ring = &self.rings[queue];
        let used_event = ring.available + 4 + 2 * u64::from(ring.size);
        self.memory.put(used_event, &ring.next_used.to_le_bytes());
    }

    pub(crate) fn notify(&self, queue: usize) -> usize {
        self.write(0x50, queue as u32)
    }

    /// Takes the next used chain: its head and length.
    pub(crate) fn take(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = &mut self.rings[queue];
        if self.memory.u16(ring.used + 2) == ring.next_used {
            return None;
        }
        let place = ring.used + 4 + 8 * u64::from(ring.next_used % ring.size);
        ring.next_used = ring.next_used.wrapping_add(1);
        Some((self.memory.u32(place) as u16, self.memory.u32(place + 4)))
    }

    /// Handles the interrupt as a driver does: reads and acknowledges.
    pub(crate) fn interrupt(&self) -> u32 {
        let status = self.read(0x60);
        self.write(0x64, status);
        status
    }
}

/// Writes a descriptor at `address`.
pub(crate) fn put_descriptor(
    memory: &Memory,
    address: u64,
    (buffer, length, flags, next): Descriptor,
) {
    memory.put(address, &buffer.to_le_bytes());
    memory.put(address + 8, &length.to_le_bytes());
    memory.put(address + 12, &flags.to_le_bytes());
    memory.put(address + 14, &next.to_le_bytes());
}

/// A device that reads all it is given on queue 0 and answers every chain with
/// [`PATTERN`] in all that it may write.
#[derive(Default)]
pub(crate) struct Echo {
    /// What it read, by chain.
    pub(crate) seen: Arc<Mutex<Vec<Vec<u8>>>>,
    chain: Chain,
    config: [u8; 4],
}

pub(crate) const PATTERN: u8 = 0xe7;

impl VirtioDevice for Echo {
    type Job = Infallible;

    fn id(&self) -> Id {
        Id::Unknown(42)
    }

    fn features(&self) -> Features {
        Features(1 << 3)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE, 4]
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        copy_config(&self.config, offset, bytes);
    }

    fn write_config(&mut self, offset: usize, bytes: &[u8], _: Features) {
        if let Some(part) = self.config.get_mut(offset..offset + bytes.len()) {
            part.copy_from_slice(bytes);
        }
    }

    fn step(&mut self, queue: usize, io: &mut Io<'_>) -> Result<Step<Infallible>, Broken> {
        let Some((queue, memory)) = io.queue(queue) else { return Ok(Step::Idle) };
        if !queue.pop(memory, &mut self.chain)? {
            return Ok(Step::Starved(0));
        }
        let (mut bytes, mut place, mut piece) = (Vec::new(), self.chain.reader(), [0; 4096]);
        loop {
            match place.read(&self.chain, memory, &mut piece)? {
                0 => break,
                length => bytes.extend(&piece[..length]),
            }
        }
        self.seen.lock().unwrap().push(bytes);
        let length = self.chain.writable_bytes();
        let mut place = self.chain.writer();
        while place.write(&self.chain, memory, &[PATTERN; 4096])? != 0 {}
        queue.push(memory, &self.chain, length)?;
        Ok(Step::Done(length as usize))
    }

    fn finish(&mut self, job: Infallible, _: &mut Io<'_>) -> Result<(), Broken> {
        match job {}
    }

    fn abandon(&mut self, job: Infallible) {
        match job {}
    }

    fn reset_queue(&mut self, _: usize) {}

    fn reset(&mut self) {
        self.config = [0; 4];
    }
}

impl Transport<Echo> {
    /// Changes the configuration as a device does by itself.
    pub(crate) fn set_config(&self, config: [u8; 4]) {
        self.with(|echo, io| {
            echo.config = config;
            io.change_config();
            Ok(())
        });
    }
}

impl<D: VirtioDevice> Guest<D> {
    /// Offers the indirect table of `bytes` bytes at `table`. Returns its head.
    pub(crate) fn add_indirect(&mut self, queue: usize, table: u64, bytes: u32) -> u16 {
        let head = self.rings[queue].free;
        self.descriptor(queue, head, (table, bytes, INDIRECT, 0));
        self.rings[queue].free = (head + 1) % self.rings[queue].size;
        self.offer(queue, head);
        head
    }
}
