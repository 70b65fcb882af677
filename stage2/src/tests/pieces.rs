//! Pieces of host memory, and the way through them.

use proptest::prelude::*;

use crate::{BLOCK, IntermediateAddress, PhysicalAddress, Piece, allocate_pieces, for_each_part};

const GIB: u64 = 1 << 30;

/// A host that has blocks up to a size, so many bytes of them, one behind the other.
fn host(largest: u64, mut left: u64) -> impl FnMut(u64) -> Option<u64> {
    let mut next = 64 * GIB;
    move |bytes| {
        left = (bytes <= largest).then(|| left.checked_sub(bytes)).flatten()?;
        let address = next.next_multiple_of(bytes);
        next = address + bytes;
        Some(address)
    }
}

fn sizes(pieces: &[Piece]) -> Vec<(u64, u64)> {
    pieces.iter().map(|piece| (piece.guest.0, piece.bytes)).collect()
}

#[test]
fn pieces_are_as_large_as_their_address_the_range_and_the_host_allow() {
    let ranges = [GIB / 2..GIB + GIB / 2 + BLOCK, 4 * GIB..5 * GIB];
    let expected = [(GIB / 2, GIB / 2), (GIB, GIB / 2), (GIB * 3 / 2, BLOCK), (4 * GIB, GIB)];
    assert_eq!(sizes(&allocate_pieces(ranges, GIB, host(GIB, 8 * GIB)).unwrap()), expected);

    let halves = allocate_pieces(Some(0..GIB), GIB, host(GIB / 2, 8 * GIB)).unwrap();
    assert_eq!(sizes(&halves), [(0, GIB / 2), (GIB / 2, GIB / 2)]);
}

#[test]
fn a_host_with_too_little_gets_back_what_was_taken() {
    let taken = allocate_pieces(Some(0..GIB), GIB, host(4 * BLOCK, 5 * BLOCK)).unwrap_err();
    assert_eq!(sizes(&taken), [(0, 4 * BLOCK), (4 * BLOCK, BLOCK)]);
}

#[test]
fn no_memory_needs_no_piece() {
    assert_eq!(allocate_pieces([0..0, 4 * GIB..4 * GIB], GIB, |_| None), Ok(Vec::new()));
}

#[test]
fn a_piece_knows_its_bytes_only() {
    let (guest, host) = (IntermediateAddress(GIB), PhysicalAddress(8 * GIB));
    let piece = Piece { guest, host, bytes: BLOCK };
    assert_eq!(piece.home(GIB), Some((host, BLOCK)));
    assert_eq!(piece.home(GIB + BLOCK - 1), Some((PhysicalAddress(8 * GIB + BLOCK - 1), 1)));
    for address in [0, GIB - 1, GIB + BLOCK, u64::MAX] {
        assert_eq!(piece.home(address), None);
    }
}

#[test]
fn a_range_up_to_the_end_of_all_addresses_has_an_end() {
    let find = |at: u64| Some((PhysicalAddress(at), u64::MAX - at));
    assert_eq!(for_each_part(find, u64::MAX - 4, 4, |_, _| {}), Ok(()));
    assert_eq!(for_each_part(find, u64::MAX - 4, 8, |_, _| {}), Err(u64::MAX));
    assert_eq!(for_each_part(find, u64::MAX, u64::MAX, |_, _| {}), Err(u64::MAX));
}

proptest! {
    #[test]
    fn parts_cover_a_range_once_and_in_order(
        blocks in 1u64..64, largest in 0u32..6, start in 0u64..(8 * BLOCK), bytes in 0u64..(8 * BLOCK),
    ) {
        let end = blocks * BLOCK;
        let pieces =
            allocate_pieces(Some(0..end), BLOCK << largest, host(GIB, 8 * GIB)).unwrap();
        let find = |at| pieces.iter().find_map(|piece| piece.home(at));
        let mut at = start;
        let result = for_each_part(find, start, bytes, |host, part| {
            assert_eq!(find(at).unwrap().0.0, host);
            at += part;
        });
        match bytes == 0 || start + bytes <= end {
            true => prop_assert_eq!((result, at), (Ok(()), start + bytes)),
            false => prop_assert_eq!((result, at), (Err(start.max(end)), start.max(end))),
        }
    }
}
