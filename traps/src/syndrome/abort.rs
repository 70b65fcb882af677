//! Data aborts, instruction aborts and their fault status codes (Arm ARM D24.2.40, "ISS encoding for an exception
//! from a Data Abort").

use super::Syndrome;
use crate::bits::{field, flag};

/// The size of one access, as `ESR_EL2.SAS` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AccessSize {
    /// One byte.
    Byte = 0,
    /// Two bytes.
    Halfword = 1,
    /// Four bytes.
    Word = 2,
    /// Eight bytes.
    Doubleword = 3,
    /// Sixteen bytes: a Q register. Never in a syndrome.
    Quadword = 4,
}

impl AccessSize {
    /// The size in bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << (self as u8)
    }

    /// The size whose binary logarithm in bytes is in the lowest two bits of `log2`.
    #[inline]
    #[must_use]
    pub const fn from_log2(log2: u64) -> Self {
        match log2 & 3 {
            0 => Self::Byte,
            1 => Self::Halfword,
            2 => Self::Word,
            _ => Self::Doubleword,
        }
    }
}

/// What kind of fault an abort reports, without its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The address is beyond the output or input size in use.
    AddressSize,
    /// No valid entry.
    Translation,
    /// The access flag is clear.
    AccessFlag,
    /// The entry forbids the access.
    Permission,
    /// Synchronous external abort on the access.
    External,
    /// Synchronous external abort on a translation table walk.
    ExternalOnWalk,
    /// Synchronous parity or ECC error on the access.
    Parity,
    /// Synchronous parity or ECC error on a translation table walk.
    ParityOnWalk,
    /// Memory tag check fault.
    TagCheck,
    /// The access is not aligned as it must be.
    Alignment,
    /// Granule protection fault on the access.
    GranuleProtection,
    /// Granule protection fault on a translation table walk.
    GranuleProtectionOnWalk,
    /// Conflicting entries in a TLB.
    TlbConflict,
    /// Unsupported atomic hardware update of a descriptor.
    UnsupportedAtomicUpdate,
    /// IMPLEMENTATION DEFINED: lockdown.
    Lockdown,
    /// IMPLEMENTATION DEFINED: exclusive or atomic access to memory that does not support it.
    UnsupportedExclusive,
    /// A code that the architecture does not define.
    Reserved,
}

/// A fault status code, `DFSC` or `IFSC`: six bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FaultStatus(u8);

impl FaultStatus {
    /// Synchronous external abort, not on a translation table walk.
    pub const EXTERNAL: Self = Self(0b01_0000);
    /// Alignment fault.
    pub const ALIGNMENT: Self = Self(0b10_0001);
    /// IMPLEMENTATION DEFINED: unsupported exclusive or atomic access.
    pub const UNSUPPORTED_EXCLUSIVE: Self = Self(0b11_0101);
    /// Asynchronous external abort (`SError`).
    pub const ASYNCHRONOUS: Self = Self(0b01_0001);

