//! A hostile guest with one virtio device.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use bunshin::bus::{Device, Progress, Width};
use bunshin::virtio::{Transport, VirtioDevice};

use crate::input::Input;
use crate::world::{BASE, Line, Memory};

/// Descriptors of each queue, as far as the device has so many.
const QUEUE: u32 = 16;
/// Most queues that are laid out.
const QUEUES: usize = 3;
/// Bytes of a queue's rings.
const STRIDE: usize = 0x400;
/// Most that one access may move, with all of its look-ups in rings: the
/// budget of one access, a last large step, and chains of the greatest length.
const MOST_MOVED: usize = (512 << 10) + 64 * 256 * 16;
/// `DRIVER_OK` and `DEVICE_NEEDS_RESET` in `Status`.
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;

/// Offsets of the rings of queue `index` in memory.
struct Rings {
    table: usize,
    available: usize,
    used: usize,
}

fn rings(index: usize) -> Rings {
    let table = index * STRIDE;
    Rings { table, available: table + 0x100, used: table + 0x200 }
}

pub(crate) struct Guest<D: VirtioDevice> {
    pub(crate) device: Arc<Transport<D>>,
    memory: Arc<Memory>,
    line: Arc<Line>,
    /// Next index of each available ring.
    offered: [u16; QUEUES],
}

impl<D: VirtioDevice> Guest<D> {
    /// A guest whose driver is ready, with the features in `accepted` that are offered.
    pub(crate) fn new(device: D, accepted: u64) -> Self {
        let (memory, line) = (Memory::new(), Arc::new(Line::default()));
        let device = Arc::new(Transport::new(device, memory.clone(), line.clone()));
        let mut guest = Guest { device, memory, line, offered: [0; QUEUES] };
        guest.start(accepted);
        guest
    }

    fn read(&self, offset: u64) -> u32 {
        self.device.read(offset, Width::Word).unwrap() as u32
    }

    /// One access, with the promises that hold for each.
    fn write(&self, offset: u64, width: Width, value: u64) -> Progress {
        let live = self.read(0x70) & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK;
        let writes = self.memory.writes.load(SeqCst);
        self.memory.moved.store(0, SeqCst);
        let progress = self.device.write_some(offset, width, value).unwrap();
        assert!(self.memory.moved.load(SeqCst) <= MOST_MOVED, "too much work at once");
        if !live && offset != 0x70 {
            let after = self.memory.writes.load(SeqCst);
            assert_eq!(after, writes, "the device wrote to memory that it may not use");
        }
        progress
    }

    fn word(&self, offset: u64, value: u32) {
        let _ = self.write(offset, Width::Word, value.into());
    }

    /// Initialises the device as a driver does (virtio 3.1.1).
    fn start(&mut self, accepted: u64) {
        self.word(0x70, 0);
        self.word(0x70, 1 | 2);
        for select in [0, 1] {
            self.word(0x14, select);
            self.word(0x24, select);
            let mut features = self.read(0x10) & (accepted >> (32 * select)) as u32;
            if select == 1 {
                features |= 1;
            }
            self.word(0x20, features);
        }
        self.word(0x70, 1 | 2 | 8);
        for index in 0..QUEUES {
            self.word(0x30, index as u32);
            self.word(0x38, QUEUE.min(self.read(0x34)));
            let Rings { table, available, used } = rings(index);
            for (register, offset) in [(0x80, table), (0x90, available), (0xa0, used)] {
                self.word(register, (BASE + offset as u64) as u32);
                self.word(register + 4, 0);
            }
            self.word(0x44, 1);
            self.memory.put(index * STRIDE, &[0; STRIDE]);
        }
        self.offered = [0; QUEUES];
        self.word(0x70, 1 | 2 | 8 | 4);
    }

    /// Offers the chain at `head`, as many as fit the ring or more.
    fn offer(&mut self, queue: usize, head: u16) {
        let available = rings(queue).available;
        let index = self.offered[queue];
        self.offered[queue] = index.wrapping_add(1);
        let place = available + 4 + 2 * usize::from(index) % (2 * QUEUE as usize);
        self.memory.put(place, &head.to_le_bytes());
        self.memory.put(available + 2, &self.offered[queue].to_le_bytes());
    }

    /// Does what the input says; `outside` acts from the other end of the device.
    pub(crate) fn run(
        &mut self,
        input: &mut Input<'_>,
        mut outside: impl FnMut(&Arc<Transport<D>>, &mut Input<'_>),
    ) {
        while !input.is_empty() {
            let operation = input.u8();
            let queue = usize::from(operation >> 4) % QUEUES;
            match operation % 10 {
                0 => {
                    let (offset, length) = (input.u16(), input.u8());
                    self.memory.put(offset.into(), input.bytes(length.into()));
                }
                1 => {
                    // A descriptor, mostly of memory that there is.
                    let (index, offset, length) = (input.u8() % 17, input.u16(), input.u16());
                    let (flags, next) = (input.u8(), input.u8());
                    let address = BASE + u64::from(offset);
                    let mut bytes = [0; 16];
                    bytes[..8].copy_from_slice(&address.to_le_bytes());
                    bytes[8..12].copy_from_slice(&u32::from(length).to_le_bytes());
                    bytes[12] = flags;
                    bytes[14] = next;
                    self.memory.put(rings(queue).table + 16 * usize::from(index), &bytes);
                }
                2 => self.offer(queue, u16::from(input.u8() % 17)),
                3 | 4 => {
                    for _ in 0..8 {
                        if self.write(0x50, Width::Word, queue as u64) == Progress::Done {
                            break;
                        }
                    }
                }
                5 => {
                    let register = u64::from(input.u8()) * 2;
                    let width = [Width::Word, Width::Byte, Width::Half, Width::Double];
                    let width = width[usize::from(operation >> 6)];
                    let _ = self.write(register, width, input.u32().into());
                }
                6 => {
                    let register = u64::from(input.u8()) * 2;
                    for width in [Width::Byte, Width::Half, Width::Word, Width::Double] {
                        self.device.read(register, width).unwrap();
                    }
                }
                7 => {
                    self.word(0x64, self.read(0x60));
                    assert!(!self.line.0.load(SeqCst));
                }
                8 => match operation >> 4 {
                    0 => self.device.reset(),
                    1..8 => outside(&self.device, input),
                    _ => {
                        // Descriptors, offer and notification in one.
                        self.offer(queue, 0);
                        let _ = self.write(0x50, Width::Word, queue as u64);
                    }
                },
                _ => match operation >> 4 {
                    0 => self.start(input.u64()),
                    1..8 => outside(&self.device, input),
                    _ => self.word(0x70, operation.into()),
                },
            }
            assert_eq!(self.line.0.load(SeqCst), self.read(0x60) != 0, "line and status differ");
        }
    }
}
