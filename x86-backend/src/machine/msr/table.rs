//! The table, sorted by index: what Linux touches as a guest, and no more.

use super::rule::Rule;
use super::{Place, Register, Row};
use crate::machine::cpuid::Vendor;
use Vendor::{Amd, Intel};

/// Variable-range MTRRs.
const VARIABLE_RANGES: u32 = 8;
/// MTRRcap: number of variable ranges, fixed ranges, write-combining.
const MTRR_CAP: u64 = VARIABLE_RANGES as u64 | 1 << 8 | 1 << 10;
/// MTRRs on, everything write-back; Linux writes the page-attribute table only
/// if they are on.
const MTRR_DEFAULT_TYPE: u64 = 1 << 11 | 6;
/// IA32_FEATURE_CONTROL: locked, without VMX.
const FEATURE_CONTROL_LOCKED: u64 = 1 << 0;
/// IA32_MISC_ENABLE: fast string operations.
const MISC_ENABLE_FAST_STRINGS: u64 = 1 << 0;
/// VM_CR: SVM disabled, and that is locked.
const VM_CR_LOCKED: u64 = 1 << 4 | 1 << 3;
/// DE_CFG: LFENCE waits for all instructions before it.
const DE_CFG_LFENCE: u64 = 1 << 1;
/// HWCR: the time-stamp counter counts at a fixed rate.
const HWCR_TSC_FIXED: u64 = 1 << 24;
/// A microcode level of which no erratum is known.
const MICROCODE_AMD: u64 = 0x0100_0065;
const MICROCODE_INTEL: u64 = 1 << 32;
const WORD: u64 = 0xffff_ffff;

const fn row(index: u32, place: Place, rule: Rule) -> Row {
    Row { first: index, last: index, vendor: None, place, rule, slot: 0 }
}

const fn range(first: u32, last: u32, place: Place, rule: Rule) -> Row {
    Row { last, ..row(first, place, rule) }
}

const fn only(vendor: Vendor, row: Row) -> Row {
    Row { vendor: Some(vendor), ..row }
}

/// Reads as zero, writes are ignored.
const fn zero(first: u32, last: u32) -> Row {
    range(first, last, Place::Constant(0), Rule::Ignore)
}

const fn processor(index: u32, register: Register, rule: Rule) -> Row {
    row(index, Place::Processor(register), rule)
}

const fn stored(index: u32, reset: u64, rule: Rule) -> Row {
    row(index, Place::Stored(reset), rule)
}

/// Gives each stored register its position in the bank.
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "constant")]
const fn number<const N: usize>(mut rows: [Row; N]) -> ([Row; N], usize) {
    let (mut i, mut slots) = (0, 0);
    while i < N {
        if let Place::Stored(_) = rows[i].place {
            rows[i].slot = slots;
            slots += (rows[i].last - rows[i].first) as usize + 1;
        }
        i += 1;
    }
    (rows, slots)
}

