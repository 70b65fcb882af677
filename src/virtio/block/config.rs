//! The configuration space of a block device (virtio 5.2.4).

use crate::virtio::block::storage::Storage;
use crate::virtio::queue::MAX_SIZE;

/// `struct virtio_blk_config` without its fields for other features.
pub(super) const SIZE: usize = 60;
/// Offset of `writeback`.
pub(super) const WRITEBACK: usize = 32;

/// Buffers of data in one request: header and status take a descriptor each.
const SEG_MAX: u32 = MAX_SIZE as u32 - 2;
/// Most sectors in a segment of a discard or write-zeroes request.
pub(super) const MAX_SEGMENT_SECTORS: u32 = 64 << 11;
/// Most segments in such a request.
pub(super) const MAX_SEGMENTS: u32 = 16;

/// `struct virtio_blk_config` of `storage`. `writeback` is zero.
pub(super) fn of(storage: &dyn Storage) -> [u8; SIZE] {
    let block = storage.block_size();
    let ratio = storage.physical_block_size().checked_div(block).unwrap_or(1);
    let exponent = ratio.checked_ilog2().unwrap_or(0).to_le_bytes()[0];
    let mut config = [0; SIZE];
    let mut rest = config.as_mut_slice();
    let mut put = |bytes: &[u8]| {
        let (now, later) =
            core::mem::take(&mut rest).split_at_mut_checked(bytes.len()).unwrap_or_default();
        if now.len() == bytes.len() {
            now.copy_from_slice(bytes);
        }
        rest = later;
    };
    let discards = storage.discard_block_size().unwrap_or(block);
    let discard_alignment = discards.checked_div(super::storage::SECTOR as u32).unwrap_or(1);
    put(&storage.capacity_sectors().to_le_bytes());
    put(&0u32.to_le_bytes()); // size_max: no limit
    put(&SEG_MAX.to_le_bytes());
    put(&[0; 4]); // geometry
    put(&block.to_le_bytes());
    put(&[exponent, 0]); // topology: physical_block_exp, alignment_offset
    put(&0u16.to_le_bytes()); // min_io_size: none is better
    put(&0u32.to_le_bytes()); // opt_io_size: none is better
    put(&[0, 0]); // writeback, unused
    put(&1u16.to_le_bytes()); // num_queues
    put(&MAX_SEGMENT_SECTORS.to_le_bytes()); // max_discard_sectors
    put(&MAX_SEGMENTS.to_le_bytes()); // max_discard_seg
    put(&discard_alignment.to_le_bytes()); // discard_sector_alignment
    put(&MAX_SEGMENT_SECTORS.to_le_bytes()); // max_write_zeroes_sectors
    put(&MAX_SEGMENTS.to_le_bytes()); // max_write_zeroes_seg
    put(&[0; 4]); // write_zeroes_may_unmap, unused
    config
}
