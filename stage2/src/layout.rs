//! The shape of a tree: how an address is cut into indices.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "`Layout::of` bounds shifts below 64; addresses below 2^52 cannot overflow"
)]

use crate::{Error, Format, IntermediateAddress, PhysicalAddress};

/// Bytes of an entry, as a binary logarithm.
const ENTRY_SHIFT: u32 = 3;
/// The most root tables side by side, as a binary logarithm (Arm ARM D8.2.2).
const CONCATENATION_SHIFT: u32 = 4;
/// The widest address that any format translates.
const MAX_ADDRESS_BITS: u32 = 52;

/// A validated shape. Levels count upwards from the smallest page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    granule_shift: u32,
    levels: u32,
    input_bits: u32,
    output_bits: u32,
}

/// A validated, page-aligned, half-open range of guest addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    pub(crate) fn contains(&self, slot: &Slot) -> bool {
        self.start <= slot.start && slot.end() <= self.end
    }
}

/// Where an entry is, and what it spans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// Physical address of the entry.
    pub(crate) entry: PhysicalAddress,
    pub(crate) level: u32,
    /// First guest address that the entry translates.
    pub(crate) start: u64,
    /// Bytes of guest addresses that it translates.
    pub(crate) span: u64,
}

impl Slot {
    pub(crate) fn end(&self) -> u64 {
        self.start + self.span
    }
}

impl Layout {
    pub(crate) fn of<F: Format>(format: &F) -> Result<Self, Error> {
        let layout = Self {
            granule_shift: format.granule_shift(),
            levels: format.levels(),
            input_bits: format.input_bits(),
            output_bits: format.output_bits(),
        };
        let sane = (12..=16).contains(&layout.granule_shift)
            && (1..=5).contains(&layout.levels)
            && layout.input_bits <= MAX_ADDRESS_BITS
            && layout.output_bits <= MAX_ADDRESS_BITS
            && layout.shift(layout.root_level()) < layout.input_bits
            && layout.input_bits - layout.shift(layout.root_level())
                <= layout.index_bits() + CONCATENATION_SHIFT
            && format.leaf_at(0)
            && (1..layout.levels).all(|level| !format.leaf_at(level) || format.leaf_at(level - 1));
        if sane { Ok(layout) } else { Err(Error::InvalidFormat) }
    }

    /// Bytes of the smallest page and of a table below the root.
    pub(crate) fn granule(&self) -> u64 {
        1 << self.granule_shift
    }

    pub(crate) fn root_level(&self) -> u32 {
        self.levels - 1
    }

    /// One past the last guest address.
    pub(crate) fn input_end(&self) -> u64 {
        1 << self.input_bits
    }

    fn index_bits(&self) -> u32 {
        self.granule_shift - ENTRY_SHIFT
    }

    fn shift(&self, level: u32) -> u32 {
        self.granule_shift + level * self.index_bits()
    }

    /// Bytes that an entry of `level` translates.
    pub(crate) fn span(&self, level: u32) -> u64 {
        1 << self.shift(level)
    }

    /// Number of entries in a table of `level`.
    pub(crate) fn entries(&self, level: u32) -> u64 {
        if level == self.root_level() {
            1 << (self.input_bits - self.shift(level))
        } else {
            1 << self.index_bits()
        }
    }

    /// Bytes of the root: at least a granule, so that allocators need not know smaller pieces.
    pub(crate) fn root_bytes(&self) -> u64 {
        (self.entries(self.root_level()) << ENTRY_SHIFT).max(self.granule())
    }

    /// Root bytes in units of a granule.
    pub(crate) fn root_pages(&self) -> u64 {
        self.root_bytes() >> self.granule_shift
    }

    /// The slot that translates `address` in a table of `level` at `table`.
    pub(crate) fn slot(&self, table: PhysicalAddress, level: u32, address: u64) -> Slot {
        let number = address >> self.shift(level);
        let index = number & (self.entries(level) - 1);
        Slot {
            entry: PhysicalAddress(table.0 + (index << ENTRY_SHIFT)),
            level,
            start: number << self.shift(level),
            span: self.span(level),
        }
    }

    /// The entries of `table` in their order.
    pub(crate) fn entries_of(
        &self,
        table: PhysicalAddress,
        level: u32,
    ) -> impl Iterator<Item = PhysicalAddress> + use<> {
        (0..self.entries(level)).map(move |index| PhysicalAddress(table.0 + (index << ENTRY_SHIFT)))
    }

    /// Checks a range of guest addresses.
    pub(crate) fn range(&self, start: IntermediateAddress, bytes: u64) -> Result<Range, Error> {
        self.check_aligned(start.0)?;
        self.check_aligned(bytes)?;
        match start.0.checked_add(bytes) {
            Some(end) if end <= self.input_end() => Ok(Range { start: start.0, end }),
            _ => Err(Error::OutOfInputRange { start, bytes, bits: self.input_bits }),
        }
    }

    /// Checks a range of physical addresses.
    pub(crate) fn check_output(&self, start: PhysicalAddress, bytes: u64) -> Result<(), Error> {
        self.check_aligned(start.0)?;
        match start.0.checked_add(bytes) {
            Some(end) if end <= 1 << self.output_bits => Ok(()),
            _ => Err(Error::OutOfOutputRange { start, bytes, bits: self.output_bits }),
        }
    }

    fn check_aligned(&self, value: u64) -> Result<(), Error> {
        if value & (self.granule() - 1) == 0 {
            Ok(())
        } else {
            Err(Error::Misaligned { value, granule: self.granule() })
        }
    }
}
