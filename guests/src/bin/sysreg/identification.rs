//! The registers that say what the CPU can do (Arm ARM D19.2).

use guests::aarch64::encoding::{self, Encoding, RET};
use guests::aarch64::exception::{self, class};
use guests::aarch64::sysreg::id_field;
use guests::aarch64::{cpu, machine, psci, smp};
use guests::tap::Verdict;
use guests::{check, check_eq, mrs, msr};

use super::sweep;

/// All encodings of the identification space.
fn space() -> impl Iterator<Item = Encoding> {
    (1..=7).flat_map(|crm| (0..8).map(move |op2| Encoding::new(3, 0, 0, crm, op2)))
}

/// Registers of the space, as CRm and op2, that the architecture has given a name.
const NAMED: [(u8, u8); 48] = [
    (1, 0),
    (1, 1),
    (1, 2),
    (1, 3),
    (1, 4),
    (1, 5),
    (1, 6),
    (1, 7),
    (2, 0),
    (2, 1),
    (2, 2),
    (2, 3),
    (2, 4),
    (2, 5),
    (2, 6),
    (2, 7),
    (3, 0),
    (3, 1),
    (3, 2),
    (3, 4),
    (3, 5),
    (3, 6),
    (4, 0),
    (4, 1),
    (4, 2),
    (4, 4),
    (4, 5),
    (4, 7),
    (5, 0),
    (5, 1),
    (5, 2),
    (5, 4),
    (5, 5),
    (6, 0),
    (6, 1),
    (6, 2),
    (6, 3),
    (7, 0),
    (7, 1),
    (7, 2),
    (7, 3),
    (7, 4),
    (7, 5),
    (7, 6),
    (7, 7),
    (6, 4),
    (4, 6),
    (5, 3),
];

/// Reads a register by number.
pub(super) fn read(register: Encoding) -> (u64, Option<exception::Fault>) {
    encoding::call(encoding::write_code([register.read(), RET]), 0)
}

pub(super) fn readable() -> Verdict {
    for register in space() {
        let (_, fault) = read(register);
        check_eq!(fault, None, "{register:?}");
    }
    Ok(())
}

pub(super) fn reserved() -> Verdict {
    for register in space() {
        if !NAMED.contains(&(register.crm, register.op2)) {
            check_eq!(read(register).0, 0, "{register:?}");
        }
    }
    Ok(())
}

pub(super) fn read_only() -> Verdict {
    for register in space() {
        let before = read(register).0;
        let (_, fault) = encoding::call(encoding::write_code([register.write(), RET]), 0);
        let Some(fault) = fault else {
            check!(false, "a write to {register:?} is accepted");
            return Ok(());
        };
        check_eq!(fault.class(), class::UNKNOWN, "class of a write to {register:?}");
        check_eq!(read(register).0, before, "{register:?} after a write");
    }
    Ok(())
}

