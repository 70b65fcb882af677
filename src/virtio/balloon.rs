//! The traditional memory balloon (virtio 5.5).

#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;

use virtio_spec::{Id, balloon};

use crate::address::GuestAddress;
use crate::virtio::chain::{Chain, Cursor};
use crate::virtio::device::{Broken, Features, Io, Job, Step, VirtioDevice, copy_config};
use crate::virtio::queue::MAX_SIZE;
use crate::virtio::transport::Transport;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const QUEUE_SIZES: [u16; 3] = [MAX_SIZE / 2, MAX_SIZE / 2, 2];

/// Bytes of a page of the balloon, whatever the guest's own pages are.
pub const PAGE: u64 = 4096;
/// Pages in one call of the owner of the memory.
const BATCH: usize = 256;
/// Bytes of a page's number.
const NUMBER: usize = 4;
/// Bytes of a statistic: tag and value.
const STATISTIC: usize = 10;
/// Tags of statistics (virtio 5.5.6.4).
const TAGS: usize = 16;
/// Offset of `actual` in the configuration space.
const ACTUAL: usize = 4;

/// The machine whose memory the guest gives up. Called with no lock held.
pub trait PageOwner: Send + Sync {
    /// The guest does not use these pages any more, and expects nothing of
    /// their contents. They need not be memory, nor named once only.
    fn take(&self, pages: &[GuestAddress]);

    /// The guest uses these pages again once this returns.
    fn give_back(&self, pages: &[GuestAddress]);

    /// The guest uses all of its pages again once this returns: the device
    /// was reset.
    fn give_back_all(&self);
}

/// Statistics that a guest reports, by tag (virtio 5.5.6.4); in bytes where
/// they measure memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    values: [Option<u64>; TAGS],
}

impl Statistics {
    /// Memory that is not used at all.
    pub fn free_memory(&self) -> Option<u64> {
        self.get(4)
    }

    /// All memory that the guest has.
    pub fn total_memory(&self) -> Option<u64> {
        self.get(5)
    }

    /// Memory that can be given to applications without swapping.
    pub fn available_memory(&self) -> Option<u64> {
        self.get(6)
    }

    /// The value with `tag`.
    pub fn get(&self, tag: usize) -> Option<u64> {
        self.values.get(tag).copied().flatten()
    }
}

/// Pages that change hands.
pub struct BalloonJob {
    owner: Arc<dyn PageOwner>,
    pages: Vec<GuestAddress>,
    kind: Kind,
}

enum Kind {
    Take,
    GiveBack,
    GiveBackAll,
}

impl Job for BalloonJob {
    fn perform(&mut self) {
        match self.kind {
            Kind::Take => self.owner.take(&self.pages),
            Kind::GiveBack => self.owner.give_back(&self.pages),
            Kind::GiveBackAll => self.owner.give_back_all(),
        }
    }

    fn bytes(&self) -> usize {
        // A page has to be cleared before another may have it.
        self.pages.len().saturating_mul(PAGE as usize)
    }
}

/// A chain of page numbers that is being worked on.
#[derive(Default)]
struct Request {
    chain: Chain,
    place: Option<Cursor>,
}

/// A balloon.
pub struct Balloon {
    owner: Arc<dyn PageOwner>,
    /// `num_pages`: pages that the guest should give up.
    target: u32,
    /// `actual`: pages that it says it has given up.
    actual: u32,
    requests: [Request; 2],
    /// The buffer for statistics, while the device has it.
    statistics_chain: Chain,
    has_statistics_buffer: bool,
    statistics: Statistics,
    /// Empty where a job has it.
    spare: Vec<GuestAddress>,
}

impl Balloon {
    /// An empty balloon in the memory of `owner`.
    pub fn new(owner: Arc<dyn PageOwner>) -> Self {
        Balloon {
            owner,
            target: 0,
            actual: 0,
            requests: Default::default(),
            statistics_chain: Chain::new(),
            has_statistics_buffer: false,
            statistics: Statistics::default(),
            spare: Vec::new(),
        }
    }

    /// Takes the next pages out of a chain, or ends it.
    fn pages(&mut self, index: usize, io: &mut Io<'_>) -> Result<Step<BalloonJob>, Broken> {
        let Some((queue, memory)) = io.queue(index) else { return Ok(Step::Idle) };
        let Some(request) = self.requests.get_mut(index) else { return Ok(Step::Idle) };
        let mut place = match request.place.take() {
            Some(place) => place,
            None if queue.pop(memory, &mut request.chain)? => request.chain.reader(),
            None => return Ok(Step::Starved(0)),
        };
        let mut bytes = [0; BATCH * NUMBER];
        let length = place.read(&request.chain, memory, &mut bytes)?;
        if length < NUMBER {
            queue.push(memory, &request.chain, 0)?;
            return Ok(Step::Done(0));
        }
        request.place = Some(place);
        let numbers = bytes.get(..length).unwrap_or_default().as_chunks::<NUMBER>().0;
        let mut pages = core::mem::take(&mut self.spare);
        pages.clear();
        pages.extend(numbers.iter().map(|number| {
            GuestAddress(u64::from(u32::from_le_bytes(*number)).saturating_mul(PAGE))
        }));
        let kind = if index == INFLATE { Kind::Take } else { Kind::GiveBack };
        Ok(Step::Job(BalloonJob { owner: self.owner.clone(), pages, kind }))
    }

