//! Which vCPU of a VM, and sets of them.

/// A vCPU of the VM by its position in [`Config::vcpus`](crate::Config), counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuIndex(u8);

impl VcpuIndex {
    /// The largest number of vCPUs of a VM.
    pub const LIMIT: usize = 64;

    /// The vCPU at `position`; a position of [`Self::LIMIT`] or more is never a vCPU of any VM and wraps to one that
    /// a VM may have, so check it where it comes from outside.
    #[inline(always)]
    #[must_use]
    pub const fn new(position: usize) -> Self {
        Self((position % Self::LIMIT) as u8)
    }

    /// The position, for indexing the VM's own vCPU table.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// A set of vCPUs of one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VcpuSet(u64);

impl VcpuSet {
    /// No vCPU.
    pub const EMPTY: Self = Self(0);

    /// The set of the vCPUs whose bits are set, bit 0 being vCPU 0.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// One bit per vCPU, bit 0 being vCPU 0.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set with one member.
    #[inline(always)]
    #[must_use]
    pub const fn only(vcpu: VcpuIndex) -> Self {
        Self(1u64.wrapping_shl(vcpu.0 as u32))
    }

    /// The first `count` vCPUs.
    #[must_use]
    pub const fn first(count: usize) -> Self {
        if count >= VcpuIndex::LIMIT {
            Self(u64::MAX)
        } else {
            Self(1u64.wrapping_shl(count as u32).wrapping_sub(1))
        }
    }

    /// Whether nobody is in the set.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `vcpu` is in the set.
    #[inline(always)]
    #[must_use]
    pub const fn contains(self, vcpu: VcpuIndex) -> bool {
        self.0 & Self::only(vcpu).0 != 0
    }

    /// Adds `vcpu`.
    #[inline(always)]
    pub fn insert(&mut self, vcpu: VcpuIndex) {
        self.0 |= Self::only(vcpu).0;
    }

    /// Takes `vcpu` out.
    #[inline(always)]
    pub fn remove(&mut self, vcpu: VcpuIndex) {
        self.0 &= !Self::only(vcpu).0;
    }

    /// The members of either set.
    #[inline(always)]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The members of both sets.
    #[inline(always)]
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members that are not in `other`.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl IntoIterator for VcpuSet {
    type Item = VcpuIndex;
    type IntoIter = Members;

    #[inline(always)]
    fn into_iter(self) -> Members {
        Members(self.0)
    }
}

/// The members of a [`VcpuSet`], lowest first.
#[derive(Clone, Debug)]
pub struct Members(u64);

impl Iterator for Members {
    type Item = VcpuIndex;

    #[inline(always)]
    fn next(&mut self) -> Option<VcpuIndex> {
        if self.0 == 0 {
            return None;
        }
        let position = self.0.trailing_zeros() as u8;
        self.0 &= self.0.wrapping_sub(1);
        Some(VcpuIndex(position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_lists_its_members_in_order() {
        let mut set = VcpuSet::EMPTY;
        for n in [63, 0, 7] {
            set.insert(VcpuIndex::new(n));
        }
        set.remove(VcpuIndex::new(7));
        assert_eq!(set.into_iter().map(VcpuIndex::get).collect::<Vec<_>>(), [0, 63]);
        assert!(set.contains(VcpuIndex::new(63)) && !set.contains(VcpuIndex::new(7)));
    }

    #[test]
    fn the_first_n_vcpus_stop_at_the_limit() {
        assert_eq!(VcpuSet::first(0), VcpuSet::EMPTY);
        assert_eq!(VcpuSet::first(4).bits(), 0xf);
        assert_eq!(VcpuSet::first(64).bits(), u64::MAX);
    }
}
