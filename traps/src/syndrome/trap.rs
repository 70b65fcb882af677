//! The table: exception class to decoded trap.

use super::{
    Breakpoint, Condition, CoprocessorLoad, CoprocessorPair, CoprocessorRegister, DataAbort,
    ExceptionClass, InstructionAbort, SoftwareStep, Syndrome, Watchpoint,
};
use crate::bits::{field, flag};
use crate::system_register::Encoding;

/// Which way a trapped access goes, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The guest reads.
    Read,
    /// The guest writes.
    Write,
}

impl Direction {
    /// Bit 0 of a system register or coprocessor syndrome: 1 is a read.
    #[inline]
    #[must_use]
    pub(super) const fn from_read_bit(bits: u64) -> Self {
        if flag::<0>(bits) { Self::Read } else { Self::Write }
    }
}

/// Which instruction waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitKind {
    /// `WFI`.
    Interrupt,
    /// `WFE`.
    Event,
    /// `WFIT`: `WFI` with a deadline on the virtual counter.
    InterruptUntil,
    /// `WFET`: `WFE` with a deadline on the virtual counter.
    EventUntil,
}

/// A trapped wait instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WaitTrap {
    /// Which instruction.
    pub kind: WaitKind,
    /// The number of the register with the deadline, a value of `CNTVCT_EL0`, for `WFIT` and `WFET` where the
    /// hardware says (`RV`).
    pub deadline: Option<u8>,
    /// When the instruction executes (AArch32).
    pub condition: Condition,
}

impl WaitTrap {
    /// Decodes the syndrome of class `WAIT`.
    #[inline]
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        let bits = syndrome.bits();
        let kind = match field::<0, 2>(bits) {
            0b00 => WaitKind::Interrupt,
            0b01 => WaitKind::Event,
            0b10 => WaitKind::InterruptUntil,
            _ => WaitKind::EventUntil,
        };
        let deadline =
            if flag::<1>(bits) && flag::<2>(bits) { Some(field::<5, 5>(bits) as u8) } else { None };
        Self { kind, deadline, condition: syndrome.condition() }
    }
}

/// A trapped `MRS`, `MSR`, `SYS` or `SYSL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SystemRegisterTrap {
    /// Which register or instruction.
    pub encoding: Encoding,
    /// The number of the general-purpose register. 31 is the zero register.
    pub register: u8,
    /// `MRS` reads, `MSR` and `SYS` write.
    pub direction: Direction,
}

impl SystemRegisterTrap {
    /// Decodes the syndrome of class `SYSTEM_REGISTER`.
    #[inline]
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        let bits = syndrome.bits();
        Self {
            encoding: Encoding::from_iss(syndrome.iss()),
            register: field::<5, 5>(bits) as u8,
            direction: Direction::from_read_bit(bits),
        }
    }
}

/// A trapped 128-bit `MRRS`, `MSRR` or `SYSP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SystemRegisterPair {
    /// Which register or instruction.
    pub encoding: Encoding,
    /// The number of the lower, even, register; the next one holds the upper half.
    pub register: u8,
    /// `MRRS` reads, `MSRR` and `SYSP` write.
    pub direction: Direction,
}

impl SystemRegisterPair {
    /// Decodes the syndrome of class `SYSTEM_REGISTER_PAIR`.
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        let bits = syndrome.bits();
        Self {
            encoding: Encoding::from_iss(syndrome.iss()),
            register: (field::<6, 4>(bits) << 1) as u8,
            direction: Direction::from_read_bit(bits),
        }
    }
}

/// A floating-point exception that the guest enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FloatingPointTrap {
    /// `TFV`: the flags below are valid.
    pub flags_valid: bool,
    /// `IDF`, `IXF`, `UFF`, `OFF`, `DZF` and `IOF`, as in bits 7 and 4 to 0 of `FPSR`.
    pub flags: u8,
}

impl FloatingPointTrap {
    /// Decodes the syndrome of classes `FLOATING_POINT_EXCEPTION32` and `FLOATING_POINT_EXCEPTION64`.
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        Self { flags_valid: flag::<23>(syndrome.bits()), flags: (syndrome.bits() & 0x9f) as u8 }
    }
}

