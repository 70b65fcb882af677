//! Trapped AArch32 coprocessor instructions, which a guest's EL0 can execute in AArch32.

use super::{Direction, Syndrome};
use crate::bits::{field, flag};

/// The condition under which a trapped AArch32 instruction executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// `CV` = 1: the `COND` field. A64 and T32 instructions outside an IT block report `0b1110`, always.
    Known(u8),
    /// `CV` = 0: the instruction is T32; the condition is to be taken from the IT state of the saved program state.
    Unknown,
}

/// A trapped `MCR`, `MRC` or `VMRS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CoprocessorRegister {
    /// When the instruction executes.
    pub condition: Condition,
    /// `Opc1`.
    pub opc1: u8,
    /// `CRn`.
    pub crn: u8,
    /// `CRm`.
    pub crm: u8,
    /// `Opc2`.
    pub opc2: u8,
    /// The AArch64 number of the general-purpose register that is transferred.
    pub register: u8,
    /// `MRC` and `VMRS` read, `MCR` writes.
    pub direction: Direction,
}

impl CoprocessorRegister {
    /// Decodes the syndrome of classes `CP15_REGISTER`, `CP14_REGISTER` and `CP10_REGISTER`.
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        let bits = syndrome.bits();
        Self {
            condition: syndrome.condition(),
            opc2: field::<17, 3>(bits) as u8,
            opc1: field::<14, 3>(bits) as u8,
            crn: field::<10, 4>(bits) as u8,
            register: field::<5, 5>(bits) as u8,
            crm: field::<1, 4>(bits) as u8,
            direction: Direction::from_read_bit(bits),
        }
    }
}

/// A trapped `MCRR` or `MRRC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CoprocessorPair {
    /// When the instruction executes.
    pub condition: Condition,
    /// `Opc1`.
    pub opc1: u8,
    /// `CRm`.
    pub crm: u8,
    /// The AArch64 number of the register with the lower half.
    pub low: u8,
    /// The AArch64 number of the register with the upper half.
    pub high: u8,
    /// `MRRC` reads, `MCRR` writes.
    pub direction: Direction,
}

impl CoprocessorPair {
    /// Decodes the syndrome of classes `CP15_PAIR` and `CP14_PAIR`.
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        let bits = syndrome.bits();
        Self {
            condition: syndrome.condition(),
            opc1: field::<16, 4>(bits) as u8,
            high: field::<10, 5>(bits) as u8,
            low: field::<5, 5>(bits) as u8,
            crm: field::<1, 4>(bits) as u8,
            direction: Direction::from_read_bit(bits),
        }
    }
}

/// A trapped `LDC` or `STC`, which moves a debug register from or to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CoprocessorLoad {
    /// When the instruction executes.
    pub condition: Condition,
    /// The 8-bit immediate, in units of 4 bytes.
    pub immediate: u8,
    /// The AArch64 number of the base register, or `None` for a literal form, whose base is the PC.
    pub base: Option<u8>,
    /// The offset is added, not subtracted.
    pub add: bool,
    /// Seen from memory: `LDC` reads it (and writes the debug register), `STC` writes it.
    pub direction: Direction,
}

impl CoprocessorLoad {
    /// Decodes the syndrome of class `CP14_LOAD`.
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        let bits = syndrome.bits();
        // Addressing mode: bit 3 is set for the literal forms, which report no base register.
        let literal = flag::<3>(bits);
        Self {
            condition: syndrome.condition(),
            immediate: field::<12, 8>(bits) as u8,
            base: if literal { None } else { Some(field::<5, 5>(bits) as u8) },
            add: flag::<4>(bits),
            direction: Direction::from_read_bit(bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ExceptionClass;
    use super::*;

    #[test]
    fn a_register_move_is_decoded() {
        // mrc p15, 0, r5, c9, c13, 0 (PMCCNTR), always.
        let iss = 1 << 24 | 0xe << 20 | 9 << 10 | 5 << 5 | 13 << 1 | 1;
        let trap = CoprocessorRegister::new(Syndrome::of(ExceptionClass::CP15_REGISTER, iss));
        let expected = CoprocessorRegister {
            condition: Condition::Known(0xe),
            opc1: 0,
            crn: 9,
            crm: 13,
            opc2: 0,
            register: 5,
            direction: Direction::Read,
        };
        assert_eq!(trap, expected);
    }

    #[test]
    fn a_pair_move_is_decoded() {
        // mcrr p15, 2, r4, r6, c14 (CNTP_CVAL), in T32 without a valid condition.
        let iss = 2 << 16 | 6 << 10 | 4 << 5 | 14 << 1;
        let trap = CoprocessorPair::new(Syndrome::of(ExceptionClass::CP15_PAIR, iss));
        let expected = CoprocessorPair {
            condition: Condition::Unknown,
            opc1: 2,
            crm: 14,
            low: 4,
            high: 6,
            direction: Direction::Write,
        };
        assert_eq!(trap, expected);
    }

    #[test]
    fn a_debug_load_is_decoded() {
        let iss = 1 << 24 | 0xe << 20 | 0xff << 12 | 7 << 5 | 1 << 4 | 1;
        let trap = CoprocessorLoad::new(Syndrome::of(ExceptionClass::CP14_LOAD, iss));
        assert_eq!((trap.immediate, trap.base, trap.add), (0xff, Some(7), true));
        assert_eq!(
            CoprocessorLoad::new(Syndrome::of(ExceptionClass::CP14_LOAD, iss | 1 << 3)).base,
            None
        );
    }
}
