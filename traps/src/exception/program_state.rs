//! The saved program state of the guest: the value of `SPSR_EL2` (Arm ARM C5.2.20).

use crate::bits::{field, flag};
use crate::syndrome::Condition;

/// The program state of the guest as `SPSR_EL2` holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProgramState(u64);

impl ProgramState {
    /// The condition flags.
    pub const NZCV: u64 = 0xf << 28;
    /// Tag check override (FEAT_MTE).
    pub const TCO: u64 = 1 << 25;
    /// Data-independent timing.
    pub const DIT: u64 = 1 << 24;
    /// User access override, in AArch64.
    pub const UAO: u64 = 1 << 23;
    /// Privileged access never.
    pub const PAN: u64 = 1 << 22;
    /// Software step.
    pub const SS: u64 = 1 << 21;
    /// Illegal Execution state.
    pub const IL: u64 = 1 << 20;
    /// Speculative store bypass safe, in AArch64.
    pub const SSBS: u64 = 1 << 12;
    /// Branch type.
    pub const BTYPE: u64 = 0b11 << 10;
    /// Masks debug exceptions.
    pub const D: u64 = 1 << 9;
    /// Masks SErrors.
    pub const A: u64 = 1 << 8;
    /// Masks IRQs.
    pub const I: u64 = 1 << 7;
    /// Masks FIQs.
    pub const F: u64 = 1 << 6;
    /// Execution state: AArch32.
    pub const AARCH32: u64 = 1 << 4;
    /// EL0.
    pub const EL0: u64 = 0b0000;
    /// EL1 with `SP_EL0`.
    pub const EL1T: u64 = 0b0100;
    /// EL1 with `SP_EL1`.
    pub const EL1H: u64 = 0b0101;

    /// Big-endian data, in AArch32.
    const E32: u64 = 1 << 9;
    /// T32 instruction set, in AArch32.
    const T32: u64 = 1 << 5;
    /// `IT[7:2]`, in AArch32.
    const IT_HIGH: u64 = 0x3f << 10;
    /// `IT[1:0]`, in AArch32.
    const IT_LOW: u64 = 0b11 << 25;

    /// The state of a virtual CPU that is reset: EL1 with its own stack pointer, everything masked.
    pub const RESET: Self = Self(Self::D | Self::A | Self::I | Self::F | Self::EL1H);

    /// The state with this raw value.
    #[inline]
    #[must_use]
    pub const fn new(spsr: u64) -> Self {
        Self(spsr)
    }

    /// The raw value.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Executes in AArch32.
    #[inline]
    #[must_use]
    pub const fn is_aarch32(self) -> bool {
        self.0 & Self::AARCH32 != 0
    }

    /// Executes at EL0, in AArch64 or in AArch32. Guests have no EL1 in AArch32.
    #[inline]
    #[must_use]
    pub const fn is_el0(self) -> bool {
        self.is_aarch32() || field::<2, 2>(self.0) == 0
    }

    /// Whether data accesses are big-endian, given the guest's `SCTLR_EL1`.
    #[must_use]
    pub const fn is_big_endian(self, sctlr_el1: u64) -> bool {
        /// `SCTLR_EL1.E0E`.
        const E0E: u32 = 24;
        /// `SCTLR_EL1.EE`.
        const EE: u32 = 25;
        if self.is_aarch32() {
            self.0 & Self::E32 != 0
        } else if self.is_el0() {
            flag::<E0E>(sctlr_el1)
        } else {
            flag::<EE>(sctlr_el1)
        }
    }

    /// Whether data accesses can be big-endian at all, given the guest's `SCTLR_EL1`; if not, they are not. One
    /// comparison, for the hot path.
    #[inline]
    #[must_use]
    pub const fn may_be_big_endian(self, sctlr_el1: u64) -> bool {
        /// `SCTLR_EL1.E0E` and `SCTLR_EL1.EE`.
        const ENDIANNESS: u64 = 1 << 24 | 1 << 25;
        (sctlr_el1 & ENDIANNESS) | (self.0 & Self::AARCH32) != 0
    }

    /// The state of the IT block of T32, `ITSTATE`; zero outside one.
    const fn it_state(self) -> u8 {
        ((field::<10, 6>(self.0) << 2) | field::<25, 2>(self.0)) as u8
    }

    /// With another `ITSTATE`.
    const fn with_it_state(self, it: u8) -> Self {
        let high = (it as u64 >> 2) << 10;
        let low = (it as u64 & 0b11) << 25;
        Self(self.0 & !(Self::IT_HIGH | Self::IT_LOW) | high | low)
    }

    /// The PC and program state after the instruction of `length` bytes (2 or 4) at `pc`.
    ///
    /// Clears `SS`, so that a step over an emulated instruction is seen, and `BTYPE`; steps the IT block in AArch32.
    #[inline]
    #[must_use]
    pub const fn skip_instruction(self, pc: u64, length: u64) -> (u64, Self) {
        let next = pc.wrapping_add(length);
        if !self.is_aarch32() {
            return (next, Self(self.0 & !(Self::SS | Self::BTYPE)));
        }
        let it = self.it_state();
        // ITAdvance(): the last instruction of the block leaves it.
        let advanced = if it & 0b111 == 0 { 0 } else { (it & 0xe0) | ((it << 1) & 0x1f) };
        (next & 0xffff_ffff, Self(self.0 & !Self::SS).with_it_state(advanced))
    }