/// An exception of `CPY*` or `SET*` (FEAT_MOPS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryCopy {
    /// A memory set, not a copy.
    pub is_set: bool,
    /// A memory set with tags (`SETG*`).
    pub is_tag_set: bool,
    /// The instruction is of the epilogue, not the main part.
    pub from_epilogue: bool,
    /// The instruction was reached with the state of the other algorithm.
    pub wrong_option: bool,
    /// The state is that of algorithm option A.
    pub option_a: bool,
    /// The number of the destination register.
    pub destination: u8,
    /// The number of the source register, or of the data register of a set.
    pub source: u8,
    /// The number of the size register.
    pub size: u8,
}

impl MemoryCopy {
    /// Decodes the syndrome of class `MEMORY_COPY`.
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        let bits = syndrome.bits();
        Self {
            is_set: flag::<24>(bits),
            is_tag_set: flag::<23>(bits),
            from_epilogue: flag::<18>(bits),
            wrong_option: flag::<17>(bits),
            option_a: flag::<16>(bits),
            destination: field::<10, 5>(bits) as u8,
            source: field::<5, 5>(bits) as u8,
            size: field::<0, 5>(bits) as u8,
        }
    }
}

/// Why an SME instruction was trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmeReason {
    /// Access to SME is trapped.
    Trapped,
    /// The instruction is illegal in Streaming SVE mode.
    Streaming,
    /// The instruction needs Streaming SVE mode.
    NotStreaming,
    /// The instruction needs `ZA` to be on.
    ZaInactive,
    /// Access to `ZT0` is trapped.
    ZtTrapped,
    /// A value that the architecture does not define.
    Reserved,
}

/// An SError interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SErrorTrap {
    /// `IDS`: the rest of the syndrome is IMPLEMENTATION DEFINED.
    pub implementation_defined: bool,
    /// `IESB`: synchronised by an implicit error synchronisation barrier.
    pub implicit_barrier: bool,
    /// `AET`: how far the error went, three bits.
    pub severity: u8,
    /// `EA`: the IMPLEMENTATION DEFINED type of the external abort.
    pub external_type: bool,
    /// `DFSC` is "asynchronous SError": the two fields before are valid.
    pub categorised: bool,
}

impl SErrorTrap {
    /// Decodes the syndrome of class `SERROR`.
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        let bits = syndrome.bits();
        Self {
            implementation_defined: flag::<24>(bits),
            implicit_barrier: flag::<13>(bits),
            severity: field::<10, 3>(bits) as u8,
            external_type: flag::<9>(bits),
            categorised: !flag::<24>(bits) && field::<0, 6>(bits) == 0b01_0001,
        }
    }
}

