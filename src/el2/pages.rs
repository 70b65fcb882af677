//! Pages of host memory for disk images.

use alloc::boxed::Box;

use bunshin::disk::image::PAGE;
use bunshin::disk::{Page, PageSource};

use crate::el2::frames;
use crate::el2::memory::zero;

/// Takes pages from the frame allocator.
pub(crate) struct FramePages;

/// [`PAGE`] bytes of free memory that this value owns.
struct FramePage {
    base: u64,
}

impl PageSource for FramePages {
    fn take(&self) -> Option<Box<dyn Page>> {
        let base = frames::allocate(PAGE as u64)?;
        // What another guest left there must not be seen, whatever the disk does with the page.
        zero(base, PAGE as u64);
        Some(Box::new(FramePage { base }))
    }
}

impl Page for FramePage {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the frames were allocated for this value alone, are mapped one to one as normal
        // memory, hold initialised bytes, and are freed only when it is dropped.
        unsafe { core::slice::from_raw_parts(self.base as *const u8, PAGE) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and the borrow of `self` is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.base as *mut u8, PAGE) }
    }
}

impl Drop for FramePage {
    fn drop(&mut self) {
        frames::free(self.base, PAGE as u64);
    }
}
