//! The table: a row a leaf, a rule a register.

use super::{MAXIMUM_EXTENDED, MAXIMUM_HYPERVISOR, Vendor};

/// How a register of a leaf comes from the host's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    Zero,
    Host,
    /// The host's, where these bits are set.
    Allow(u32),
    /// The host's in the first mask, and the bits of the second.
    AllowAndSet(u32, u32),
    Fixed(u32),
}
use Rule::{Allow, AllowAndSet, Fixed, Host, Zero};

/// Which subleaves a leaf has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subleaves {
    None,
    /// 0 to this, inclusive.
    UpTo(u32),
    /// From the first to the second, inclusive.
    Between(u32, u32),
    /// 0, 1, ... until EAX is zero.
    UntilZero,
}

/// Bound of a list that should end by itself.
const LONGEST_LIST: u32 = 15;

impl Subleaves {
    pub(super) fn range(self) -> core::ops::RangeInclusive<u32> {
        match self {
            Subleaves::None => 0..=0,
            Subleaves::UpTo(last) => 0..=last,
            Subleaves::Between(first, last) => first..=last,
            Subleaves::UntilZero => 0..=LONGEST_LIST,
        }
    }
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) leaf: u32,
    pub(super) subleaves: Subleaves,
    /// Only on processors of this vendor.
    pub(super) vendor: Option<Vendor>,
    pub(super) eax: Rule,
    pub(super) ebx: Rule,
    pub(super) ecx: Rule,
    pub(super) edx: Rule,
}

const fn bits<const N: usize>(numbers: [u32; N]) -> u32 {
    let mut mask = 0;
    let mut i = 0;
    #[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "constant")]
    while i < N {
        mask |= 1 << numbers[i];
        i += 1;
    }
    mask
}

/// SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, PCID, SSE4.1, SSE4.2, MOVBE,
/// POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
///
/// Hidden: DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA.
const FEATURES_ECX: u32 = bits([0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 27, 28, 29, 30]);
/// x2APIC, TSC deadline, hypervisor present.
const FEATURES_ECX_SET: u32 = bits([21, 24, 31]);
/// FPU, VME, DE, PSE, TSC, MSR, PAE, CX8, APIC, SEP, MTRR, PGE, CMOV, PAT,
/// PSE36, CLFSH, MMX, FXSR, SSE, SSE2, SS.
///
/// Hidden: MCE, MCA (no machine-check banks), PSN, DS, ACPI, TM, PBE.
const FEATURES_EDX: u32 =
    bits([0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 15, 16, 17, 19, 23, 24, 25, 26, 27]);
/// What the machine has whatever the host has: TSC, MSR, APIC, MTRR, PAT.
const FEATURES_EDX_SET: u32 = bits([4, 5, 9, 12, 16]);

/// FSGSBASE, BMI1, AVX2, FDP-EXCPTN-ONLY, SMEP, BMI2, ERMS, INVPCID,
/// ZERO-FCS-FDS, AVX512 F and DQ, RDSEED, ADX, SMAP, AVX512 IFMA, CLFLUSHOPT,
/// CLWB, AVX512 CD, SHA, AVX512 BW and VL.
///
/// Hidden: TSC_ADJUST, SGX, HLE, RTM, MPX, PQM, PQE, PT.
const STRUCTURED_EBX: u32 =
    bits([0, 3, 5, 6, 7, 8, 9, 10, 13, 16, 17, 18, 19, 20, 21, 23, 24, 28, 29, 30, 31]);
/// AVX512 VBMI, UMIP, AVX512 VBMI2, GFNI, VAES, VPCLMULQDQ, AVX512 VNNI and
/// BITALG, VPOPCNTDQ, RDPID, MOVDIRI, MOVDIR64B.
///
/// Hidden: PKU, WAITPKG, CET, TME, LA57, KL, ENQCMD, SGX_LC, PKS.
const STRUCTURED_ECX: u32 = bits([1, 2, 6, 8, 9, 10, 11, 12, 14, 22, 27, 28]);
/// AVX512 4VNNIW and 4FMAPS, FSRM, MD_CLEAR.
///
/// Hidden: everything with an MSR that is not switched (SPEC_CTRL, STIBP,
/// L1D_FLUSH, ARCH_CAPABILITIES, SSBD), UINTR, AMX, PCONFIG, hybrid.
const STRUCTURED_EDX: u32 = bits([2, 3, 4, 10]);

/// x87, SSE, AVX, and the three components of AVX512.
const XSAVE_COMPONENTS: u32 = bits([0, 1, 2, 5, 6, 7]);
/// XSAVEOPT, XSAVEC, XGETBV with ECX 1, XSAVES.
const XSAVE_INSTRUCTIONS: u32 = bits([0, 1, 2, 3]);

/// Clock source by MSRs 0x4b564d00 and up, and a clock that is stable across
/// processors.
const KVM_FEATURES: u32 = bits([3, 24]);

