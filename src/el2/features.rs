//! What this CPU can do, read once on the boot CPU.

use crate::el2::registers::read_register;

use traps::exception;
use traps::identification::IdRegisters;
use traps::system_register::Encoding;

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
    /// What an exception to EL1 does to PSTATE.
    pub(crate) exception: exception::Features,
    /// The ID registers.
    pub(crate) id: IdRegisters,
}

/// `HCR_EL2.E2H`.
const HCR_E2H: u64 = 1 << 34;
/// `PMUVer` of a PMU that is not the architected one.
const PMU_IMPLEMENTATION_DEFINED: u8 = 0xf;

impl Features {
    /// Reads the ID registers of this CPU.
    pub(crate) fn read() -> Self {
        let id = read_id_space();
        let field = |register, shift| id.field(register, shift);
        let pmu = field(Encoding::ID_AA64DFR0_EL1, 8);
        let architected = pmu != 0 && pmu != PMU_IMPLEMENTATION_DEFINED;
        Features {
            e2h: read_register!("hcr_el2") & HCR_E2H != 0,
            // APA and API; APA3.
            pointer_authentication: field(Encoding::ID_AA64ISAR1_EL1, 4) != 0
                || field(Encoding::ID_AA64ISAR1_EL1, 8) != 0
                || field(Encoding::ID_AA64ISAR2_EL1, 12) != 0,
            breakpoints: usize::from(field(Encoding::ID_AA64DFR0_EL1, 12)) + 1,
            watchpoints: usize::from(field(Encoding::ID_AA64DFR0_EL1, 20)) + 1,
            event_counters: architected.then(|| read_register!("pmcr_el0") >> 11 & 0x1f),
            exception: exception::Features {
                pan: field(Encoding::ID_AA64MMFR1_EL1, 20) != 0,
                ssbs: field(Encoding::ID_AA64PFR1_EL1, 4) != 0,
                mte: false,
            },
            id,
        }
    }

    /// `ID_AA64MMFR0_EL1`.
    pub(crate) fn mmfr0(&self) -> u64 {
        self.id.read(Encoding::ID_AA64MMFR0_EL1)
    }

    /// `ID_AA64MMFR1_EL1`.
    pub(crate) fn mmfr1(&self) -> u64 {
        self.id.read(Encoding::ID_AA64MMFR1_EL1)
    }
}

/// Reads the whole space; reserved encodings read as zero (Arm ARM D23.3.1).
fn read_id_space() -> IdRegisters {
    let mut id = [[0u64; 8]; 8];
    macro_rules! read {
        ($($crm:literal)*) => { $(
            read!(@ $crm 0 1 2 3 4 5 6 7);
        )* };
        (@ $crm:literal $($op2:literal)*) => { $(
            id[$crm][$op2] = read_register!(concat!("s3_0_c0_c", $crm, "_", $op2));
        )* };
    }
    // CRm 0 holds MIDR, MPIDR and REVIDR, which are not feature registers.
    read!(1 2 3 4 5 6 7);
    IdRegisters::from_fn(|encoding| {
        let row = id.get(usize::from(encoding.crm()));
        row.and_then(|row| row.get(usize::from(encoding.op2()))).copied().unwrap_or(0)
    })
}
