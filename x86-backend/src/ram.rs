//! A guest's memory: pieces of the host's, each at a guest-physical address,
//! and the second-stage tables that show it to the guest.
//!
//! A guest with a balloon gives pages of it back and touches them again; then every access of ours
//! goes by the tables, under their lock, so that nobody writes to a frame that has gone. All other
//! guests have their pieces for good.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use bunshin::address::GuestAddress;
use bunshin::backend::Provided;
use bunshin::memory::{GuestMemory, OutOfMemoryRange};
use bunshin::vcpu::VcpuHandle;
use bunshin::virtio::balloon::PageOwner;
use spin::{Once, RwLock};
use stage2::{
    Attributes, BLOCK, FrameSource, GuestMap, IntermediateAddress, PageTable, PhysicalAddress,
    Piece, TableMemory, TlbMaintenance, allocate_pieces, for_each_part,
};
use x86_backend::machine::layout;
use x86_backend::paging::Nested;
use x86_backend::scrub::scrub;
use x86_backend::shootdown::Shootdown;

use crate::engine::GuestPage;
use crate::host::{self, memory};

/// Largest piece: what one entry of the third level maps.
const MAX_PIECE: u64 = 1 << 30;
/// Bytes of a page of the tables.
const PAGE: u64 = 4096;
/// How often an access looks for memory that the guest gives up at the same time.
const TRIES: usize = 16;

/// All memory of one guest, with its tables.
pub(crate) struct Ram {
    pieces: Vec<Piece>,
    /// The first of them; empty where the guest may give parts of its memory back.
    first: Piece,
    root: u64,
    /// What keeps the TLBs true; only where the guest may give parts of its memory back.
    elastic: Option<Shootdown>,
    /// Its virtual CPUs, whom a change of the tables concerns.
    vcpus: Once<Vec<Arc<VcpuHandle>>>,
    /// Taken before the free memory.
    map: RwLock<GuestMap<Nested>>,
}

