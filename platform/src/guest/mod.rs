//! The machine that AArch64 guests see: QEMU's `virt`, so that what is built for that machine runs unchanged.

pub mod image;
pub mod layout;
pub mod placement;
pub mod tree;
pub mod windows;

use core::fmt;

/// A physical address as a guest sees it (IPA), in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestAddress(u64);

impl GuestAddress {
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
}

impl fmt::Display for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A range of guest addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestRange {
    base: GuestAddress,
    size: u64,
}

impl GuestRange {
    /// The range of `size` bytes from `base`; `None` if its end is beyond 2⁶⁴ - 1.
    #[must_use]
    pub const fn new(base: GuestAddress, size: u64) -> Option<Self> {
        if base.0.checked_add(size).is_none() {
            return None;
        }
        Some(Self { base, size })
    }

    /// A range that is known to be good when the program is compiled.
    const fn constant(base: u64, size: u64) -> Self {
        Self { base: GuestAddress(base), size }
    }

    /// The first address.
    #[must_use]
    pub const fn base(self) -> GuestAddress {
        self.base
    }

    /// The length in bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.size
    }

    /// The address after the last one.
    #[must_use]
    pub const fn end(self) -> GuestAddress {
        // `new` has checked the sum.
        GuestAddress(self.base.0.saturating_add(self.size))
    }

    /// Whether `address` lies inside.
    #[must_use]
    pub const fn contains(self, address: GuestAddress) -> bool {
        self.base.0 <= address.0 && address.0 < self.end().0
    }
}

impl fmt::Display for GuestRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.base.0, self.end().0)
    }
}
