//! Host memory in 4 KiB frames: guests' memory, page tables and stacks.

use alloc::vec::Vec;
use core::ops::Range;

use bunshin::address::HostAddress;
pub(crate) use bunshin::frames::FRAME;
use bunshin::frames::Frames;
use spin::mutex::TicketMutex;

static FRAMES: TicketMutex<Frames> = TicketMutex::new(Frames::new());

/// Adds `base..base + size`, cut to whole frames. The range must be memory
/// that nothing uses and that the EL2 map covers. Its books lie at its start.
pub(crate) fn add(base: u64, size: u64) {
    // Frame 0 stays out: address 0 is nobody's memory here.
    let start = base.next_multiple_of(FRAME).max(FRAME);
    let Some(size) = base.checked_add(size).and_then(|end| end.checked_sub(start)) else { return };
    let words = Frames::books(HostAddress(start), size);
    let room = (words as u64 * size_of::<u64>() as u64).next_multiple_of(FRAME);
    let Some(rest) = size.checked_sub(room) else { return };
    // SAFETY: the memory is nobody's and mapped, and it stays out of the frames that are given away.
    let books = unsafe { core::slice::from_raw_parts_mut(start as *mut u64, words) };
    FRAMES.lock().add(HostAddress(start + room), rest, books);
}

/// Allocates `bytes` (rounded up to a power of two), aligned to their size.
pub(crate) fn allocate(bytes: u64) -> Option<u64> {
    FRAMES.lock().allocate(bytes).map(|address| address.0)
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

/// Allocates the block of `bytes` at `base`; false unless all of it is free.
pub(crate) fn allocate_at(base: u64, bytes: u64) -> bool {
    FRAMES.lock().allocate_at(HostAddress(base), bytes)
}

/// Gives back what [`allocate`] gave for `bytes`, or a part of it.
pub(crate) fn free(base: u64, bytes: u64) {
    FRAMES.lock().free(HostAddress(base), bytes);
}

/// Free bytes.
pub(crate) fn available() -> u64 {
    FRAMES.lock().available()
}