impl Ram {
    /// Takes `size` bytes and maps them: below 3 GiB, and the rest from 4 GiB on
    /// ([`layout`]). With `elastic`, the guest's number of virtual CPUs, it may give parts back.
    ///
    /// # Errors
    /// What is short.
    pub(crate) fn new(
        size: u64,
        format: Nested,
        elastic: Option<usize>,
    ) -> Result<Self, &'static str> {
        let ranges = layout::memory(size).map(|range| range.start..range.start + range.size);
        let pieces = allocate_pieces(ranges, MAX_PIECE, memory::allocate);
        let pieces = pieces.inspect_err(|pieces| give_all(pieces));
        let pieces = pieces.map_err(|_| "not enough memory is left; give it less")?;
        let map = PageTable::new(format, &mut Tables)
            .and_then(|table| GuestMap::new(table, &mut Tables, &mut NotRunning, pieces.clone()));
        let Ok(map) = map else {
            give_all(&pieces);
            return Err("the guest's memory cannot be mapped");
        };
        let root = map.table().root().0;
        let (elastic, vcpus) = (elastic.map(Shootdown::new), Once::new());
        let nothing = Piece { guest: IntermediateAddress(0), host: PhysicalAddress(0), bytes: 0 };
        let first = pieces.first().copied().filter(|_| elastic.is_none()).unwrap_or(nothing);
        Ok(Ram { pieces, first, root, elastic, vcpus, map: RwLock::new(map) })
    }

    /// Shows the guest a page, which it can read and nothing else. No memory is there.
    ///
    /// # Errors
    /// What is short.
    pub(crate) fn show(&mut self, page: GuestPage) -> Result<(), &'static str> {
        let (guest, host) = (IntermediateAddress(page.guest), PhysicalAddress(page.host));
        let attributes = Attributes { execute: false, ..Attributes::ROM };
        let map = self.map.get_mut().table_mut();
        map.map(&mut Tables, &mut NotRunning, guest, host, PAGE, attributes).map_err(
            |_| "the page that this processor needs in the guest's memory cannot be mapped",
        )
    }

    /// Physical address of the root table.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// Bytes of memory, given up or not.
    pub(crate) fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    /// Tells it the guest's virtual CPUs. To be called once, before they run.
    pub(crate) fn connect(&self, vcpus: Vec<Arc<VcpuHandle>>) {
        self.vcpus.call_once(|| vcpus);
    }

    /// What virtual CPUs go into the guest with, where the tables may change meanwhile.
    #[inline]
    pub(crate) fn shootdown(&self) -> Option<&Shootdown> {
        self.elastic.as_ref()
    }

    fn tlb(&self) -> GuestTlb<'_> {
        GuestTlb(self)
    }

    /// Clears the block of [`BLOCK`] bytes at `offset` of all pieces one behind the other.
    pub(crate) fn clear(&self, offset: u64) {
        let Some(piece) = self.piece_at(offset) else { return };
        if self.elastic.is_none() {
            HostFrames.clear(piece.host, BLOCK);
        } else {
            self.map.write().scrub(&mut Tables, &mut self.tlb(), &mut HostFrames, piece.guest);
        }
    }

    /// The block at an offset.
    fn piece_at(&self, mut offset: u64) -> Option<Piece> {
        for piece in &self.pieces {
            if offset < piece.bytes {
                return Some(Piece {
                    guest: IntermediateAddress(piece.guest.0 + offset),
                    host: PhysicalAddress(piece.host.0 + offset),
                    bytes: BLOCK,
                });
            }
            offset -= piece.bytes;
        }
        None
    }

    /// Whether `address` is memory.
    pub(crate) fn contains(&self, address: u64) -> bool {
        self.home(address).is_some()
    }

    /// Host address of memory that is never given up, and how many bytes follow in one piece.
    fn home(&self, address: u64) -> Option<(PhysicalAddress, u64)> {
        self.pieces.iter().find_map(|piece| piece.home(address))
    }

    /// Gives the guest memory at `address` again; with `whole`, a block of it where all of that is absent.
    pub(crate) fn provide(&self, address: u64, whole: bool) -> Provided {
        let (address, frames) = (IntermediateAddress(address), &mut HostFrames);
        let mut map = self.map.write();
        map.provide(&mut Tables, &mut self.tlb(), frames, address, whole)
    }

    /// Bytes that the guest gave up.
    pub(crate) fn absent(&self) -> u64 {
        if self.elastic.is_some() { self.map.read().absent() } else { 0 }
    }

    /// Calls `each` with host address and length of the contiguous parts of the range, after all of it
    /// was found to be memory.
    fn parts(
        &self,
        address: GuestAddress,
        size: u64,
        mut each: impl FnMut(u64, u64),
    ) -> Result<(), OutOfMemoryRange> {
        let refused = OutOfMemoryRange { address, size };
        if self.elastic.is_none() {
            let find = |at| self.home(at);
            // Nearly all lie in one piece.
            if let Some((host, room)) = find(address.0)
                && size <= room
            {
                each(host.0, size);
                return Ok(());
            }
            for_each_part(find, address.0, size, |_, _| {}).map_err(|_| refused)?;
            return for_each_part(find, address.0, size, each).map_err(|_| refused);
        }
        for _ in 0..TRIES {
            let map = self.map.read();
            let find = |at| map.find(&Tables, IntermediateAddress(at));
            let Err(absent) = for_each_part(find, address.0, size, |_, _| {}) else {
                // The lock is still held: all of it is there.
                return for_each_part(find, address.0, size, &mut each).map_err(|_| refused);
            };
            drop(map);
            if self.provide(absent, true) != Provided::Present {
                return Err(refused);
            }
        }
        Err(refused)
    }
}

fn give_all(pieces: &[Piece]) {
    for piece in pieces {
        HostFrames.give(piece.host, piece.bytes);
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        self.map.get_mut().release(&mut Tables, &mut NotRunning, &mut HostFrames);
    }
}

