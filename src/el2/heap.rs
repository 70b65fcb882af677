//! The hypervisor's own small heap. Guests' memory and page tables come from
//! [`crate::el2::frames`].

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};

use buddy_system_allocator::Heap;
use spin::mutex::TicketMutex;

/// Size of the heap in bytes.
const SIZE: usize = 6 << 20;

/// The heap behind a lock. EL2 never takes interrupts while it runs, so that
/// a lock needs no masking.
struct LockedHeap(TicketMutex<Heap<32>>);

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(TicketMutex::new(Heap::empty()));

#[repr(align(4096))]
struct Memory {
    #[expect(dead_code, reason = "only its address and size matter")]
    bytes: [u8; SIZE],
}

static mut MEMORY: Memory = Memory { bytes: [0; SIZE] };

// SAFETY: the buddy heap hands out disjoint, aligned blocks of MEMORY.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().alloc(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller gives back what `alloc` gave with this layout.
            unsafe { self.0.lock().dealloc(pointer, layout) };
        }
    }
}

/// Makes the heap usable. Called once, before the first allocation.
pub(crate) fn init() {
    let start = (&raw mut MEMORY) as usize;
    // SAFETY: MEMORY is used by nothing else, and this runs once.
    unsafe { HEAP.0.lock().init(start, SIZE) };
}

/// Bytes that are free.
pub(crate) fn free() -> usize {
    let heap = HEAP.0.lock();
    heap.stats_total_bytes().saturating_sub(heap.stats_alloc_actual())
}
