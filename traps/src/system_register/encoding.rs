//! One point of the encoding space.

use core::fmt;

use super::names;
use crate::syndrome::{CoprocessorPair, CoprocessorRegister};

/// The encoding of a system register or system instruction: `op0`, `op1`, `CRn`, `CRm` and `op2`, packed into 16 bits
/// in this order.
///
/// The order of the packed values is that of the encodings. Every register that a guest can meet has a constant with
/// its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Encoding(u16);

impl Encoding {
    /// The encoding with these parts. Bits beyond the width of a part (2, 3, 4, 4 and 3) are dropped.
    #[must_use]
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self(
            ((op0 as u16 & 3) << 14)
                | ((op1 as u16 & 7) << 11)
                | ((crn as u16 & 15) << 7)
                | ((crm as u16 & 15) << 3)
                | (op2 as u16 & 7),
        )
    }

    /// The encoding in the syndrome of a trapped access (Arm ARM D24.2.40, exception class `0b011000`).
    #[inline]
    #[must_use]
    pub const fn from_iss(iss: u32) -> Self {
        // op0 is at bit 20, op2 at 17, op1 at 14, CRn at 10 and CRm at 1.
        let value = (((iss >> 20) & 3) << 14)
            | (((iss >> 10) & 0x7f) << 7)
            | (((iss >> 1) & 15) << 3)
            | ((iss >> 17) & 7);
        Self(value as u16)
    }

    /// The bits that name the register in the syndrome of a trapped access; the reverse of [`Self::from_iss`].
    #[inline]
    #[must_use]
    pub const fn iss(self) -> u32 {
        let value = self.0 as u32;
        (((value >> 14) & 3) << 20)
            | (((value >> 7) & 0x7f) << 10)
            | (((value >> 3) & 15) << 1)
            | ((value & 7) << 17)
    }

    /// The AArch64 register behind a coprocessor 15 register that EL0 can reach in AArch32, if that is one which a
    /// guest has: performance monitors, timers, and maintenance by set and way.
    #[must_use]
    pub const fn from_cp15(register: &CoprocessorRegister) -> Option<Self> {
        let (crm, opc2) = (register.crm, register.opc2);
        match (register.opc1, register.crn, crm, opc2) {
            (0, 7, 6 | 10 | 14, 2) => Some(Self::new(1, 0, 7, crm, opc2)),
            (0, 9, 14, 1 | 2 | 6) => Some(Self::new(3, 0, 9, crm, opc2)),
            (0, 9, 12, _) | (0, 9, 13, 0..=2) | (0, 9, 14, 0 | 3) => {
                Some(Self::new(3, 3, 9, crm, opc2))
            }
            (0, 14, 1, 0) => Some(Self::CNTKCTL_EL1),
            (0, 14, 0, 0) | (0, 14, 2 | 3, 0 | 1) | (0, 14, 8..=15, _) => {
                Some(Self::new(3, 3, 14, crm, opc2))
            }
            _ => None,
        }
    }

    /// The AArch64 register behind a 64-bit coprocessor 15 register, as [`Self::from_cp15`].
    #[must_use]
    pub const fn from_cp15_pair(register: &CoprocessorPair) -> Option<Self> {
        match (register.opc1, register.crm) {
            (0, 9) => Some(Self::PMCCNTR_EL0),
            (0, 14) => Some(Self::CNTPCT_EL0),
            (1, 14) => Some(Self::CNTVCT_EL0),
            (2, 14) => Some(Self::CNTP_CVAL_EL0),
            (3, 14) => Some(Self::CNTV_CVAL_EL0),
            (8, 14) => Some(Self::CNTPCTSS_EL0),
            (9, 14) => Some(Self::CNTVCTSS_EL0),
            _ => None,
        }
    }

    /// The AArch64 register behind a coprocessor 14 register that EL0 can reach in AArch32: the debug communications
    /// channel, and the address of the debug ROM.
    #[must_use]
    pub const fn from_cp14(register: &CoprocessorRegister) -> Option<Self> {
        match (register.opc1, register.crn, register.crm, register.opc2) {
            (0, 0, 1, 0) => Some(Self::MDCCSR_EL0),
            (0, 0, 5, 0) => Some(Self::DBGDTRRX_EL0),
            (0, 1, 0, 0) => Some(Self::MDRAR_EL1),
            _ => None,
        }
    }

    /// The packed value.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// `op0`: 1 for instructions, 2 for debug and trace registers, 3 for other registers.
    #[must_use]
    pub const fn op0(self) -> u8 {
        (self.0 >> 14) as u8
    }

    /// `op1`.
    #[must_use]
    pub const fn op1(self) -> u8 {
        (self.0 >> 11) as u8 & 7
    }

    /// `CRn`.
    #[must_use]
    pub const fn crn(self) -> u8 {
        (self.0 >> 7) as u8 & 15
    }

    /// `CRm`.
    #[must_use]
    pub const fn crm(self) -> u8 {
        (self.0 >> 3) as u8 & 15
    }

    /// `op2`.
    #[must_use]
    pub const fn op2(self) -> u8 {
        self.0 as u8 & 7
    }

    /// The place of an identification register in a table of 64: `CRm` (0 to 7) times 8 plus `op2`.
    ///
    /// `None` outside the space that `HCR_EL2.TID3` traps: `op0` = 3, `op1` = 0, `CRn` = 0, `CRm` = 1 to 7.
    #[inline]
    #[must_use]
    pub const fn identification_index(self) -> Option<u8> {
        const FIRST: u16 = Encoding::new(3, 0, 0, 1, 0).0;
        const LAST: u16 = Encoding::new(3, 0, 0, 7, 7).0;
        if self.0 >= FIRST && self.0 <= LAST { Some(self.0 as u8 & 63) } else { None }
    }

    /// In the space that the architecture leaves to implementations, and `HCR_EL2.TIDCP` traps: `CRn` = 11 or 15 with
    /// `op0` = 1 or 3.
    #[must_use]
    pub const fn is_implementation_defined(self) -> bool {
        matches!((self.op0(), self.crn()), (1 | 3, 11 | 15))
    }

    /// One of `DBGBVR<n>_EL1`, `DBGBCR<n>_EL1`, `DBGWVR<n>_EL1` and `DBGWCR<n>_EL1`.
    #[must_use]
    pub const fn is_debug_comparator(self) -> bool {
        self.op0() == 2 && self.op1() == 0 && self.crn() == 0 && self.op2() >= 4
    }

    /// One of `PMEVCNTR<n>_EL0` and `PMEVTYPER<n>_EL0`, or `PMCCFILTR_EL0`.
    #[must_use]
    pub const fn is_event_counter(self) -> bool {
        self.op0() == 3 && self.op1() == 3 && self.crn() == 14 && self.crm() >= 8
    }

    /// The name of the register in the Arm ARM, without its number for a family such as `DBGBVR<n>_EL1`; `None` for
    /// what has none here.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        if self.is_debug_comparator() {
            return Some(match self.op2() {
                4 => "DBGBVR<n>_EL1",
                5 => "DBGBCR<n>_EL1",
                6 => "DBGWVR<n>_EL1",
                _ => "DBGWCR<n>_EL1",
            });
        }
        if self.is_event_counter() && self != Self::PMCCFILTR_EL0 {
            return Some(if self.crm() < 12 { "PMEVCNTR<n>_EL0" } else { "PMEVTYPER<n>_EL0" });
        }
        names::find(self)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name() {
            write!(f, "{name} ")?;
        }
        write!(f, "S{}_{}_C{}_C{}_{}", self.op0(), self.op1(), self.crn(), self.crm(), self.op2())
    }
}

