//! Interrupt numbers.

use crate::VcpuIndex;

/// An interrupt number of the GIC: 0 to 15 software generated (SGI), 16 to 31 private to a CPU (PPI), 32 to 1019 shared
/// (SPI), above that special or not used here (IHI 0069 2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntId(u32);

impl IntId {
    /// The number of SGIs.
    pub const SGIS: u32 = 16;
    /// The number of interrupts that each CPU has for itself: SGIs and PPIs.
    pub const PRIVATE: u32 = 32;
    /// One past the last SPI.
    pub const END: u32 = 1020;
    /// Acknowledging when nothing is pending gives this number.
    pub const NONE: Self = Self(1023);

    /// The interrupt with this number. No number is refused here: those that a controller doesn't have are ignored.
    #[inline(always)]
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether this is one of the 16 software generated interrupts.
    #[inline(always)]
    #[must_use]
    pub const fn is_sgi(self) -> bool {
        self.0 < Self::SGIS
    }

    /// Whether each CPU has its own interrupt of this number (SGI or PPI).
    #[inline(always)]
    #[must_use]
    pub const fn is_private(self) -> bool {
        self.0 < Self::PRIVATE
    }

    /// Whether this is a shared interrupt.
    #[inline(always)]
    #[must_use]
    pub const fn is_shared(self) -> bool {
        self.0 >= Self::PRIVATE && self.0 < Self::END
    }

    /// Which word of 32 interrupts it is in: 0 for private ones.
    #[inline(always)]
    pub(crate) const fn bank(self) -> usize {
        (self.0 >> 5) as usize
    }

    /// Its bit in that word.
    #[inline(always)]
    pub(crate) const fn lane(self) -> usize {
        (self.0 & 31) as usize
    }

    #[inline(always)]
    pub(crate) const fn from_parts(bank: usize, lane: usize) -> Self {
        Self(((bank as u32) << 5) | (lane as u32 & 31))
    }
}

/// An interrupt input of the virtual controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A shared input, INTID 32 or more.
    Spi(IntId),
    /// An input of one vCPU, INTID 16 to 31.
    Ppi(VcpuIndex, IntId),
}
