//! A disk image that is copied when it is written to.
//!
//! The image itself is in the bundle and never changes; blocks of zeroes are
//! not even there. What a guest writes goes to pages of host memory, taken
//! when they are first needed and never more than the disk is long. They stay
//! when the virtual machine is reset, as on a real disk.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use log::warn;
use spin::mutex::TicketMutex;

use crate::virtio::block::{SECTOR, Storage, StorageError};

/// Length of a page of a disk in bytes.
pub const PAGE: usize = 64 << 10;

const PAGE_BYTES: u64 = PAGE as u64;
const SECTOR_BYTES: u64 = SECTOR as u64;

/// A page of host memory: [`PAGE`] bytes, given back when dropped.
pub trait Page: Send {
    /// Its bytes.
    fn bytes(&self) -> &[u8];

    /// Its bytes, to change them.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// Where pages come from.
pub trait PageSource: Send + Sync {
    /// A page with any content; `None` when the host has no memory left.
    fn take(&self) -> Option<Box<dyn Page>>;
}

/// Bytes of the image that are not zero.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Offset on the disk in bytes.
    pub start: u64,
    /// The bytes.
    pub data: &'static [u8],
}

impl Extent {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.data.len() as u64)
    }
}

/// A disk whose first content is an image.
pub struct ImageDisk {
    sectors: u64,
    /// Ascending, and none over another.
    extents: Vec<Extent>,
    read_only: bool,
    pages: TicketMutex<BTreeMap<u64, Box<dyn Page>>>,
    source: Arc<dyn PageSource>,
    warned: AtomicBool,
}

impl ImageDisk {
    /// A disk of `size` bytes, a multiple of [`SECTOR`]. It reads as `extents`,
    /// which ascend and do not overlap, and as zeroes elsewhere, until it is
    /// written to.
    pub fn new(
        size: u64,
        extents: Vec<Extent>,
        read_only: bool,
        source: Arc<dyn PageSource>,
    ) -> Self {
        let sectors = size.checked_div(SECTOR_BYTES).unwrap_or(0);
        let pages = TicketMutex::new(BTreeMap::new());
        ImageDisk { sectors, extents, read_only, pages, source, warned: AtomicBool::new(false) }
    }

    /// Bytes of host memory that it has taken.
    pub fn memory(&self) -> u64 {
        (self.pages.lock().len() as u64).saturating_mul(PAGE_BYTES)
    }

    /// Extents with bytes in `start..end`.
    fn within(&self, start: u64, end: u64) -> impl Iterator<Item = &Extent> {
        let first = self.extents.partition_point(|extent| extent.end() <= start);
        let rest = self.extents.get(first..).unwrap_or_default();
        rest.iter().take_while(move |extent| extent.start < end)
    }

    /// Reads the image as it was at first.
    fn read_image(&self, start: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let end = start.saturating_add(bytes.len() as u64);
        for extent in self.within(start, end) {
            // One of the two is zero.
            let before = extent.start.saturating_sub(start);
            let inside = start.saturating_sub(extent.start);
            let target = usize::try_from(before).ok().and_then(|at| bytes.get_mut(at..));
            let source = usize::try_from(inside).ok().and_then(|at| extent.data.get(at..));
            let (target, source) = (target.unwrap_or_default(), source.unwrap_or_default());
            for (to, from) in target.iter_mut().zip(source) {
                *to = *from;
            }
        }
    }

    /// A page with the image's bytes at page `number`.
    fn copy_page(&self, number: u64) -> Result<Box<dyn Page>, StorageError> {
        let Some(mut page) = self.source.take() else {
            if !self.warned.swap(true, Ordering::Relaxed) {
                warn!("no host memory left for what a guest writes to its disk image");
            }
            return Err(StorageError::Failed);
        };
        self.read_image(number.saturating_mul(PAGE_BYTES), page.bytes_mut());
        Ok(page)
    }

    fn check_writable(&self) -> Result<(), StorageError> {
        if self.read_only { Err(StorageError::Unsupported) } else { Ok(()) }
    }
}

/// One page's share of a range of the disk.
struct Share {
    /// Number of the page.
    page: u64,
    /// First byte in the page.
    inside: usize,
    /// First byte in the range.
    offset: usize,
    length: usize,
}

