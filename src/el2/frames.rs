//! Host memory in 4 KiB frames: guests' memory, page tables and stacks.

use alloc::vec::Vec;
use core::ops::Range;

use buddy_system_allocator::FrameAllocator;
use spin::mutex::TicketMutex;

/// Size of a frame in bytes.
pub(crate) const FRAME: u64 = 4096;

/// Free memory and how much of it there is.
struct Frames {
    // Blocks of up to 2^32 frames.
    allocator: FrameAllocator<33>,
    free: u64,
}

static FRAMES: TicketMutex<Option<Frames>> = TicketMutex::new(None);

/// Adds `base..base + size`, cut to whole frames. The range must be memory
/// that nothing uses and that the EL2 map covers.
pub(crate) fn add(base: u64, size: u64) {
    // Frame 0 stays out: address 0 is nobody's memory here.
    let start = base.div_ceil(FRAME).max(1);
    let end = base.saturating_add(size) / FRAME;
    if start < end {
        let mut frames = FRAMES.lock();
        let frames =
            frames.get_or_insert_with(|| Frames { allocator: FrameAllocator::new(), free: 0 });
        frames.allocator.add_frame(start as usize, end as usize);
        frames.free += end - start;
    }
}

/// Allocates `bytes` (rounded up to a power of two), aligned to their size.
pub(crate) fn allocate(bytes: u64) -> Option<u64> {
    let count = bytes.div_ceil(FRAME).next_power_of_two();
    let mut frames = FRAMES.lock();
    let frames = frames.as_mut()?;
    let frame = frames.allocator.alloc(count as usize)?;
    frames.free -= count;
    Some(frame as u64 * FRAME)
}

/// Allocates `bytes`, a whole number of frames, in one range inside of `within`. What its power of two has more is given
/// back at once.
pub(crate) fn allocate_within(bytes: u64, within: Range<u64>) -> Option<u64> {
    let whole = bytes.checked_next_power_of_two()?;
    let mut outside = Vec::new();
    let found = loop {
        let Some(base) = allocate(whole) else { break None };
        if base >= within.start && base.saturating_add(bytes) <= within.end {
            break Some(base);
        }
        outside.push(base);
    };
    for base in outside {
        free(base, whole);
    }
    let base = found?;
    let mut rest = bytes;
    while rest < whole {
        // The lowest bit of the offset: a block that is aligned to its size.
        let piece = 1 << rest.trailing_zeros();
        free(base + rest, piece);
        rest += piece;
    }
    Some(base)
}

/// Gives back what [`allocate`] gave for `bytes`.
pub(crate) fn free(base: u64, bytes: u64) {
    let count = bytes.div_ceil(FRAME).next_power_of_two();
    if let Some(frames) = FRAMES.lock().as_mut() {
        frames.allocator.dealloc((base / FRAME) as usize, count as usize);
        frames.free += count;
    }
}

/// Free bytes.
pub(crate) fn available() -> u64 {
    FRAMES.lock().as_ref().map_or(0, |frames| frames.free * FRAME)
}
