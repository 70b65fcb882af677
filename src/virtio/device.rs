//! What a device model is to its transport.

use core::convert::Infallible;

use virtio_spec::Id;

use crate::memory::{GuestMemory, OutOfMemoryRange};
use crate::virtio::queue::Queue;

/// Feature bits 0 to 63 (virtio 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u64);

impl Features {
    /// No feature.
    pub const NONE: Features = Features(0);

    /// Whether all of `other` are in this set.
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// Features of both sets.
    pub const fn union(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// `self` when `condition` holds, else none.
    pub const fn when(self, condition: bool) -> Features {
        if condition { self } else { Features::NONE }
    }
}

/// Feature sets of the specification's definitions, whose bits beyond 63 no
/// device here offers.
macro_rules! from_specification {
    ($($set:ty),*) => {
        $(impl From<$set> for Features {
            fn from(set: $set) -> Self {
                Features(set.bits().to_ne() as u64)
            }
        })*
    };
}

from_specification!(
    virtio_spec::F,
    virtio_spec::blk::F,
    virtio_spec::console::F,
    virtio_spec::net::F,
    virtio_spec::balloon::F
);

/// The driver broke a rule that the device cannot recover from (virtio 2.1.2,
/// `DEVICE_NEEDS_RESET`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A ring, a table or a buffer is not all memory of the guest.
    #[error("outside of memory: {0}")]
    Memory(#[from] OutOfMemoryRange),
    /// A ring was enabled with a size or alignment that virtio 2.7 forbids.
    #[error("a queue has a forbidden size or alignment")]
    Geometry,
    /// The driver's index is further ahead than the ring is long.
    #[error("the driver offers more buffers than its queue holds")]
    Overrun,
    /// A descriptor number or table length does not exist.
    #[error("a descriptor is outside of its table")]
    Index,
    /// A chain is longer than a queue may be, or a loop.
    #[error("a chain of descriptors is too long or a loop")]
    TooLong,
    /// A descriptor describes no bytes, or the chain 4 GiB and more.
    #[error("a buffer has no bytes or too many")]
    Length,
    /// A buffer that the device reads follows one that it writes.
    #[error("a readable buffer follows a writable one")]
    Order,
    /// Flags of a descriptor that contradict each other or the features.
    #[error("a descriptor has forbidden flags")]
    Flags,
    /// A request lacks what its device type needs in it.
    #[error("a request is malformed")]
    Request,
}

/// What a device's step found to do.
#[derive(Debug)]
pub enum Step<J> {
    /// There is work, but for it more chains are needed than this many: the
    /// driver has to notify when it adds one.
    Starved(u16),
    /// Buffers are of no use now: no notification is needed.
    Idle,
    /// A step is done that moved this many bytes.
    Done(usize),
    /// A step needs `J` done with no lock held.
    Job(J),
}

/// Work to be done while no lock is held, such as a disk access.
pub trait Job: Send {
    /// Does it and keeps the result.
    fn perform(&mut self);

    /// Bytes that it moved, for the budget of one access. Asked once it is done.
    fn bytes(&self) -> usize;
}

/// Of devices without jobs.
impl Job for Infallible {
    fn perform(&mut self) {
        match *self {}
    }

    fn bytes(&self) -> usize {
        match *self {}
    }
}

/// The driver's half as a device sees it, while the transport's lock is held.
pub struct Io<'a> {
    pub(super) queues: &'a mut [Queue],
    pub(super) memory: &'a dyn GuestMemory,
    pub(super) features: Features,
    pub(super) live: bool,
    pub(super) config_changed: bool,
}

impl<'a> Io<'a> {
    /// Whether the driver is ready and the device may use its buffers.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// The features that were negotiated.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Queue `index`, and the memory that its buffers are in. `None` where
    /// buffers may not be used: queue not enabled, driver not ready.
    pub fn queue(&mut self, index: usize) -> Option<(&mut Queue, &'a dyn GuestMemory)> {
        let queue = self.queues.get_mut(index).filter(|queue| self.live && queue.is_ready())?;
        Some((queue, self.memory))
    }

    /// The configuration space has changed: the driver is told.
    pub fn change_config(&mut self) {
        self.config_changed = true;
    }
}

/// A device model. Its transport locks it, and drives it by steps.
pub trait VirtioDevice: Send {
    /// Work that is done with no lock held.
    type Job: Job;

    /// The device type.
    fn id(&self) -> Id;

    /// Features that the device offers; the transport adds those of rings.
    fn features(&self) -> Features;

    /// Largest size of each queue, a power of two up to [`crate::virtio::queue::MAX_SIZE`].
    fn queue_sizes(&self) -> &[u16];

    /// Reads the configuration space from `offset` on; zeros beyond its end.
    fn read_config(&self, offset: usize, bytes: &mut [u8]);

    /// Writes the configuration space. Fields that the driver may not write
    /// ignore it.
    fn write_config(&mut self, offset: usize, bytes: &[u8], features: Features) {
        let _ = (offset, bytes, features);
    }

    /// Takes the next step on `queue`.
    ///
    /// # Errors
    /// [`Broken`] when the driver broke the rules.
    fn step(&mut self, queue: usize, io: &mut Io<'_>) -> Result<Step<Self::Job>, Broken>;

    /// Takes the result of a job.
    ///
    /// # Errors
    /// [`Broken`] when the driver broke the rules.
    fn finish(&mut self, job: Self::Job, io: &mut Io<'_>) -> Result<(), Broken>;

    /// The driver does not use the device any more: it was reset, or it broke
    /// the rules. Returns what the outer world should hear of that.
    fn stop(&mut self) -> Option<Self::Job> {
        None
    }

    /// Takes back a job whose request is gone, because of a reset meanwhile.
    fn abandon(&mut self, job: Self::Job);

    /// Queue `queue` was reset: forgets requests out of it.
    fn reset_queue(&mut self, queue: usize);

    /// Returns to the state after power-on. A job may be out.
    fn reset(&mut self);
}

/// Copies the part of `config` from `offset` on; zeros beyond its end.
pub(super) fn copy_config(config: &[u8], offset: usize, bytes: &mut [u8]) {
    let part = config.get(offset..).unwrap_or_default().iter().chain(core::iter::repeat(&0));
    for (target, source) in bytes.iter_mut().zip(part) {
        *target = *source;
    }
}