impl PageOwner for Ram {
    fn take(&self, pages: &[GuestAddress]) {
        let pages = pages.iter().map(|page| page.0);
        let mut map = self.map.write();
        map.surrender(&mut Tables, &mut self.tlb(), &mut HostFrames, pages);
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

    #[inline]
    fn load_u64(&self, address: GuestAddress) -> Result<u64, OutOfMemoryRange> {
        // Most of a guest's tables are in its first piece.
        let Piece { guest, host, bytes } = self.first;
        let offset = address.0.wrapping_sub(guest.0);
        if offset < bytes
            && let Some(cell) = cell_u64(host.0.wrapping_add(offset), bytes.wrapping_sub(offset))
        {
            return Ok(u64::from_le(cell.load(Ordering::Relaxed)));
        }
        self.read_u64(address)
    }
}

impl Ram {
    /// As [`GuestMemory::load_u64`], for all of a guest's memory.
    #[inline(never)]
    fn read_u64(&self, address: GuestAddress) -> Result<u64, OutOfMemoryRange> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The 8 bytes at `host`, which is memory of a guest that is never given up; `None` unless they
/// are aligned and all there.
fn cell_u64<'a>(host: u64, part: u64) -> Option<&'a AtomicU64> {
    // SAFETY: such memory stays mapped here and the guest's own for as long as there is the guest;
    // it is only the guest that may write at the same time.
    (part >= 8 && host.is_multiple_of(8)).then(|| unsafe { AtomicU64::from_ptr(host as *mut u64) })
}

/// The 2 bytes at `host`, which is a guest's memory; `None` unless they are aligned and all there.
fn cell_u16<'a>(host: u64, part: u64) -> Option<&'a AtomicU16> {
    // SAFETY: a guest's memory stays mapped here, and its own while `parts` calls; it is
    // only the guest that may write at the same time.
    (part == 2 && host.is_multiple_of(2)).then(|| unsafe { AtomicU16::from_ptr(host as *mut u16) })
}

/// Free memory as guests' memory comes out of it and goes back.
struct HostFrames;

impl FrameSource for HostFrames {
    fn take(&mut self, bytes: u64) -> Option<PhysicalAddress> {
        let address = PhysicalAddress(memory::allocate(bytes)?);
        self.clear(address, bytes);
        Some(address)
    }

    fn take_at(&mut self, address: PhysicalAddress, bytes: u64) -> bool {
        let taken = memory::allocate_at(address.0, bytes);
        if taken {
            self.clear(address, bytes);
        }
        taken
    }

    fn give(&mut self, address: PhysicalAddress, bytes: u64) {
        self.clear(address, bytes);
        memory::free(address.0, bytes);
    }

    fn clear(&mut self, address: PhysicalAddress, bytes: u64) {
        let words = bytes as usize / size_of::<u64>();
        // SAFETY: the memory was allocated for one guest, whole pages, and is mapped at its physical
        // address. No guest and no device reaches it: it is in no table, or its guest does not run.
        scrub(unsafe { core::slice::from_raw_parts_mut(address.0 as *mut u64, words) });
    }
}

/// Tables come out of the memory for guests.
struct Tables;

impl TableMemory for Tables {
    fn allocate(&mut self, bytes: usize) -> Option<PhysicalAddress> {
        HostFrames.take((bytes as u64).max(PAGE))
    }

    fn free(&mut self, table: PhysicalAddress, bytes: usize) {
        memory::free(table.0, (bytes as u64).max(PAGE));
    }

    fn load(&self, entry: PhysicalAddress) -> u64 {
        // SAFETY: the walker names aligned entries of its tables, which are mapped at their address.
        unsafe { AtomicU64::from_ptr(entry.0 as *mut u64) }.load(Ordering::Relaxed)
    }

    fn store(&mut self, entry: PhysicalAddress, value: u64) {
        // SAFETY: as for `load`.
        unsafe { AtomicU64::from_ptr(entry.0 as *mut u64) }.store(value, Ordering::Release);
    }
}

/// The guest has not run yet, or does not any more.
struct NotRunning;

impl TlbMaintenance for NotRunning {
    fn invalidate_range(&mut self, _: IntermediateAddress, _: u64, _: u64, _: bool) {}

    fn invalidate_all(&mut self) {}

    fn publish(&mut self) {}
}

/// What processors have cached of a guest's tables.
struct GuestTlb<'a>(&'a Ram);

impl TlbMaintenance for GuestTlb<'_> {
    fn invalidate_range(&mut self, _: IntermediateAddress, _: u64, _: u64, _: bool) {
        self.invalidate_all();
    }

    fn invalidate_all(&mut self) {
        let Some(shootdown) = &self.0.elastic else { return };
        shootdown.changed(|vcpu| {
            if let Some(handle) = self.0.vcpus.get().and_then(|vcpus| vcpus.get(vcpu)) {
                host::kick(handle.home());
            }
        });
    }

    // Processors keep nothing of entries that were not there (APM 15.25.9, SDM 30.4.3).
    fn publish(&mut self) {}
}