    /// Whether an instruction with `condition` executes. In AArch64 every trapped instruction does.
    #[must_use]
    pub const fn passes(self, condition: Condition) -> bool {
        if !self.is_aarch32() {
            return true;
        }
        let code = match condition {
            Condition::Known(code) => code & 15,
            // A T32 instruction without a condition in the syndrome takes it from its IT block.
            Condition::Unknown if self.0 & Self::T32 != 0 && self.it_state() & 15 != 0 => {
                self.it_state() >> 4
            }
            Condition::Unknown => return true,
        };
        let (n, z) = (flag::<31>(self.0), flag::<30>(self.0));
        let (c, v) = (flag::<29>(self.0), flag::<28>(self.0));
        let holds = match code >> 1 {
            0b000 => z,
            0b001 => c,
            0b010 => n,
            0b011 => v,
            0b100 => c && !z,
            0b101 => n == v,
            0b110 => n == v && !z,
            _ => return true,
        };
        holds != (code & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER32: u64 = 0b1_0000;
    const T32: u64 = 1 << 5;

    /// An AArch32 state inside an IT block with this `ITSTATE`.
    fn in_it_block(it: u8) -> ProgramState {
        ProgramState::new(USER32 | T32).with_it_state(it)
    }

    #[test]
    fn levels_and_execution_states_are_told_apart() {
        let table = [
            (0b0000, true, false),
            (0b0100, false, false),
            (0b0101, false, false),
            (USER32, true, true),
        ];
        for (bits, el0, aarch32) in table {
            let state = ProgramState::new(bits);
            assert_eq!((state.is_el0(), state.is_aarch32()), (el0, aarch32), "{bits:#b}");
        }
    }

    #[test]
    fn a_skip_clears_step_and_branch_type_and_nothing_else() {
        let state = ProgramState::new(!ProgramState::AARCH32);
        let (pc, after) = state.skip_instruction(u64::MAX - 3, 4);
        assert_eq!(pc, 0);
        assert_eq!(state.bits() & !after.bits(), ProgramState::SS | ProgramState::BTYPE);
    }

    #[test]
    fn a_skip_in_aarch32_keeps_a_32_bit_pc() {
        let (pc, _) = ProgramState::new(USER32).skip_instruction(0xffff_fffe, 2);
        assert_eq!(pc, 0);
    }

    #[test]
    fn a_skip_advances_the_it_block() {
        // ITTE EQ: NE for the third. 0000 0110 -> 0000 1100 -> 0001 1000 -> out.
        let mut state = in_it_block(0b0000_0110);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(state.it_state());
            (_, state) = state.skip_instruction(0, 2);
        }
        assert_eq!(seen, [0b0000_0110, 0b0000_1100, 0b0001_1000, 0]);
    }

    #[test]
    fn every_condition_code_follows_its_flags() {
        for flags in 0..16_u64 {
            let [n, z, c, v] = [8, 4, 2, 1].map(|bit| flags & bit != 0);
            let expected = [
                z,
                !z,
                c,
                !c,
                n,
                !n,
                v,
                !v,
                c && !z,
                !c || z,
                n == v,
                n != v,
                !z && n == v,
                z || n != v,
                true,
                true,
            ];
            let state = ProgramState::new(flags << 28 | USER32);
            for (code, &holds) in expected.iter().enumerate() {
                assert_eq!(
                    state.passes(Condition::Known(code as u8)),
                    holds,
                    "{code} with {flags:#b}"
                );
            }
        }
    }

    #[test]
    fn a_t32_instruction_without_condition_takes_it_from_its_it_block() {
        // EQ with Z clear fails; outside a block it passes.
        assert!(!in_it_block(0b0000_1000).passes(Condition::Unknown));
        assert!(in_it_block(0b0001_1000).passes(Condition::Unknown));
        assert!(in_it_block(0).passes(Condition::Unknown));
    }

    #[test]
    fn aarch64_instructions_have_no_condition() {
        assert!(ProgramState::new(0b0101).passes(Condition::Known(0)));
    }

    #[test]
    fn byte_order_is_that_of_the_level() {
        let (e0e, ee) = (1 << 24, 1 << 25);
        assert!(ProgramState::new(ProgramState::EL0).is_big_endian(e0e));
        assert!(!ProgramState::new(ProgramState::EL0).is_big_endian(ee));
        assert!(ProgramState::new(ProgramState::EL1H).is_big_endian(ee));
        assert!(!ProgramState::new(ProgramState::EL1H).is_big_endian(e0e));
        assert!(ProgramState::new(USER32 | 1 << 9).is_big_endian(0));
        assert!(!ProgramState::new(USER32).is_big_endian(e0e | ee));
        for state in [0b0000, 0b0100, 0b0101, USER32, USER32 | 1 << 9].map(ProgramState::new) {
            for sctlr in [0, e0e, ee, e0e | ee] {
                assert!(state.may_be_big_endian(sctlr) || !state.is_big_endian(sctlr));
            }
        }
        assert!(!ProgramState::new(ProgramState::EL1H).may_be_big_endian(0));
    }
}
