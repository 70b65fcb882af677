//! A driver for virtio devices behind memory-mapped registers (virtio 1.2, 4.2.2 and 2.7), as small as it can be: one
//! request at a time, split queues.

use core::cell::UnsafeCell;
use core::sync::atomic::{Ordering, fence};

use crate::machine::bench::virtio_windows;
use crate::machine::mmio;

/// Offsets of registers (virtio 4.2.2).
mod register {
    pub(super) const MAGIC_VALUE: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE_ID: u64 = 0x008;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(super) const QUEUE_SEL: u64 = 0x030;
    pub(super) const QUEUE_NUM: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACK: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESC: u64 = 0x080;
    pub(super) const QUEUE_DRIVER: u64 = 0x090;
    pub(super) const QUEUE_DEVICE: u64 = 0x0a0;
    pub(super) const CONFIG: u64 = 0x100;
}

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// `Version` of a device that is not legacy.
const VERSION: u32 = 2;

/// Bits of `Status` (virtio 2.1).
const ACKNOWLEDGE: u32 = 1 << 0;
const DRIVER: u32 = 1 << 1;
const DRIVER_OK: u32 = 1 << 2;
const FEATURES_OK: u32 = 1 << 3;
/// `VIRTIO_F_VERSION_1`, in the second word of features.
const VERSION_1: u32 = 1 << 0;

