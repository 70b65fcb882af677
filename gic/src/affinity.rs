//! The affinity of a CPU or vCPU: `Aff3.Aff2.Aff1.Aff0` of `MPIDR_EL1`.

/// Four affinity levels, as in `MPIDR_EL1` (Arm ARM D23.2.90) without its other bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Affinity(u32);

impl Affinity {
    /// From a value of `MPIDR_EL1` or of `GICD_IROUTERn`: `Aff3` in bits 39:32, the rest in 23:0.
    #[inline(always)]
    #[must_use]
    pub const fn from_mpidr(mpidr: u64) -> Self {
        Self(((mpidr >> 8) & 0xff00_0000) as u32 | (mpidr & 0x00ff_ffff) as u32)
    }

    /// From the four levels, `aff3` first.
    #[must_use]
    pub const fn new(aff3: u8, aff2: u8, aff1: u8, aff0: u8) -> Self {
        Self(u32::from_be_bytes([aff3, aff2, aff1, aff0]))
    }

    /// As in `MPIDR_EL1` and `GICD_IROUTERn`, all other bits zero.
    #[inline(always)]
    #[must_use]
    pub const fn mpidr(self) -> u64 {
        ((self.0 as u64 & 0xff00_0000) << 8) | (self.0 as u64 & 0x00ff_ffff)
    }

    /// As in `GICR_TYPER.Affinity_Value`: `Aff3` in bits 31:24.
    #[inline(always)]
    #[must_use]
    pub const fn packed(self) -> u32 {
        self.0
    }

    /// Level 0, the CPU inside its cluster.
    #[inline(always)]
    #[must_use]
    pub const fn aff0(self) -> u8 {
        self.0.to_be_bytes()[3]
    }

    /// Level 1.
    #[inline(always)]
    #[must_use]
    pub const fn aff1(self) -> u8 {
        self.0.to_be_bytes()[2]
    }

    /// Level 2.
    #[inline(always)]
    #[must_use]
    pub const fn aff2(self) -> u8 {
        self.0.to_be_bytes()[1]
    }

    /// Level 3.
    #[inline(always)]
    #[must_use]
    pub const fn aff3(self) -> u8 {
        self.0.to_be_bytes()[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mpidr_flags_are_not_affinity() {
        let affinity = Affinity::from_mpidr(0x0000_0012_c134_5678);
        assert_eq!(affinity, Affinity::new(0x12, 0x34, 0x56, 0x78));
        assert_eq!(affinity.mpidr(), 0x12_0034_5678);
        assert_eq!(affinity.packed(), 0x1234_5678);
        assert_eq!(
            [affinity.aff3(), affinity.aff2(), affinity.aff1(), affinity.aff0()],
            [0x12, 0x34, 0x56, 0x78]
        );
    }
}
