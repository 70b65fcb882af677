//! The values of the EL2 registers that decide what a guest's instruction traps to.
//!
//! [`GuestControls::new`] builds each of them bit by bit from what the processor has and a few choices. Bits of
//! extensions that the processor does not have stay zero. What [`crate::identification`] hides is trapped here,
//! wherever the architecture has a trap for it, and the table of [`crate::system_register`] answers it with
//! UNDEFINED.

use arm_sysregs::el1::registers::{
    IdAa64dfr0El1 as Dfr0, IdAa64isar1El1 as Isar1, IdAa64isar2El1 as Isar2,
    IdAa64mmfr0El1 as Mmfr0, IdAa64mmfr1El1 as Mmfr1, IdAa64mmfr2El1 as Mmfr2,
    IdAa64pfr0El1 as Pfr0, IdAa64pfr1El1 as Pfr1,
};
use arm_sysregs::el2::registers::{
    CnthctlEl2, CptrEl2, HcrEl2, HcrxEl2, HdfgrtrEl2, HdfgwtrEl2, HfgitrEl2, HfgrtrEl2, HfgwtrEl2,
    IccSreEl2, MdcrEl2, Mpam2El2, MpamhcrEl2,
};

use crate::identification::IdRegisters;
use crate::system_register::Encoding;

/// What the hypervisor chooses for a virtual machine, or for a virtual CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    /// The hypervisor runs with `HCR_EL2.E2H` set, which changes the layout of `CPTR_EL2` and `CNTHCTL_EL2`.
    pub e2h: bool,
    /// `WFI` and `WFIT` exit.
    pub trap_wfi: bool,
    /// `WFE` and `WFET` exit.
    pub trap_wfe: bool,
    /// Writes of the EL1 translation regime's registers exit: after maintenance by set and way, until the guest
    /// switches its caches.
    pub trap_virtual_memory: bool,
    /// FP, SIMD, SVE: the first use exits, so that their registers are switched only when they are used.
    pub trap_floating_point: bool,
    /// The EL1 physical timer exits. If not, it is the guest's own, as the virtual one is.
    pub trap_physical_timer: bool,
    /// Reads of the physical counter exit.
    pub trap_physical_counter: bool,
    /// Breakpoint and watchpoint registers exit; else they are the guest's own.
    pub trap_debug: bool,
    /// Debug exceptions of the guest are taken to EL2: a debugger in the hypervisor. Implies `trap_debug`.
    pub route_debug_exceptions: bool,
    /// The performance monitors are the guest's own; else they trap.
    pub performance_monitors: bool,
    /// `PMCR_EL0.N` as the hypervisor reads it: all event counters are the guest's. Must not be less where the
    /// processor has PMUv3.
    pub event_counters: u8,
    /// The guest has pointer authentication.
    pub pointer_authentication: bool,
    /// The guest has `CPY*` and `SET*`.
    pub memory_copy: bool,
    /// The guest has `SCXTNUM_EL0` and `SCXTNUM_EL1`.
    pub software_context_numbers: bool,
    /// Stage 2 is built for `HCR_EL2.FWB`.
    pub force_write_back: bool,
}

/// Fine-grained traps (FEAT_FGT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FineGrainedTraps {
    /// `HFGRTR_EL2`.
    pub hfgrtr: HfgrtrEl2,
    /// `HFGWTR_EL2`.
    pub hfgwtr: HfgwtrEl2,
    /// `HFGITR_EL2`.
    pub hfgitr: HfgitrEl2,
    /// `HDFGRTR_EL2`.
    pub hdfgrtr: HdfgrtrEl2,
    /// `HDFGWTR_EL2`.
    pub hdfgwtr: HdfgwtrEl2,
    /// FEAT_FGT2: `HFGRTR2_EL2`, `HFGWTR2_EL2`, `HFGITR2_EL2`, `HDFGRTR2_EL2` and `HDFGWTR2_EL2` exist. All are to be
    /// zero, which traps every extension that they know.
    pub second_set: bool,
}

