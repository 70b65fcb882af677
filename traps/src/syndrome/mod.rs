//! The syndrome of an exception taken to EL2: `ESR_EL2` (Arm ARM D24.2.40).
//!
//! The hot classes need no more than [`Syndrome::class`], one comparison, and a method such as
//! [`Syndrome::data_abort`]; every method here is a few shifts. [`Syndrome::decode`] is the whole table, for
//! everything that is not hot, and for reports.

mod abort;
mod class;
mod coprocessor;
mod debug;
mod trap;

pub use abort::{AccessSize, DataAbort, FaultKind, FaultStatus, InstructionAbort, Severity};
pub use class::ExceptionClass;
pub use coprocessor::{Condition, CoprocessorLoad, CoprocessorPair, CoprocessorRegister};
pub use debug::{Breakpoint, SoftwareStep, Watchpoint};
pub use trap::{
    Direction, FloatingPointTrap, MemoryCopy, SErrorTrap, SmeReason, SystemRegisterPair,
    SystemRegisterTrap, Trap, WaitKind, WaitTrap,
};

use crate::bits::{field, flag};
use crate::system_register::Encoding;

/// The value of `ESR_EL2` after an exception taken to EL2, or of `ESR_EL1` for the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Syndrome(u64);

impl Syndrome {
    /// Position of the exception class, `EC`.
    const EC_SHIFT: u32 = 26;
    /// `IL`: the instruction was 32 bits long.
    const IL: u64 = 1 << 25;
    /// The instruction-specific syndrome, `ISS`.
    const ISS_MASK: u64 = (1 << 25) - 1;

    /// The syndrome with this raw value.
    #[inline]
    #[must_use]
    pub const fn new(esr: u64) -> Self {
        Self(esr)
    }

    /// The syndrome of `class`, for a 32-bit instruction (`IL` = 1), with the instruction-specific part `iss` (25
    /// bits; more are cut off).
    #[must_use]
    pub const fn of(class: ExceptionClass, iss: u32) -> Self {
        Self(((class.bits() as u64) << Self::EC_SHIFT) | Self::IL | (iss as u64 & Self::ISS_MASK))
    }

    /// The raw value.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Why the exception was taken.
    #[inline]
    #[must_use]
    pub const fn class(self) -> ExceptionClass {
        ExceptionClass::from_bits(field::<{ Self::EC_SHIFT }, 6>(self.0) as u8)
    }

    /// The same syndrome with another class.
    #[must_use]
    pub const fn with_class(self, class: ExceptionClass) -> Self {
        const CLASS: u64 = 0x3f << Syndrome::EC_SHIFT;
        Self(self.0 & !CLASS | (class.bits() as u64) << Self::EC_SHIFT)
    }

    /// The length of the instruction in bytes, as `IL` gives it: 2 (only T32) or 4.
    #[inline]
    #[must_use]
    pub const fn instruction_length(self) -> u64 {
        if self.0 & Self::IL != 0 { 4 } else { 2 }
    }

    /// The same syndrome with the length of the instruction set to 2 bytes (`IL` = 0) or 4.
    #[must_use]
    pub const fn with_instruction_length(self, length: u64) -> Self {
        Self(if length == 2 { self.0 & !Self::IL } else { self.0 | Self::IL })
    }

    /// The instruction-specific syndrome, `ISS`, 25 bits.
    #[inline]
    #[must_use]
    pub const fn iss(self) -> u32 {
        field::<0, 25>(self.0) as u32
    }

    /// The second instruction-specific syndrome, `ISS2`, 24 bits. Zero on processors that do not have it.
    #[inline]
    #[must_use]
    pub const fn iss2(self) -> u32 {
        field::<32, 24>(self.0) as u32
    }

    /// The 16-bit immediate of `SVC`, `HVC`, A64 `SMC`, `BRK` and `BKPT`.
    #[inline]
    #[must_use]
    pub const fn immediate(self) -> u16 {
        self.0 as u16
    }

    /// The syndrome read as that of a data abort.
    #[inline]
    #[must_use]
    pub const fn data_abort(self) -> DataAbort {
        DataAbort::new(self)
    }

    /// The syndrome read as that of an instruction abort.
    #[inline]
    #[must_use]
    pub const fn instruction_abort(self) -> InstructionAbort {
        InstructionAbort::new(self)
    }

    /// The syndrome read as that of a trapped `MRS`, `MSR` or `SYS` ([`ExceptionClass::SYSTEM_REGISTER`]).
    #[inline]
    #[must_use]
    pub const fn system_register(self) -> SystemRegisterTrap {
        SystemRegisterTrap::new(self)
    }

