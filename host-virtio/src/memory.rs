//! Memory that a device reads and writes.

use core::marker::PhantomData;
use core::ptr::NonNull;

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Pages that driver and device share. They stay where they are, so that a
/// device that is late writes to nobody else's memory.
pub(crate) struct Shared<H: Hal> {
    physical: PhysAddr,
    base: NonNull<u8>,
    pages: usize,
    hal: PhantomData<H>,
}

// SAFETY: the memory belongs to this value alone, whatever thread has it.
unsafe impl<H: Hal> Send for Shared<H> {}

impl<H: Hal> Shared<H> {
    /// Takes at least `bytes`, filled with zeros. `None` when there is no memory.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        let pages = bytes.div_ceil(PAGE_SIZE);
        let (physical, base) = H::dma_alloc(pages, BufferDirection::Both);
        (physical != 0).then_some(Shared { physical, base, pages, hal: PhantomData })
    }

    /// The bytes from `offset` on.
    ///
    /// # Safety
    /// No other slice of these bytes is in use, and the device does not write
    /// to them while this one is, or the slice is only given to the device.
    pub(crate) unsafe fn slice<'a>(&self, offset: usize, length: usize) -> Option<&'a mut [u8]> {
        let end = offset.checked_add(length)?;
        if end > self.pages.checked_mul(PAGE_SIZE)? {
            return None;
        }
        // SAFETY: the range is inside of the pages, which live until this value is dropped; the
        // caller answers for the rest.
        Some(unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr().add(offset), length) })
    }
}

impl<H: Hal> Drop for Shared<H> {
    fn drop(&mut self) {
        // SAFETY: the pages came from `dma_alloc` with these values.
        let _ = unsafe { H::dma_dealloc(self.physical, self.base, self.pages) };
    }
}
