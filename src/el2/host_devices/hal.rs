//! Memory for host devices: EL2 sees all memory where devices see it.

use core::ptr::NonNull;

use host_virtio::{BufferDirection, Hal, PhysAddr};

use crate::el2::frames::{self, FRAME};
use crate::el2::memory::zero;

/// What the drivers need of this machine.
pub(crate) struct El2Hal;

// SAFETY: frames are given to one caller at a time, aligned, zeroed and mapped one to one, and
// devices on this machine see the same addresses, through the caches.
unsafe impl Hal for El2Hal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let bytes = (pages as u64).saturating_mul(FRAME);
        let base = frames::allocate(bytes);
        match base.and_then(|base| Some((base, NonNull::new(base as *mut u8)?))) {
            Some((base, pointer)) => {
                zero(base, bytes.next_multiple_of(FRAME));
                (base, pointer)
            }
            // No memory, as the crate understands it.
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(physical: PhysAddr, _: NonNull<u8>, pages: usize) -> i32 {
        frames::free(physical, (pages as u64).saturating_mul(FRAME));
        0
    }

    unsafe fn mmio_phys_to_virt(physical: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(physical as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().addr().get() as u64
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
