//! What the walker must know about an architecture's tables.

use crate::{Attributes, PhysicalAddress};

bitflags::bitflags! {
    /// What the hypervisor remembers in bits of an entry that the hardware ignores.
    ///
    /// A [`Format`] stores these four bits wherever it has room, and gives them back unchanged.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Software: u8 {
        /// The guest is entitled to write, even if the hardware holds writes back for now.
        const WRITE = 1 << 0;
        /// The page is shared; the first write must copy it.
        const SHARED = 1 << 1;
        /// Writes are being logged.
        const LOGGED = 1 << 2;
        /// The page has been written since the log was last collected.
        const DIRTY = 1 << 3;
    }
}

/// An entry that maps memory: the decoded form, the same for all formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// First physical address, aligned to what an entry of this level spans.
    pub address: PhysicalAddress,
    /// What the guest is entitled to.
    pub attributes: Attributes,
    /// The page is shared; the first write must copy it.
    pub shared: bool,
    /// Writes are being logged.
    pub logged: bool,
    /// The page has been written since the log was last collected. Meaningful only when `logged`.
    pub dirty: bool,
}

impl Leaf {
    /// A leaf that is neither shared nor logged.
    pub const fn new(address: PhysicalAddress, attributes: Attributes) -> Self {
        Self { address, attributes, shared: false, logged: false, dirty: false }
    }

    /// Whether the hardware may let a write through now: the guest is entitled to it, and neither
    /// sharing nor logging needs to see it first. A format's write permission is exactly this.
    pub const fn writable(&self) -> bool {
        self.attributes.write && !self.shared && (!self.logged || self.dirty)
    }

    /// The bits to store in an entry beside the hardware's own.
    pub fn software(&self) -> Software {
        let mut bits = Software::empty();
        bits.set(Software::WRITE, self.attributes.write);
        bits.set(Software::SHARED, self.shared);
        bits.set(Software::LOGGED, self.logged);
        bits.set(Software::DIRTY, self.dirty);
        bits
    }

    /// The leaf whose hardware fields are `address` and `attributes` (its `write` is ignored) and
    /// whose stored bits are `software`.
    pub fn from_software(
        address: PhysicalAddress,
        attributes: Attributes,
        software: Software,
    ) -> Self {
        Self {
            address,
            attributes: Attributes { write: software.contains(Software::WRITE), ..attributes },
            shared: software.contains(Software::SHARED),
            logged: software.contains(Software::LOGGED),
            dirty: software.contains(Software::DIRTY),
        }
    }
}

/// A decoded entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing there: an access faults.
    Invalid,
    /// Maps memory.
    Leaf(Leaf),
    /// Points to a table of the next lower level.
    Table(PhysicalAddress),
}

/// An architecture's translation tables, as far as a radix walker must know them.
///
/// Levels count upwards from the smallest page: level 0 holds pages (Arm's level 3, x86's page
/// table), and the root is level `levels() - 1`. Each table below the root is one granule of 64-bit
/// entries; the root may be up to sixteen of them, side by side.
///
/// Contract: an entry of value 0 is invalid, at every level, and so is to the hardware any entry
/// whose only set bits are a granule-aligned address and bit 11. For every leaf that
/// [`expresses`](Format::expresses) accepts, [`decode`](Format::decode) reverses
/// [`leaf`](Format::leaf), except that memory types without an encoding of their own may come back as
/// a stricter one.
pub trait Format {
    /// Whether a CPU may go on refusing an access from a cached entry after memory holds a laxer
    /// one. True on Arm; on x86 the fault itself drops the cached entry.
    const CACHES_REFUSALS: bool = true;

    /// Binary logarithm of the bytes in a table and in the smallest page: 12 or 14.
    fn granule_shift(&self) -> u32;
    /// Width of the guest's addresses in bits.
    fn input_bits(&self) -> u32;
    /// Width of physical addresses in bits.
    fn output_bits(&self) -> u32;
    /// Number of levels, the root's included: 1 to 5.
    fn levels(&self) -> u32;
    /// Whether an entry of `level` may map memory. True for level 0, and without gaps from there.
    fn leaf_at(&self, level: u32) -> bool;
    /// Whether a leaf can have these attributes.
    fn expresses(&self, attributes: Attributes) -> bool;
    /// The entry of `level` that maps `leaf`. The hardware's write permission is
    /// [`Leaf::writable`].
    fn leaf(&self, level: u32, leaf: &Leaf) -> u64;
    /// The entry that points to a table.
    fn table(&self, table: PhysicalAddress) -> u64;
    /// What an entry of `level` means. Never [`Entry::Table`] at level 0.
    fn decode(&self, level: u32, entry: u64) -> Entry;
}