/// The registers of memory partitioning (FEAT_MPAM), which is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitioningTraps {
    /// `MPAM2_EL2`: partition 0 for the hypervisor, and traps for the guest's registers.
    pub mpam2: Mpam2El2,
    /// `MPAMHCR_EL2`: `MPAMIDR_EL1` is trapped, and nothing is virtualised.
    pub mpamhcr: MpamhcrEl2,
}

/// The values of the control registers while a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestControls {
    /// `HCR_EL2`.
    pub hcr: HcrEl2,
    /// `MDCR_EL2`.
    pub mdcr: MdcrEl2,
    /// `CPTR_EL2`, in the layout that `HCR_EL2.E2H` asks for.
    pub cptr: CptrEl2,
    /// `HSTR_EL2`: coprocessor 15 registers of AArch32 are trapped by meaning, not by number.
    pub hstr: u64,
    /// `CNTHCTL_EL2`, in the layout that `HCR_EL2.E2H` asks for.
    pub cnthctl: CnthctlEl2,
    /// `ICC_SRE_EL2`, for a processor with GICv3: `ICC_SRE_EL1` traps, so the hypervisor must have set its `SRE`
    /// before.
    pub icc_sre: IccSreEl2,
    /// `HCRX_EL2`, if the processor has it.
    pub hcrx: Option<HcrxEl2>,
    /// Fine-grained traps, if the processor has them.
    pub fine_grained: Option<FineGrainedTraps>,
    /// Memory partitioning, if the processor has it.
    pub partitioning: Option<PartitioningTraps>,
}

/// Bits of `HCR_EL2` that must be set, or clear, whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HcrConstraint {
    /// Set in every guest: isolation depends on them.
    pub forced_on: HcrEl2,
    /// Clear in every guest: the processor does not have them, or the hypervisor does not virtualise what they enable.
    pub forced_off: HcrEl2,
}

impl HcrConstraint {
    /// The constraint on a processor with `host`.
    #[must_use]
    pub fn new(host: &IdRegisters) -> Self {
        let present = Present(host);
        let mut forced_on = HcrEl2::VM
            | HcrEl2::SWIO
            | HcrEl2::PTW
            | HcrEl2::FMO
            | HcrEl2::IMO
            | HcrEl2::AMO
            | HcrEl2::FB
            | BSU_INNER_SHAREABLE
            | HcrEl2::TID3
            | HcrEl2::TSC
            | HcrEl2::TIDCP
            | HcrEl2::TACR
            | HcrEl2::TSW
            | HcrEl2::RW;
        forced_on
            .set(HcrEl2::TLOR, present.at_least(Encoding::ID_AA64MMFR1_EL1, Mmfr1::LO_SHIFT, 1));
        forced_on
            .set(HcrEl2::TERR, present.at_least(Encoding::ID_AA64PFR0_EL1, Pfr0::RAS_SHIFT, 1));
        // The identification registers of memory tags and of SME lie outside the space that TID3 traps.
        forced_on
            .set(HcrEl2::TID5, present.at_least(Encoding::ID_AA64PFR1_EL1, Pfr1::MTE_SHIFT, 2));
        forced_on
            .set(HcrEl2::TID1, present.at_least(Encoding::ID_AA64PFR1_EL1, Pfr1::SME_SHIFT, 1));
        // Host mode, nested virtualisation, fault injection, allocation tags, default cacheability and disabled
        // hypercalls are no guest's.
        let mut forced_off = HcrEl2::TGE
            | HcrEl2::NV
            | HcrEl2::NV1
            | HcrEl2::NV2
            | HcrEl2::AT
            | HcrEl2::FIEN
            | HcrEl2::AMVOFFEN
            | HcrEl2::ATA
            | HcrEl2::DCT
            | HcrEl2::DC
            | HcrEl2::HCD
            | HcrEl2::CD
            | HcrEl2::ID
            | HcrEl2::TEA
            | HcrEl2::TWEDEN
            | HcrEl2::GPF;
        forced_off
            .set(HcrEl2::E2H, !present.at_least(Encoding::ID_AA64MMFR1_EL1, Mmfr1::VH_SHIFT, 1));
        forced_off.set(HcrEl2::API | HcrEl2::APK, !present.pointer_authentication());
        forced_off
            .set(HcrEl2::FWB, !present.at_least(Encoding::ID_AA64MMFR2_EL1, Mmfr2::FWB_SHIFT, 1));
        forced_off.set(HcrEl2::ENSCXT, !present.software_context_numbers());
        Self { forced_on, forced_off: forced_off.difference(forced_on) }
    }

