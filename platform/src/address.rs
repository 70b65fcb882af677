//! Physical addresses and sets of address ranges.

use alloc::vec::Vec;
use core::fmt;

/// A physical address of the machine that the hypervisor runs on, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysicalAddress(u64);

impl PhysicalAddress {
    /// Wraps an address.
    #[must_use]
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The address as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on, or `None` past the end of the address space.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(address) => Some(Self(address)),
            None => None,
        }
    }
}

impl fmt::Display for PhysicalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A non-empty range of physical addresses. Its end is an address, too: it never wraps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region {
    base: PhysicalAddress,
    size: u64,
}

impl Region {
    /// The range of `size` bytes from `base`; `None` if it is empty or its end is beyond 2⁶⁴ - 1.
    #[must_use]
    pub const fn new(base: PhysicalAddress, size: u64) -> Option<Self> {
        if size == 0 || base.0.checked_add(size).is_none() {
            return None;
        }
        Some(Self { base, size })
    }

    /// The range from `start` up to but not including `end`; `None` if it is empty.
    #[must_use]
    pub const fn between(start: PhysicalAddress, end: PhysicalAddress) -> Option<Self> {
        match end.0.checked_sub(start.0) {
            Some(size) => Self::new(start, size),
            None => None,
        }
    }

    /// The first address.
    #[must_use]
    pub const fn base(self) -> PhysicalAddress {
        self.base
    }

    /// The length in bytes, never 0.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.size
    }

    /// The address after the last one.
    #[must_use]
    pub const fn end(self) -> PhysicalAddress {
        // `new` has checked the sum.
        PhysicalAddress(self.base.0.saturating_add(self.size))
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub const fn contains(self, address: PhysicalAddress) -> bool {
        self.base.0 <= address.0 && address.0 < self.end().0
    }

    /// Whether the two ranges share an address.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.base.0 < other.end().0 && other.base.0 < self.end().0
    }

    /// The largest range inside whose base and end are multiples of `alignment` bytes, a power of two; `None` if
    /// nothing is left.
    #[must_use]
    pub fn aligned_inside(self, alignment: u64) -> Option<Self> {
        let start = self.base.0.checked_next_multiple_of(alignment)?;
        let end = self.end().0.checked_sub(self.end().0.checked_rem(alignment)?)?;
        Self::between(PhysicalAddress(start), PhysicalAddress(end))
    }

    /// The smallest range around it whose base and end are multiples of `alignment` bytes, a power of two; `None` if it
    /// would end beyond 2⁶⁴ - 1.
    #[must_use]
    pub fn aligned_outside(self, alignment: u64) -> Option<Self> {
        let start = self.base.0.checked_sub(self.base.0.checked_rem(alignment)?)?;
        let end = self.end().0.checked_next_multiple_of(alignment)?;
        Self::between(PhysicalAddress(start), PhysicalAddress(end))
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.base.0, self.end().0)
    }
}

/// Sorts ranges by address and joins those that touch or overlap.
#[must_use]
pub fn merge_regions(mut regions: Vec<Region>) -> Vec<Region> {
    regions.sort_unstable();
    let mut merged: Vec<Region> = Vec::new();
    for region in regions {
        if let Some(last) = merged.last_mut()
            && region.base <= last.end()
        {
            let end = last.end().max(region.end());
            if let Some(joined) = Region::between(last.base, end) {
                *last = joined;
            }
            continue;
        }
        merged.push(region);
    }
    merged
}

/// What is in `regions` but not in `holes`, sorted and merged.
#[must_use]
pub fn subtract_regions(regions: &[Region], holes: &[Region]) -> Vec<Region> {
    let holes = merge_regions(holes.to_vec());
    let mut left = Vec::new();
    let mut first_hole = 0;
    for region in merge_regions(regions.to_vec()) {
        let mut start = region.base;
        let passed =
            holes.iter().skip(first_hole).take_while(|hole| hole.end() <= region.base).count();
        // Both lists are sorted: a hole that ends before this range is of no interest to the next one either.
        first_hole = first_hole.saturating_add(passed);
        for hole in holes.iter().skip(first_hole).take_while(|hole| hole.base < region.end()) {
            left.extend(Region::between(start, hole.base));
            start = start.max(hole.end());
        }
        left.extend(Region::between(start, region.end()));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region(base: u64, size: u64) -> Region {
        Region::new(PhysicalAddress::new(base), size).unwrap()
    }

    #[test]
    fn a_region_is_never_empty_and_never_wraps() {
        assert_eq!(Region::new(PhysicalAddress::new(0x1000), 0), None);
        assert_eq!(Region::new(PhysicalAddress::new(u64::MAX), 1), None);
        assert_eq!(Region::new(PhysicalAddress::new(u64::MAX - 1), 2), None);
        assert_eq!(region(u64::MAX - 1, 1).end().get(), u64::MAX);
        assert_eq!(Region::between(PhysicalAddress::new(2), PhysicalAddress::new(1)), None);
    }

    #[test]
    fn alignment_only_shrinks_a_region() {
        assert_eq!(region(0x1001, 0x2fff).aligned_inside(0x1000), Some(region(0x2000, 0x2000)));
        assert_eq!(region(0x1001, 0xffe).aligned_inside(0x1000), None);
        assert_eq!(region(u64::MAX - 0x10, 0x10).aligned_inside(0x1000), None);
        assert_eq!(region(0x1000, 0x1000).aligned_inside(0), None);
    }

    #[test]
    fn touching_regions_become_one() {
        let merged =
            merge_regions(vec![region(0x3000, 0x1000), region(0, 0x1000), region(0x1000, 0x1000)]);
        assert_eq!(merged, [region(0, 0x2000), region(0x3000, 0x1000)]);
    }

    #[test]
    fn a_hole_in_the_middle_splits_a_region() {
        assert_eq!(
            subtract_regions(&[region(0, 0x4000)], &[region(0x1000, 0x1000)]),
            [region(0, 0x1000), region(0x2000, 0x2000)]
        );
    }

    fn regions() -> impl Strategy<Value = Vec<Region>> {
        prop::collection::vec(
            (0u64..64, 1u64..16).prop_map(|(base, size)| region(base, size)),
            0..8,
        )
    }

    proptest! {
        #[test]
        fn subtraction_agrees_with_a_set_of_single_addresses(memory in regions(), holes in regions()) {
            let left = subtract_regions(&memory, &holes);
            for address in (0..96).map(PhysicalAddress::new) {
                let expected = memory.iter().any(|region| region.contains(address))
                    && !holes.iter().any(|hole| hole.contains(address));
                prop_assert_eq!(left.iter().any(|region| region.contains(address)), expected);
            }
            for pair in left.windows(2) {
                prop_assert!(pair[0].end() < pair[1].base());
            }
        }
    }
}
