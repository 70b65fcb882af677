//! One request to a block device (virtio 5.2.6), done in steps.

use virtio_spec::blk::{S, T};

use crate::memory::GuestMemory;
use crate::virtio::block::config::{MAX_SEGMENT_SECTORS, MAX_SEGMENTS};
use crate::virtio::block::storage::{SECTOR, StorageError};
use crate::virtio::chain::{Chain, Cursor};
use crate::virtio::device::Broken;

/// `type`, `reserved` and `sector`.
const HEADER: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`.
const SEGMENT: usize = 16;
/// `unmap` in the flags of such a segment.
const UNMAP: u32 = 1;
/// Bytes of the answer to `VIRTIO_BLK_T_GET_ID`.
pub(super) const IDENTITY: usize = 20;
/// Most sectors that one job discards or zeroes. Jobs end at multiples of it, so that no block of the
/// medium is cut into two parts of which neither is discarded.
const RANGE_SECTORS: u64 = 2048;

/// What a disk is, as far as requests need to know.
pub(super) struct Disk<'a> {
    pub(super) capacity: u64,
    pub(super) read_only: bool,
    pub(super) discards: bool,
    /// Each write is followed by a flush.
    pub(super) write_through: bool,
    pub(super) identity: &'a [u8; IDENTITY],
}

/// The next thing to do for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Read this many bytes from the sector, for the guest.
    Read(u64, usize),
    /// Write this many bytes of the guest to the sector.
    Write(u64, usize),
    /// Discard sectors: first, number.
    Discard(u64, u64),
    /// Zero sectors: first, number.
    WriteZeroes(u64, u64),
    /// Make it last.
    Flush,
    /// The request is done.
    Complete,
}

/// A request and how far it got.
#[derive(Debug)]
pub(super) struct Request {
    kind: Kind,
    /// Where the next bytes of the guest are.
    place: Cursor,
    sector: u64,
    /// Sectors still to do, of the segment where there are segments.
    left: u64,
    /// Segments still to look at.
    segments: u32,
    flush: bool,
    /// Bytes of data written to the guest.
    written: u32,
    status: S,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Discard,
    WriteZeroes,
    Other,
}

impl Request {
    /// Reads the header of the request in `chain`.
    ///
    /// # Errors
    /// [`Broken::Request`] when header or status byte are missing.
    pub(super) fn parse(
        chain: &Chain,
        memory: &dyn GuestMemory,
        disk: &Disk<'_>,
    ) -> Result<Self, Broken> {
        let mut header = [0; HEADER];
        let mut place = chain.reader();
        if place.read(chain, memory, &mut header)? != HEADER || chain.writable_bytes() == 0 {
            return Err(Broken::Request);
        }
        let header = u128::from_le_bytes(header);
        let mut request = Request {
            kind: Kind::Other,
            place,
            sector: (header >> 64) as u64,
            left: 0,
            segments: 0,
            flush: false,
            written: 0,
            status: S::Ok,
        };
        match T::try_from(header as u32) {
            Ok(T::In) => {
                request.kind = Kind::Read;
                request.place = chain.writer();
                request.transfer(data_bytes(chain), disk);
            }
            Ok(T::Out) if disk.read_only => request.status = S::Ioerr,
            Ok(T::Out) => {
                request.kind = Kind::Write;
                request.flush = disk.write_through;
                let bytes = chain.readable_bytes().saturating_sub(HEADER as u32);
                request.transfer(bytes, disk);
            }
            Ok(T::Flush) => request.flush = true,
            Ok(T::GetId) => {
                let length = IDENTITY.min(data_bytes(chain) as usize);
                let identity = disk.identity.get(..length).unwrap_or_default();
                let written = chain.writer().write(chain, memory, identity)?;
                request.written = u32::try_from(written).unwrap_or(u32::MAX);
            }
            Ok(T::Discard | T::WriteZeroes) if disk.read_only => request.status = S::Ioerr,
            Ok(T::Discard) if disk.discards => request.ranges(Kind::Discard, chain),
            Ok(T::WriteZeroes) => {
                request.flush = disk.write_through;
                request.ranges(Kind::WriteZeroes, chain);
            }
            _ => request.status = S::Unsupp,
        }
        Ok(request)
    }

    /// Starts a transfer of `bytes` bytes.
    fn transfer(&mut self, bytes: u32, disk: &Disk<'_>) {
        let whole = bytes.is_multiple_of(SECTOR as u32);
        let sectors = u64::from(bytes).checked_div(SECTOR as u64).unwrap_or(0);
        if whole && in_range(self.sector, sectors, disk) {
            self.left = sectors;
        } else {
            self.fail(S::Ioerr);
        }
    }

    /// Starts with the segments of a discard or write-zeroes request.
    fn ranges(&mut self, kind: Kind, chain: &Chain) {
        let bytes = chain.readable_bytes().saturating_sub(HEADER as u32);
        self.kind = kind;
        self.segments = bytes.checked_div(SEGMENT as u32).unwrap_or(0);
        if !bytes.is_multiple_of(SEGMENT as u32) || self.segments > MAX_SEGMENTS {
            self.fail(S::Ioerr);
        }
    }

    /// The request ends with `status`.
    fn fail(&mut self, status: S) {
        self.status = status;
        self.left = 0;
        self.segments = 0;
        self.flush = false;
    }

    /// What is to be done next, by transfers of at most `most` bytes.
    ///
    /// # Errors
    /// [`Broken::Memory`] when a buffer is not memory.
    pub(super) fn next(
        &mut self,
        chain: &Chain,
        memory: &dyn GuestMemory,
        disk: &Disk<'_>,
        most: usize,
    ) -> Result<Action, Broken> {
        if self.left == 0 && self.segments != 0 {
            self.next_segment(chain, memory, disk)?;
        }
        let whole = (most as u64).checked_div(SECTOR as u64).unwrap_or(0).min(self.left);
        let bytes = (whole as usize).saturating_mul(SECTOR);
        let inside = self.sector.checked_rem(RANGE_SECTORS).unwrap_or(0);
        let range = self.left.min(RANGE_SECTORS.saturating_sub(inside));
        Ok(match self.kind {
            Kind::Read if self.left != 0 => Action::Read(self.sector, bytes),
            Kind::Write if self.left != 0 => Action::Write(self.sector, bytes),
            Kind::Discard if self.left != 0 => Action::Discard(self.sector, range),
            Kind::WriteZeroes if self.left != 0 => Action::WriteZeroes(self.sector, range),
            // A segment may be empty.
            _ if self.segments != 0 => Action::Discard(0, 0),
            _ if self.flush => Action::Flush,
            _ => Action::Complete,
        })
    }

    fn next_segment(
        &mut self,
        chain: &Chain,
        memory: &dyn GuestMemory,
        disk: &Disk<'_>,
    ) -> Result<(), Broken> {
        let mut segment = [0; SEGMENT];
        self.place.read(chain, memory, &mut segment)?;
        let segment = u128::from_le_bytes(segment);
        let (sector, sectors) = (segment as u64, (segment >> 64) as u32);
        let flags = (segment >> 96) as u32;
        // 5.2.6.2: `unmap` belongs to write-zeroes.
        let known = if self.kind == Kind::WriteZeroes { UNMAP } else { 0 };
        self.segments = self.segments.saturating_sub(1);
        if flags & !known != 0 {
            self.fail(S::Unsupp);
        } else if sectors > MAX_SEGMENT_SECTORS || !in_range(sector, sectors.into(), disk) {
            self.fail(S::Ioerr);
        } else {
            self.sector = sector;
            self.left = sectors.into();
        }
        Ok(())
    }

    /// Fetches the bytes for [`Action::Write`].
    ///
    /// # Errors
    /// [`Broken::Memory`] when a buffer is not memory.
    pub(super) fn fetch(
        &mut self,
        chain: &Chain,
        memory: &dyn GuestMemory,
        bytes: &mut [u8],
    ) -> Result<(), Broken> {
        self.place.read(chain, memory, bytes).map(|_| ())
    }

    /// Takes the outcome of `action`; `bytes` is what was read.
    ///
    /// # Errors
    /// [`Broken::Memory`] when a buffer is not memory.
    pub(super) fn done(
        &mut self,
        action: Action,
        outcome: Result<(), StorageError>,
        chain: &Chain,
        memory: &dyn GuestMemory,
        bytes: &[u8],
    ) -> Result<(), Broken> {
        if let Err(error) = outcome {
            self.fail(match error {
                StorageError::Failed => S::Ioerr,
                StorageError::Unsupported => S::Unsupp,
            });
            return Ok(());
        }
        let sectors = match action {
            Action::Read(_, length) => {
                let written = self.place.write(chain, memory, bytes)?;
                let written = u32::try_from(written).unwrap_or(u32::MAX);
                self.written = self.written.saturating_add(written);
                (length as u64).checked_div(SECTOR as u64).unwrap_or(0)
            }
            Action::Write(_, length) => (length as u64).checked_div(SECTOR as u64).unwrap_or(0),
            Action::Discard(_, sectors) | Action::WriteZeroes(_, sectors) => sectors,
            Action::Flush => {
                self.flush = false;
                0
            }
            Action::Complete => 0,
        };
        self.sector = self.sector.saturating_add(sectors);
        self.left = self.left.saturating_sub(sectors);
        Ok(())
    }

    /// Writes the status; returns how many bytes the guest can rely on.
    ///
    /// # Errors
    /// [`Broken::Memory`] when the status byte is not memory.
    pub(super) fn complete(&self, chain: &Chain, memory: &dyn GuestMemory) -> Result<u32, Broken> {
        let mut place = chain.writer();
        place.skip(chain, data_bytes(chain));
        place.write(chain, memory, &[self.status.into()])?;
        // The length counts without gaps from the first byte on.
        let whole = self.written == data_bytes(chain);
        Ok(self.written.saturating_add(whole.into()))
    }
}

/// Bytes that the device may write, without the status, which is the last one.
fn data_bytes(chain: &Chain) -> u32 {
    chain.writable_bytes().saturating_sub(1)
}

fn in_range(sector: u64, sectors: u64, disk: &Disk<'_>) -> bool {
    sector.checked_add(sectors).is_some_and(|end| end <= disk.capacity)
}