/// A job: a digest of the identification space and of what else must be alike.
fn digest(_: u64) -> u64 {
    let more = [
        Encoding::new(3, 0, 0, 0, 0),  // MIDR_EL1
        Encoding::new(3, 1, 0, 0, 1),  // CLIDR_EL1
        Encoding::new(3, 3, 0, 0, 1),  // CTR_EL0
        Encoding::new(3, 3, 0, 0, 7),  // DCZID_EL0
        Encoding::new(3, 3, 14, 0, 0), // CNTFRQ_EL0
    ];
    space().chain(more).fold(0xcbf2_9ce4_8422_2325, |hash, register| {
        (hash ^ read(register).0).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

pub(super) fn uniform() -> Verdict {
    check!(smp::start_all(), "not all CPUs started");
    let expected = Some(digest(0));
    for other in smp::others() {
        check_eq!(smp::run(other, digest, 0), expected, "digest of CPU {other}");
    }
    Ok(())
}

pub(super) fn affinities() -> Verdict {
    const RES1: u64 = 1 << 31;
    const UNIPROCESSOR: u64 = 1 << 30;
    check!(smp::start_all(), "not all CPUs started");
    for index in 0..smp::count() {
        let found = smp::run(index, |_| mrs!("mpidr_el1"), 0).unwrap_or(0);
        check_eq!(found & cpu::AFFINITY, machine().cpus()[index], "affinity of CPU {index}");
        check_eq!(found & RES1, RES1, "bit 31 of MPIDR_EL1");
        check!(smp::count() == 1 || found & UNIPROCESSOR == 0, "U among {} CPUs", smp::count());
    }
    Ok(())
}

pub(super) fn hidden() -> Verdict {
    let pfr0 = mrs!("id_aa64pfr0_el1");
    // A hypervisor may keep AArch32 to EL0.
    check!(
        (1..=id_field(pfr0, 0)).contains(&id_field(pfr0, 4)),
        "EL1 is {} and EL0 {} in ID_AA64PFR0_EL1",
        id_field(pfr0, 4),
        id_field(pfr0, 0)
    );
    for (name, register, low) in [
        ("EL2", pfr0, 8),
        ("EL3", pfr0, 12),
        ("RAS", pfr0, 28),
        ("SVE", pfr0, 32),
        ("MPAM", pfr0, 40),
        ("AMU", pfr0, 44),
        ("RME", pfr0, 52),
        ("MTE", mrs!("id_aa64pfr1_el1"), 8),
        ("SME", mrs!("id_aa64pfr1_el1"), 24),
        ("TraceVer", mrs!("id_aa64dfr0_el1"), 4),
        ("PMSVer", mrs!("id_aa64dfr0_el1"), 32),
        ("TraceFilt", mrs!("id_aa64dfr0_el1"), 40),
        ("TraceBuffer", mrs!("id_aa64dfr0_el1"), 44),
        ("BRBE", mrs!("id_aa64dfr0_el1"), 52),
        ("LO", mrs!("id_aa64mmfr1_el1"), 16),
        ("NV", mrs!("id_aa64mmfr2_el1"), 24),
    ] {
        // On the bare machine a guest has what the CPU has, but nothing above EL1.
        let must_hide = psci::under_hypervisor() || name == "EL2" || name == "EL3";
        let value = id_field(register, low);
        check!(value == 0 || !must_hide, "field {name} is {value:#x}");
    }
    if id_field(pfr0, 32) == 0 {
        check_eq!(read(Encoding::new(3, 0, 0, 4, 4)).0, 0, "ID_AA64ZFR0_EL1 without SVE");
    }
    if id_field(mrs!("id_aa64pfr1_el1"), 24) == 0 {
        check_eq!(read(Encoding::new(3, 0, 0, 4, 5)).0, 0, "ID_AA64SMFR0_EL1 without SME");
    }
    Ok(())
}

pub(super) fn gic() -> Verdict {
    const ICC_SRE_EL1: Encoding = Encoding::new(3, 0, 12, 12, 5);
    let field = id_field(mrs!("id_aa64pfr0_el1"), 24);
    let (_, fault) = read(ICC_SRE_EL1);
    if machine().gic_version() == 3 {
        check!(field != 0, "no GIC in ID_AA64PFR0_EL1");
        check_eq!(fault, None, "ICC_SRE_EL1");
    } else if field == 0 {
        check!(fault.is_some() || !psci::under_hypervisor(), "ICC_SRE_EL1 without the feature");
    }
    Ok(())
}

/// Registers that no hypervisor can take away from a CPU that has them.
const UNTRAPPED: [&str; 6] = ["RNDR", "DIT", "SSBS", "PAN", "UAO", "CNTPCTSS_EL0"];

/// Registers whose presence follows from an identification field at least as high.
pub(super) fn promised() -> Verdict {
    let pfr0 = mrs!("id_aa64pfr0_el1");
    let pfr1 = mrs!("id_aa64pfr1_el1");
    let dfr0 = mrs!("id_aa64dfr0_el1");
    let isar0 = mrs!("id_aa64isar0_el1");
    let isar1 = mrs!("id_aa64isar1_el1");
    let isar2 = mrs!("id_aa64isar2_el1");
    let mmfr0 = mrs!("id_aa64mmfr0_el1");
    let pmu = id_field(dfr0, 8);
    let generic_authentication = id_field(isar1, 24) | id_field(isar1, 28) | id_field(isar2, 8);
    let address_authentication = id_field(isar1, 4) | id_field(isar1, 8) | id_field(isar2, 12);
    for (name, present, register) in [
        ("PMCR_EL0", pmu != 0 && pmu != 15, Encoding::new(3, 3, 9, 12, 0)),
        ("PMCCNTR_EL0", pmu != 0 && pmu != 15, Encoding::new(3, 3, 9, 13, 0)),
        ("PMMIR_EL1", pmu >= 4 && pmu != 15, Encoding::new(3, 0, 9, 14, 6)),
        ("MDSCR_EL1", id_field(dfr0, 0) >= 6, Encoding::new(2, 0, 0, 2, 2)),
        ("APIAKeyLo_EL1", address_authentication != 0, Encoding::new(3, 0, 2, 1, 0)),
        ("APGAKeyLo_EL1", generic_authentication != 0, Encoding::new(3, 0, 2, 3, 0)),
        ("RNDR", id_field(isar0, 60) != 0, Encoding::new(3, 3, 2, 4, 0)),
        ("ZCR_EL1", id_field(pfr0, 32) != 0, Encoding::new(3, 0, 1, 2, 0)),
        ("DIT", id_field(pfr0, 48) != 0, Encoding::new(3, 3, 4, 2, 5)),
        ("SSBS", id_field(pfr1, 4) >= 2, Encoding::new(3, 3, 4, 2, 6)),
        ("GCR_EL1", id_field(pfr1, 8) >= 2, Encoding::new(3, 0, 1, 0, 6)),
        ("SMCR_EL1", id_field(pfr1, 24) != 0, Encoding::new(3, 0, 1, 2, 6)),
        ("PAN", id_field(mrs!("id_aa64mmfr1_el1"), 20) != 0, Encoding::new(3, 0, 4, 2, 3)),
        ("UAO", id_field(mrs!("id_aa64mmfr2_el1"), 4) != 0, Encoding::new(3, 0, 4, 2, 4)),
        ("AMCR_EL0", id_field(pfr0, 44) != 0, Encoding::new(3, 3, 13, 2, 0)),
        ("ERRIDR_EL1", id_field(pfr0, 28) != 0, Encoding::new(3, 0, 5, 3, 0)),
        ("PMSIDR_EL1", id_field(dfr0, 32) != 0, Encoding::new(3, 0, 9, 9, 7)),
        ("CNTPCTSS_EL0", id_field(mmfr0, 60) != 0, Encoding::new(3, 3, 14, 0, 5)),
    ] {
        // CPACR_EL1 lets vectors and matrices through: what remains is the feature.
        let cpacr = sweep::open_features();
        let (_, fault) = read(register);
        msr!("cpacr_el1", cpacr);
        if present {
            check_eq!(fault, None, "{name} is promised");
        } else if psci::under_hypervisor() && !UNTRAPPED.contains(&name) {
            check!(fault.is_some(), "{name} is there though hidden");
        }
    }
    Ok(())
}