    /// Whether it is, read so, that of a write of `encoding`. One comparison, for the hot path.
    #[inline(always)]
    #[must_use]
    pub const fn is_write_of(self, encoding: Encoding) -> bool {
        /// All but the general-purpose register; bit 0 is set for reads.
        const MASK: u64 = Encoding::new(3, 7, 15, 15, 7).iss() as u64 | 1;
        self.0 & MASK == encoding.iss() as u64
    }

    /// Which of the identification registers it is, read so, that was read, as [`Encoding::identification_index`]
    /// counts them. One comparison and a look at `CRm`, for the hot path.
    #[inline(always)]
    #[must_use]
    pub const fn identification_read(self) -> Option<u8> {
        /// All but the general-purpose register, `CRm` and `op2`; bit 0 is set for reads.
        const MASK: u64 = Encoding::new(3, 7, 15, 0, 0).iss() as u64 | 1;
        const READ: u64 = Encoding::new(3, 0, 0, 0, 0).iss() as u64 | 1;
        let (crm, op2) = (field::<1, 4>(self.0) as u8, field::<17, 3>(self.0) as u8);
        if self.0 & MASK == READ && crm != 0 && crm < 8 { Some(crm << 3 | op2) } else { None }
    }

    /// The syndrome read as that of a trapped `WFI`, `WFE`, `WFIT` or `WFET`.
    #[inline]
    #[must_use]
    pub const fn wait(self) -> WaitTrap {
        WaitTrap::new(self)
    }

    /// The condition of a trapped instruction that can be conditional in AArch32.
    #[inline]
    #[must_use]
    pub const fn condition(self) -> Condition {
        if flag::<24>(self.0) {
            Condition::Known(field::<20, 4>(self.0) as u8)
        } else {
            Condition::Unknown
        }
    }

    /// The whole syndrome, by class.
    #[must_use]
    pub const fn decode(self) -> Trap {
        Trap::decode(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syndrome_is_taken_apart_as_it_was_put_together() {
        let syndrome = Syndrome::of(ExceptionClass::HVC64, 0x1234);
        assert_eq!(syndrome.bits(), 0x5a00_1234);
        assert_eq!(syndrome.class(), ExceptionClass::HVC64);
        assert_eq!(syndrome.immediate(), 0x1234);
        assert_eq!(syndrome.instruction_length(), 4);
        assert_eq!(syndrome.with_instruction_length(2).instruction_length(), 2);
        assert_eq!(syndrome.with_instruction_length(2).with_instruction_length(4), syndrome);
    }

    #[test]
    fn an_oversized_iss_does_not_reach_the_class() {
        assert_eq!(
            Syndrome::of(ExceptionClass::UNKNOWN, u32::MAX).class(),
            ExceptionClass::UNKNOWN
        );
    }

    #[test]
    fn a_write_of_a_register_is_told_from_all_else() {
        let class = ExceptionClass::SYSTEM_REGISTER;
        let encodings =
            [Encoding::ICC_SGI1R_EL1, Encoding::SCTLR_EL1, Encoding::new(3, 7, 15, 15, 7)];
        for encoding in encodings {
            assert_eq!(Encoding::from_iss(encoding.iss()), encoding);
            for other in encodings {
                for register in [0, 7, 31] {
                    for read in [0, 1] {
                        let syndrome = Syndrome::of(class, other.iss() | register << 5 | read);
                        let trap = syndrome.system_register();
                        let expected =
                            trap.encoding == encoding && trap.direction == Direction::Write;
                        assert_eq!(syndrome.is_write_of(encoding), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn a_read_of_an_identification_register_is_told_from_all_else() {
        for value in 0..1u32 << 16 {
            let [op0, op1] = [(value >> 14) as u8, (value >> 11) as u8 & 7];
            let [crn, crm, op2] = [(value >> 7) as u8, (value >> 3) as u8, value as u8];
            let encoding = Encoding::new(op0 & 3, op1, crn & 15, crm & 15, op2 & 7);
            for read in [0, 1] {
                let class = ExceptionClass::SYSTEM_REGISTER;
                let syndrome = Syndrome::of(class, encoding.iss() | 5 << 5 | read);
                let expected = if read == 1 { encoding.identification_index() } else { None };
                assert_eq!(syndrome.identification_read(), expected, "{encoding:?}");
            }
        }
    }

    #[test]
    fn iss2_is_apart_from_iss() {
        let syndrome = Syndrome::new(0xab_cdef << 32 | 0x5a00_0001);
        assert_eq!(syndrome.iss2(), 0xab_cdef);
        assert_eq!(syndrome.iss(), 1);
    }
}