const NUMBERED: ([Row; 52], usize) = number([
    // IA32_TIME_STAMP_COUNTER
    row(0x10, Place::Tsc, Rule::Any),
    // IA32_PLATFORM_ID
    only(Intel, zero(0x17, 0x17)),
    // IA32_APIC_BASE
    row(0x1b, Place::ApicBase, Rule::Any),
    // EBL_CR_POWERON
    only(Intel, zero(0x2a, 0x2a)),
    // IA32_FEATURE_CONTROL
    only(Intel, row(0x3a, Place::Constant(FEATURE_CONTROL_LOCKED), Rule::ReadOnly)),
    // IA32_BIOS_UPDT_TRIG
    only(Intel, zero(0x79, 0x79)),
    // IA32_BIOS_SIGN_ID of Intel in the high half, PATCH_LEVEL of AMD in the low half
    row(0x8b, Place::Constant(MICROCODE_INTEL | MICROCODE_AMD), Rule::Ignore),
    // PLATFORM_INFO
    only(Intel, row(0xce, Place::Constant(0), Rule::ReadOnly)),
    // IA32_MTRRCAP
    row(0xfe, Place::Constant(MTRR_CAP), Rule::ReadOnly),
    // MISC_FEATURES_ENABLES
    only(Intel, stored(0x140, 0, Rule::Only(0))),
    // IA32_SYSENTER_*
    processor(0x174, Register::SysenterCs, Rule::Any),
    processor(0x175, Register::SysenterEsp, Rule::Canonical),
    processor(0x176, Register::SysenterEip, Rule::Canonical),
    // IA32_MCG_CAP, IA32_MCG_STATUS: no banks
    zero(0x179, 0x17a),
    // IA32_PERF_STATUS, IA32_PERF_CTL
    only(Intel, zero(0x198, 0x199)),
    // IA32_MISC_ENABLE
    only(Intel, stored(0x1a0, MISC_ENABLE_FAST_STRINGS, Rule::Keep(MISC_ENABLE_FAST_STRINGS))),
    // IA32_DEBUGCTL: neither branch records nor branch steps
    stored(0x1d9, 0, Rule::Keep(0)),
    // IA32_MTRR_PHYSBASE0 to IA32_MTRR_PHYSMASK7
    range(0x200, 0x20f, Place::Stored(0), Rule::VariableRange),
    // IA32_MTRR_FIX*
    stored(0x250, 0, Rule::FixedRange),
    range(0x258, 0x259, Place::Stored(0), Rule::FixedRange),
    range(0x268, 0x26f, Place::Stored(0), Rule::FixedRange),
    // IA32_PAT
    processor(0x277, Register::Pat, Rule::PageAttributes),
    // IA32_MTRR_DEF_TYPE
    stored(0x2ff, MTRR_DEFAULT_TYPE, Rule::DefaultType),
    // IA32_TSC_DEADLINE
    row(0x6e0, Place::TscDeadline, Rule::Any),
    // x2APIC
    range(0x800, 0x8ff, Place::X2Apic, Rule::Any),
    // IA32_XSS: no supervisor state
    stored(0xda0, 0, Rule::Only(0)),
    // MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW
    row(0x4b56_4d00, Place::KvmWallClock, Rule::Any),
    row(0x4b56_4d01, Place::KvmSystemTime, Rule::Any),
    processor(0xc000_0080, Register::Efer, Rule::Any),
    processor(0xc000_0081, Register::Star, Rule::Any),
    processor(0xc000_0082, Register::Lstar, Rule::Canonical),
    processor(0xc000_0083, Register::Cstar, Rule::Canonical),
    processor(0xc000_0084, Register::SyscallMask, Rule::Only(WORD)),
    processor(0xc000_0100, Register::FsBase, Rule::Canonical),
    processor(0xc000_0101, Register::GsBase, Rule::Canonical),
    processor(0xc000_0102, Register::KernelGsBase, Rule::Canonical),
    processor(0xc000_0103, Register::TscAux, Rule::Only(WORD)),
    // PERF_LEGACY_CTL0 to PERF_LEGACY_CTR3: counters that never count
    only(Amd, zero(0xc001_0000, 0xc001_0007)),
    // SYS_CFG
    only(Amd, zero(0xc001_0010, 0xc001_0010)),
    // HWCR
    only(Amd, stored(0xc001_0015, HWCR_TSC_FIXED, Rule::Keep(HWCR_TSC_FIXED))),
    // TOP_MEM, TOM2
    only(Amd, zero(0xc001_001a, 0xc001_001a)),
    only(Amd, zero(0xc001_001d, 0xc001_001d)),
    // NB_CFG1
    only(Amd, zero(0xc001_001f, 0xc001_001f)),
    // INT_PENDING_MESSAGE
    only(Amd, zero(0xc001_0055, 0xc001_0055)),
    // MMIO_CONFIGURATION: no PCI configuration space
    only(Amd, zero(0xc001_0058, 0xc001_0058)),
    // PSTATE_CURRENT_LIMIT to PSTATE_DEF
    only(Amd, zero(0xc001_0061, 0xc001_006b)),
    // SMM base and masks
    only(Amd, zero(0xc001_0111, 0xc001_0113)),
    // VM_CR
    only(Amd, row(0xc001_0114, Place::Constant(VM_CR_LOCKED), Rule::Ignore)),
    // LS_CFG, IC_CFG, DC_CFG
    only(Amd, zero(0xc001_1020, 0xc001_1022)),
    // FP_CFG
    only(Amd, zero(0xc001_1028, 0xc001_1028)),
    // DE_CFG
    only(Amd, stored(0xc001_1029, DE_CFG_LFENCE, Rule::Keep(DE_CFG_LFENCE))),
    // BU_CFG2
    only(Amd, zero(0xc001_102a, 0xc001_102a)),
]);

/// The rows.
pub(super) static ROWS: [Row; 52] = NUMBERED.0;
/// Number of stored registers.
pub(super) const SLOTS: usize = NUMBERED.1;