    /// `value` with the forced bits set and clear.
    #[must_use]
    pub fn apply(self, value: HcrEl2) -> HcrEl2 {
        (value | self.forced_on).difference(self.forced_off)
    }
}

/// `HCR_EL2.BSU`: a guest's barriers reach at least the Inner Shareable domain, for it may move between processors.
const BSU_INNER_SHAREABLE: HcrEl2 = HcrEl2::from_bits_retain(0b01 << HcrEl2::BSU_SHIFT);

/// `CPTR_EL2.TTA` with E2H = 0: trace registers trap.
const TTA: CptrEl2 = CptrEl2::from_bits_retain(1 << 20);
/// `CPTR_EL2.TTA` with E2H = 1.
const TTA_E2H: CptrEl2 = CptrEl2::from_bits_retain(1 << 28);
/// `CPTR_EL2.FPEN` with E2H = 1: floating-point and SIMD do not trap.
const FPEN_ALLOWED: CptrEl2 = CptrEl2::from_bits_retain(CptrEl2::FPEN_MASK << CptrEl2::FPEN_SHIFT);

/// `CNTHCTL_EL2.EL1PCTEN` with E2H = 0: the physical counter does not trap.
const EL1PCTEN: CnthctlEl2 = CnthctlEl2::from_bits_retain(1 << 0);
/// `CNTHCTL_EL2.EL1PCTEN` with E2H = 1.
const EL1PCTEN_E2H: CnthctlEl2 = CnthctlEl2::from_bits_retain(1 << 10);

/// What the processor has.
#[derive(Clone, Copy)]
struct Present<'a>(&'a IdRegisters);

impl Present<'_> {
    /// The unsigned field at `shift` is at least `value`.
    fn at_least(self, register: Encoding, shift: u32, value: u8) -> bool {
        self.0.field(register, shift) >= value
    }

    /// PMUv3, with at least this version.
    fn performance_monitors(self, version: u8) -> bool {
        /// Not PMUv3.
        const IMPLEMENTATION_DEFINED: u8 = 0xf;
        let found = self.0.field(Encoding::ID_AA64DFR0_EL1, Dfr0::PMUVER_SHIFT);
        found >= version && found != IMPLEMENTATION_DEFINED
    }

    /// Any of the three families of algorithms.
    fn pointer_authentication(self) -> bool {
        self.at_least(Encoding::ID_AA64ISAR1_EL1, Isar1::APA_SHIFT, 1)
            || self.at_least(Encoding::ID_AA64ISAR1_EL1, Isar1::API_SHIFT, 1)
            || self.at_least(Encoding::ID_AA64ISAR2_EL1, Isar2::APA3_SHIFT, 1)
    }

    /// FEAT_CSV2_2 or FEAT_CSV2_1p2.
    fn software_context_numbers(self) -> bool {
        self.at_least(Encoding::ID_AA64PFR0_EL1, Pfr0::CSV2_SHIFT, 2)
            || self.at_least(Encoding::ID_AA64PFR1_EL1, Pfr1::CSV2_FRAC_SHIFT, 2)
    }

    /// FEAT_DoubleLock: `OSDLR_EL1` does something.
    fn double_lock(self) -> bool {
        self.0.field(Encoding::ID_AA64DFR0_EL1, Dfr0::DOUBLELOCK_SHIFT) == 0
    }

    fn statistical_profiling(self) -> bool {
        self.at_least(Encoding::ID_AA64DFR0_EL1, Dfr0::PMSVER_SHIFT, 1)
    }

    fn trace_buffer(self) -> bool {
        self.at_least(Encoding::ID_AA64DFR0_EL1, Dfr0::TRACEBUFFER_SHIFT, 1)
    }

    fn fine_grained_traps(self, version: u8) -> bool {
        self.at_least(Encoding::ID_AA64MMFR0_EL1, Mmfr0::FGT_SHIFT, version)
    }
}

