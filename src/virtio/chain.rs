//! A request of the driver: buffers that the device reads, then buffers that
//! it writes (virtio 2.6, 2.7.5).

use alloc::vec::Vec;

use crate::address::GuestAddress;
use crate::memory::GuestMemory;
use crate::virtio::device::Broken;

/// A contiguous buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    address: GuestAddress,
    length: u32,
}

/// A chain of descriptors that the device has taken out of a queue.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    segments: Vec<Segment>,
    /// How many of the segments the device reads; it writes the others.
    readable_segments: usize,
    readable: u32,
    writable: u32,
}

impl Chain {
    /// An empty chain to be filled by [`crate::virtio::queue::Queue::pop`].
    pub const fn new() -> Self {
        Chain { head: 0, segments: Vec::new(), readable_segments: 0, readable: 0, writable: 0 }
    }

    pub(super) fn start(&mut self, head: u16) {
        self.head = head;
        self.segments.clear();
        self.readable_segments = 0;
        self.readable = 0;
        self.writable = 0;
    }

    /// Number of the first descriptor, by which the driver knows the chain.
    pub(super) fn head(&self) -> u16 {
        self.head
    }

    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Adds a buffer.
    pub(super) fn push(
        &mut self,
        address: GuestAddress,
        length: u32,
        writable: bool,
    ) -> Result<(), Broken> {
        address.checked_add(u64::from(length)).ok_or(Broken::Length)?;
        self.readable
            .checked_add(self.writable)
            .and_then(|total| total.checked_add(length))
            .filter(|_| length != 0)
            .ok_or(Broken::Length)?;
        if writable {
            self.writable = self.writable.saturating_add(length);
        } else {
            if self.writable != 0 {
                return Err(Broken::Order);
            }
            self.readable = self.readable.saturating_add(length);
            self.readable_segments = self.readable_segments.saturating_add(1);
        }
        self.segments.push(Segment { address, length });
        Ok(())
    }

    /// Bytes that the device may read.
    pub fn readable_bytes(&self) -> u32 {
        self.readable
    }

    /// Bytes that the device may write.
    pub fn writable_bytes(&self) -> u32 {
        self.writable
    }

    /// The start of what the device reads.
    pub fn reader(&self) -> Cursor {
        Cursor { segment: 0, end: self.readable_segments, offset: 0 }
    }

    /// The start of what the device writes.
    pub fn writer(&self) -> Cursor {
        Cursor { segment: self.readable_segments, end: self.segments.len(), offset: 0 }
    }
}

/// A place in the readable or the writable half of a [`Chain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    segment: usize,
    end: usize,
    /// Within the segment.
    offset: u32,
}

impl Cursor {
    /// The rest of the current segment, at most `most` bytes; moves behind it.
    fn advance(&mut self, chain: &Chain, most: usize) -> Option<(GuestAddress, usize)> {
        let segment = chain.segments.get(self.segment).filter(|_| self.segment < self.end)?;
        let rest = segment.length.saturating_sub(self.offset);
        let part = u32::try_from(most).unwrap_or(u32::MAX).min(rest);
        let address = segment.address.checked_add(u64::from(self.offset))?;
        if part == rest {
            self.segment = self.segment.saturating_add(1);
            self.offset = 0;
        } else {
            self.offset = self.offset.saturating_add(part);
        }
        Some((address, part as usize))
    }

    /// Copies out of guest memory and moves on; returns how many bytes there
    /// were, less than `bytes` only at the end.
    ///
    /// # Errors
    /// [`Broken::Memory`] when a buffer is not memory.
    pub fn read(
        &mut self,
        chain: &Chain,
        memory: &dyn GuestMemory,
        bytes: &mut [u8],
    ) -> Result<usize, Broken> {
        let total = bytes.len();
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some((address, part)) = self.advance(chain, rest.len()) else { break };
            let (now, later) = rest.split_at_mut_checked(part).unwrap_or_default();
            memory.read(address, now)?;
            rest = later;
        }
        Ok(total.saturating_sub(rest.len()))
    }

    /// Copies into guest memory and moves on; returns how many bytes there was
    /// space for.
    ///
    /// # Errors
    /// [`Broken::Memory`] when a buffer is not memory.
    pub fn write(
        &mut self,
        chain: &Chain,
        memory: &dyn GuestMemory,
        bytes: &[u8],
    ) -> Result<usize, Broken> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some((address, part)) = self.advance(chain, rest.len()) else { break };
            let (now, later) = rest.split_at_checked(part).unwrap_or_default();
            memory.write(address, now)?;
            rest = later;
        }
        Ok(bytes.len().saturating_sub(rest.len()))
    }

    /// Moves on by `bytes`, or to the end.
    pub fn skip(&mut self, chain: &Chain, bytes: u32) {
        let mut rest = bytes as usize;
        while rest != 0 {
            let Some((_, part)) = self.advance(chain, rest) else { break };
            rest = rest.saturating_sub(part);
        }
    }
}
