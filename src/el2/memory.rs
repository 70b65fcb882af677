//! Memory of guests: host memory in naturally aligned pieces.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU16, Ordering};

use bunshin::address::GuestAddress;
use bunshin::memory::{GuestMemory, OutOfMemoryRange};

use crate::el2::registers::read_register;
use crate::el2::{frames, mmu};

/// Largest piece: what one entry of level 1 maps.
const MAX_PIECE: u64 = 1 << 30;
/// Smallest piece, so that stage 2 never needs more than blocks of level 2.
const MIN_PIECE: u64 = 2 << 20;

/// A piece of host memory and where the guest sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    /// Guest-physical address.
    pub(crate) guest: u64,
    /// Host-physical address.
    pub(crate) host: u64,
    /// Length in bytes, a power of two.
    pub(crate) size: u64,
}

/// The memory of one virtual machine: pieces without gaps, in order.
#[derive(Debug)]
pub(crate) struct Ram {
    pieces: Vec<Piece>,
    base: u64,
    size: u64,
}

impl Ram {
    /// Allocates `size` bytes that the guest sees from `base`, by the largest
    /// pieces there are. `None` when the host has too little.
    pub(crate) fn allocate(base: u64, size: u64) -> Option<Self> {
        let mut ram = Ram { pieces: Vec::new(), base, size };
        let mut guest = base;
        let end = base.checked_add(size)?;
        let mut limit = MAX_PIECE;
        while guest < end {
            // As large as fits and as the guest's address is aligned.
            let rest = (end - guest).checked_ilog2().map_or(MIN_PIECE, |log| 1 << log);
            let alignment = 1u64 << guest.trailing_zeros().min(62);
            let piece = limit.min(rest).min(alignment);
            match frames::allocate(piece) {
                Some(host) => {
                    ram.pieces.push(Piece { guest, host, size: piece });
                    guest += piece;
                }
                None if piece > MIN_PIECE => limit = piece / 2,
                // Dropping `ram` gives back what it has.
                None => return None,
            }
        }
        Some(ram)
    }

    /// Allocates `size` bytes of the host's memory in one range inside of `within`, which the guest sees at the same
    /// addresses. `None` when there is no such range.
    pub(crate) fn allocate_direct(size: u64, within: Range<u64>) -> Option<Self> {
        let base = frames::allocate_within(size, within)?;
        let mut ram = Ram { pieces: Vec::new(), base, size };
        let mut done = 0;
        while done < size {
            let rest = (size - done).checked_ilog2().map_or(0, |log| 1 << log);
            let piece = MAX_PIECE.min(rest);
            ram.pieces.push(Piece { guest: base + done, host: base + done, size: piece });
            done += piece;
        }
        Some(ram)
    }

    /// The pieces in the order of guest addresses.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
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
        mut each: impl FnMut(u64, u64),
    ) -> Result<(), OutOfMemoryRange> {
        if !self.contains(address.0, size) {
            return Err(OutOfMemoryRange { address, size });
        }
        let mut at = address.0;
        let mut left = size;
        for piece in &self.pieces {
            let end = piece.guest + piece.size;
            if left > 0 && at >= piece.guest && at < end {
                let part = left.min(end - at);
                each(piece.host + (at - piece.guest), part);
                at += part;
                left -= part;
            }
        }
        Ok(())
    }

    /// Fills all of it with zeros.
    pub(crate) fn scrub(&self) {
        for piece in &self.pieces {
            zero(piece.host, piece.size);
        }
    }

    /// Writes all of it back to memory and empties the caches of it, so that
    /// a guest with its caches off sees it.
    pub(crate) fn clean(&self) {
        for piece in &self.pieces {
            mmu::clean(piece.host, piece.size);
        }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        for piece in &self.pieces {
            zero(piece.host, piece.size);
            frames::free(piece.host, piece.size);
        }
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
    // SAFETY: the pieces of a guest's memory stay mapped while anybody accesses them, and it is
    // only the guest that may write at the same time.
    (part == 2 && host.is_multiple_of(2)).then(|| unsafe { AtomicU16::from_ptr(host as *mut u16) })
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
