//! A disk (virtio 5.2): one request at a time, with an end.

use bitflags::bitflags;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::{Error, Hal, PAGE_SIZE};

use crate::memory::Shared;

/// Bytes of a sector, the unit of a disk's addresses.
pub const SECTOR: usize = 512;

/// Most bytes that one request moves.
const TRANSFER: usize = 64 << 10;

const QUEUE: u16 = 0;
const QUEUE_SIZE: usize = 4;

bitflags! {
    /// Features (virtio 5.2.3 and 6) that this driver understands.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Features: u64 {
        const RO = 1 << 5;
        const FLUSH = 1 << 9;
        const VERSION_1 = 1 << 32;
    }
}

/// Offset of `capacity` in the configuration space (virtio 5.2.4).
const CONFIG_CAPACITY: usize = 0;

/// Types of requests (virtio 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    In = 0,
    Out = 1,
    Flush = 4,
}

/// Layout of the first page: header, status. Data follows on the next pages.
const HEADER: usize = 0;
const HEADER_SIZE: usize = 16;
const STATUS: usize = HEADER_SIZE;
const DATA: usize = PAGE_SIZE;

/// `VIRTIO_BLK_S_OK`.
const STATUS_OK: u8 = 0;
/// No device writes this.
const STATUS_NONE: u8 = 0xff;

/// A disk did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The driver cannot use it.
    #[error("the disk does not work with this driver: {0}")]
    Unusable(Error),
    /// There was no memory for the driver.
    #[error("no memory for the driver of a disk")]
    NoMemory,
    /// It does not answer any more.
    #[error("the disk did not answer in time")]
    TimedOut,
    /// It answered with this status (virtio 5.2.6).
    #[error("the disk answered with status {0}")]
    Status(u8),
    /// The request leaves the disk, or is no whole number of sectors.
    #[error("there are no such sectors")]
    Outside,
}

impl From<Error> for DiskError {
    fn from(error: Error) -> Self {
        DiskError::Unusable(error)
    }
}

/// Time that ends a request that the disk does not.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The time, in ticks of any length.
    pub now: fn() -> u64,
    /// Ticks that a request may take.
    pub limit: u64,
}

/// A disk.
pub struct Disk<H: Hal, T: Transport> {
    transport: T,
    queue: VirtQueue<H, QUEUE_SIZE>,
    shared: Shared<H>,
    sectors: u64,
    features: Features,
    patience: Patience,
    /// A request is out that was given up; the memory is still the device's.
    lost: bool,
}

impl<H: Hal, T: Transport> Disk<H, T> {
    /// Starts the disk behind `transport`.
    ///
    /// # Errors
    /// [`DiskError::Unusable`], [`DiskError::NoMemory`].
    pub fn new(mut transport: T, patience: Patience) -> Result<Self, DiskError> {
        let shared = Shared::new(DATA + TRANSFER).ok_or(DiskError::NoMemory)?;
        let features = transport.begin_init(Features::all());
        let sectors = transport
            .read_consistent(|| transport.read_config_space::<[u32; 2]>(CONFIG_CAPACITY))
            .map(|[low, high]| u64::from(high) << 32 | u64::from(low))?;
        let mut queue = VirtQueue::new(&mut transport, QUEUE, false, false)?;
        // It is looked at until it is done.
        queue.set_dev_notify(false);
        transport.finish_init();
        Ok(Disk { transport, queue, shared, sectors, features, patience, lost: false })
    }

    /// Number of sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether it refuses writes.
    pub fn is_read_only(&self) -> bool {
        self.features.contains(Features::RO)
    }

