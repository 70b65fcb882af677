//! Free memory of the host, in frames of 4 KiB.
//!
//! A buddy allocator over bitmaps: how much room its books take depends only on how much memory
//! there is, never on how guests have fragmented it.

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use crate::address::HostAddress;

/// Bytes of a frame.
pub const FRAME: u64 = 4096;
/// Blocks have 2^0 to 2^32 frames: 4 KiB to 16 TiB.
const ORDERS: u32 = 33;
/// Bits of a word.
const BITS: u64 = 64;

/// Bits of one order, with a summary that has a bit for each word that is not zero.
#[derive(Debug, Clone, Copy)]
struct Level {
    /// Index of the first word.
    words: usize,
    /// Index of the first word of the summary.
    summary: usize,
    /// Words of the summary.
    summary_words: usize,
    /// Number of the block that the first bit stands for.
    first: u64,
    /// Number of bits.
    bits: u64,
}

/// Words for `bits` bits.
fn words_of(bits: u64) -> usize {
    usize::try_from(bits.div_ceil(BITS)).unwrap_or(usize::MAX)
}

/// A run of memory.
struct Zone {
    /// First frame, as a number of frames from address 0.
    first: u64,
    /// Frames from `first` on.
    frames: u64,
    levels: [Level; ORDERS as usize],
    books: &'static mut [u64],
}

impl Zone {
    /// Where the books of each order lie, and how many words all of them have.
    fn plan(first: u64, end: u64) -> ([Level; ORDERS as usize], usize) {
        let mut at = 0usize;
        let levels = core::array::from_fn(|order| {
            let first = first >> order;
            let bits = end.div_ceil(1 << order).saturating_sub(first);
            let (words, summary_words) = (words_of(bits), words_of(words_of(bits) as u64));
            let summary = at.saturating_add(words);
            let level = Level { words: at, summary, summary_words, first, bits };
            at = level.summary.saturating_add(summary_words);
            level
        });
        (levels, at)
    }

    fn word(&self, index: usize) -> u64 {
        self.books.get(index).copied().unwrap_or(0)
    }

    /// Whether the block that holds `frame` is free as a block of `order`.
    fn is_set(&self, order: u32, frame: u64) -> bool {
        let Some((level, bit)) = self.place(order, frame) else { return false };
        let word = self.word(level.words.saturating_add((bit / BITS) as usize));
        word >> (bit % BITS) & 1 != 0
    }

    fn place(&self, order: u32, frame: u64) -> Option<(Level, u64)> {
        let level = *self.levels.get(order as usize)?;
        let bit = (frame >> order).checked_sub(level.first)?;
        (bit < level.bits).then_some((level, bit))
    }

    fn set(&mut self, order: u32, frame: u64, free: bool) {
        let Some((level, bit)) = self.place(order, frame) else { return };
        let index = bit / BITS;
        let Some(word) = self.books.get_mut(level.words.saturating_add(index as usize)) else {
            return;
        };
        let mask = 1 << (bit % BITS);
        *word = if free { *word | mask } else { *word & !mask };
        let any = *word != 0;
        let summary = level.summary.saturating_add((index / BITS) as usize);
        let Some(word) = self.books.get_mut(summary) else { return };
        let mask = 1 << (index % BITS);
        *word = if any { *word | mask } else { *word & !mask };
    }

    /// The first free block of exactly this order.
    fn first_of(&self, order: u32) -> Option<u64> {
        let level = self.levels.get(order as usize)?;
        let end = level.summary.checked_add(level.summary_words)?;
        let summary = self.books.get(level.summary..end)?;
        let (at, bits) = (0u64..).zip(summary).find(|(_, bits)| **bits != 0)?;
        let index = at.checked_mul(BITS)?.checked_add(bits.trailing_zeros().into())?;
        let word = self.word(level.words.checked_add(index as usize)?);
        let bit = index.checked_mul(BITS)?.checked_add(word.trailing_zeros().into())?;
        (word != 0).then(|| level.first.saturating_add(bit) << order)
    }

    /// Takes the block of `order` at `frame` out of the free block of `from` that holds it.
    fn carve(&mut self, frame: u64, order: u32, from: u32) {
        self.set(from, frame, false);
        for half in (order..from).rev() {
            self.set(half, buddy(frame, half), true);
        }
    }

    fn allocate(&mut self, order: u32) -> Option<u64> {
        let (from, frame) =
            (order..ORDERS).find_map(|from| self.first_of(from).map(|frame| (from, frame)))?;
        self.carve(frame, order, from);
        Some(frame)
    }

