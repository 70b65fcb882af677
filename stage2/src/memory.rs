//! The memory of a virtual machine that may give parts of it up while it runs.
//!
//! Each piece of guest memory has a *home*: the host memory that it was made of. A page that the guest
//! gives up leaves the table, and once no CPU can reach it any more its frame goes back to the host. It
//! comes back when it is asked for or touched, at its home if that is still free, so that blocks can
//! be put together again; anywhere else otherwise.

use alloc::vec::Vec;

use crate::{
    Attributes, Error, Format, IntermediateAddress, Mapping, PageTable, PhysicalAddress, Piece,
    TableMemory, TlbMaintenance,
};

/// Bytes of a page as guests name it.
pub const PAGE: u64 = 4096;
/// Bytes that come back together where all of them are absent.
pub const BLOCK: u64 = 2 << 20;
/// Pages that are looked at together: pages of one granule that are named so far apart stay.
const SORTED: usize = 256;
/// Pages that leave the table with one invalidation.
const BATCH: usize = 64;

/// The host's free memory. Sizes are powers of two from [`PAGE`] to [`BLOCK`], blocks are
/// aligned to their size.
pub trait FrameSource {
    /// A block of zeros.
    fn take(&mut self, bytes: u64) -> Option<PhysicalAddress>;

    /// The block of zeros at `address`; false unless all of it is free.
    fn take_at(&mut self, address: PhysicalAddress, bytes: u64) -> bool;

    /// Gives a block back, or a part of one. What a guest left there must be gone before
    /// somebody else gets it.
    fn give(&mut self, address: PhysicalAddress, bytes: u64);

    /// Fills memory of a guest with zeros.
    fn clear(&mut self, address: PhysicalAddress, bytes: u64);
}

/// What became of an address that a guest touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provided {
    /// There is memory: the guest may try again.
    Present,
    /// The address is not memory of the guest.
    NotMemory,
    /// The guest gave it up, and the host has none to give back.
    Short,
}

/// A table and the memory behind it.
#[derive(Debug)]
pub struct GuestMap<F> {
    table: PageTable<F>,
    pieces: Vec<Piece>,
    /// Bytes that are given up.
    absent: u64,
}

impl<F: Format> GuestMap<F> {
    /// Maps `pieces`, whose homes were allocated for them, into `table`.
    ///
    /// # Errors
    /// As [`PageTable::map`].
    pub fn new(
        mut table: PageTable<F>,
        tables: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        pieces: Vec<Piece>,
    ) -> Result<Self, Error> {
        for Piece { guest, host, bytes } in &pieces {
            table.map(tables, tlb, *guest, *host, *bytes, Attributes::RAM)?;
        }
        Ok(GuestMap { table, pieces, absent: 0 })
    }

    /// The table, with whatever else is mapped.
    pub fn table(&self) -> &PageTable<F> {
        &self.table
    }

    /// The same, to map more than memory.
    pub fn table_mut(&mut self) -> &mut PageTable<F> {
        &mut self.table
    }

    /// All of its memory, given up or not, by addresses.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Bytes that the guest gave up and has not got back.
    pub fn absent(&self) -> u64 {
        self.absent
    }

    /// Host address of a byte of memory, and how many bytes follow it in one block; `None` where
    /// there is no memory or it was given up.
    pub fn find(
        &self,
        tables: &impl TableMemory,
        address: IntermediateAddress,
    ) -> Option<(PhysicalAddress, u64)> {
        self.piece(address.0)?;
        let Mapping { address: host, size, .. } = self.table.translate(tables, address)?;
        let within = address.0 & size.saturating_sub(1);
        Some((host, size.saturating_sub(within)))
    }

    fn piece(&self, address: u64) -> Option<&Piece> {
        self.pieces.iter().find(|piece| piece.home(address).is_some())
    }

    fn granule(&self) -> u64 {
        self.table.layout().granule()
    }

    /// Takes the pages at `pages` (multiples of [`PAGE`]) out of the table and gives their frames
    /// back. Pages that are no memory or given up already are left out, as are those whose table
    /// entry spans more than the pages that are named near it. Gives the number of bytes taken.
    pub fn surrender(
        &mut self,
        tables: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        frames: &mut impl FrameSource,
        pages: impl IntoIterator<Item = u64>,
    ) -> u64 {
        let before = self.absent;
        let mut pages = pages.into_iter().peekable();
        while pages.peek().is_some() {
            let mut named = [0; SORTED];
            let count = named.iter_mut().zip(&mut pages).map(|(place, page)| *place = page).count();
            let named = named.get_mut(..count).unwrap_or_default();
            named.sort_unstable();
            self.surrender_sorted(tables, tlb, frames, named);
        }
        self.absent.saturating_sub(before)
    }

    fn surrender_sorted(
        &mut self,
        tables: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        frames: &mut impl FrameSource,
        pages: &[u64],
    ) {
        let granule = self.granule();
        let mut batch = [(IntermediateAddress(0), PhysicalAddress(0)); BATCH];
        let mut filled = 0usize;
        // The granule that is being named, and how much of it.
        let (mut start, mut named) = (0u64, 0u64);
        let mut last = None;
        for page in pages.iter().copied() {
            if last.replace(page) == Some(page) {
                continue;
            }
            if named != 0 && page == start.saturating_add(named) {
                named = named.saturating_add(PAGE);
            } else if page.is_multiple_of(granule) {
                (start, named) = (page, PAGE);
            } else {
                named = 0;
            }
            if named != granule {
                continue;
            }
            named = 0;
            if let Some((host, _)) = self.find(tables, IntermediateAddress(start))
                && let Some(place) = batch.get_mut(filled)
            {
                *place = (IntermediateAddress(start), host);
                filled = filled.saturating_add(1);
            }
            if filled == BATCH {
                self.remove(tables, tlb, frames, &batch);
                filled = 0;
            }
        }
        self.remove(tables, tlb, frames, batch.get(..filled).unwrap_or_default());
    }

