//! The exception class, `ESR_EL2.EC`.

use core::fmt;

/// The class of an exception, `EC`: six bits, most values of which have a name.
///
/// A plain number with constants, so that a comparison or a `match` on it costs what the hardware value costs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExceptionClass(u8);

/// Declares the named classes, and the table of their names.
macro_rules! classes {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal, $text:literal;)*) => {
        impl ExceptionClass {
            $($(#[doc = $doc])+ pub const $name: Self = Self($value);)*

            /// All classes that the architecture names, in ascending order.
            pub const NAMED: &'static [Self] = &[$(Self::$name),*];

            /// What the class means, in a few words, for a report.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    _ => "reserved exception class",
                }
            }
        }
    };
}

classes! {
    /// No other class fits; also instructions that are UNDEFINED.
    UNKNOWN = 0x00, "unknown reason";
    /// Trapped `WFI`, `WFE`, `WFIT` or `WFET`.
    WAIT = 0x01, "WFI or WFE";
    /// Trapped AArch32 `MCR` or `MRC` with coprocessor 15.
    CP15_REGISTER = 0x03, "CP15 MCR or MRC";
    /// Trapped AArch32 `MCRR` or `MRRC` with coprocessor 15.
    CP15_PAIR = 0x04, "CP15 MCRR or MRRC";
    /// Trapped AArch32 `MCR` or `MRC` with coprocessor 14 (debug).
    CP14_REGISTER = 0x05, "CP14 MCR or MRC";
    /// Trapped AArch32 `LDC` or `STC` with coprocessor 14 (`DBGDTRTXint`, `DBGDTRRXint`).
    CP14_LOAD = 0x06, "CP14 LDC or STC";
    /// Trapped access to Advanced SIMD, floating-point or SVE state.
    FLOATING_POINT = 0x07, "SIMD or floating-point access";
    /// Trapped AArch32 `VMRS` of an identification register (coprocessor 10).
    CP10_REGISTER = 0x08, "VMRS of an identification register";
    /// Trapped pointer authentication instruction (`HCR_EL2.API`).
    POINTER_AUTHENTICATION = 0x09, "pointer authentication instruction";
    /// Trapped `LD64B`, `ST64B`, `ST64BV` or `ST64BV0`, and newer instructions without a class of their own.
    OTHER_INSTRUCTION = 0x0a, "64-byte load or store";
    /// Trapped AArch32 `MRRC` with coprocessor 14.
    CP14_PAIR = 0x0c, "CP14 MRRC";
    /// Branch to an instruction that is no branch target.
    BRANCH_TARGET = 0x0d, "branch target exception";
    /// Illegal Execution state (`PSTATE.IL`).
    ILLEGAL_STATE = 0x0e, "illegal execution state";
    /// `SVC` in AArch32.
    SVC32 = 0x11, "AArch32 SVC";
    /// `HVC` in AArch32.
    HVC32 = 0x12, "AArch32 HVC";
    /// Trapped `SMC` in AArch32.
    SMC32 = 0x13, "AArch32 SMC";
    /// Trapped 128-bit `MRRS`, `MSRR` or `SYSP`.
    SYSTEM_REGISTER_PAIR = 0x14, "128-bit system register access";
    /// `SVC` in AArch64.
    SVC64 = 0x15, "SVC";
    /// `HVC` in AArch64.
    HVC64 = 0x16, "HVC";
    /// Trapped `SMC` in AArch64.
    SMC64 = 0x17, "SMC";
    /// Trapped `MRS`, `MSR` or `SYS` in AArch64.
    SYSTEM_REGISTER = 0x18, "system register access";
    /// Trapped access to SVE.
    SVE = 0x19, "SVE access";
    /// Trapped `ERET`, `ERETAA` or `ERETAB`.
    ERET = 0x1a, "ERET";
    /// Trapped `TSTART` (transactional memory).
    TSTART = 0x1b, "TSTART";
    /// A pointer failed its authentication.
    POINTER_AUTHENTICATION_FAILURE = 0x1c, "pointer authentication failure";
    /// Trapped access to SME.
    SME = 0x1d, "SME access";
    /// Granule protection check (only taken to EL3).
    GRANULE_PROTECTION = 0x1e, "granule protection check";
    /// IMPLEMENTATION DEFINED exception to EL3.
    IMPLEMENTATION_DEFINED_EL3 = 0x1f, "implementation defined exception to EL3";
    /// Instruction abort from a lower exception level.
    INSTRUCTION_ABORT_LOWER = 0x20, "instruction abort from a lower level";
    /// Instruction abort from the current exception level.
    INSTRUCTION_ABORT_CURRENT = 0x21, "instruction abort from the current level";
    /// Misaligned PC.
    PC_ALIGNMENT = 0x22, "PC alignment fault";
    /// Data abort from a lower exception level.
    DATA_ABORT_LOWER = 0x24, "data abort from a lower level";
    /// Data abort from the current exception level.
    DATA_ABORT_CURRENT = 0x25, "data abort from the current level";
    /// Misaligned stack pointer.
    SP_ALIGNMENT = 0x26, "SP alignment fault";
    /// Memory copy or memory set (`CPY*`, `SET*`).
    MEMORY_COPY = 0x27, "memory copy or memory set exception";
    /// Trapped floating-point exception in AArch32.
    FLOATING_POINT_EXCEPTION32 = 0x28, "AArch32 floating-point exception";
    /// Trapped floating-point exception in AArch64.
    FLOATING_POINT_EXCEPTION64 = 0x2c, "floating-point exception";
    /// Guarded control stack exception.
    GUARDED_CONTROL_STACK = 0x2d, "guarded control stack exception";
    /// Asynchronous external abort.
    SERROR = 0x2f, "SError interrupt";
    /// Breakpoint from a lower exception level.
    BREAKPOINT_LOWER = 0x30, "breakpoint from a lower level";
    /// Breakpoint from the current exception level.
    BREAKPOINT_CURRENT = 0x31, "breakpoint from the current level";
    /// Software step from a lower exception level.
    STEP_LOWER = 0x32, "software step from a lower level";
    /// Software step from the current exception level.
    STEP_CURRENT = 0x33, "software step from the current level";
    /// Watchpoint from a lower exception level.
    WATCHPOINT_LOWER = 0x34, "watchpoint from a lower level";
    /// Watchpoint from the current exception level.
    WATCHPOINT_CURRENT = 0x35, "watchpoint from the current level";
    /// `BKPT` in AArch32.
    BKPT32 = 0x38, "AArch32 BKPT";
    /// Vector catch from AArch32 (only taken to EL2).
    VECTOR_CATCH32 = 0x3a, "AArch32 vector catch";
    /// `BRK` in AArch64.
    BRK64 = 0x3c, "BRK";
    /// Exception of the performance monitors (FEAT_EBEP).
    PROFILING = 0x3d, "performance monitor exception";
    /// IMPLEMENTATION DEFINED. Apple processors report trapped IMPLEMENTATION DEFINED registers here
    /// (`HCR_EL2.TACR`), with the syndrome proper in `AFSR1_EL2`.
    IMPLEMENTATION_DEFINED = 0x3f, "implementation defined";
}

impl ExceptionClass {
    /// The class with this value of `EC`; bits above the lowest six are dropped.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0x3f)
    }

    /// The value of `EC`.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl fmt::Display for ExceptionClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (EC {:#04x})", self.name(), self.0)
    }
}

impl fmt::Debug for ExceptionClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_classes_are_ascending_and_their_names_differ() {
        assert!(ExceptionClass::NAMED.is_sorted());
        for (i, a) in ExceptionClass::NAMED.iter().enumerate() {
            assert!(a.bits() < 64);
            assert!(ExceptionClass::NAMED[..i].iter().all(|b| a.name() != b.name() && a != b));
        }
    }

    #[test]
    fn a_class_without_a_name_is_still_reported_with_its_number() {
        assert_eq!(
            ExceptionClass::from_bits(0x3e).to_string(),
            "reserved exception class (EC 0x3e)"
        );
        assert_eq!(ExceptionClass::from_bits(0x40 | 0x16), ExceptionClass::HVC64);
    }
}
