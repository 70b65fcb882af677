//! The AArch64 fields that a guest sees, each with its limit. What is not here reads as zero.

use arm_sysregs::el1::registers::{
    IdAa64dfr0El1 as Dfr0, IdAa64isar0El1 as Isar0, IdAa64isar1El1 as Isar1,
    IdAa64isar2El1 as Isar2, IdAa64isar3El1 as Isar3, IdAa64mmfr0El1 as Mmfr0,
    IdAa64mmfr1El1 as Mmfr1, IdAa64mmfr2El1 as Mmfr2, IdAa64mmfr3El1 as Mmfr3,
    IdAa64pfr0El1 as Pfr0, IdAa64pfr1El1 as Pfr1,
};

use super::{IdRegisters, Policy, physical_address_bits};
use crate::system_register::Encoding;

/// How the guest's value of a field follows from the host's.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// As the host has it. For fields that no higher value can make dangerous.
    Host,
    /// The host's, but no more than this: newer values are extensions that are not virtualised.
    UpTo(u8),
    /// The host's, but no more than this, in a field where `0b1111` means "not implemented".
    SignedUpTo(u8),
    /// This value, whatever the host has.
    Is(u8),
    /// As this function has it.
    By(fn(u8, &Policy) -> u8),
}

use Rule::{By, Host, Is, SignedUpTo, UpTo};

/// One four-bit field.
pub(super) struct Field {
    /// Of this register.
    pub(super) register: Encoding,
    /// At this bit.
    pub(super) shift: u32,
    rule: Rule,
}

impl Field {
    /// The guest's value, given the host's.
    pub(super) fn value(&self, host: u8, policy: &Policy) -> u8 {
        match self.rule {
            Host => host,
            UpTo(limit) => host.min(limit),
            SignedUpTo(_) if host == NOT_IMPLEMENTED => NOT_IMPLEMENTED,
            SignedUpTo(limit) => host.min(limit),
            Is(value) => value,
            By(rule) => rule(host, policy),
        }
    }
}

/// "Not implemented" in a signed field.
const NOT_IMPLEMENTED: u8 = 0b1111;

/// `ID_AA64PFR0_EL1.EL0` and `EL1`: AArch64 only.
const AARCH64_ONLY: u8 = 0b0001;
/// `ID_AA64PFR0_EL1.EL0`: AArch64 and AArch32.
const AARCH64_AND_AARCH32: u8 = 0b0010;
/// `PMUVer` and `PerfMon`: PMUv3 for Armv8.5. Later ones freeze counters by bits of `MDCR_EL2` that stay the
/// hypervisor's.
const PMUV3_FOR_ARMV8_5: u8 = 0b0110;
/// `PMUVer` and `PerfMon`: IMPLEMENTATION DEFINED performance monitors, not PMUv3.
const PMU_IMPLEMENTATION_DEFINED: u8 = 0b1111;

/// Whether the field of `register` at `shift` is one in which `0b1111` means "not implemented".
pub(super) fn is_signed(register: Encoding, shift: u32) -> bool {
    let found = FIELDS.iter().find(|field| field.register == register && field.shift == shift);
    matches!(found.map(|field| field.rule), Some(SignedUpTo(_) | Is(NOT_IMPLEMENTED)))
}

/// Whether the host can run AArch32 at EL0.
pub(super) fn has_aarch32(host: &IdRegisters) -> bool {
    host.field(Encoding::ID_AA64PFR0_EL1, Pfr0::EL0_SHIFT) == AARCH64_AND_AARCH32
}

fn exception_level_0(host: u8, policy: &Policy) -> u8 {
    if policy.aarch32 { host.min(AARCH64_AND_AARCH32) } else { AARCH64_ONLY }
}

pub(super) fn interrupt_controller(_host: u8, policy: &Policy) -> u8 {
    u8::from(policy.interrupt_controller)
}

pub(super) fn performance_monitors(host: u8, policy: &Policy) -> u8 {
    if !policy.performance_monitors || host == PMU_IMPLEMENTATION_DEFINED {
        0
    } else {
        host.min(PMUV3_FOR_ARMV8_5)
    }
}

