//! What this CPU can do, read once on the boot CPU.

use crate::el2::registers::read_register;

/// Raw values of the AArch64 feature-ID space: `op0 = 3, op1 = 0, CRn = 0`,
/// indexed by `CRm * 8 + op2`.
pub(crate) type IdSpace = [u64; 64];

/// Features of the host that decide what is saved and how.
#[derive(Debug, Clone)]
pub(crate) struct Features {
    /// `HCR_EL2.E2H` is set: register names mean other things.
    pub(crate) e2h: bool,
    /// Pointer authentication with any algorithm.
    pub(crate) pointer_authentication: bool,
    /// Number of hardware breakpoints.
    pub(crate) breakpoints: usize,
    /// Number of hardware watchpoints.
    pub(crate) watchpoints: usize,
    /// Number of event counters; `None` without an architected PMU.
    pub(crate) event_counters: Option<u64>,
    /// The ID registers.
    pub(crate) id: IdSpace,
}

/// Index of a register in [`IdSpace`].
const fn index(crm: usize, op2: usize) -> usize {
    crm * 8 + op2
}

/// `ID_AA64DFR0_EL1`.
pub(crate) const DFR0: usize = index(5, 0);
/// `ID_AA64ISAR1_EL1`.
const ISAR1: usize = index(6, 1);
/// `ID_AA64ISAR2_EL1`.
const ISAR2: usize = index(6, 2);
/// `ID_AA64MMFR0_EL1`.
pub(crate) const MMFR0: usize = index(7, 0);
/// `ID_AA64MMFR1_EL1`.
pub(crate) const MMFR1: usize = index(7, 1);
/// `ID_AA64MMFR2_EL1`.
pub(crate) const MMFR2: usize = index(7, 2);

/// `HCR_EL2.E2H`.
const HCR_E2H: u64 = 1 << 34;
/// `PMUVer` of a PMU that is not the architected one.
const PMU_IMPLEMENTATION_DEFINED: u64 = 0xf;

/// A 4-bit field of an ID register.
const fn field(value: u64, shift: u32) -> u64 {
    value >> shift & 0xf
}

impl Features {
    /// Reads the ID registers of this CPU.
    pub(crate) fn read() -> Self {
        let id = read_id_space();
        let dfr0 = id[DFR0];
        let pmu = field(dfr0, 8);
        let architected = pmu != 0 && pmu != PMU_IMPLEMENTATION_DEFINED;
        Features {
            e2h: read_register!("hcr_el2") & HCR_E2H != 0,
            // APA, API, GPA, GPI; APA3, GPA3.
            pointer_authentication: id[ISAR1] & (0xff << 4 | 0xff << 24) != 0
                || id[ISAR2] & (0xff << 8) != 0,
            breakpoints: field(dfr0, 12) as usize + 1,
            watchpoints: field(dfr0, 20) as usize + 1,
            event_counters: architected.then(|| read_register!("pmcr_el0") >> 11 & 0x1f),
            id,
        }
    }
}

/// Reads the whole space; reserved encodings read as zero (Arm ARM D23.3.1).
fn read_id_space() -> IdSpace {
    let mut id = [0; 64];
    macro_rules! read {
        ($($crm:literal)*) => { $(
            read!(@ $crm 0 1 2 3 4 5 6 7);
        )* };
        (@ $crm:literal $($op2:literal)*) => { $(
            id[index($crm, $op2)] =
                read_register!(concat!("s3_0_c0_c", $crm, "_", $op2));
        )* };
    }
    // CRm 0 holds MIDR, MPIDR and REVIDR, which are not feature registers.
    read!(1 2 3 4 5 6 7);
    id
}