    /// The code in the lowest six bits of `bits`.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0x3f)
    }

    /// A translation fault at `level` (0 to 3; higher ones are taken modulo 4).
    #[must_use]
    pub const fn translation(level: u8) -> Self {
        Self(0b00_0100 | (level & 3))
    }

    /// A permission fault at `level` (0 to 3; higher ones are taken modulo 4).
    #[must_use]
    pub const fn permission(level: u8) -> Self {
        Self(0b00_1100 | (level & 3))
    }

    /// An address size fault at `level` (0 to 3; higher ones are taken modulo 4).
    #[must_use]
    pub const fn address_size(level: u8) -> Self {
        Self(level & 3)
    }

    /// The code.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// What kind of fault this is.
    #[must_use]
    pub const fn kind(self) -> FaultKind {
        match self.0 {
            0b00_0000..=0b00_0011 | 0b10_1001 | 0b10_1100 => FaultKind::AddressSize,
            0b00_0100..=0b00_0111 | 0b10_1010 | 0b10_1011 => FaultKind::Translation,
            0b00_1000..=0b00_1011 => FaultKind::AccessFlag,
            0b00_1100..=0b00_1111 => FaultKind::Permission,
            0b01_0000 => FaultKind::External,
            0b01_0001 => FaultKind::TagCheck,
            0b01_0010..=0b01_0111 => FaultKind::ExternalOnWalk,
            0b01_1000 => FaultKind::Parity,
            0b01_1011..=0b01_1111 => FaultKind::ParityOnWalk,
            0b10_0001 => FaultKind::Alignment,
            0b10_0010..=0b10_0111 => FaultKind::GranuleProtectionOnWalk,
            0b10_1000 => FaultKind::GranuleProtection,
            0b11_0000 => FaultKind::TlbConflict,
            0b11_0001 => FaultKind::UnsupportedAtomicUpdate,
            0b11_0100 => FaultKind::Lockdown,
            0b11_0101 => FaultKind::UnsupportedExclusive,
            _ => FaultKind::Reserved,
        }
    }

    /// The level of the translation table at which the fault arose, -2 to 3, for the kinds that have one.
    #[must_use]
    pub const fn level(self) -> Option<i8> {
        match self.0 {
            0b00_0000..=0b00_1111
            | 0b01_0100..=0b01_0111
            | 0b01_1100..=0b01_1111
            | 0b10_0100..=0b10_0111 => Some((self.0 & 3) as i8),
            0b01_0011 | 0b01_1011 | 0b10_0011 | 0b10_1001 | 0b10_1011 => Some(-1),
            0b01_0010 | 0b10_0010 | 0b10_1010 | 0b10_1100 => Some(-2),
            _ => None,
        }
    }

    /// Translation fault, at any level: nothing is mapped there. One comparison, for the hot path.
    #[inline]
    #[must_use]
    pub const fn is_translation(self) -> bool {
        matches!(self.0, 0b00_0100..=0b00_0111 | 0b10_1010 | 0b10_1011)
    }

    /// Permission fault, at any level.
    #[inline]
    #[must_use]
    pub const fn is_permission(self) -> bool {
        matches!(self.0, 0b00_1100..=0b00_1111)
    }

    /// Whether memory, not a translation table, answered with an error: an external abort or a parity error, on the
    /// access or on a walk.
    #[must_use]
    pub const fn is_external(self) -> bool {
        matches!(
            self.kind(),
            FaultKind::External
                | FaultKind::ExternalOnWalk
                | FaultKind::Parity
                | FaultKind::ParityOnWalk
        )
    }

    /// Whether `HPFAR_EL2` holds the intermediate physical address of a fault that was taken to EL2.
    ///
    /// A permission fault leaves it UNKNOWN unless it arose on a stage 1 walk (`S1PTW`); the address must then be
    /// found by translating the virtual one (Arm ARM D24.2.60).
    #[inline]
    #[must_use]
    pub const fn has_intermediate_address(self, on_stage1_walk: bool) -> bool {
        match self.kind() {
            FaultKind::Translation
            | FaultKind::AccessFlag
            | FaultKind::AddressSize
            | FaultKind::GranuleProtection => true,
            FaultKind::Permission => on_stage1_walk,
            _ => false,
        }
    }
}

/// What state a synchronous external abort leaves the processing element in, `SET` (FEAT_RAS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Recoverable.
    Recoverable,
    /// Uncontainable.
    Uncontainable,
    /// Restartable, or corrected.
    Restartable,
    /// A value that the architecture does not define.
    Reserved,
}

impl Severity {
    /// The severity with this two-bit `SET`.
    const fn from_bits(bits: u64) -> Self {
        match bits {
            0b00 => Self::Recoverable,
            0b10 => Self::Uncontainable,
            0b11 => Self::Restartable,
            _ => Self::Reserved,
        }
    }
}

/// The syndrome of a data abort.
///
/// A view of the raw value: each method costs a shift and a mask, when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataAbort(Syndrome);

