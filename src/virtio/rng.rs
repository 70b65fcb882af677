//! The entropy device (virtio 5.4).

#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use virtio_spec::Id;

use crate::virtio::chain::Chain;
use crate::virtio::device::{Broken, Features, Io, Job, Step, VirtioDevice, copy_config};

const QUEUE: usize = 0;
const QUEUE_SIZES: [u16; 1] = [8];
/// Most bytes for one buffer; the driver asks again for more.
const MOST: usize = 256;
/// What a random byte counts against the budget of one access: making it
/// takes longer than moving it.
const COST: usize = 16;

/// Where random numbers come from.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` with random numbers.
    fn fill(&self, bytes: &mut [u8]);
}

/// A request to the source.
pub struct RngJob {
    source: Arc<dyn Entropy>,
    buffer: Vec<u8>,
    length: usize,
}

impl Job for RngJob {
    fn perform(&mut self) {
        let bytes = self.buffer.get_mut(..self.length).unwrap_or_default();
        self.source.fill(bytes);
    }

    fn bytes(&self) -> usize {
        self.length.saturating_mul(COST)
    }
}

/// A source of random numbers.
pub struct Rng {
    source: Arc<dyn Entropy>,
    chain: Chain,
    /// `chain` waits for random bytes.
    asked: bool,
    /// Empty while a job has it.
    buffer: Vec<u8>,
}

impl Rng {
    /// A device after power-on that takes its numbers from `source`.
    pub fn new(source: Arc<dyn Entropy>) -> Self {
        Rng { source, chain: Chain::new(), asked: false, buffer: vec![0; MOST] }
    }
}

impl VirtioDevice for Rng {
    type Job = RngJob;

    fn id(&self) -> Id {
        Id::Rng
    }

    fn features(&self) -> Features {
        Features::NONE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        copy_config(&[], offset, bytes);
    }

    fn step(&mut self, _: usize, io: &mut Io<'_>) -> Result<Step<RngJob>, Broken> {
        let Some((queue, memory)) = io.queue(QUEUE) else { return Ok(Step::Idle) };
        if !self.asked {
            if !queue.pop(memory, &mut self.chain)? {
                return Ok(Step::Starved(0));
            }
            if self.chain.writable_bytes() == 0 {
                return Err(Broken::Request);
            }
            self.asked = true;
        }
        let length = MOST.min(self.chain.writable_bytes() as usize);
        let buffer = core::mem::take(&mut self.buffer);
        Ok(Step::Job(RngJob { source: self.source.clone(), buffer, length }))
    }

    fn finish(&mut self, job: RngJob, io: &mut Io<'_>) -> Result<(), Broken> {
        let mut result = Ok(());
        if self.asked
            && let Some((queue, memory)) = io.queue(QUEUE)
        {
            self.asked = false;
            let bytes = job.buffer.get(..job.length).unwrap_or_default();
            result = self.chain.writer().write(&self.chain, memory, bytes).and_then(|written| {
                queue.push(memory, &self.chain, u32::try_from(written).unwrap_or(u32::MAX))
            });
        }
        self.abandon(job);
        result
    }

    fn abandon(&mut self, mut job: RngJob) {
        // Nobody else may see the numbers of this guest.
        job.buffer.fill(0);
        self.buffer = job.buffer;
    }

    fn reset_queue(&mut self, _: usize) {
        self.asked = false;
    }

    fn reset(&mut self) {
        self.reset_queue(QUEUE);
    }
}