    fn allocate_at(&mut self, frame: u64, order: u32) -> bool {
        match (order..ORDERS).find(|from| self.is_set(*from, frame)) {
            Some(from) => {
                self.carve(frame, order, from);
                true
            }
            None => false,
        }
    }

    fn free(&mut self, mut frame: u64, mut order: u32) {
        while order.saturating_add(1) < ORDERS && self.is_set(order, buddy(frame, order)) {
            let buddy = buddy(frame, order);
            self.set(order, buddy, false);
            frame = frame.min(buddy);
            order = order.saturating_add(1);
        }
        self.set(order, frame, true);
    }

    fn contains(&self, frame: u64) -> bool {
        frame.checked_sub(self.first).is_some_and(|offset| offset < self.frames)
    }
}

/// Free memory of the host.
pub struct Frames {
    zones: Vec<Zone>,
    /// Free frames.
    free: u64,
}

/// The order of a block of `bytes`, rounded up; `None` beyond the largest.
fn order_of(bytes: u64) -> Option<u32> {
    let order = bytes.div_ceil(FRAME).checked_next_power_of_two()?.trailing_zeros();
    (order < ORDERS).then_some(order)
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

impl Frames {
    /// No memory yet.
    pub const fn new() -> Self {
        Frames { zones: Vec::new(), free: 0 }
    }

    /// Words that the books of `bytes` from `start` need.
    pub fn books(start: HostAddress, bytes: u64) -> usize {
        let (first, end) = whole_frames(start, bytes);
        Zone::plan(first, end).1
    }

    /// Adds the whole frames in `bytes` from `start`, with `books` of
    /// [`Self::books`] words for them. Nothing is added when there are fewer.
    pub fn add(&mut self, start: HostAddress, bytes: u64, books: &'static mut [u64]) {
        let (first, end) = whole_frames(start, bytes);
        let (levels, words) = Zone::plan(first, end);
        let frames = end.saturating_sub(first);
        if books.len() < words || frames == 0 {
            return;
        }
        books.fill(0);
        let mut zone = Zone { first, frames, levels, books };
        let mut frame = first;
        while frame < end {
            let fits = end.saturating_sub(frame).checked_ilog2().unwrap_or(0);
            let order = frame.trailing_zeros().min(fits).min(ORDERS.saturating_sub(1));
            zone.set(order, frame, true);
            frame = frame.saturating_add(1 << order);
        }
        self.free = self.free.saturating_add(frames);
        self.zones.push(zone);
    }

    /// Allocates `bytes`, 16 TiB at most, rounded up to a power of two and aligned to that.
    pub fn allocate(&mut self, bytes: u64) -> Option<HostAddress> {
        let order = order_of(bytes)?;
        let frame = self.zones.iter_mut().find_map(|zone| zone.allocate(order))?;
        self.free = self.free.saturating_sub(1 << order);
        Some(HostAddress(frame.saturating_mul(FRAME)))
    }

    /// Allocates the block of `bytes` at `start`, which is aligned to them; false unless
    /// all of it is free.
    pub fn allocate_at(&mut self, start: HostAddress, bytes: u64) -> bool {
        let Some(order) = order_of(bytes) else { return false };
        let frame = start.0 / FRAME;
        let aligned = start.0.is_multiple_of(FRAME << order);
        let zone = self.zones.iter_mut().find(|zone| zone.contains(frame));
        let done = aligned && zone.is_some_and(|zone| zone.allocate_at(frame, order));
        if done {
            self.free = self.free.saturating_sub(1 << order);
        }
        done
    }

    /// Gives back `bytes` at `start` that were allocated, as one block or as a whole part
    /// of one.
    pub fn free(&mut self, start: HostAddress, bytes: u64) {
        let Some(order) = order_of(bytes) else { return };
        let frame = start.0 / FRAME;
        if let Some(zone) = self.zones.iter_mut().find(|zone| zone.contains(frame)) {
            zone.free(frame, order);
            self.free = self.free.saturating_add(1 << order);
        }
    }

    /// Free bytes.
    pub fn available(&self) -> u64 {
        self.free.saturating_mul(FRAME)
    }
}

/// First whole frame of a range, and the one behind its last.
fn whole_frames(start: HostAddress, bytes: u64) -> (u64, u64) {
    let first = start.0.div_ceil(FRAME);
    (first, (start.0.saturating_add(bytes) / FRAME).max(first))
}

/// The other half of the block of twice the size.
const fn buddy(frame: u64, order: u32) -> u64 {
    frame >> order << order ^ 1 << order
}