impl DataAbort {
    /// Reads `syndrome` as that of a data abort; its class is not looked at.
    #[inline]
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        Self(syndrome)
    }

    /// `ISV`: whether size, sign extension, register, register width and acquire-release below are valid. If not, the
    /// instruction must be decoded ([`crate::load_store`]).
    #[inline]
    #[must_use]
    pub const fn is_valid(self) -> bool {
        flag::<24>(self.0.bits())
    }

    /// `SAS`: the size of the access.
    #[inline]
    #[must_use]
    pub const fn size(self) -> AccessSize {
        AccessSize::from_log2(field::<22, 2>(self.0.bits()))
    }

    /// `SSE`: a load sign-extends the value.
    #[inline]
    #[must_use]
    pub const fn sign_extend(self) -> bool {
        flag::<21>(self.0.bits())
    }

    /// `SRT`: the number of the general-purpose register. 31 is the zero register.
    #[inline]
    #[must_use]
    pub const fn register(self) -> u8 {
        field::<16, 5>(self.0.bits()) as u8
    }

    /// `SF`: the register is 64 bits wide.
    #[inline]
    #[must_use]
    pub const fn is_64bit(self) -> bool {
        flag::<15>(self.0.bits())
    }

    /// `AR`: the instruction has acquire or release semantics.
    #[inline]
    #[must_use]
    pub const fn acquire_release(self) -> bool {
        flag::<14>(self.0.bits())
    }

    /// `VNCR`: the access was made through `VNCR_EL2`.
    #[inline]
    #[must_use]
    pub const fn nested(self) -> bool {
        flag::<13>(self.0.bits())
    }

    /// `SET`: the severity of a synchronous external abort.
    #[must_use]
    pub const fn severity(self) -> Severity {
        Severity::from_bits(field::<11, 2>(self.0.bits()))
    }

    /// `FnV` is 0: `FAR_EL2` holds the virtual address.
    #[inline]
    #[must_use]
    pub const fn has_address(self) -> bool {
        !flag::<10>(self.0.bits())
    }

    /// `EA`: the IMPLEMENTATION DEFINED type of an external abort.
    #[must_use]
    pub const fn external_type(self) -> bool {
        flag::<9>(self.0.bits())
    }

    /// `CM`: a cache maintenance or address translation instruction, not a load or store.
    #[inline]
    #[must_use]
    pub const fn cache_maintenance(self) -> bool {
        flag::<8>(self.0.bits())
    }

    /// `S1PTW`: stage 2 faulted on the walk of the guest's stage 1 tables.
    #[inline]
    #[must_use]
    pub const fn on_stage1_walk(self) -> bool {
        flag::<7>(self.0.bits())
    }

    /// `WnR`: a write. For a fault on a stage 1 walk, a hardware update of the descriptor.
    #[inline]
    #[must_use]
    pub const fn is_write(self) -> bool {
        flag::<6>(self.0.bits())
    }

    /// `DFSC`: the fault.
    #[inline]
    #[must_use]
    pub const fn status(self) -> FaultStatus {
        FaultStatus::from_bits(field::<0, 6>(self.0.bits()) as u8)
    }

    /// Whether `HPFAR_EL2` holds the faulting page.
    #[inline]
    #[must_use]
    pub const fn has_intermediate_address(self) -> bool {
        self.status().has_intermediate_address(self.on_stage1_walk())
    }

    /// Whether this is a plain access to an address where nothing is mapped, and syndrome, `FAR_EL2` and `HPFAR_EL2`
    /// are enough to emulate it: a translation fault (levels 0 to 3) of a load or store with a valid syndrome and
    /// address, not on a walk. One comparison, for the hot path.
    #[inline]
    #[must_use]
    pub const fn is_plain(self) -> bool {
        /// `ISV`, `FnV`, `CM`, `S1PTW`, and `DFSC` without the level.
        const MASK: u64 = 1 << 24 | 1 << 10 | 1 << 8 | 1 << 7 | 0b11_1100;
        const TRANSLATION: u64 = 0b00_0100;
        self.0.bits() & MASK == 1 << 24 | TRANSLATION
    }

    /// Whether the syndrome is enough to emulate the access: a load or store with a valid syndrome and address, not a
    /// walk.
    #[inline]
    #[must_use]
    pub const fn is_emulable(self) -> bool {
        const MASK: u64 = 1 << 24 | 1 << 10 | 1 << 8 | 1 << 7;
        self.0.bits() & MASK == 1 << 24
    }

    /// The syndrome itself.
    #[must_use]
    pub const fn syndrome(self) -> Syndrome {
        self.0
    }
}