/// Why a synchronous exception or SError was taken, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// An UNDEFINED instruction, or no other class fits.
    Unknown,
    /// A wait instruction.
    Wait(WaitTrap),
    /// AArch32 `MCR` or `MRC`, coprocessor 15.
    Cp15Register(CoprocessorRegister),
    /// AArch32 `MCRR` or `MRRC`, coprocessor 15.
    Cp15Pair(CoprocessorPair),
    /// AArch32 `MCR` or `MRC`, coprocessor 14.
    Cp14Register(CoprocessorRegister),
    /// AArch32 `MRRC`, coprocessor 14.
    Cp14Pair(CoprocessorPair),
    /// AArch32 `LDC` or `STC`, coprocessor 14.
    Cp14Load(CoprocessorLoad),
    /// AArch32 `VMRS` of an identification register.
    Cp10Register(CoprocessorRegister),
    /// SIMD or floating-point access.
    FloatingPoint(Condition),
    /// Pointer authentication instruction.
    PointerAuthentication,
    /// 64-byte load or store, or a newer instruction, with its syndrome.
    OtherInstruction(u32),
    /// Branch target exception, with the `BTYPE` that found no target.
    BranchTarget(u8),
    /// Illegal Execution state.
    IllegalState,
    /// `SVC`, from AArch32 or AArch64.
    SupervisorCall(u16),
    /// `HVC`, from AArch32 or AArch64. The saved PC is already past it.
    HypervisorCall(u16),
    /// `SMC` from AArch64. The saved PC is at it.
    SecureMonitorCall(u16),
    /// `SMC` from AArch32. The saved PC is at it.
    SecureMonitorCall32(Condition),
    /// `MRS`, `MSR` or `SYS`.
    SystemRegister(SystemRegisterTrap),
    /// 128-bit `MRRS`, `MSRR` or `SYSP`.
    SystemRegisterPair(SystemRegisterPair),
    /// SVE access.
    Sve,
    /// SME access.
    Sme(SmeReason),
    /// `ERET`, `ERETAA` or `ERETAB`; whether authenticated.
    ExceptionReturn {
        /// `ERETAA` or `ERETAB`.
        authenticated: bool,
    },
    /// `TSTART`, with its register.
    TransactionStart(u8),
    /// Failed authentication; whether of an instruction address, and with key B.
    PointerAuthenticationFailure {
        /// A data key, not an instruction key.
        data: bool,
        /// Key B, not key A.
        key_b: bool,
    },
    /// Instruction abort.
    InstructionAbort(InstructionAbort),
    /// Data abort.
    DataAbort(DataAbort),
    /// Misaligned PC.
    PcAlignment,
    /// Misaligned stack pointer.
    SpAlignment,
    /// Memory copy or set.
    MemoryCopy(MemoryCopy),
    /// Floating-point exception.
    FloatingPointException(FloatingPointTrap),
    /// Guarded control stack exception, with its syndrome.
    GuardedControlStack(u32),
    /// SError.
    SError(SErrorTrap),
    /// Hardware breakpoint.
    Breakpoint(Breakpoint),
    /// Software step.
    SoftwareStep(SoftwareStep),
    /// Watchpoint.
    Watchpoint(Watchpoint),
    /// AArch32 vector catch.
    VectorCatch(Breakpoint),
    /// `BRK` or `BKPT`, with the comment.
    BreakpointInstruction(u16),
    /// Performance monitor exception.
    Profiling,
    /// IMPLEMENTATION DEFINED, with its syndrome.
    ImplementationDefined(u32),
    /// A class that is never taken to EL2, or that the architecture does not define.
    Reserved(ExceptionClass),
}