impl GuestControls {
    /// The values for a processor with the raw identification registers `host`.
    #[must_use]
    pub fn new(host: &IdRegisters, choices: &Choices) -> Self {
        let present = Present(host);
        Self {
            hcr: hypervisor_control(host, choices),
            mdcr: debug_control(present, choices),
            cptr: feature_control(present, choices),
            hstr: 0,
            cnthctl: counter_control(choices),
            icc_sre: IccSreEl2::SRE | IccSreEl2::DFB | IccSreEl2::DIB,
            hcrx: extended_control(present, choices),
            fine_grained: fine_grained_traps(present),
            partitioning: partitioning_traps(present),
        }
    }
}

fn hypervisor_control(host: &IdRegisters, choices: &Choices) -> HcrEl2 {
    let mut hcr = HcrEl2::empty();
    hcr.set(HcrEl2::E2H, choices.e2h);
    hcr.set(HcrEl2::TWI, choices.trap_wfi);
    hcr.set(HcrEl2::TWE, choices.trap_wfe);
    hcr.set(HcrEl2::TVM, choices.trap_virtual_memory);
    hcr.set(HcrEl2::API | HcrEl2::APK, choices.pointer_authentication);
    hcr.set(HcrEl2::ENSCXT, choices.software_context_numbers);
    hcr.set(HcrEl2::FWB, choices.force_write_back);
    HcrConstraint::new(host).apply(hcr)
}

fn debug_control(present: Present<'_>, choices: &Choices) -> MdcrEl2 {
    // Zero, so owned by EL2 and trapped: the profiling buffer (E2PB), the trace buffer (E2TB), system PMUs (EnSPM),
    // breakpoint banks (EBWE).
    let mut mdcr = MdcrEl2::TDRA;
    let debugger = choices.route_debug_exceptions;
    mdcr.set(MdcrEl2::TDE, debugger);
    mdcr.set(MdcrEl2::TDA, choices.trap_debug || debugger);
    // A guest must not leave the processor's debug exceptions locked out behind it.
    mdcr.set(MdcrEl2::TDOSA, present.double_lock() || choices.trap_debug || debugger);
    mdcr.set(MdcrEl2::TDCC, present.fine_grained_traps(1));
    mdcr.set(MdcrEl2::TPMS, present.statistical_profiling());
    mdcr.set(MdcrEl2::TTRF, present.at_least(Encoding::ID_AA64DFR0_EL1, Dfr0::TRACEFILT_SHIFT, 1));
    /// `PMUVer` of PMUv3 for Armv8.1.
    const ARMV8_1: u8 = 4;
    /// `PMUVer` of PMUv3 for Armv8.5.
    const ARMV8_5: u8 = 6;
    if present.performance_monitors(1) {
        /// `MDCR_EL2.HPMN` has five bits.
        const MOST: u8 = 31;
        mdcr = mdcr.with_hpmn(choices.event_counters.min(MOST));
        mdcr.set(MdcrEl2::TPM, !choices.performance_monitors);
        mdcr.set(MdcrEl2::TPMCR, !choices.performance_monitors);
    }
    // What the hypervisor does for the guest is not counted as the guest's.
    mdcr.set(MdcrEl2::HPMD, present.performance_monitors(ARMV8_1));
    mdcr.set(MdcrEl2::HCCD, present.performance_monitors(ARMV8_5));
    mdcr
}