    /// Unmaps granules and gives their frames away.
    fn remove(
        &mut self,
        tables: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        frames: &mut impl FrameSource,
        batch: &[(IntermediateAddress, PhysicalAddress)],
    ) {
        let granule = self.granule();
        let starts = batch.iter().map(|(start, _)| *start);
        let done = self.table.unmap_each(tables, tlb, starts, granule);
        for (_, host) in batch.iter().take(done) {
            frames.give(*host, granule);
            self.absent = self.absent.saturating_add(granule);
        }
    }

    /// Gives the guest the memory at `address` again, if it has none there. Where a whole block is
    /// absent and `whole` is set, all of the block.
    pub fn provide(
        &mut self,
        tables: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        frames: &mut impl FrameSource,
        address: IntermediateAddress,
        whole: bool,
    ) -> Provided {
        if self.piece(address.0).is_none() {
            return Provided::NotMemory;
        }
        let Some(vacant) = self.table.vacant(tables, address) else { return Provided::Present };
        let sizes = [BLOCK, self.granule()];
        for bytes in sizes.into_iter().skip(usize::from(!whole || vacant < BLOCK)) {
            if self.bring(tables, tlb, frames, address.0, bytes) {
                return Provided::Present;
            }
        }
        Provided::Short
    }

    /// Maps `bytes` around `address`, none of which is mapped.
    fn bring(
        &mut self,
        tables: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        frames: &mut impl FrameSource,
        address: u64,
        bytes: u64,
    ) -> bool {
        let start = address & !bytes.wrapping_sub(1);
        let Some((home, _)) = self.piece(start).and_then(|piece| piece.home(start)) else {
            return false;
        };
        let (host, at_home) = match frames.take_at(home, bytes) {
            true => (home, true),
            false => match frames.take(bytes) {
                Some(host) => (host, false),
                None => return false,
            },
        };
        let start = IntermediateAddress(start);
        if self.table.map(tables, tlb, start, host, bytes, Attributes::RAM).is_err() {
            frames.give(host, bytes);
            return false;
        }
        self.absent = self.absent.saturating_sub(bytes);
        if at_home {
            // An error would be about the range, which was just mapped.
            let _ = self.table.coalesce(tables, tlb, start, bytes);
        }
        true
    }

    /// Clears the block at `address`: what is there in one piece is filled with zeros, and what has
    /// been given up in part is given up wholly, to come back in one piece. For a guest that does not
    /// run.
    pub fn scrub(
        &mut self,
        tables: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        frames: &mut impl FrameSource,
        address: IntermediateAddress,
    ) {
        let start = address.0 & !BLOCK.wrapping_sub(1);
        let Some((host, room)) = self.find(tables, IntermediateAddress(start)) else {
            return self.vacate(tables, tlb, frames, start);
        };
        match room >= BLOCK {
            true => frames.clear(host, BLOCK),
            false => self.vacate(tables, tlb, frames, start),
        }
    }

    /// Gives up all of a block that has not gone yet.
    fn vacate(
        &mut self,
        tables: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        frames: &mut impl FrameSource,
        start: u64,
    ) {
        let granule = self.granule();
        let mut batch = [(IntermediateAddress(0), PhysicalAddress(0)); BATCH];
        let mut at = start;
        while at < start.saturating_add(BLOCK) {
            let mut filled = 0usize;
            while at < start.saturating_add(BLOCK) && filled < BATCH {
                let address = IntermediateAddress(at);
                if let Some((host, _)) = self.find(tables, address)
                    && let Some(place) = batch.get_mut(filled)
                {
                    *place = (address, host);
                    filled = filled.saturating_add(1);
                }
                at = at.saturating_add(granule);
            }
            self.remove(tables, tlb, frames, batch.get(..filled).unwrap_or_default());
        }
    }

    /// Gives all memory back and frees what the table needed for it. No CPU may have its root any more.
    pub fn release(
        &mut self,
        tables: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        frames: &mut impl FrameSource,
    ) {
        for piece in core::mem::take(&mut self.pieces) {
            // The pieces were mapped, so the range is one of the table's.
            let _ =
                self.table.for_each_mapping(tables, piece.guest, piece.bytes, |start, found| {
                    // A leaf may hold more than one piece.
                    let first = start.0.max(piece.guest.0);
                    let end = start.0.saturating_add(found.size);
                    let end = end.min(piece.guest.0.saturating_add(piece.bytes));
                    let host = found.address.0.saturating_add(first.saturating_sub(start.0));
                    let bytes = found.size.min(BLOCK);
                    let mut at = first;
                    while at < end {
                        let offset = at.saturating_sub(first);
                        frames.give(PhysicalAddress(host.saturating_add(offset)), bytes);
                        at = at.saturating_add(bytes);
                    }
                });
            // Fails only where a block reaches over an end of the piece, and another piece follows.
            let _ = self.table.unmap(tables, tlb, piece.guest, piece.bytes);
        }
    }
}
