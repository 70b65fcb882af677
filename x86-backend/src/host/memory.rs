//! Physical memory: what the boot loader gave, and pieces of it for guests.

use alloc::vec;

use bunshin::address::HostAddress;
use bunshin::frames::Frames;
use spin::mutex::TicketMutex;
use x86_backend::boot_info::{BootInfo, Range, free_ranges};

use super::allocator;

/// Memory that can be given to guests is a multiple of this.
const CHUNK: u64 = 2 << 20;
/// Memory below is left alone: firmware data, and the start-up code of the
/// other processors.
const LOW_MEMORY: u64 = 1 << 20;
/// The heap gets this share of memory ...
const HEAP_SHARE: u64 = 16;
/// ... within these limits.
const HEAP_LIMITS: (u64, u64) = (8 << 20, 256 << 20);

/// Free memory.
static FRAMES: TicketMutex<Frames> = TicketMutex::new(Frames::new());

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
    let mut frames = FRAMES.lock();
    for Range { start, size } in free {
        let start = HostAddress(start);
        // The books stay for good.
        frames.add(start, size, vec![0; Frames::books(start, size)].leak());
    }
    true
}

/// Allocates `bytes`, rounded up to a power of two and aligned to that. The memory is mapped at its
/// physical address.
pub(crate) fn allocate(bytes: u64) -> Option<u64> {
    FRAMES.lock().allocate(bytes).map(|address| address.0)
}

/// Allocates the block of `bytes` at `start`; false unless all of it is free.
pub(crate) fn allocate_at(start: u64, bytes: u64) -> bool {
    FRAMES.lock().allocate_at(HostAddress(start), bytes)
}

/// Gives back what was allocated, or a part of it.
pub(crate) fn free(start: u64, bytes: u64) {
    FRAMES.lock().free(HostAddress(start), bytes);
}

/// Memory for guests that is left, in bytes.
pub(crate) fn available() -> u64 {
    FRAMES.lock().available()
}

/// The bytes of a module, which stay as the boot loader left them.
pub(crate) fn module(range: Range) -> &'static [u8] {
    // SAFETY: modules are mapped at their physical address and in nobody's free list; nobody writes
    // to them.
    unsafe { core::slice::from_raw_parts(range.start as *const u8, range.size as usize) }
}