    /// Reads whole sectors from `sector` on.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn read(&mut self, sector: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        self.check(sector, bytes.len())?;
        for (part, at) in bytes.chunks_mut(TRANSFER).zip(parts(sector)) {
            self.request(Kind::In, at, part.len())?;
            // SAFETY: no request is out, so the device does not write there.
            let data = unsafe { self.shared.slice(DATA, part.len()) };
            part.copy_from_slice(data.ok_or(DiskError::Outside)?);
        }
        Ok(())
    }

    /// Writes whole sectors from `sector` on. They last after the next
    /// [`Disk::flush`].
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.check(sector, bytes.len())?;
        for (part, at) in bytes.chunks(TRANSFER).zip(parts(sector)) {
            if self.lost {
                return Err(DiskError::TimedOut);
            }
            // SAFETY: no request is out, so the device does not look there.
            let data = unsafe { self.shared.slice(DATA, part.len()) };
            data.ok_or(DiskError::Outside)?.copy_from_slice(part);
            self.request(Kind::Out, at, part.len())?;
        }
        Ok(())
    }

    /// Has all that was written last.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn flush(&mut self) -> Result<(), DiskError> {
        // Without the feature every write lasts when it is done (virtio 5.2.6.2).
        if !self.features.contains(Features::FLUSH) {
            return Ok(());
        }
        self.request(Kind::Flush, 0, 0)
    }

    fn check(&self, sector: u64, length: usize) -> Result<(), DiskError> {
        let end = sector.checked_add((length / SECTOR) as u64);
        let inside = end.is_some_and(|end| end <= self.sectors);
        if inside && length.is_multiple_of(SECTOR) { Ok(()) } else { Err(DiskError::Outside) }
    }

    fn request(&mut self, kind: Kind, sector: u64, length: usize) -> Result<(), DiskError> {
        if self.lost {
            return Err(DiskError::TimedOut);
        }
        // SAFETY: the three ranges do not overlap, and no request is out.
        let slices = unsafe {
            let header = self.shared.slice(HEADER, HEADER_SIZE);
            (header, self.shared.slice(STATUS, 1), self.shared.slice(DATA, length))
        };
        let (Some(header), Some(status), Some(data)) = slices else {
            return Err(DiskError::Outside);
        };
        let [kind_field, sector_field] = [u64::from(kind as u32), sector].map(u64::to_le_bytes);
        for (to, from) in header.iter_mut().zip(kind_field.into_iter().chain(sector_field)) {
            *to = from;
        }
        status.fill(STATUS_NONE);
        let header: &[u8] = header;
        let done = match kind {
            Kind::In => self.exchange(&[header], &mut [data, status]),
            Kind::Out => self.exchange(&[header, data], &mut [status]),
            Kind::Flush => self.exchange(&[header], &mut [status]),
        };
        done?;
        // SAFETY: the request is over.
        match unsafe { self.shared.slice(STATUS, 1) } {
            Some([STATUS_OK]) => Ok(()),
            Some([other]) => Err(DiskError::Status(*other)),
            _ => Err(DiskError::Outside),
        }
    }

    /// Gives buffers to the device and waits for their return.
    fn exchange<'a>(
        &mut self,
        inputs: &'a [&'a [u8]],
        outputs: &'a mut [&'a mut [u8]],
    ) -> Result<(), DiskError> {
        // SAFETY: the buffers are in `shared`, which lives as long as the queue, and nobody looks
        // at them before they return: `lost` sees to that.
        let token = unsafe { self.queue.add(inputs, &mut *outputs) }?;
        if self.queue.should_notify() {
            self.transport.notify(QUEUE);
        }
        let start = (self.patience.now)();
        while !self.queue.can_pop() {
            if (self.patience.now)().saturating_sub(start) > self.patience.limit {
                self.lost = true;
                return Err(DiskError::TimedOut);
            }
            core::hint::spin_loop();
        }
        // SAFETY: these are the buffers that were added under this token.
        unsafe { self.queue.pop_used(token, inputs, outputs) }?;
        Ok(())
    }
}

/// First sectors of the parts of a transfer.
fn parts(sector: u64) -> impl Iterator<Item = u64> {
    (0u64..).map(move |part| sector.saturating_add(part.saturating_mul((TRANSFER / SECTOR) as u64)))
}