    /// Reads the statistics of a buffer and keeps it, to ask for more later.
    fn read_statistics(&mut self, io: &mut Io<'_>) -> Result<Step<BalloonJob>, Broken> {
        let Some((queue, memory)) = io.queue(STATISTICS) else { return Ok(Step::Idle) };
        if self.has_statistics_buffer || !queue.pop(memory, &mut self.statistics_chain)? {
            return Ok(Step::Starved(0));
        }
        self.has_statistics_buffer = true;
        let mut place = self.statistics_chain.reader();
        let mut bytes = [0; STATISTIC];
        self.statistics = Statistics::default();
        for _ in 0..TAGS {
            if place.read(&self.statistics_chain, memory, &mut bytes)? != STATISTIC {
                break;
            }
            let [low, high, value @ ..] = bytes;
            let tag = usize::from(u16::from_le_bytes([low, high]));
            if let Some(slot) = self.statistics.values.get_mut(tag) {
                *slot = Some(u64::from_le_bytes(value));
            }
        }
        Ok(Step::Done(0))
    }
}

impl VirtioDevice for Balloon {
    type Job = BalloonJob;

    fn id(&self) -> Id {
        Id::Balloon
    }

    fn features(&self) -> Features {
        // Without DEFLATE_ON_OOM: what the user asked for is the host's, and the guest counts it out
        // of its memory.
        (balloon::F::MUST_TELL_HOST | balloon::F::STATS_VQ).into()
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        let config = u64::from(self.target) | u64::from(self.actual) << 32;
        copy_config(&config.to_le_bytes(), offset, bytes);
    }

    fn write_config(&mut self, offset: usize, bytes: &[u8], _: Features) {
        if let (ACTUAL, Ok(value)) = (offset, bytes.try_into()) {
            self.actual = u32::from_le_bytes(value);
        }
    }

    fn step(&mut self, queue: usize, io: &mut Io<'_>) -> Result<Step<BalloonJob>, Broken> {
        match queue {
            INFLATE | DEFLATE => self.pages(queue, io),
            _ => self.read_statistics(io),
        }
    }

    fn finish(&mut self, job: BalloonJob, _: &mut Io<'_>) -> Result<(), Broken> {
        self.abandon(job);
        Ok(())
    }

    fn abandon(&mut self, job: BalloonJob) {
        self.spare = job.pages;
    }

    fn stop(&mut self) -> Option<BalloonJob> {
        let owner = self.owner.clone();
        Some(BalloonJob { owner, pages: Vec::new(), kind: Kind::GiveBackAll })
    }

    fn reset_queue(&mut self, queue: usize) {
        match self.requests.get_mut(queue) {
            Some(request) => request.place = None,
            None => self.has_statistics_buffer = false,
        }
    }

    fn reset(&mut self) {
        // The target stays: it is the user's, not the guest's.
        self.actual = 0;
        self.statistics = Statistics::default();
        for queue in [INFLATE, DEFLATE, STATISTICS] {
            self.reset_queue(queue);
        }
    }
}

impl Transport<Balloon> {
    /// Asks the guest to give up `pages` pages of [`PAGE`] bytes in all, more
    /// or less than it has by now. Lasts over resets.
    pub fn set_target(&self, pages: u32) {
        self.with(|balloon, io| {
            balloon.target = pages;
            io.change_config();
            Ok(())
        });
    }

    /// How many pages of [`PAGE`] bytes the guest is asked to give up.
    pub fn target(&self) -> u64 {
        self.inspect(|state| state.device.target.into())
    }

    /// How many pages the guest says it has given up.
    pub fn actual(&self) -> u32 {
        self.inspect(|state| state.device.actual)
    }

    /// What the guest reported last.
    pub fn statistics(&self) -> Statistics {
        self.inspect(|state| state.device.statistics)
    }

    /// Asks the guest for new statistics, if it reports any.
    pub fn request_statistics(&self) {
        self.with(|balloon, io| {
            if balloon.has_statistics_buffer
                && let Some((queue, memory)) = io.queue(STATISTICS)
            {
                balloon.has_statistics_buffer = false;
                queue.push(memory, &balloon.statistics_chain, 0)?;
            }
            Ok(())
        });
    }
}
