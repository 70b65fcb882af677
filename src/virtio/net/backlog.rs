//! Frames that wait for buffers of their receiver.

use alloc::collections::VecDeque;

/// A queue of frames, bounded by their bytes.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: VecDeque<u8>,
    lengths: VecDeque<u16>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Adds a frame; false when more than `most` bytes would wait then.
    pub(super) fn push(&mut self, frame: &[u8], most: usize) -> bool {
        let Ok(length) = u16::try_from(frame.len()) else { return false };
        if frame.len() > most.saturating_sub(self.bytes.len()) {
            return false;
        }
        self.bytes.extend(frame);
        self.lengths.push_back(length);
        true
    }

    /// Copies the first frame to the start of `space`; its length.
    pub(super) fn peek(&self, space: &mut [u8]) -> Option<usize> {
        let length = usize::from(*self.lengths.front()?);
        for (target, source) in space.iter_mut().zip(self.bytes.iter().take(length)) {
            *target = *source;
        }
        Some(length)
    }

    /// Removes the first frame.
    pub(super) fn pop(&mut self) {
        if let Some(length) = self.lengths.pop_front() {
            self.bytes.drain(..usize::from(length).min(self.bytes.len()));
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.lengths.clear();
    }
}
