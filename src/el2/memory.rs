//! Memory of guests: host memory in naturally aligned pieces behind stage 2.
//!
//! A guest with a balloon gives pages of it back and touches them again; then every access of ours
//! goes by the table, under its lock, so that nobody writes to a frame that has gone. All other
//! guests have their pieces for good.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU16, Ordering};

use bunshin::address::GuestAddress;
use bunshin::backend::Provided;
use bunshin::memory::{GuestMemory, OutOfMemoryRange};
use bunshin::virtio::balloon::PageOwner;
use spin::RwLock;
use stage2::{
    BLOCK, FrameSource, GuestMap, IntermediateAddress, PageTable, PhysicalAddress, Piece, Vmid,
    VmidTag, Vmsa, allocate_pieces, for_each_part,
};

use crate::el2::host::host;
use crate::el2::registers::read_register;
use crate::el2::stage2_hardware::{FrameTables, GuestTlb};
use crate::el2::{frames, mmu};

/// Largest piece: what one entry of level 1 maps.
const MAX_PIECE: u64 = 1 << 30;
/// How often an access looks for memory that the guest gives up at the same time.
const TRIES: usize = 16;

/// The stage-2 table with the memory behind it, and its VMID.
pub(crate) struct Translation {
    pub(crate) map: GuestMap<Vmsa>,
    pub(crate) tag: VmidTag,
}

impl Translation {
    /// The TLB entries made of it.
    fn tlb(&self) -> GuestTlb {
        let vmid = self.tag.vmid().unwrap_or(Vmid::HOST);
        GuestTlb { vttbr: host().geometry.vttbr(vmid, self.map.table().root()) }
    }
}

/// The memory of one virtual machine: pieces without gaps, in order.
pub(crate) struct Ram {
    pieces: Vec<Piece>,
    base: u64,
    size: u64,
    /// Whether the guest may give parts of it back.
    elastic: bool,
    /// Taken before the host's VMID allocator and the free frames.
    pub(crate) translation: RwLock<Translation>,
}

impl Ram {
    /// Allocates `size` bytes that the guest sees from `base`, by the largest
    /// pieces there are, and maps them. With `elastic`, the guest may give parts back. `None` when
    /// the host has too little.
    pub(crate) fn allocate(base: u64, size: u64, elastic: bool) -> Option<Self> {
        let range = base..base.checked_add(size)?;
        let pieces = allocate_pieces(Some(range), MAX_PIECE, frames::allocate);
        let pieces = pieces.inspect_err(|pieces| give_pieces(pieces)).ok()?;
        Self::map(base, size, pieces, elastic)
    }

    /// Allocates `size` bytes of the host's memory in one range inside of `within`, which the guest sees at the same
    /// addresses. `None` when there is no such range.
    pub(crate) fn allocate_direct(size: u64, within: Range<u64>) -> Option<Self> {
        let base = frames::allocate_within(size, within)?;
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < size {
            let rest = (size - done).checked_ilog2().map_or(0, |log| 1 << log);
            let bytes = MAX_PIECE.min(rest);
            let (guest, host) = (IntermediateAddress(base + done), PhysicalAddress(base + done));
            pieces.push(Piece { guest, host, bytes });
            done += bytes;
        }
        Self::map(base, size, pieces, false)
    }

    fn map(base: u64, size: u64, pieces: Vec<Piece>, elastic: bool) -> Option<Self> {
        // Nothing is running under this table yet: no TLB entry can be stale.
        let mut tlb = GuestTlb { vttbr: read_register!("vttbr_el2") };
        let mapped = PageTable::new(host().geometry.format(), &mut FrameTables)
            .and_then(|table| GuestMap::new(table, &mut FrameTables, &mut tlb, pieces.clone()));
        let Ok(map) = mapped else {
            give_pieces(&pieces);
            return None;
        };
        let translation = RwLock::new(Translation { map, tag: VmidTag::default() });
        Some(Ram { pieces, base, size, elastic, translation })
    }

    /// Guest-physical address of its first byte.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether all of `address..address + size` is inside.
    pub(crate) fn contains(&self, address: u64, size: u64) -> bool {
        address >= self.base
            && address
                .checked_sub(self.base)
                .and_then(|offset| offset.checked_add(size))
                .is_some_and(|end| end <= self.size)
    }