/// `VIRTQ_DESC_F_NEXT` and `VIRTQ_DESC_F_WRITE`.
const NEXT: u16 = 1 << 0;
const WRITE: u16 = 1 << 1;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT` and `VIRTQ_USED_F_NO_NOTIFY`.
const NO_INTERRUPT: u16 = 1 << 0;
const NO_NOTIFY: u16 = 1 << 0;

/// A device that was found.
#[derive(Debug)]
pub struct Device {
    /// Address of its registers.
    pub base: u64,
    /// Its interrupt: an INTID, or a pin of the IOAPIC.
    pub interrupt: u32,
}

impl Device {
    /// The first device with this `DeviceID`.
    pub fn find(id: u32) -> Option<Device> {
        let mut windows = virtio_windows().map(|(base, interrupt)| Device { base, interrupt });
        windows.find(|device| {
            device.read(register::MAGIC_VALUE) == MAGIC
                && device.read(register::VERSION) == VERSION
                && device.read(register::DEVICE_ID) == id
        })
    }

    fn read(&self, offset: u64) -> u32 {
        mmio::read32(self.base + offset)
    }

    fn write(&self, offset: u64, value: u32) {
        mmio::write32(self.base + offset, value);
    }

    /// Resets it and takes no feature but the one of this version.
    pub fn begin(&self) {
        self.write(register::STATUS, 0);
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER);
        for (word, features) in [(0, 0), (1, VERSION_1)] {
            self.write(register::DRIVER_FEATURES_SEL, word);
            self.write(register::DRIVER_FEATURES, features);
        }
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert!(self.read(register::STATUS) & FEATURES_OK != 0, "the device needs more features");
    }

    /// Lays out queue `index`.
    pub fn add(&self, index: u32, queue: &'static Queue) {
        queue.clear();
        let memory = queue.0.get();
        // SAFETY: addresses of fields, nothing is read.
        let addresses = unsafe {
            [
                (register::QUEUE_DESC, &raw const (*memory).descriptors as u64),
                (register::QUEUE_DRIVER, &raw const (*memory).available as u64),
                (register::QUEUE_DEVICE, &raw const (*memory).used as u64),
            ]
        };
        self.write(register::QUEUE_SEL, index);
        self.write(register::QUEUE_NUM, SIZE as u32);
        for (register, address) in addresses {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(register::QUEUE_READY, 1);
    }

    /// Lets it work.
    pub fn go(&self) {
        self.write(register::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Says that queue `index` has something new.
    pub fn notify(&self, index: u32) {
        self.write(register::QUEUE_NOTIFY, index);
    }

    /// Takes its interrupt back.
    pub fn acknowledge(&self) {
        let status = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACK, status);
    }

    /// `mac` of a network port.
    pub fn address(&self) -> [u8; 6] {
        let words = [self.read(register::CONFIG), self.read(register::CONFIG + 4)];
        let bytes = words.map(u32::to_le_bytes);
        core::array::from_fn(|at| bytes[at / 4][at % 4])
    }
}

/// Descriptors of a queue.
const SIZE: usize = 4;

#[derive(Clone, Copy)]
#[repr(C)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

#[repr(C)]
struct Available {
    flags: u16,
    index: u16,
    ring: [u16; SIZE],
}

#[repr(C, align(4))]
struct Used {
    flags: u16,
    index: u16,
    ring: [[u32; 2]; SIZE],
}

#[repr(C, align(4096))]
struct Memory {
    descriptors: [Descriptor; SIZE],
    available: Available,
    used: Used,
    /// Index of the next used element that the driver looks at.
    seen: u16,
}

impl Memory {
    const fn new() -> Self {
        const NONE: Descriptor = Descriptor { address: 0, length: 0, flags: 0, next: 0 };
        Memory {
            descriptors: [NONE; SIZE],
            available: Available { flags: 0, index: 0, ring: [0; SIZE] },
            used: Used { flags: 0, index: 0, ring: [[0; 2]; SIZE] },
            seen: 0,
        }
    }
}

/// Memory of a request for the device.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    address: u64,
    length: u32,
    flags: u16,
}

impl Buffer {
    /// The device reads it.
    pub const fn read(address: u64, length: usize) -> Self {
        Buffer { address, length: length as u32, flags: 0 }
    }

    /// The device writes it.
    pub const fn written(address: u64, length: usize) -> Self {
        Buffer { address, length: length as u32, flags: WRITE }
    }
}

/// A split queue. One CPU uses it.
pub struct Queue(UnsafeCell<Memory>);

// SAFETY: only one CPU of a guest has to do with devices, and it is never interrupted by what does.
unsafe impl Sync for Queue {}

impl Queue {
    /// An empty queue.
    pub const fn new() -> Self {
        Queue(UnsafeCell::new(Memory::new()))
    }

    fn clear(&self) {
        // SAFETY: the device does not have it yet.
        unsafe { self.0.get().write_volatile(Memory::new()) };
    }

    /// Asks the device not to interrupt for this queue.
    pub fn want_no_interrupts(&self) {
        // SAFETY: the driver's half of the queue.
        unsafe { (&raw mut (*self.0.get()).available.flags).write_volatile(NO_INTERRUPT) };
    }

    /// Whether the device wants to be told of what is new.
    pub fn wants_notice(&self) -> bool {
        fence(Ordering::SeqCst);
        // SAFETY: memory of ours that the device writes at any time.
        unsafe { (&raw const (*self.0.get()).used.flags).read_volatile() & NO_NOTIFY == 0 }
    }

    /// Gives the device a chain of buffers in the descriptors from `first` on, which must be free.
    pub fn submit(&self, first: u16, chain: &[Buffer]) {
        let memory = self.0.get();
        for (place, (buffer, number)) in chain.iter().zip(first..).enumerate() {
            let more = if place + 1 < chain.len() { NEXT } else { 0 };
            let Buffer { address, length, flags } = *buffer;
            let descriptor = Descriptor { address, length, flags: flags | more, next: number + 1 };
            // SAFETY: the driver's half of the queue; the slice checks the number.
            unsafe {
                (&raw mut (*memory).descriptors[usize::from(number)]).write_volatile(descriptor)
            };
        }
        // SAFETY: as above.
        unsafe {
            let index = (&raw const (*memory).available.index).read_volatile();
            (&raw mut (*memory).available.ring[usize::from(index) % SIZE]).write_volatile(first);
            // 2.7.13.3: what the index promises must be there.
            fence(Ordering::Release);
            (&raw mut (*memory).available.index).write_volatile(index.wrapping_add(1));
        }
        fence(Ordering::SeqCst);
    }

    /// The first descriptor of a chain that the device is done with.
    pub fn take(&self) -> Option<u16> {
        let memory = self.0.get();
        // SAFETY: memory of ours that the device writes at any time.
        unsafe {
            let seen = (&raw const (*memory).seen).read_volatile();
            if (&raw const (*memory).used.index).read_volatile() == seen {
                return None;
            }
            fence(Ordering::Acquire);
            let element =
                (&raw const (*memory).used.ring[usize::from(seen) % SIZE]).read_volatile();
            (&raw mut (*memory).seen).write_volatile(seen.wrapping_add(1));
            Some(element[0] as u16)
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Queue::new()
    }
}