/// The syndrome of an instruction abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InstructionAbort(Syndrome);

impl InstructionAbort {
    /// Reads `syndrome` as that of an instruction abort; its class is not looked at.
    #[inline]
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        Self(syndrome)
    }

    /// `SET`: the severity of a synchronous external abort.
    #[must_use]
    pub const fn severity(self) -> Severity {
        Severity::from_bits(field::<11, 2>(self.0.bits()))
    }

    /// `FnV` is 0: `FAR_EL2` holds the virtual address.
    #[inline]
    #[must_use]
    pub const fn has_address(self) -> bool {
        !flag::<10>(self.0.bits())
    }

    /// `EA`: the IMPLEMENTATION DEFINED type of an external abort.
    #[must_use]
    pub const fn external_type(self) -> bool {
        flag::<9>(self.0.bits())
    }

    /// `S1PTW`: stage 2 faulted on the walk of the guest's stage 1 tables.
    #[inline]
    #[must_use]
    pub const fn on_stage1_walk(self) -> bool {
        flag::<7>(self.0.bits())
    }

    /// `IFSC`: the fault.
    #[inline]
    #[must_use]
    pub const fn status(self) -> FaultStatus {
        FaultStatus::from_bits(field::<0, 6>(self.0.bits()) as u8)
    }

    /// Whether `HPFAR_EL2` holds the faulting page.
    #[inline]
    #[must_use]
    pub const fn has_intermediate_address(self) -> bool {
        self.status().has_intermediate_address(self.on_stage1_walk())
    }

    /// The syndrome itself.
    #[must_use]
    pub const fn syndrome(self) -> Syndrome {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::ExceptionClass;
    use super::*;

    /// `ldr w3, [x1]` to a hole at level 1, as the emulator reports it: ISV, word, x3, translation fault.
    const LOAD_WORD: Syndrome = Syndrome::new(0x9383_0005);

    #[test]
    fn a_word_load_is_decoded() {
        assert_eq!(LOAD_WORD.class(), ExceptionClass::DATA_ABORT_LOWER);
        let abort = LOAD_WORD.data_abort();
        assert!(abort.is_valid() && abort.is_emulable() && abort.has_address());
        assert_eq!(abort.size(), AccessSize::Word);
        assert_eq!(abort.register(), 3);
        assert!(
            !abort.sign_extend()
                && !abort.is_64bit()
                && !abort.is_write()
                && !abort.acquire_release()
        );
        assert_eq!(abort.status().kind(), FaultKind::Translation);
        assert_eq!(abort.status().level(), Some(1));
        assert!(abort.has_intermediate_address());
    }

    #[test]
    fn a_plain_access_is_a_translation_fault_of_a_load_or_store_that_the_syndrome_describes() {
        let of = |iss| Syndrome::of(ExceptionClass::DATA_ABORT_LOWER, iss).data_abort();
        for iss in 0..1 << 11 {
            for valid in [0, 1 << 24] {
                let abort = of(iss | valid);
                let expected = abort.is_emulable()
                    && abort.status().kind() == FaultKind::Translation
                    && abort.status().level().is_some_and(|level| level >= 0);
                assert_eq!(abort.is_plain(), expected, "{iss:#x} {valid:#x}");
            }
        }
    }

    #[test]
    fn each_bit_of_a_data_abort_reaches_its_method_alone() {
        let of = |iss| Syndrome::of(ExceptionClass::DATA_ABORT_LOWER, iss).data_abort();
        let view = |a: DataAbort| {
            [
                a.is_valid(),
                a.sign_extend(),
                a.is_64bit(),
                a.acquire_release(),
                a.nested(),
                !a.has_address(),
                a.external_type(),
                a.cache_maintenance(),
                a.on_stage1_walk(),
                a.is_write(),
            ]
        };
        for (position, bit) in [24, 21, 15, 14, 13, 10, 9, 8, 7, 6].into_iter().enumerate() {
            let mut expected = [false; 10];
            expected[position] = true;
            assert_eq!(view(of(1 << bit)), expected, "bit {bit}");
        }
        assert_eq!(of(31 << 16).register(), 31);
        assert_eq!(of(3 << 22).size().bytes(), 8);
    }

    #[test]
    fn only_a_plain_access_with_an_address_is_emulable_from_the_syndrome() {
        for (spoiler, emulable) in
            [(0, true), (1 << 10, false), (1 << 8, false), (1 << 7, false), (1 << 6, true)]
        {
            let abort = Syndrome::new(LOAD_WORD.bits() | spoiler).data_abort();
            assert_eq!(abort.is_emulable(), emulable, "{spoiler:#x}");
        }
        assert!(!Syndrome::new(LOAD_WORD.bits() & !(1 << 24)).data_abort().is_emulable());
    }

    #[test]
    fn every_fault_status_code_has_the_kind_and_level_of_the_architecture() {
        use FaultKind as K;
        let table: &[(u8, K, Option<i8>)] = &[
            (0x00, K::AddressSize, Some(0)),
            (0x03, K::AddressSize, Some(3)),
            (0x04, K::Translation, Some(0)),
            (0x07, K::Translation, Some(3)),
            (0x08, K::AccessFlag, Some(0)),
            (0x0b, K::AccessFlag, Some(3)),
            (0x0c, K::Permission, Some(0)),
            (0x0f, K::Permission, Some(3)),
            (0x10, K::External, None),
            (0x11, K::TagCheck, None),
            (0x12, K::ExternalOnWalk, Some(-2)),
            (0x13, K::ExternalOnWalk, Some(-1)),
            (0x14, K::ExternalOnWalk, Some(0)),
            (0x17, K::ExternalOnWalk, Some(3)),
            (0x18, K::Parity, None),
            (0x19, K::Reserved, None),
            (0x1a, K::Reserved, None),
            (0x1b, K::ParityOnWalk, Some(-1)),
            (0x1c, K::ParityOnWalk, Some(0)),
            (0x1f, K::ParityOnWalk, Some(3)),
            (0x20, K::Reserved, None),
            (0x21, K::Alignment, None),
            (0x22, K::GranuleProtectionOnWalk, Some(-2)),
            (0x23, K::GranuleProtectionOnWalk, Some(-1)),
            (0x24, K::GranuleProtectionOnWalk, Some(0)),
            (0x28, K::GranuleProtection, None),
            (0x29, K::AddressSize, Some(-1)),
            (0x2a, K::Translation, Some(-2)),
            (0x2b, K::Translation, Some(-1)),
            (0x2c, K::AddressSize, Some(-2)),
            (0x30, K::TlbConflict, None),
            (0x31, K::UnsupportedAtomicUpdate, None),
            (0x34, K::Lockdown, None),
            (0x35, K::UnsupportedExclusive, None),
            (0x3f, K::Reserved, None),
        ];
        for &(code, kind, level) in table {
            let status = FaultStatus::from_bits(code);
            assert_eq!((status.kind(), status.level()), (kind, level), "{code:#04x}");
        }
        for code in 0..64 {
            let status = FaultStatus::from_bits(code);
            assert_eq!(status.is_translation(), status.kind() == K::Translation);
            assert_eq!(status.is_permission(), status.kind() == K::Permission);
        }
    }

    #[test]
    fn a_permission_fault_has_an_intermediate_address_only_on_a_walk() {
        let permission = FaultStatus::permission(3);
        assert!(!permission.has_intermediate_address(false));
        assert!(permission.has_intermediate_address(true));
        assert!(FaultStatus::translation(2).has_intermediate_address(false));
        assert!(FaultStatus::address_size(0).has_intermediate_address(false));
        assert!(!FaultStatus::EXTERNAL.has_intermediate_address(false));
    }

    #[test]
    fn an_instruction_abort_is_decoded() {
        let abort = Syndrome::new(0x8200_0087).instruction_abort();
        assert!(abort.on_stage1_walk() && abort.has_address() && abort.has_intermediate_address());
        assert_eq!(abort.status(), FaultStatus::translation(3));
        assert_eq!(abort.severity(), Severity::Recoverable);
        assert!(!abort.external_type());
    }
}