fn branch_prediction(host: u8, policy: &Policy) -> u8 {
    // From FEAT_CSV2_2 there is SCXTNUM_ELx.
    host.min(if policy.software_context_numbers { 2 } else { 1 })
}

fn branch_prediction_fraction(host: u8, policy: &Policy) -> u8 {
    // FEAT_CSV2_1p2 has SCXTNUM_ELx, FEAT_CSV2_1p1 has not.
    host.min(if policy.software_context_numbers { 2 } else { 1 })
}

fn authentication_algorithm(host: u8, policy: &Policy) -> u8 {
    // Up to FEAT_FPACCOMBINE.
    if policy.pointer_authentication { host.min(5) } else { 0 }
}

fn authentication_generic(host: u8, policy: &Policy) -> u8 {
    if policy.pointer_authentication { host.min(1) } else { 0 }
}

fn memory_copy(host: u8, policy: &Policy) -> u8 {
    if policy.memory_copy { host.min(1) } else { 0 }
}

fn timed_wait(host: u8, policy: &Policy) -> u8 {
    /// FEAT_WFxT. The value before it, 1, was withdrawn.
    const FEAT_WFXT: u8 = 2;
    if policy.timed_wait && host >= FEAT_WFXT { FEAT_WFXT } else { 0 }
}

fn physical_range(host: u8, policy: &Policy) -> u8 {
    let covering =
        (0..8).find(|&range| physical_address_bits(range) >= policy.physical_address_bits);
    covering.map_or(host, |range: u8| host.min(range))
}

/// Builds the rows of one register.
macro_rules! fields {
    ($($register:ident: $layout:ident { $($shift:ident $rule:expr;)* })*) => {
        &[$($(Field { register: Encoding::$register, shift: $layout::$shift, rule: $rule }),*),*]
    };
}