impl fmt::Debug for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syndrome::{Condition, Direction};

    #[test]
    fn packing_and_unpacking_agree_for_every_encoding() {
        for bits in 0..=u16::MAX {
            let e = Encoding(bits);
            assert_eq!(Encoding::new(e.op0(), e.op1(), e.crn(), e.crm(), e.op2()), e);
            let iss = u32::from(e.op0()) << 20
                | u32::from(e.op2()) << 17
                | u32::from(e.op1()) << 14
                | u32::from(e.crn()) << 10
                | u32::from(e.crm()) << 1;
            assert_eq!(Encoding::from_iss(iss), e);
            assert_eq!(
                Encoding::from_iss(iss | 0x1f << 5 | 1),
                e,
                "register and direction do not matter"
            );
        }
    }

    #[test]
    fn the_identification_space_is_exactly_what_tid3_traps() {
        for bits in 0..=u16::MAX {
            let e = Encoding(bits);
            let inside = e.op0() == 3 && e.op1() == 0 && e.crn() == 0 && (1..=7).contains(&e.crm());
            let expected = inside.then(|| e.crm() * 8 + e.op2());
            assert_eq!(e.identification_index(), expected);
        }
    }

    #[test]
    fn a_report_names_the_register_and_its_encoding() {
        let table = [
            (Encoding::new(3, 0, 1, 0, 0), "SCTLR_EL1 S3_0_C1_C0_0"),
            (Encoding::new(3, 1, 11, 0, 2), "S3_1_C11_C0_2"),
            (Encoding::new(2, 0, 0, 3, 4), "DBGBVR<n>_EL1 S2_0_C0_C3_4"),
            (Encoding::new(3, 3, 14, 13, 0), "PMEVTYPER<n>_EL0 S3_3_C14_C13_0"),
            (Encoding::new(3, 3, 14, 15, 7), "PMCCFILTR_EL0 S3_3_C14_C15_7"),
            (Encoding::new(3, 0, 0, 4, 0), "ID_AA64PFR0_EL1 S3_0_C0_C4_0"),
        ];
        for (encoding, text) in table {
            assert_eq!(encoding.to_string(), text);
        }
    }

    #[test]
    fn coprocessor_registers_of_el0_are_their_aarch64_selves() {
        let of = |opc1, crn, crm, opc2| {
            let condition = Condition::Known(0xe);
            let direction = Direction::Read;
            Encoding::from_cp15(&CoprocessorRegister {
                condition,
                opc1,
                crn,
                crm,
                opc2,
                register: 0,
                direction,
            })
        };
        let table = [
            ((0, 9, 12, 0), Some(Encoding::PMCR_EL0)),
            ((0, 9, 13, 0), Some(Encoding::PMCCNTR_EL0)),
            ((0, 9, 14, 1), Some(Encoding::PMINTENSET_EL1)),
            ((0, 9, 14, 3), Some(Encoding::PMOVSSET_EL0)),
            ((0, 14, 2, 1), Some(Encoding::CNTP_CTL_EL0)),
            ((0, 14, 3, 0), Some(Encoding::CNTV_TVAL_EL0)),
            ((0, 14, 15, 7), Some(Encoding::PMCCFILTR_EL0)),
            ((0, 7, 14, 2), Some(Encoding::DC_CISW)),
            ((1, 15, 0, 0), None),
            ((0, 1, 0, 0), None),
        ];
        for ((opc1, crn, crm, opc2), expected) in table {
            assert_eq!(of(opc1, crn, crm, opc2), expected, "p15 {opc1} c{crn} c{crm} {opc2}");
        }
    }

    #[test]
    fn debug_registers_of_el0_are_their_aarch64_selves() {
        let of = |crn, crm, opc2| {
            let condition = Condition::Known(0xe);
            let direction = Direction::Read;
            Encoding::from_cp14(&CoprocessorRegister {
                condition,
                opc1: 0,
                crn,
                crm,
                opc2,
                register: 0,
                direction,
            })
        };
        assert_eq!(of(0, 1, 0), Some(Encoding::MDCCSR_EL0));
        assert_eq!(of(0, 5, 0), Some(Encoding::DBGDTRRX_EL0));
        assert_eq!(of(1, 0, 0), Some(Encoding::MDRAR_EL1));
        assert_eq!(of(0, 0, 4), None, "breakpoints are not for EL0");
    }

    #[test]
    fn coprocessor_pairs_of_el0_are_their_aarch64_selves() {
        let of = |opc1, crm| {
            let condition = Condition::Unknown;
            let direction = Direction::Read;
            Encoding::from_cp15_pair(&CoprocessorPair {
                condition,
                opc1,
                crm,
                low: 0,
                high: 1,
                direction,
            })
        };
        assert_eq!(of(2, 14), Some(Encoding::CNTP_CVAL_EL0));
        assert_eq!(of(0, 14), Some(Encoding::CNTPCT_EL0));
        assert_eq!(of(0, 9), Some(Encoding::PMCCNTR_EL0));
        assert_eq!(of(0, 2), None, "TTBR0 is not for EL0");
    }
}
