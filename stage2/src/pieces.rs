//! The pieces of host memory that a guest's memory is made of.

use alloc::vec::Vec;
use core::ops::Range;

use crate::{IntermediateAddress, PhysicalAddress, memory::BLOCK};

/// A piece of guest memory and its home. All three are multiples of [`BLOCK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First address for the guest.
    pub guest: IntermediateAddress,
    /// First address of its home.
    pub host: PhysicalAddress,
    /// Length in bytes.
    pub bytes: u64,
}

impl Piece {
    /// The host address of a guest's address, and how many bytes follow it in the piece; `None`
    /// where the address is not the piece's.
    pub fn home(&self, address: u64) -> Option<(PhysicalAddress, u64)> {
        let offset = address.checked_sub(self.guest.0).filter(|offset| *offset < self.bytes)?;
        let host = self.host.0.checked_add(offset)?;
        Some((PhysicalAddress(host), self.bytes.saturating_sub(offset)))
    }
}

/// Takes host memory for `ranges` of guest addresses (multiples of [`BLOCK`]), by the largest pieces of
/// at most `largest` bytes (a power of two) that there are. `take` gives a naturally aligned
/// piece of the size asked for, which is a power of two.
///
/// # Errors
/// The host has too little: what has been taken and is to be given back.
pub fn allocate_pieces(
    ranges: impl IntoIterator<Item = Range<u64>>,
    largest: u64,
    mut take: impl FnMut(u64) -> Option<u64>,
) -> Result<Vec<Piece>, Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut limit = largest;
    for Range { start, end } in ranges {
        let mut guest = start;
        while guest < end {
            // As large as fits and as the guest's address is aligned.
            let rest = end.saturating_sub(guest).checked_ilog2().map_or(BLOCK, |log| 1 << log);
            let alignment = 1u64 << guest.trailing_zeros().min(62);
            let bytes = limit.min(rest).min(alignment);
            match take(bytes) {
                Some(host) => {
                    let (start, host) = (IntermediateAddress(guest), PhysicalAddress(host));
                    pieces.push(Piece { guest: start, host, bytes });
                    guest = guest.saturating_add(bytes);
                }
                None if bytes > BLOCK => limit = bytes / 2,
                None => return Err(pieces),
            }
        }
    }
    Ok(pieces)
}

/// Calls `each` with host address and length of the contiguous parts of a range of guest addresses.
/// `find` gives the host address of a guest's, and how many bytes follow.
///
/// # Errors
/// The first address that `find` does not know. What is in front of it was gone through.
pub fn for_each_part(
    find: impl Fn(u64) -> Option<(PhysicalAddress, u64)>,
    start: u64,
    bytes: u64,
    mut each: impl FnMut(u64, u64),
) -> Result<(), u64> {
    let mut done = 0u64;
    while done < bytes {
        let at = start.checked_add(done).ok_or(u64::MAX)?;
        let (host, room) = find(at).filter(|(_, room)| *room != 0).ok_or(at)?;
        let part = room.min(bytes.saturating_sub(done));
        each(host.0, part);
        done = done.saturating_add(part);
    }
    Ok(())
}