    /// Calls `each` with host address and length of the parts of a range.
    fn parts(
        &self,
        address: GuestAddress,
        size: u64,
        each: impl FnMut(u64, u64),
    ) -> Result<(), OutOfMemoryRange> {
        let refused = OutOfMemoryRange { address, size };
        if !self.contains(address.0, size) {
            return Err(refused);
        }
        if self.elastic {
            return self.elastic_parts(address.0, size, each).ok_or(refused);
        }
        for_each_part(|at| self.home(at), address.0, size, each).map_err(|_| refused)
    }

    /// The same by the table, with its lock held meanwhile. What is absent comes back first; `None`
    /// if there is nothing to bring back.
    fn elastic_parts(&self, start: u64, size: u64, mut each: impl FnMut(u64, u64)) -> Option<()> {
        for _ in 0..TRIES {
            let translation = self.translation.read();
            let find = |at| translation.map.find(&FrameTables, IntermediateAddress(at));
            let Err(absent) = for_each_part(find, start, size, |_, _| {}) else {
                // The lock is still held: all of it is there.
                return for_each_part(find, start, size, &mut each).ok();
            };
            drop(translation);
            if self.provide(absent, true) != Provided::Present {
                return None;
            }
        }
        None
    }

    /// Gives the guest memory at `address` again; with `whole`, a block of it where all of that is absent.
    pub(crate) fn provide(&self, address: u64, whole: bool) -> Provided {
        let mut translation = self.translation.write();
        let mut tlb = translation.tlb();
        let address = IntermediateAddress(address);
        let (tables, frames) = (&mut FrameTables, &mut HostFrames);
        translation.map.provide(tables, &mut tlb, frames, address, whole)
    }

    /// Bytes that the guest gave up.
    pub(crate) fn absent(&self) -> u64 {
        if self.elastic { self.translation.read().map.absent() } else { 0 }
    }

    /// Clears the block of [`BLOCK`] bytes at `offset`.
    pub(crate) fn scrub(&self, offset: u64) {
        let address = self.base + offset;
        if !self.elastic {
            // A piece is made of whole blocks.
            if let Some((host, _)) = self.home(address) {
                zero(host.0, BLOCK);
            }
            return;
        }
        let mut translation = self.translation.write();
        let mut tlb = translation.tlb();
        let address = IntermediateAddress(address);
        translation.map.scrub(&mut FrameTables, &mut tlb, &mut HostFrames, address);
    }

    /// Writes the block of [`BLOCK`] bytes at `offset` back to memory and empties the caches of it, so
    /// that a guest with its caches off sees it.
    pub(crate) fn clean(&self, offset: u64) {
        let address = self.base + offset;
        if !self.elastic {
            if let Some((host, _)) = self.home(address) {
                mmu::clean(host.0, BLOCK);
            }
            return;
        }
        let translation = self.translation.read();
        let end = address + BLOCK;
        let mut at = address;
        while at < end {
            // What is absent comes back clean.
            match translation.map.find(&FrameTables, IntermediateAddress(at)) {
                Some((host, room)) => {
                    let part = room.min(end - at);
                    mmu::clean(host.0, part);
                    at += part;
                }
                None => at = (at & !(frames::FRAME - 1)) + frames::FRAME,
            }
        }
    }

    /// The host address of guest memory that is never given up, and how many bytes follow.
    fn home(&self, address: u64) -> Option<(PhysicalAddress, u64)> {
        self.pieces.iter().find_map(|piece| piece.home(address))
    }
}

fn give_pieces(pieces: &[Piece]) {
    for piece in pieces {
        HostFrames.give(piece.host, piece.bytes);
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        let translation = self.translation.get_mut();
        let mut tlb = translation.tlb();
        translation.map.release(&mut FrameTables, &mut tlb, &mut HostFrames);
    }
}

impl PageOwner for Ram {
    fn take(&self, pages: &[GuestAddress]) {
        let mut translation = self.translation.write();
        let mut tlb = translation.tlb();
        let pages = pages.iter().map(|page| page.0);
        translation.map.surrender(&mut FrameTables, &mut tlb, &mut HostFrames, pages);
    }

    fn give_back(&self, pages: &[GuestAddress]) {
        for page in pages {
            // Where the host has none now, the guest meets that when it touches the page.
            self.provide(page.0, false);
        }
    }

