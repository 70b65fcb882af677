//! The block device (virtio 5.2): one queue over a [`Storage`].

mod config;
mod request;
pub mod storage;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;

use virtio_spec::{Id, blk};

pub use storage::{SECTOR, Storage, StorageError};

use crate::virtio::chain::Chain;
use crate::virtio::device::{Broken, Features, Io, Job, Step, VirtioDevice, copy_config};
use crate::virtio::queue::MAX_SIZE;
use request::{Action, Disk, IDENTITY, Request};

const QUEUE: usize = 0;
const QUEUE_SIZES: [u16; 1] = [MAX_SIZE];
/// Bytes that one access of the storage moves.
const TRANSFER: usize = 32 << 10;

/// An access of the storage.
pub struct BlockJob {
    storage: Arc<dyn Storage>,
    action: Action,
    buffer: Vec<u8>,
    outcome: Result<(), StorageError>,
}

impl BlockJob {
    fn length(&self) -> usize {
        match self.action {
            Action::Read(_, length) | Action::Write(_, length) => length,
            _ => 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length()).unwrap_or_default()
    }
}

impl Job for BlockJob {
    fn perform(&mut self) {
        let length = self.length();
        let bytes = self.buffer.get_mut(..length).unwrap_or_default();
        self.outcome = match self.action {
            Action::Read(sector, _) => self.storage.read(sector, bytes),
            Action::Write(sector, _) => self.storage.write(sector, bytes),
            Action::Discard(_, 0) | Action::Complete => Ok(()),
            Action::Discard(sector, count) => self.storage.discard(sector, count),
            Action::WriteZeroes(sector, count) => self.storage.write_zeroes(sector, count),
            Action::Flush => self.storage.flush(),
        };
    }

    fn bytes(&self) -> usize {
        match self.action {
            Action::Discard(_, count) | Action::WriteZeroes(_, count) => {
                usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(SECTOR)
            }
            _ => self.length(),
        }
    }
}

/// A disk.
pub struct Block {
    storage: Arc<dyn Storage>,
    identity: [u8; IDENTITY],
    /// `writeback` of the configuration space.
    writeback: bool,
    chain: Chain,
    /// What `chain` asks for, while it is being done.
    request: Option<Request>,
    /// Empty until first needed, and while a job has it.
    buffer: Vec<u8>,
}

impl Block {
    /// A disk after power-on that keeps its data in `storage`. Guests read
    /// `identity` as its serial number, the first 20 bytes of it.
    pub fn new(storage: Arc<dyn Storage>, identity: &str) -> Self {
        let mut bytes = [0; IDENTITY];
        copy_config(identity.as_bytes(), 0, &mut bytes);
        Block {
            storage,
            identity: bytes,
            writeback: true,
            chain: Chain::new(),
            request: None,
            buffer: Vec::new(),
        }
    }

    /// Whether each write has to last at its end (virtio 5.2.6.2).
    fn writes_through(&self, features: Features) -> bool {
        if features.contains(blk::F::CONFIG_WCE.into()) {
            !self.writeback
        } else {
            !features.contains(blk::F::FLUSH.into())
        }
    }
}

impl VirtioDevice for Block {
    type Job = BlockJob;

    fn id(&self) -> Id {
        Id::Block
    }

    fn features(&self) -> Features {
        let always = blk::F::SEG_MAX
            | blk::F::BLK_SIZE
            | blk::F::TOPOLOGY
            | blk::F::FLUSH
            | blk::F::CONFIG_WCE;
        let read_only = self.storage.is_read_only();
        Features::from(always)
            .union(Features::from(blk::F::RO).when(read_only))
            .union(Features::from(blk::F::WRITE_ZEROES).when(!read_only))
            .union(
                Features::from(blk::F::DISCARD)
                    .when(!read_only && self.storage.discard_block_size().is_some()),
            )
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: usize, bytes: &mut [u8]) {
        let mut config = config::of(&*self.storage);
        if let Some(writeback) = config.get_mut(config::WRITEBACK) {
            *writeback = self.writeback.into();
        }
        copy_config(&config, offset, bytes);
    }

    fn write_config(&mut self, offset: usize, bytes: &[u8], features: Features) {
        if let (config::WRITEBACK, [value @ (0 | 1)]) = (offset, bytes)
            && features.contains(blk::F::CONFIG_WCE.into())
        {
            self.writeback = *value == 1;
        }
    }

    fn step(&mut self, _: usize, io: &mut Io<'_>) -> Result<Step<BlockJob>, Broken> {
        let features = io.features();
        let Some((queue, memory)) = io.queue(QUEUE) else { return Ok(Step::Idle) };
        let disk = Disk {
            capacity: self.storage.capacity_sectors(),
            read_only: self.storage.is_read_only(),
            discards: features.contains(blk::F::DISCARD.into()),
            write_through: self.writes_through(features),
            identity: &self.identity,
        };
        if self.request.is_none() {
            if !queue.pop(memory, &mut self.chain)? {
                return Ok(Step::Starved(0));
            }
            self.request = Some(Request::parse(&self.chain, memory, &disk)?);
        }
        let Some(request) = &mut self.request else { return Ok(Step::Idle) };
        let action = request.next(&self.chain, memory, &disk, TRANSFER)?;
        if action == Action::Complete {
            let written = request.complete(&self.chain, memory)?;
            self.request = None;
            queue.push(memory, &self.chain, written)?;
            return Ok(Step::Done(0));
        }
        if let Action::Read(_, length) | Action::Write(_, length) = action {
            self.buffer.resize(TRANSFER.max(length), 0);
        }
        if let Action::Write(_, length) = action {
            let bytes = self.buffer.get_mut(..length).unwrap_or_default();
            request.fetch(&self.chain, memory, bytes)?;
        }
        let buffer = core::mem::take(&mut self.buffer);
        let storage = self.storage.clone();
        Ok(Step::Job(BlockJob { storage, action, buffer, outcome: Ok(()) }))
    }

    fn finish(&mut self, job: BlockJob, io: &mut Io<'_>) -> Result<(), Broken> {
        let result = match (&mut self.request, io.queue(QUEUE)) {
            (Some(request), Some((_, memory))) => {
                request.done(job.action, job.outcome, &self.chain, memory, job.bytes())
            }
            _ => Ok(()),
        };
        self.abandon(job);
        result
    }

    fn abandon(&mut self, job: BlockJob) {
        self.buffer = job.buffer;
    }

    fn reset_queue(&mut self, _: usize) {
        self.request = None;
    }

    fn reset(&mut self) {
        self.request = None;
        self.writeback = true;
    }
}