/// The shares of `length` bytes from byte `start` of the disk.
fn shares(start: u64, length: usize) -> impl Iterator<Item = Share> {
    let mut offset = 0usize;
    core::iter::from_fn(move || {
        let left = length.checked_sub(offset).filter(|left| *left > 0)?;
        let at = start.checked_add(offset as u64)?;
        let inside = usize::try_from(at.checked_rem(PAGE_BYTES)?).ok()?;
        let share = Share {
            page: at.checked_div(PAGE_BYTES)?,
            inside,
            offset,
            length: left.min(PAGE.checked_sub(inside)?),
        };
        offset = offset.checked_add(share.length)?;
        Some(share)
    })
}

impl Share {
    fn in_page(&self) -> core::ops::Range<usize> {
        self.inside..self.inside.saturating_add(self.length)
    }

    fn in_range(&self) -> core::ops::Range<usize> {
        self.offset..self.offset.saturating_add(self.length)
    }
}

impl Storage for ImageDisk {
    fn capacity_sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        let start = sector.saturating_mul(SECTOR_BYTES);
        let pages = self.pages.lock();
        for share in shares(start, bytes.len()) {
            let target = bytes.get_mut(share.in_range()).unwrap_or_default();
            match pages.get(&share.page).and_then(|page| page.bytes().get(share.in_page())) {
                Some(source) if source.len() == target.len() => target.copy_from_slice(source),
                _ => self.read_image(start.saturating_add(share.offset as u64), target),
            }
        }
        Ok(())
    }

    fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.check_writable()?;
        let start = sector.saturating_mul(SECTOR_BYTES);
        let mut pages = self.pages.lock();
        for share in shares(start, bytes.len()) {
            let page = match pages.entry(share.page) {
                alloc::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                alloc::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(self.copy_page(share.page)?)
                }
            };
            let target = page.bytes_mut().get_mut(share.in_page()).unwrap_or_default();
            let source = bytes.get(share.in_range()).unwrap_or_default();
            if target.len() != source.len() {
                return Err(StorageError::Failed);
            }
            target.copy_from_slice(source);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }

    /// Gives back memory where the image had nothing but zeroes.
    fn discard(&self, sector: u64, count: u64) -> Result<(), StorageError> {
        self.check_writable()?;
        let start = sector.saturating_mul(SECTOR_BYTES);
        let end = start.saturating_add(count.saturating_mul(SECTOR_BYTES));
        let first = start.div_ceil(PAGE_BYTES);
        let last = end.checked_div(PAGE_BYTES).unwrap_or(0);
        let mut pages = self.pages.lock();
        let gone: Vec<u64> = pages
            .range(first..last.max(first))
            .map(|(page, _)| *page)
            .filter(|page| {
                let at = page.saturating_mul(PAGE_BYTES);
                self.within(at, at.saturating_add(PAGE_BYTES)).next().is_none()
            })
            .collect();
        gone.iter().for_each(|page| drop(pages.remove(page)));
        Ok(())
    }

    fn write_zeroes(&self, sector: u64, count: u64) -> Result<(), StorageError> {
        self.check_writable()?;
        // What is given back reads as zeroes; only the rest has to be written.
        self.discard(sector, count)?;
        let start = sector.saturating_mul(SECTOR_BYTES);
        let length = usize::try_from(count.saturating_mul(SECTOR_BYTES));
        let length = length.map_err(|_| StorageError::Unsupported)?;
        let mut pages = self.pages.lock();
        for share in shares(start, length) {
            let at = share.page.saturating_mul(PAGE_BYTES);
            let has_image = self.within(at, at.saturating_add(PAGE_BYTES)).next().is_some();
            if has_image && !pages.contains_key(&share.page) {
                pages.insert(share.page, self.copy_page(share.page)?);
            }
            if let Some(page) = pages.get_mut(&share.page) {
                page.bytes_mut().get_mut(share.in_page()).unwrap_or_default().fill(0);
            }
        }
        Ok(())
    }

    fn discard_block_size(&self) -> Option<u32> {
        Some(PAGE as u32)
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn physical_block_size(&self) -> u32 {
        4096
    }
}
