//! Memory and registers of host devices: all memory is mapped where devices see it.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::NonNull;

use host_virtio::{BufferDirection, Hal, PhysAddr};

/// Bytes of a page, as the drivers count them.
const PAGE: usize = 4096;

/// What the drivers need of this machine.
pub(crate) struct PcHal;

fn layout(pages: usize) -> Option<Layout> {
    let size = pages.checked_mul(PAGE).filter(|size| *size != 0)?;
    Layout::from_size_align(size, PAGE).ok()
}

// SAFETY: the heap gives memory to one caller at a time, aligned, zeroed and mapped at its physical
// address, and devices of PCs see memory through the caches.
unsafe impl Hal for PcHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the size is not zero.
        let memory = layout(pages).map(|layout| unsafe { alloc_zeroed(layout) });
        match memory.and_then(NonNull::new) {
            Some(pointer) => (pointer.addr().get() as u64, pointer),
            // No memory, as the crate understands it.
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_: PhysAddr, pointer: NonNull<u8>, pages: usize) -> i32 {
        if let Some(layout) = layout(pages) {
            // SAFETY: the caller gives back what `dma_alloc` gave, with the same size.
            unsafe { dealloc(pointer.as_ptr(), layout) }
        }
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