/// LAHF, LZCNT, SSE4A, misaligned SSE, PREFETCHW, XOP, FMA4, TBM.
///
/// Hidden: SVM, extended APIC space, CR8 by LOCK MOV, OSVW, IBS, SKINIT, WDT,
/// LWP, node identifier, topology extensions, performance counters, MWAITX.
const EXTENDED_ECX: u32 = bits([0, 5, 6, 7, 8, 11, 16, 21]);
/// The AMD copy of leaf 1 EDX without its hidden bits, SYSCALL, NX, MMX
/// extensions, 1 GiB pages, RDTSCP, long mode, 3DNow!.
///
/// Hidden: MCE, MCA, FFXSR.
const EXTENDED_EDX: u32 =
    bits([0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 15, 16, 17, 20, 22, 23, 24, 26, 27, 29, 30, 31]);
/// CLZERO, XSAVEERPTR, WBNOINVD.
const ADDRESSES_EBX: u32 = bits([0, 2, 9]);
/// CLFLUSH line size.
const FEATURES_EBX: u32 = 0xff00;
/// Always-running APIC timer.
const POWER_EAX: u32 = bits([2]);
/// Leaf 4 EAX without the topology fields.
const CACHE_EAX: u32 = 0x3fff;

const fn row(leaf: u32, eax: Rule, ebx: Rule, ecx: Rule, edx: Rule) -> Row {
    Row { leaf, subleaves: Subleaves::None, vendor: None, eax, ebx, ecx, edx }
}

const fn sub(subleaves: Subleaves, row: Row) -> Row {
    Row { subleaves, ..row }
}

const fn only(vendor: Vendor, row: Row) -> Row {
    Row { vendor: Some(vendor), ..row }
}

const fn le(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes)
}

/// Sorted by leaf and subleaf; what is not here is zero.
pub(super) static ROWS: [Row; 25] = [
    row(0x0000_0000, Host, Host, Host, Host),
    row(
        0x0000_0001,
        Host,
        Allow(FEATURES_EBX),
        AllowAndSet(FEATURES_ECX, FEATURES_ECX_SET),
        AllowAndSet(FEATURES_EDX, FEATURES_EDX_SET),
    ),
    only(Vendor::Intel, row(0x0000_0002, Host, Host, Host, Host)),
    only(
        Vendor::Intel,
        sub(Subleaves::UntilZero, row(0x0000_0004, Allow(CACHE_EAX), Host, Host, Host)),
    ),
    row(0x0000_0006, Fixed(POWER_EAX), Zero, Zero, Zero),
    sub(
        Subleaves::UpTo(0),
        row(0x0000_0007, Zero, Allow(STRUCTURED_EBX), Allow(STRUCTURED_ECX), Allow(STRUCTURED_EDX)),
    ),
    sub(Subleaves::UpTo(1), row(0x0000_000b, Zero, Zero, Zero, Zero)),
    sub(Subleaves::UpTo(0), row(0x0000_000d, Allow(XSAVE_COMPONENTS), Zero, Host, Zero)),
    sub(Subleaves::Between(1, 1), row(0x0000_000d, Allow(XSAVE_INSTRUCTIONS), Zero, Zero, Zero)),
    sub(Subleaves::Between(2, 2), row(0x0000_000d, Host, Host, Allow(0b10), Zero)),
    sub(Subleaves::Between(5, 7), row(0x0000_000d, Host, Host, Allow(0b10), Zero)),
    row(
        0x4000_0000,
        Fixed(MAXIMUM_HYPERVISOR),
        Fixed(le(*b"KVMK")),
        Fixed(le(*b"VMKV")),
        Fixed(le(*b"M\0\0\0")),
    ),
    row(0x4000_0001, Fixed(KVM_FEATURES), Zero, Zero, Zero),
    row(0x4000_0010, Zero, Zero, Zero, Zero),
    only(Vendor::Amd, row(0x8000_0000, Fixed(MAXIMUM_EXTENDED), Host, Host, Host)),
    only(Vendor::Intel, row(0x8000_0000, Fixed(MAXIMUM_EXTENDED), Zero, Zero, Zero)),
    only(Vendor::Amd, row(0x8000_0001, Host, Host, Allow(EXTENDED_ECX), Allow(EXTENDED_EDX))),
    only(Vendor::Intel, row(0x8000_0001, Zero, Zero, Allow(EXTENDED_ECX), Allow(EXTENDED_EDX))),
    row(0x8000_0002, Host, Host, Host, Host),
    row(0x8000_0003, Host, Host, Host, Host),
    row(0x8000_0004, Host, Host, Host, Host),
    row(0x8000_0005, Host, Host, Host, Host),
    row(0x8000_0006, Host, Host, Host, Host),
    row(0x8000_0007, Zero, Zero, Zero, Zero),
    row(0x8000_0008, Zero, Allow(ADDRESSES_EBX), Zero, Zero),
];