impl Trap {
    /// Decodes `syndrome` by its class.
    #[must_use]
    pub const fn decode(syndrome: Syndrome) -> Self {
        use ExceptionClass as Class;
        let bits = syndrome.bits();
        match syndrome.class() {
            Class::UNKNOWN => Self::Unknown,
            Class::WAIT => Self::Wait(WaitTrap::new(syndrome)),
            Class::CP15_REGISTER => Self::Cp15Register(CoprocessorRegister::new(syndrome)),
            Class::CP15_PAIR => Self::Cp15Pair(CoprocessorPair::new(syndrome)),
            Class::CP14_REGISTER => Self::Cp14Register(CoprocessorRegister::new(syndrome)),
            Class::CP14_LOAD => Self::Cp14Load(CoprocessorLoad::new(syndrome)),
            Class::FLOATING_POINT => Self::FloatingPoint(syndrome.condition()),
            Class::CP10_REGISTER => Self::Cp10Register(CoprocessorRegister::new(syndrome)),
            Class::POINTER_AUTHENTICATION => Self::PointerAuthentication,
            Class::OTHER_INSTRUCTION => Self::OtherInstruction(syndrome.iss()),
            Class::CP14_PAIR => Self::Cp14Pair(CoprocessorPair::new(syndrome)),
            Class::BRANCH_TARGET => Self::BranchTarget(field::<0, 2>(bits) as u8),
            Class::ILLEGAL_STATE => Self::IllegalState,
            Class::SVC32 | Class::SVC64 => Self::SupervisorCall(syndrome.immediate()),
            Class::HVC32 | Class::HVC64 => Self::HypervisorCall(syndrome.immediate()),
            // `CCKNOWNPASS` (bit 19) says that the condition passed, or that there was none.
            Class::SMC32 if !flag::<19>(bits) => {
                Self::SecureMonitorCall32(Condition::Known(0b1110))
            }
            Class::SMC32 => Self::SecureMonitorCall32(syndrome.condition()),
            Class::SYSTEM_REGISTER_PAIR => {
                Self::SystemRegisterPair(SystemRegisterPair::new(syndrome))
            }
            Class::SMC64 => Self::SecureMonitorCall(syndrome.immediate()),
            Class::SYSTEM_REGISTER => Self::SystemRegister(SystemRegisterTrap::new(syndrome)),
            Class::SVE => Self::Sve,
            Class::ERET => Self::ExceptionReturn { authenticated: flag::<1>(bits) },
            Class::TSTART => Self::TransactionStart(field::<5, 5>(bits) as u8),
            Class::POINTER_AUTHENTICATION_FAILURE => {
                Self::PointerAuthenticationFailure { data: flag::<1>(bits), key_b: flag::<0>(bits) }
            }
            Class::SME => Self::Sme(match field::<0, 3>(bits) {
                0b000 => SmeReason::Trapped,
                0b001 => SmeReason::Streaming,
                0b010 => SmeReason::NotStreaming,
                0b011 => SmeReason::ZaInactive,
                0b100 => SmeReason::ZtTrapped,
                _ => SmeReason::Reserved,
            }),
            Class::INSTRUCTION_ABORT_LOWER | Class::INSTRUCTION_ABORT_CURRENT => {
                Self::InstructionAbort(syndrome.instruction_abort())
            }
            Class::PC_ALIGNMENT => Self::PcAlignment,
            Class::DATA_ABORT_LOWER | Class::DATA_ABORT_CURRENT => {
                Self::DataAbort(syndrome.data_abort())
            }
            Class::SP_ALIGNMENT => Self::SpAlignment,
            Class::MEMORY_COPY => Self::MemoryCopy(MemoryCopy::new(syndrome)),
            Class::FLOATING_POINT_EXCEPTION32 | Class::FLOATING_POINT_EXCEPTION64 => {
                Self::FloatingPointException(FloatingPointTrap::new(syndrome))
            }
            Class::GUARDED_CONTROL_STACK => Self::GuardedControlStack(syndrome.iss()),
            Class::SERROR => Self::SError(SErrorTrap::new(syndrome)),
            Class::BREAKPOINT_LOWER | Class::BREAKPOINT_CURRENT => {
                Self::Breakpoint(Breakpoint::new(syndrome))
            }
            Class::STEP_LOWER | Class::STEP_CURRENT => {
                Self::SoftwareStep(SoftwareStep::new(syndrome))
            }
            Class::WATCHPOINT_LOWER | Class::WATCHPOINT_CURRENT => {
                Self::Watchpoint(Watchpoint::new(syndrome))
            }
            Class::VECTOR_CATCH32 => Self::VectorCatch(Breakpoint::new(syndrome)),
            Class::BKPT32 | Class::BRK64 => Self::BreakpointInstruction(syndrome.immediate()),
            Class::PROFILING => Self::Profiling,
            Class::IMPLEMENTATION_DEFINED => Self::ImplementationDefined(syndrome.iss()),
            other => Self::Reserved(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn of(class: ExceptionClass, iss: u32) -> Trap {
        Syndrome::of(class, iss).decode()
    }

    #[test]
    fn every_named_class_but_those_of_el3_has_a_decoder() {
        for &class in ExceptionClass::NAMED {
            let reserved = matches!(of(class, 0), Trap::Reserved(_));
            let only_el3 =
                [ExceptionClass::GRANULE_PROTECTION, ExceptionClass::IMPLEMENTATION_DEFINED_EL3]
                    .contains(&class);
            assert_eq!(reserved, only_el3, "{class}");
        }
    }

    #[test]
    fn a_class_without_a_name_is_reserved() {
        for bits in 0..64 {
            let class = ExceptionClass::from_bits(bits);
            if !ExceptionClass::NAMED.contains(&class) {
                assert_eq!(of(class, 0x1ff_ffff), Trap::Reserved(class));
            }
        }
    }

    proptest! {
        /// No syndrome is without meaning, and the class alone chooses the meaning.
        #[test]
        fn any_syndrome_is_decoded(bits: u64) {
            let syndrome = Syndrome::new(bits);
            let plain = Syndrome::of(syndrome.class(), 0).decode();
            prop_assert_eq!(core::mem::discriminant(&syndrome.decode()), core::mem::discriminant(&plain));
        }
    }

    #[test]
    fn the_four_waits_are_told_apart_and_only_timed_ones_have_a_deadline() {
        let with = |ti: u32, rv: u32| {
            WaitTrap::new(Syndrome::of(ExceptionClass::WAIT, 7 << 5 | rv << 2 | ti))
        };
        let table = [
            (0, WaitKind::Interrupt, None),
            (1, WaitKind::Event, None),
            (2, WaitKind::InterruptUntil, Some(7)),
            (3, WaitKind::EventUntil, Some(7)),
        ];
        for (ti, kind, deadline) in table {
            assert_eq!((with(ti, 1).kind, with(ti, 1).deadline), (kind, deadline));
            assert_eq!(with(ti, 0).deadline, None);
        }
    }

    #[test]
    fn a_register_read_carries_encoding_register_and_direction() {
        // mrs x9, ID_AA64MMFR0_EL1 (S3_0_C0_C7_0)
        let iss = 3 << 20 | 9 << 5 | 7 << 1 | 1;
        let expected = SystemRegisterTrap {
            encoding: Encoding::new(3, 0, 0, 7, 0),
            register: 9,
            direction: Direction::Read,
        };
        assert_eq!(of(ExceptionClass::SYSTEM_REGISTER, iss), Trap::SystemRegister(expected));
    }

    #[test]
    fn a_128_bit_access_names_the_even_register() {
        // mrrs x4, x5, TTBR0_EL1 (S3_0_C2_C0_0)
        let iss = 3 << 20 | 2 << 10 | 2 << 6 | 1;
        let Trap::SystemRegisterPair(pair) = of(ExceptionClass::SYSTEM_REGISTER_PAIR, iss) else {
            panic!()
        };
        assert_eq!((pair.encoding, pair.register), (Encoding::new(3, 0, 2, 0, 0), 4));
    }

    #[test]
    fn calls_carry_their_immediate() {
        assert_eq!(of(ExceptionClass::HVC64, 0xffff), Trap::HypervisorCall(0xffff));
        assert_eq!(of(ExceptionClass::HVC32, 1), Trap::HypervisorCall(1));
        assert_eq!(of(ExceptionClass::SMC64, 2), Trap::SecureMonitorCall(2));
        assert_eq!(of(ExceptionClass::SVC64, 3), Trap::SupervisorCall(3));
        assert_eq!(of(ExceptionClass::BRK64, 4), Trap::BreakpointInstruction(4));
    }

    #[test]
    fn an_aarch32_smc_has_a_condition_only_when_it_is_not_known_to_pass() {
        let unconditional = 1 << 24 | 0x3 << 20;
        assert_eq!(
            of(ExceptionClass::SMC32, unconditional),
            Trap::SecureMonitorCall32(Condition::Known(0b1110))
        );
        assert_eq!(
            of(ExceptionClass::SMC32, unconditional | 1 << 19),
            Trap::SecureMonitorCall32(Condition::Known(0x3))
        );
    }

    #[test]
    fn an_uncategorised_serror_does_not_claim_a_severity() {
        let Trap::SError(error) = of(ExceptionClass::SERROR, 1 << 24 | 0x11) else { panic!() };
        assert!(error.implementation_defined && !error.categorised);
        let Trap::SError(error) = of(ExceptionClass::SERROR, 3 << 10 | 0x11) else { panic!() };
        assert!(error.categorised);
        assert_eq!(error.severity, 3);
    }
}
