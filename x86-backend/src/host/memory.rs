//! Physical memory: what the boot loader gave, and large pieces of it for
//! guests.

use alloc::vec::Vec;

use spin::mutex::TicketMutex;
use x86_backend::boot_info::{BootInfo, Range, free_ranges};

use super::allocator;

/// Unit in which memory is given to guests: the page size of the second
/// translation stage that every processor has.
pub(crate) const CHUNK: u64 = 2 << 20;
/// Page size that is used where guest memory is large enough for it.
const HUGE: u64 = 1 << 30;
/// Memory below is left alone: firmware data, and the start-up code of the
/// other processors.
const LOW_MEMORY: u64 = 1 << 20;
/// The heap gets this share of memory ...
const HEAP_SHARE: u64 = 16;
/// ... within these limits.
const HEAP_LIMITS: (u64, u64) = (8 << 20, 256 << 20);

/// Free memory in multiples of [`CHUNK`].
static POOL: TicketMutex<Vec<Range>> = TicketMutex::new(Vec::new());

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
}

/// Where the image lies.
pub(super) fn image() -> Range {
    let start = (&raw const image_start) as u64;
    let end = (&raw const image_end) as u64;
    Range { start, size: end - start }
}

/// Splits free memory into heap and guest memory. False when there is too
/// little for a heap.
///
/// # Safety
/// To be called once, with what the boot loader said, while the free memory
/// below 4 GiB is mapped at its physical address and unused.
pub(super) unsafe fn init(info: &BootInfo) -> bool {
    let mut taken = info.modules.clone();
    taken.extend_from_slice(&info.tables);
    taken.push(image());
    taken.push(Range { start: 0, size: LOW_MEMORY });
    let mut free = free_ranges(&info.memory, &taken, CHUNK);
    let total: u64 = free.iter().map(|range| range.size).sum();
    let wanted = (total / HEAP_SHARE).clamp(HEAP_LIMITS.0, HEAP_LIMITS.1) & !(CHUNK - 1);
    // Memory above 4 GiB is not mapped yet.
    let Some(home) =
        free.iter_mut().rev().find(|range| range.end() <= 1 << 32 && range.size >= wanted)
    else {
        return false;
    };
    home.size -= wanted;
    let heap = Range { start: home.end(), size: wanted };
    // SAFETY: the range was free and is in nobody's list from here on.
    unsafe { allocator::grow(heap) }
    free.retain(|range| range.size != 0);
    let left: u64 = free.iter().map(|range| range.size).sum();
    log::info!("memory: {} MiB for guests, {} MiB heap", left >> 20, wanted >> 20);
    *POOL.lock() = free;
    true
}

/// Takes memory for a guest, in as few pieces as possible. `None`, and
/// nothing taken, when there is not so much.
///
/// The memory is mapped at its physical address and never given back.
pub(crate) fn take(size: u64) -> Option<Vec<Range>> {
    let mut pool = POOL.lock();
    let total: u64 = pool.iter().map(|range| range.size).sum();
    if total < size || !size.is_multiple_of(CHUNK) {
        return None;
    }
    let mut pieces = Vec::new();
    let mut missing = size;
    while missing != 0 {
        // The smallest range that holds all of it, or else the largest.
        let place = pool
            .iter()
            .enumerate()
            .filter(|(_, range)| range.size >= missing)
            .min_by_key(|(_, range)| range.size)
            .or_else(|| pool.iter().enumerate().max_by_key(|(_, range)| range.size))
            .map(|(place, _)| place)?;
        let range = pool.get_mut(place)?;
        let size = range.size.min(missing);
        // A large guest starts on a boundary of huge pages where there is room for that.
        let aligned = range.start.next_multiple_of(HUGE);
        let start =
            if size >= HUGE && aligned + size <= range.end() { aligned } else { range.start };
        let behind = Range { start: start + size, size: range.end() - (start + size) };
        range.size = start - range.start;
        if behind.size != 0 {
            pool.push(behind);
        }
        pool.retain(|range| range.size != 0);
        pieces.push(Range { start, size });
        missing -= size;
    }
    Some(pieces)
}

/// Memory for guests that is left, in bytes.
pub(crate) fn free() -> u64 {
    POOL.lock().iter().map(|range| range.size).sum()
}

/// The bytes of a module, which stay as the boot loader left them.
pub(crate) fn module(range: Range) -> &'static [u8] {
    // SAFETY: modules are mapped at their physical address and in nobody's free list; nobody writes
    // to them.
    unsafe { core::slice::from_raw_parts(range.start as *const u8, range.size as usize) }
}