/// Every field that can be other than zero in a guest.
///
/// Not here, so hidden: RAS, SVE, SME, MPAM, AMU, RME, Secure EL2, MTE, NMI, GCS, THE, statistical profiling, trace,
/// branch records, ECV, FGT, VHE, LORegions, nested virtualisation, FEAT_S2FWB, EVT, transactional memory, 64-byte
/// accesses, permission indirection and overlay, 128-bit descriptors, `TCR2`, `SCTLR2`, `FPMR`, CPA, PAuth_LR.
pub(super) static FIELDS: &[Field] = fields! {
    ID_AA64PFR0_EL1: Pfr0 {
        EL0_SHIFT By(exception_level_0);
        EL1_SHIFT Is(AARCH64_ONLY);
        FP_SHIFT SignedUpTo(1);
        ADVSIMD_SHIFT SignedUpTo(1);
        GIC_SHIFT By(interrupt_controller);
        DIT_SHIFT UpTo(1);
        CSV2_SHIFT By(branch_prediction);
        CSV3_SHIFT UpTo(1);
    }
    ID_AA64PFR1_EL1: Pfr1 {
        BT_SHIFT UpTo(1);
        SSBS_SHIFT UpTo(2);
        CSV2_FRAC_SHIFT By(branch_prediction_fraction);
    }
    ID_AA64DFR0_EL1: Dfr0 {
        // Armv8.8 debug. Armv8.9 has registers of its own.
        DEBUGVER_SHIFT UpTo(0b1010);
        PMUVER_SHIFT By(performance_monitors);
        BRPS_SHIFT Host;
        WRPS_SHIFT Host;
        CTX_CMPS_SHIFT Host;
        // OSDLR_EL1 is trapped where it exists, and is then RAZ/WI.
        DOUBLELOCK_SHIFT Is(NOT_IMPLEMENTED);
    }
    ID_AA64ISAR0_EL1: Isar0 {
        AES_SHIFT UpTo(2);
        SHA1_SHIFT UpTo(1);
        SHA2_SHIFT UpTo(2);
        CRC32_SHIFT UpTo(1);
        ATOMIC_SHIFT UpTo(3);
        RDM_SHIFT UpTo(1);
        SHA3_SHIFT UpTo(1);
        SM3_SHIFT UpTo(1);
        SM4_SHIFT UpTo(1);
        DP_SHIFT UpTo(1);
        FHM_SHIFT UpTo(1);
        TS_SHIFT UpTo(2);
        TLB_SHIFT UpTo(2);
        RNDR_SHIFT UpTo(1);
    }
    ID_AA64ISAR1_EL1: Isar1 {
        DPB_SHIFT UpTo(2);
        APA_SHIFT By(authentication_algorithm);
        API_SHIFT By(authentication_algorithm);
        JSCVT_SHIFT UpTo(1);
        FCMA_SHIFT UpTo(1);
        LRCPC_SHIFT UpTo(3);
        GPA_SHIFT By(authentication_generic);
        GPI_SHIFT By(authentication_generic);
        FRINTTS_SHIFT UpTo(1);
        SB_SHIFT UpTo(1);
        SPECRES_SHIFT UpTo(2);
        BF16_SHIFT UpTo(2);
        DGH_SHIFT UpTo(1);
        I8MM_SHIFT UpTo(1);
        XS_SHIFT UpTo(1);
    }
    ID_AA64ISAR2_EL1: Isar2 {
        WFXT_SHIFT By(timed_wait);
        RPRES_SHIFT UpTo(1);
        GPA3_SHIFT By(authentication_generic);
        APA3_SHIFT By(authentication_algorithm);
        MOPS_SHIFT By(memory_copy);
        BC_SHIFT UpTo(1);
        PAC_FRAC_SHIFT By(authentication_generic);
        CLRBHB_SHIFT UpTo(1);
        PRFMSLC_SHIFT UpTo(1);
        RPRFM_SHIFT UpTo(1);
        CSSC_SHIFT UpTo(1);
        LUT_SHIFT UpTo(1);
        ATS1A_SHIFT UpTo(1);
    }
    ID_AA64ISAR3_EL1: Isar3 {
        FAMINMAX_SHIFT UpTo(1);
        LSFE_SHIFT UpTo(1);
        LSUI_SHIFT UpTo(1);
        FPRCVT_SHIFT UpTo(1);
    }
    ID_AA64MMFR0_EL1: Mmfr0 {
        PARANGE_SHIFT By(physical_range);
        ASIDBITS_SHIFT UpTo(2);
        BIGEND_SHIFT UpTo(1);
        SNSMEM_SHIFT UpTo(1);
        BIGENDEL0_SHIFT UpTo(1);
        TGRAN16_SHIFT UpTo(2);
        TGRAN64_SHIFT SignedUpTo(0);
        TGRAN4_SHIFT SignedUpTo(1);
        EXS_SHIFT UpTo(1);
    }
    ID_AA64MMFR1_EL1: Mmfr1 {
        HAFDBS_SHIFT UpTo(2);
        HPDS_SHIFT UpTo(2);
        PAN_SHIFT UpTo(3);
        SPECSEI_SHIFT UpTo(1);
        ETS_SHIFT UpTo(3);
        AFP_SHIFT UpTo(1);
        NTLBPA_SHIFT UpTo(1);
        TIDCP1_SHIFT UpTo(1);
        ECBHB_SHIFT UpTo(1);
    }
    ID_AA64MMFR2_EL1: Mmfr2 {
        CNP_SHIFT UpTo(1);
        UAO_SHIFT UpTo(1);
        LSM_SHIFT UpTo(1);
        VARANGE_SHIFT UpTo(1);
        CCIDX_SHIFT UpTo(1);
        ST_SHIFT UpTo(1);
        AT_SHIFT UpTo(1);
        IDS_SHIFT UpTo(1);
        TTL_SHIFT UpTo(1);
        BBM_SHIFT UpTo(2);
        E0PD_SHIFT UpTo(1);
    }
    ID_AA64MMFR3_EL1: Mmfr3 {
        SPEC_FPACC_SHIFT UpTo(1);
    }
};
