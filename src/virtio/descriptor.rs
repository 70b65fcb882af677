//! The descriptor table: from the number of a head to a [`Chain`]
//! (virtio 2.7.5).

use virtio_spec::le16;
use virtio_spec::virtq::DescF;

use crate::address::GuestAddress;
use crate::memory::GuestMemory;
use crate::virtio::chain::Chain;
use crate::virtio::device::Broken;
use crate::virtio::queue::MAX_SIZE;

/// `struct virtq_desc` in bytes.
pub(super) const SIZE: u64 = 16;

struct Descriptor {
    address: GuestAddress,
    length: u32,
    flags: DescF,
    next: u16,
}

/// A table of descriptors: the queue's or an indirect one.
#[derive(Clone, Copy)]
struct Table {
    base: GuestAddress,
    entries: u32,
}

impl Table {
    fn read(self, memory: &dyn GuestMemory, index: u16) -> Result<Descriptor, Broken> {
        if u32::from(index) >= self.entries {
            return Err(Broken::Index);
        }
        let offset = u64::from(index).saturating_mul(SIZE);
        let address = self.base.checked_add(offset).ok_or(Broken::Index)?;
        let mut bytes = [0; SIZE as usize];
        memory.read(address, &mut bytes)?;
        let word = u128::from_le_bytes(bytes);
        Ok(Descriptor {
            address: GuestAddress(word as u64),
            length: (word >> 64) as u32,
            flags: DescF::from_bits_retain(le16::from_ne((word >> 96) as u16)),
            next: (word >> 112) as u16,
        })
    }
}

/// Follows the chain that starts at `head` of the queue's table of `size`
/// descriptors at `base`.
///
/// # Errors
/// [`Broken`] when the chain breaks a rule.
pub(super) fn follow(
    memory: &dyn GuestMemory,
    base: GuestAddress,
    size: u16,
    head: u16,
    indirect: bool,
    chain: &mut Chain,
) -> Result<(), Broken> {
    chain.start(head);
    let mut table = Table { base, entries: size.into() };
    let mut inside = false;
    let mut index = head;
    // A direct chain that is longer than its table has a loop.
    let mut left = size;
    loop {
        let descriptor = table.read(memory, index)?;
        let flags = descriptor.flags;
        if flags.contains(DescF::INDIRECT) {
            // 2.7.5.3.1: not without the feature, not in such a table, not with NEXT.
            if !indirect || inside || flags.contains(DescF::NEXT) {
                return Err(Broken::Flags);
            }
            let length = u64::from(descriptor.length);
            if length == 0 || !length.is_multiple_of(SIZE) {
                return Err(Broken::Index);
            }
            let entries = descriptor.length.checked_div(SIZE as u32).unwrap_or(0);
            table = Table { base: descriptor.address, entries };
            inside = true;
            index = 0;
            left = MAX_SIZE;
            continue;
        }
        left = left.checked_sub(1).ok_or(Broken::TooLong)?;
        if chain.segments() >= usize::from(MAX_SIZE) {
            return Err(Broken::TooLong);
        }
        chain.push(descriptor.address, descriptor.length, flags.contains(DescF::WRITE))?;
        if !flags.contains(DescF::NEXT) {
            return Ok(());
        }
        index = descriptor.next;
    }
}