fn feature_control(present: Present<'_>, choices: &Choices) -> CptrEl2 {
    let mut cptr = if choices.e2h {
        // ZEN and SMEN are zero: SVE and SME trap.
        if choices.trap_floating_point { TTA_E2H } else { TTA_E2H | FPEN_ALLOWED }
    } else {
        let traps = CptrEl2::RES1 | CptrEl2::TZ | CptrEl2::TSM | TTA;
        if choices.trap_floating_point { traps | CptrEl2::TFP } else { traps }
    };
    cptr.set(CptrEl2::TAM, present.at_least(Encoding::ID_AA64PFR0_EL1, Pfr0::AMU_SHIFT, 1));
    cptr
}

fn counter_control(choices: &Choices) -> CnthctlEl2 {
    // The controls of EL0 in the E2H layout only matter in host mode; a guest has its own in CNTKCTL_EL1.
    let (counter, timer) = if choices.e2h {
        (EL1PCTEN_E2H, CnthctlEl2::EL1PTEN)
    } else {
        (EL1PCTEN, CnthctlEl2::EL1PCEN)
    };
    let mut cnthctl = CnthctlEl2::empty();
    cnthctl.set(counter, !choices.trap_physical_counter);
    cnthctl.set(timer, !choices.trap_physical_timer);
    cnthctl
}

fn extended_control(present: Present<'_>, choices: &Choices) -> Option<HcrxEl2> {
    present.at_least(Encoding::ID_AA64MMFR1_EL1, Mmfr1::HCX_SHIFT, 1).then(|| {
        // Zero: TCR2, SCTLR2, 128-bit descriptors, GCS, FPMR and 64-byte accesses are not the guest's.
        let mut hcrx = HcrxEl2::empty();
        let memory_copy = present.at_least(Encoding::ID_AA64ISAR2_EL1, Isar2::MOPS_SHIFT, 1);
        hcrx.set(HcrxEl2::MSCEN, choices.memory_copy && memory_copy);
        hcrx.set(HcrxEl2::TALLINT, present.at_least(Encoding::ID_AA64PFR1_EL1, Pfr1::NMI_SHIFT, 1));
        hcrx
    })
}

fn fine_grained_traps(present: Present<'_>) -> Option<FineGrainedTraps> {
    present.fine_grained_traps(1).then(|| {
        // Bits that are named `n...` trap when they are zero, so zero hides branch records, GCS, permission
        // indirection and overlay, and TPIDR2. The others trap when they are one; only identification registers of
        // hidden extensions need it.
        let mut hdfgrtr = HdfgrtrEl2::empty();
        hdfgrtr.set(HdfgrtrEl2::PMBIDR_EL1, present.statistical_profiling());
        hdfgrtr.set(HdfgrtrEl2::TRBIDR_EL1, present.trace_buffer());
        FineGrainedTraps {
            hfgrtr: HfgrtrEl2::empty(),
            hfgwtr: HfgwtrEl2::empty(),
            hfgitr: HfgitrEl2::empty(),
            hdfgrtr,
            hdfgwtr: HdfgwtrEl2::empty(),
            second_set: present.fine_grained_traps(2),
        }
    })
}

fn partitioning_traps(present: Present<'_>) -> Option<PartitioningTraps> {
    let exists = present.at_least(Encoding::ID_AA64PFR0_EL1, Pfr0::MPAM_SHIFT, 1)
        || present.at_least(Encoding::ID_AA64PFR1_EL1, Pfr1::MPAM_FRAC_SHIFT, 1);
    exists.then_some(PartitioningTraps {
        mpam2: Mpam2El2::TRAPMPAM0EL1 | Mpam2El2::TRAPMPAM1EL1 | Mpam2El2::TIDR,
        mpamhcr: MpamhcrEl2::TRAP_MPAMIDR_EL1,
    })
}

#[cfg(test)]
mod tests;
