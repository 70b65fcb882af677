//! The header before each frame (virtio 5.1.6), and its checksum.

use virtio_spec::net::{HdrF, HdrGso};

/// `struct virtio_net_hdr` in bytes.
pub(super) const SIZE: usize = 12;
/// Offset of `num_buffers`.
pub(super) const NUM_BUFFERS: u32 = 10;

/// The header of a received frame that is whole and checked by nobody, in `buffers` buffers.
pub(super) fn received(buffers: u16) -> [u8; SIZE] {
    let [low, high] = buffers.to_le_bytes();
    [HdrF::empty().bits(), HdrGso::None.into(), 0, 0, 0, 0, 0, 0, 0, 0, low, high]
}

/// Does for a frame that the driver sends what its header asks for. False
/// when it asks for what was not negotiated or makes no sense.
pub(super) fn apply(header: [u8; SIZE], frame: &mut [u8], checksums: bool) -> bool {
    let [flags, segmentation, _, _, _, _, start_low, start_high, offset_low, offset_high, _, _] =
        header;
    if segmentation != u8::from(HdrGso::None) {
        return false;
    }
    if !HdrF::from_bits_retain(flags).contains(HdrF::NEEDS_CSUM) {
        return true;
    }
    let start = usize::from(u16::from_le_bytes([start_low, start_high]));
    let offset = usize::from(u16::from_le_bytes([offset_low, offset_high]));
    checksums && complete(frame, start, offset)
}

/// Puts the checksum of all from `start` on at `offset` from there, where the
/// sum of the pseudo-header is (RFC 1071). False when that is outside.
fn complete(frame: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(covered) = frame.get_mut(start..) else { return false };
    let (pairs, odd) = covered.as_chunks::<2>();
    let last = odd.first().map_or(0, |byte| u64::from(*byte) << 8);
    let mut sum =
        pairs.iter().fold(last, |sum, pair| sum.wrapping_add(u64::from(u16::from_be_bytes(*pair))));
    while sum > 0xffff {
        sum = (sum & 0xffff).wrapping_add(sum >> 16);
    }
    // A UDP checksum of zero would mean that there is none; both stand for the same number.
    let checksum = match !(sum as u16) {
        0 => 0xffff,
        other => other,
    };
    match covered.get_mut(offset..).and_then(|field| field.first_chunk_mut::<2>()) {
        Some(field) => {
            *field = checksum.to_be_bytes();
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8, start: u16, offset: u16) -> [u8; SIZE] {
        let mut header = [0; SIZE];
        header[0] = flags;
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&offset.to_le_bytes());
        header
    }

    #[test]
    fn a_checksum_makes_the_sum_come_out() {
        for length in [4, 5, 20, 1480, 1481] {
            let mut frame: Vec<u8> = (0..length).map(|i| (i * 31 + 7) as u8).collect();
            let pseudo = [0x12, 0x34];
            frame[2..4].copy_from_slice(&pseudo);
            let before = frame.clone();
            assert!(apply(header(1, 0, 2), &mut frame, true));
            // RFC 1071: the sum with the checksum in its field, and with what was there, is all ones.
            let mut sum: u64 = u64::from(u16::from_be_bytes(pseudo));
            for pair in frame.chunks(2) {
                let low = pair.get(1).copied().unwrap_or(0);
                sum += u64::from(u16::from_be_bytes([pair[0], low]));
            }
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            assert_eq!(sum, 0xffff, "{length}");
            assert_eq!(frame[4..], before[4..]);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut frame = [1; 60];
        for (start, offset) in [(61, 0), (60, 0), (50, 9), (0, 59), (u16::MAX, u16::MAX)] {
            assert!(!apply(header(1, start, offset), &mut frame, true), "{start} {offset}");
        }
        assert!(!apply(header(1, 0, 0), &mut frame, false), "not negotiated");
        let mut segmented = header(0, 0, 0);
        segmented[1] = 1;
        assert!(!apply(segmented, &mut frame, true));
        assert_eq!(frame, [1; 60]);
        assert!(apply(header(0, 61, 0), &mut frame, false));
    }

    #[test]
    fn zero_is_sent_as_all_ones() {
        let mut frame = [0xff, 0xff, 0, 0];
        assert!(apply(header(1, 0, 2), &mut frame, true));
        assert_eq!(frame[2..], [0xff, 0xff]);
    }
}