    fn give_back_all(&self) {
        // Each page comes back when it is touched.
    }
}

impl GuestMemory for Ram {
    fn read(&self, address: GuestAddress, bytes: &mut [u8]) -> Result<(), OutOfMemoryRange> {
        let mut done = 0;
        self.parts(address, bytes.len() as u64, |host, part| {
            let part = part as usize;
            if let Some(target) = bytes.get_mut(done..done + part) {
                // SAFETY: the piece is this guest's memory and mapped; a guest
                // that writes at the same time tears only its own values.
                unsafe {
                    core::ptr::copy_nonoverlapping(host as *const u8, target.as_mut_ptr(), part);
                }
            }
            done += part;
        })
    }

    fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), OutOfMemoryRange> {
        let mut done = 0;
        self.parts(address, bytes.len() as u64, |host, part| {
            let part = part as usize;
            if let Some(source) = bytes.get(done..done + part) {
                // SAFETY: as in `read`.
                unsafe {
                    core::ptr::copy_nonoverlapping(source.as_ptr(), host as *mut u8, part);
                }
            }
            done += part;
        })
    }

    fn load_u16(&self, address: GuestAddress) -> Result<u16, OutOfMemoryRange> {
        let mut value = 0;
        self.parts(address, 2, |host, part| {
            if let Some(cell) = cell_u16(host, part) {
                value = cell.load(Ordering::Relaxed);
            }
        })?;
        Ok(u16::from_le(value))
    }

    fn store_u16(&self, address: GuestAddress, value: u16) -> Result<(), OutOfMemoryRange> {
        self.parts(address, 2, |host, part| {
            if let Some(cell) = cell_u16(host, part) {
                cell.store(value.to_le(), Ordering::Relaxed);
            }
        })
    }
}

/// The 2 bytes at `host`, which is a guest's memory; `None` unless they are aligned and all there.
fn cell_u16<'a>(host: u64, part: u64) -> Option<&'a AtomicU16> {
    // SAFETY: a guest's memory stays mapped here, and its own while `parts` calls; it is
    // only the guest that may write at the same time.
    (part == 2 && host.is_multiple_of(2)).then(|| unsafe { AtomicU16::from_ptr(host as *mut u16) })
}

/// Free memory as guests' memory comes out of it and goes back.
pub(crate) struct HostFrames;

impl HostFrames {
    /// Zeros, in memory and not only in caches: a guest may have its caches off.
    fn prepare(address: u64, bytes: u64) {
        zero(address, bytes);
        mmu::clean(address, bytes);
    }
}

impl FrameSource for HostFrames {
    fn take(&mut self, bytes: u64) -> Option<PhysicalAddress> {
        let address = frames::allocate(bytes)?;
        Self::prepare(address, bytes);
        Some(PhysicalAddress(address))
    }

    fn take_at(&mut self, address: PhysicalAddress, bytes: u64) -> bool {
        let taken = frames::allocate_at(address.0, bytes);
        if taken {
            Self::prepare(address.0, bytes);
        }
        taken
    }

    fn give(&mut self, address: PhysicalAddress, bytes: u64) {
        zero(address.0, bytes);
        frames::free(address.0, bytes);
    }

    fn clear(&mut self, address: PhysicalAddress, bytes: u64) {
        zero(address.0, bytes);
    }
}

/// `DCZID_EL0.DZP`: zeroing by cache line is not permitted.
const DZP: u64 = 1 << 4;

/// Fills host memory that is nobody else's with zeros. Both numbers are
/// multiples of 4 KiB.
pub(crate) fn zero(base: u64, size: u64) {
    let dczid = read_register!("dczid_el0");
    let line = 4u64 << (dczid & 0xf);
    if dczid & DZP != 0 || !base.is_multiple_of(line) || !size.is_multiple_of(line) {
        // SAFETY: the caller owns the range, and it is mapped.
        unsafe { core::ptr::write_bytes(base as *mut u8, 0, size as usize) };
        return;
    }
    let mut at = base;
    while at < base + size {
        // SAFETY: as above; the line lies inside the range.
        unsafe { core::arch::asm!("dc zva, {}", in(reg) at, options(nostack)) };
        at += line;
    }
}
