//! Drivers that others wrote, those of the crate `virtio-drivers`, use the
//! core's virtio devices: what both sides take the specification to say.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use bunshin::address::GuestAddress;
use bunshin::bus::{Device, InterruptLine, Progress, Width};
use bunshin::console::ConsoleInput;
use bunshin::device::console::ConsoleSink;
use bunshin::memory::{GuestMemory, OutOfMemoryRange};
use bunshin::network::{MacAddress, PortMode, PortSettings, Switch, VlanId};
use bunshin::virtio::block::{Block, SECTOR, Storage, StorageError};
use bunshin::virtio::console::Console;
use bunshin::virtio::net::Net;
use bunshin::virtio::rng::{Entropy, Rng};
use bunshin::virtio::{Transport, VirtioDevice};
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::device::console::VirtIOConsole;
use virtio_drivers::device::net::{TxBuffer, VirtIONet};
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr, transport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The "guest" is this process: its addresses are those of its memory.
struct Process;

impl GuestMemory for Process {
    fn read(&self, address: GuestAddress, bytes: &mut [u8]) -> Result<(), OutOfMemoryRange> {
        // SAFETY: the drivers hand out addresses of buffers that they own until they get them
        // back, and the device is not given others.
        unsafe {
            (address.0 as *const u8).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), OutOfMemoryRange> {
        // SAFETY: as in `read`.
        unsafe { (address.0 as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
        Ok(())
    }
}

fn pages(count: usize) -> Layout {
    Layout::from_size_align(count * PAGE_SIZE, PAGE_SIZE).unwrap()
}

// SAFETY: pages come zeroed and aligned from the allocator and go back to it; a physical address
// is the pointer itself.
unsafe impl Hal for Process {
    fn dma_alloc(count: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: a queue has a size.
        let memory = NonNull::new(unsafe { alloc_zeroed(pages(count)) }).unwrap();
        (memory.as_ptr() as PhysAddr, memory)
    }

    unsafe fn dma_dealloc(_: PhysAddr, memory: NonNull<u8>, count: usize) -> i32 {
        // SAFETY: it came from `dma_alloc` with the same number of pages.
        unsafe { dealloc(memory.as_ptr(), pages(count)) };
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("registers are reached by calls")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// The device's registers, as the drivers want them.
struct Registers(Arc<dyn Device>);

impl Registers {
    fn read(&self, offset: u64) -> u32 {
        self.0.read(offset, Width::Word).unwrap() as u32
    }

    fn write(&self, offset: u64, value: u32) {
        while self.0.write_some(offset, Width::Word, value.into()).unwrap() == Progress::Again {}
    }

    fn write_address(&self, offset: u64, address: PhysAddr) {
        self.write(offset, address as u32);
        self.write(offset + 4, (address >> 32) as u32);
    }
}

impl transport::Transport for Registers {
    fn device_type(&self) -> DeviceType {
        assert_eq!((self.read(0), self.read(4)), (u32::from_le_bytes(*b"virt"), 2));
        DeviceType::try_from(self.read(8)).unwrap()
    }

    fn read_device_features(&mut self) -> u64 {
        let word = |select| {
            self.write(0x14, select);
            u64::from(self.read(0x10))
        };
        word(0) | word(1) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        for select in [0, 1] {
            self.write(0x24, select);
            self.write(0x20, (features >> (32 * select)) as u32);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.write(0x30, queue.into());
        self.read(0x34)
    }

    fn notify(&mut self, queue: u16) {
        self.write(0x50, queue.into());
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.read(0x70))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.write(0x70, status.bits());
        assert_eq!(self.read(0x70), status.bits(), "the device does not agree");
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        table: PhysAddr,
        available: PhysAddr,
        used: PhysAddr,
    ) {
        self.write(0x30, queue.into());
        self.write(0x38, size);
        self.write_address(0x80, table);
        self.write_address(0x90, available);
        self.write_address(0xa0, used);
        self.write(0x44, 1);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.write(0x30, queue.into());
        self.write(0x44, 0);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.write(0x30, queue.into());
        self.read(0x44) == 1
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let status = self.read(0x60);
        self.write(0x64, status);
        InterruptStatus::from_bits_truncate(status)
    }

    fn read_config_generation(&self) -> u32 {
        self.read(0xfc)
    }

    fn read_config_space<T: FromBytes + IntoBytes>(
        &self,
        offset: usize,
    ) -> virtio_drivers::Result<T> {
        let bytes: Vec<u8> = (0..size_of::<T>())
            .map(|place| self.0.read(0x100 + (offset + place) as u64, Width::Byte).unwrap() as u8)
            .collect();
        Ok(T::read_from_bytes(&bytes).unwrap())
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        for (place, byte) in value.as_bytes().iter().enumerate() {
            self.0.write(0x100 + (offset + place) as u64, Width::Byte, u64::from(*byte)).unwrap();
        }
        Ok(())
    }
}

struct NoLine;

impl InterruptLine for NoLine {
    fn set(&self, _: bool) {}
}

fn transport<D: VirtioDevice + 'static>(device: D) -> (Arc<Transport<D>>, Registers) {
    let device = Arc::new(Transport::new(device, Arc::new(Process), Arc::new(NoLine)));
    (device.clone(), Registers(device))
}

/// A disk of 1 MiB, a terminal and a die.
#[derive(Default)]
struct Outside {
    disk: Mutex<Vec<u8>>,
    terminal: Mutex<Vec<u8>>,
}

impl Storage for Outside {
    fn capacity_sectors(&self) -> u64 {
        2048
    }

    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        let mut disk = self.disk.lock().unwrap();
        disk.resize(2048 * SECTOR, 0);
        bytes.copy_from_slice(&disk[sector as usize * SECTOR..][..bytes.len()]);
        Ok(())
    }

    fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let mut disk = self.disk.lock().unwrap();
        disk.resize(2048 * SECTOR, 0);
        disk[sector as usize * SECTOR..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

impl ConsoleSink for Outside {
    fn put(&self, byte: u8) {
        self.terminal.lock().unwrap().push(byte);
    }
}

impl Entropy for Outside {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0x42);
    }
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + seed * 31) as u8).collect()
}

#[test]
fn a_driver_of_disks_reads_what_it_wrote() {
    let (_, registers) = transport(Block::new(Arc::new(Outside::default()), "serial"));
    let mut disk = VirtIOBlk::<Process, _>::new(registers).unwrap();
    assert_eq!((disk.capacity(), disk.readonly()), (2048, false));
    let mut id = [0; 20];
    assert_eq!(disk.device_id(&mut id).unwrap(), 6);
    assert_eq!(&id[..6], b"serial");
    for round in 0..100 {
        let length = SECTOR * (1 + round * 13 % 200);
        let sector = round * 17 % 1800;
        let data = pattern(length, round);
        disk.write_blocks(sector, &data).unwrap();
        disk.flush().unwrap();
        let mut back = vec![0; length];
        disk.read_blocks(sector, &mut back).unwrap();
        assert!(back == data, "{round}");
    }
    assert!(disk.read_blocks(2048, &mut [0; SECTOR]).is_err());
    disk.read_blocks(0, &mut [0; SECTOR]).unwrap();
}

#[test]
fn a_driver_of_consoles_talks_and_listens() {
    let outside = Arc::new(Outside::default());
    let (device, registers) = transport(Console::new(outside.clone()));
    let mut console = VirtIOConsole::<Process, _>::new(registers).unwrap();
    assert_eq!(console.size().unwrap(), None);
    console.send_bytes(b"login: ").unwrap();
    assert_eq!(*outside.terminal.lock().unwrap(), b"login: ");
    let mut expected = VecDeque::new();
    for byte in 0..200u8 {
        assert!(device.receive(byte));
        expected.push_back(byte);
        if byte % 3 == 0 {
            assert_eq!(console.recv(true).unwrap(), expected.pop_front());
        }
    }
    for byte in expected {
        assert_eq!(console.recv(true).unwrap(), Some(byte));
    }
    assert_eq!(console.recv(true).unwrap(), None);
}

#[test]
fn a_driver_of_random_numbers_gets_them() {
    let (_, registers) = transport(Rng::new(Arc::new(Outside::default())));
    let mut rng = VirtIORng::<Process, _>::new(registers).unwrap();
    for length in [1, 64, 256] {
        let mut bytes = vec![0; length];
        assert_eq!(rng.request_entropy(&mut bytes).unwrap(), length);
        assert_eq!(bytes, vec![0x42; length]);
    }
}

#[test]
fn two_drivers_of_networks_reach_each_other() {
    let switch = Switch::new();
    let mac = |number| MacAddress([0x52, 0x54, 0, 0, 0, number]);
    let mut keep = Vec::new();
    let mut guests: Vec<_> = [0, 1]
        .map(|number| {
            let mode = PortMode::Access(VlanId::UNTAGGED);
            let settings = PortSettings { mac: Some(mac(number)), mode };
            let port = switch.add_port(settings).unwrap();
            let (device, registers) = transport(Net::new(port.clone(), mac(number)));
            port.connect(&device);
            keep.push(device);
            VirtIONet::<Process, _, 16>::new(registers, 2048).unwrap()
        })
        .into();
    for round in 0..1000 {
        let (from, to) = (round % 2, 1 - round % 2);
        assert_eq!(guests[from].mac_address(), mac(from as u8).0);
        let frame =
            [&mac(to as u8).0[..], &mac(from as u8).0, &[8, 0], &pattern(round + 46, round)]
                .concat();
        guests[from].send(TxBuffer::from(&frame)).unwrap();
        if frame.len() > 1514 {
            continue;
        }
        assert!(guests[to].can_recv());
        let received = guests[to].receive().unwrap();
        assert!(received.packet() == frame, "{round}");
        guests[to].recycle_rx_buffer(received).unwrap();
    }
    assert!(!guests[0].can_recv() && !guests[1].can_recv());
}
