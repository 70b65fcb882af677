//! The heap of the hypervisor: bookkeeping, page tables, control blocks.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

use buddy_system_allocator::Heap;
use spin::mutex::TicketMutex;
use x86_backend::boot_info::Range;

/// Orders of the buddy system: blocks of up to 2 GiB.
const ORDERS: usize = 32;
/// Bytes with which the heap begins, for reading the boot information.
const SEED: usize = 256 * 1024;

/// A lock suffices: interrupt handlers do not allocate, and nothing is
/// preempted.
struct LockedHeap(TicketMutex<Heap<ORDERS>>);

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(TicketMutex::new(Heap::new()));

#[repr(C, align(4096))]
struct Seed([u8; SEED]);

static mut SEED_MEMORY: Seed = Seed([0; SEED]);

// SAFETY: `Heap` gives out disjoint blocks of the memory it was given, of the size and alignment
// of the layout, and the lock keeps its callers apart.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().alloc(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller got `pointer` from `alloc` with this layout.
            unsafe { self.0.lock().dealloc(pointer, layout) }
        }
    }
}

/// Gives the heap its first memory. To be called once.
pub(super) fn init() {
    let start = (&raw mut SEED_MEMORY) as usize;
    // SAFETY: nobody else uses the static, and this is called once.
    unsafe { HEAP.0.lock().add_to_heap(start, start + SEED) }
}

/// Gives the heap more memory.
///
/// # Safety
/// `range` is memory that is mapped at its physical address, is used by
/// nobody and never will be by others.
pub(super) unsafe fn grow(range: Range) {
    // SAFETY: the caller gives the memory away.
    unsafe { HEAP.0.lock().add_to_heap(range.start as usize, range.end() as usize) }
}
