//! A guest's memory: pieces of the host's, each at a guest-physical address,
//! and the second-stage tables that show it to the guest.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use bunshin::address::GuestAddress;
use bunshin::memory::{GuestMemory, OutOfMemoryRange};
use stage2::{
    Attributes, IntermediateAddress, PageTable, PhysicalAddress, TableMemory, TlbMaintenance,
};
use x86_backend::boot_info::Range;
use x86_backend::machine::layout;
use x86_backend::paging::Nested;
use x86_backend::scrub::scrub;

use crate::host::memory;

/// A run of guest memory.
#[derive(Debug, Clone, Copy)]
struct Piece {
    guest: u64,
    host: u64,
    size: u64,
}

/// All memory of one guest, with its tables.
pub(crate) struct Ram {
    pieces: Vec<Piece>,
    tables: PageTable<Nested>,
}

impl Ram {
    /// Takes `size` bytes and maps them: below 3 GiB, and the rest from 4 GiB on
    /// ([`layout`]).
    ///
    /// # Errors
    /// What is short.
    pub(crate) fn new(size: u64, format: Nested) -> Result<Self, &'static str> {
        let mut pieces = Vec::new();
        let mut guest = 0;
        for mut host in memory::take(size).ok_or("not enough memory is left; give it less")? {
            while host.size != 0 {
                if guest == layout::DEVICES {
                    guest = layout::MEMORY_ABOVE_4G;
                }
                let room = if guest < layout::DEVICES { layout::DEVICES - guest } else { u64::MAX };
                let size = host.size.min(room);
                pieces.push(Piece { guest, host: host.start, size });
                guest += size;
                host = Range { start: host.start + size, size: host.size - size };
            }
        }
        let mut tables = PageTable::new(format, &mut Tables).map_err(|_| "no memory for tables")?;
        for piece in &pieces {
            tables
                .map(
                    &mut Tables,
                    &mut NotRunning,
                    IntermediateAddress(piece.guest),
                    PhysicalAddress(piece.host),
                    piece.size,
                    Attributes::RAM,
                )
                .map_err(|_| "the guest's memory cannot be mapped")?;
        }
        Ok(Ram { pieces, tables })
    }

    /// Physical address of the root table.
    pub(crate) fn root(&self) -> u64 {
        self.tables.root().0
    }

    /// Fills all of it with zeros.
    pub(crate) fn clear(&self) {
        for piece in &self.pieces {
            let words = piece.size as usize / size_of::<u64>();
            // SAFETY: the piece is this guest's alone, whole pages, and mapped at its physical
            // address. The guest does not run and its devices were reset, so that nobody accesses
            // it meanwhile.
            scrub(unsafe { core::slice::from_raw_parts_mut(piece.host as *mut u64, words) });
        }
    }

    /// Whether `address` is memory.
    pub(crate) fn contains(&self, address: u64) -> bool {
        self.find(address).is_some()
    }

    /// Host address of `address`, and how many bytes follow in one piece.
    fn find(&self, address: u64) -> Option<(u64, u64)> {
        let piece =
            self.pieces.iter().find(|piece| address.wrapping_sub(piece.guest) < piece.size)?;
        let inside = address.wrapping_sub(piece.guest);
        Some((piece.host.wrapping_add(inside), piece.size.wrapping_sub(inside)))
    }

    /// Calls `copy(host address, offset, size)` for each contiguous part of
    /// the range, after all of it was found to be memory.
    fn for_each(
        &self,
        address: GuestAddress,
        size: usize,
        mut copy: impl FnMut(u64, usize, usize),
    ) -> Result<(), OutOfMemoryRange> {
        let refused = OutOfMemoryRange { address, size: size as u64 };
        for check in [true, false] {
            let mut done = 0usize;
            while done < size {
                let at = address.0.checked_add(done as u64).ok_or(refused)?;
                let (host, room) = self.find(at).ok_or(refused)?;
                let part = usize::try_from(room).unwrap_or(usize::MAX).min(size - done);
                if !check {
                    copy(host, done, part);
                }
                done += part;
            }
        }
        Ok(())
    }
}

impl GuestMemory for Ram {
    fn read(&self, address: GuestAddress, bytes: &mut [u8]) -> Result<(), OutOfMemoryRange> {
        let target = bytes.as_mut_ptr();
        self.for_each(address, bytes.len(), |host, offset, size| {
            // SAFETY: `for_each` stays within the slice and the guest's memory. The guest may write
            // meanwhile; bytes are bytes.
            unsafe { core::ptr::copy_nonoverlapping(host as *const u8, target.add(offset), size) }
        })
    }

    fn write(&self, address: GuestAddress, bytes: &[u8]) -> Result<(), OutOfMemoryRange> {
        let source = bytes.as_ptr();
        self.for_each(address, bytes.len(), |host, offset, size| {
            // SAFETY: as for reading.
            unsafe { core::ptr::copy_nonoverlapping(source.add(offset), host as *mut u8, size) }
        })
    }

    fn load_u16(&self, address: GuestAddress) -> Result<u16, OutOfMemoryRange> {
        let mut value = 0;
        self.for_each(address, 2, |host, _, size| {
            if let Some(cell) = cell_u16(host, size) {
                value = cell.load(Ordering::Relaxed);
            }
        })?;
        Ok(u16::from_le(value))
    }

    fn store_u16(&self, address: GuestAddress, value: u16) -> Result<(), OutOfMemoryRange> {
        self.for_each(address, 2, |host, _, size| {
            if let Some(cell) = cell_u16(host, size) {
                cell.store(value.to_le(), Ordering::Relaxed);
            }
        })
    }
}

/// The 2 bytes at `host`, which is a guest's memory; `None` unless they are aligned and all there.
fn cell_u16<'a>(host: u64, size: usize) -> Option<&'a AtomicU16> {
    // SAFETY: the pieces of a guest's memory stay mapped while anybody accesses them, and it is
    // only the guest that may write at the same time.
    (size == 2 && host.is_multiple_of(2)).then(|| unsafe { AtomicU16::from_ptr(host as *mut u16) })
}

/// Tables live on the heap.
struct Tables;

impl TableMemory for Tables {
    fn allocate(&mut self, bytes: usize) -> Option<PhysicalAddress> {
        let layout = Layout::from_size_align(bytes, bytes).ok().filter(|l| l.size() != 0)?;
        // SAFETY: the size is not zero.
        let table = unsafe { alloc_zeroed(layout) };
        (!table.is_null()).then_some(PhysicalAddress(table as u64))
    }

    fn free(&mut self, table: PhysicalAddress, bytes: usize) {
        if let Ok(layout) = Layout::from_size_align(bytes, bytes) {
            // SAFETY: the walker gives back what `allocate` gave, with the same size.
            unsafe { dealloc(table.0 as *mut u8, layout) }
        }
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

/// Tables are only changed before their guest runs for the first time.
struct NotRunning;

impl TlbMaintenance for NotRunning {
    fn invalidate_range(&mut self, _: IntermediateAddress, _: u64, _: u64, _: bool) {}

    fn invalidate_all(&mut self) {}

    fn publish(&mut self) {}
}
