//! The control registers, for processors made of single fields.

use super::*;
use crate::identification::Policy;

/// A processor whose identification registers are zero but for these fields.
fn processor(fields: &[(Encoding, u32, u64)]) -> IdRegisters {
    let mut host = IdRegisters::ZERO;
    for &(encoding, shift, value) in fields {
        host.set(encoding, host.read(encoding) | value << shift);
    }
    host
}

/// An Armv8.0 processor: Cortex-A72 has PMUv3, double lock, AArch32 and nothing of what came later.
fn armv8_0() -> IdRegisters {
    processor(&[
        (Encoding::ID_AA64PFR0_EL1, 0, 0x2222),
        (Encoding::ID_AA64DFR0_EL1, 0, 0x1030_5106),
        (Encoding::ID_AA64MMFR0_EL1, 0, 0x1124),
    ])
}

/// A processor with every extension at a high level.
fn everything() -> IdRegisters {
    let mut host = IdRegisters::from_fn(|_| 0x2222_2222_2222_2222);
    host.set(Encoding::ID_AA64DFR0_EL1, 0x2222_2202_2222_2862);
    host
}

#[test]
fn an_armv8_0_processor_gets_exactly_its_own_bits() {
    let choices = Choices { performance_monitors: true, event_counters: 6, ..Choices::default() };
    let controls = GuestControls::new(&armv8_0(), &choices);
    let hcr = HcrEl2::VM
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
    assert_eq!(controls.hcr, hcr);
    assert_eq!(controls.mdcr, MdcrEl2::TDRA | MdcrEl2::TDOSA | MdcrEl2::from_bits_retain(6));
    // TTA, RES1, TSM and TZ: what the architecture has as RES1, and trace.
    assert_eq!(controls.cptr.bits(), 0x0010_33ff);
    assert_eq!(controls.cnthctl.bits(), 0b11);
    assert_eq!(controls.icc_sre.bits(), 0b0111);
    assert_eq!((controls.hcrx, controls.fine_grained, controls.partitioning), (None, None, None));
}

#[test]
fn each_choice_sets_its_bits() {
    let host = everything();
    let base = GuestControls::new(&host, &Choices::default());
    type Case = (fn(&mut Choices), fn(&mut GuestControls));
    let cases: &[Case] = &[
        (|c| c.trap_wfi = true, |g| g.hcr |= HcrEl2::TWI),
        (|c| c.trap_wfe = true, |g| g.hcr |= HcrEl2::TWE),
        (|c| c.trap_virtual_memory = true, |g| g.hcr |= HcrEl2::TVM),
        (|c| c.pointer_authentication = true, |g| g.hcr |= HcrEl2::API | HcrEl2::APK),
        (|c| c.software_context_numbers = true, |g| g.hcr |= HcrEl2::ENSCXT),
        (|c| c.force_write_back = true, |g| g.hcr |= HcrEl2::FWB),
        (|c| c.trap_floating_point = true, |g| g.cptr |= CptrEl2::TFP),
        (|c| c.trap_physical_timer = true, |g| g.cnthctl -= CnthctlEl2::EL1PCEN),
        (|c| c.trap_physical_counter = true, |g| g.cnthctl -= EL1PCTEN),
        (|c| c.trap_debug = true, |g| g.mdcr |= MdcrEl2::TDA),
        (|c| c.route_debug_exceptions = true, |g| g.mdcr |= MdcrEl2::TDA | MdcrEl2::TDE),
        (|c| c.performance_monitors = true, |g| g.mdcr -= MdcrEl2::TPM | MdcrEl2::TPMCR),
        (|c| c.event_counters = 255, |g| g.mdcr = g.mdcr.with_hpmn(31)),
        (|c| c.memory_copy = true, |g| g.hcrx = g.hcrx.map(|hcrx| hcrx | HcrxEl2::MSCEN)),
    ];
    for (i, (choose, expect)) in cases.iter().enumerate() {
        let mut choices = Choices::default();
        choose(&mut choices);
        let mut expected = base;
        expect(&mut expected);
        assert_ne!(expected, base, "case {i} must change something");
        assert_eq!(GuestControls::new(&host, &choices), expected, "case {i}");
    }
}

#[test]
fn host_mode_layouts_are_used_with_e2h() {
    let choices = Choices { e2h: true, ..Choices::default() };
    let controls = GuestControls::new(&everything(), &choices);
    assert!(controls.hcr.contains(HcrEl2::E2H) && !controls.hcr.contains(HcrEl2::TGE));
    assert_eq!(controls.cptr, TTA_E2H | FPEN_ALLOWED | CptrEl2::TAM);
    assert_eq!(controls.cnthctl.bits(), 0b11 << 10);
    let lazy = GuestControls::new(&everything(), &Choices { trap_floating_point: true, ..choices });
    assert_eq!(lazy.cptr, TTA_E2H | CptrEl2::TAM);
}

#[test]
fn what_the_processor_lacks_cannot_be_chosen() {
    let all = Choices {
        e2h: true,
        pointer_authentication: true,
        software_context_numbers: true,
        force_write_back: true,
        memory_copy: true,
        ..Choices::default()
    };
    let hcr = GuestControls::new(&armv8_0(), &all).hcr;
    let absent = HcrEl2::E2H | HcrEl2::API | HcrEl2::APK | HcrEl2::ENSCXT | HcrEl2::FWB;
    assert!(!hcr.intersects(absent), "{hcr:?}");
}

#[test]
fn every_hidden_extension_that_exists_is_trapped() {
    let controls = GuestControls::new(&everything(), &Choices::default());
    assert!(controls.hcr.contains(HcrEl2::TLOR | HcrEl2::TERR | HcrEl2::TID5 | HcrEl2::TID1));
    assert!(
        !controls
            .hcr
            .intersects(HcrEl2::API | HcrEl2::APK | HcrEl2::ENSCXT | HcrEl2::ATA | HcrEl2::NV)
    );
    assert!(
        controls.mdcr.contains(
            MdcrEl2::TPMS | MdcrEl2::TTRF | MdcrEl2::TDCC | MdcrEl2::TPM | MdcrEl2::TPMCR
        )
    );
    assert!(!controls.mdcr.intersects(MdcrEl2::ENSPM | MdcrEl2::EBWE | MdcrEl2::MTPME));
    assert_eq!((controls.mdcr.e2pb(), controls.mdcr.e2tb()), (0, 0));
    assert!(controls.cptr.contains(CptrEl2::TAM | CptrEl2::TZ | CptrEl2::TSM));
    let fine_grained = controls.fine_grained.unwrap();
    assert_eq!(fine_grained.hdfgrtr, HdfgrtrEl2::PMBIDR_EL1 | HdfgrtrEl2::TRBIDR_EL1);
    assert_eq!(
        fine_grained.hfgrtr.bits() | fine_grained.hfgwtr.bits() | fine_grained.hfgitr.bits(),
        0
    );
    assert!(fine_grained.second_set);
    assert_eq!(controls.hcrx, Some(HcrxEl2::TALLINT));
    let partitioning = controls.partitioning.unwrap();
    assert_eq!(
        partitioning.mpam2,
        Mpam2El2::TRAPMPAM0EL1 | Mpam2El2::TRAPMPAM1EL1 | Mpam2El2::TIDR
    );
    assert_eq!(partitioning.mpamhcr, MpamhcrEl2::TRAP_MPAMIDR_EL1);
}

#[test]
fn an_implementation_defined_pmu_is_not_taken_for_pmuv3() {
    let host = processor(&[(Encoding::ID_AA64DFR0_EL1, Dfr0::PMUVER_SHIFT, 0xf)]);
    let mdcr = GuestControls::new(&host, &Choices { event_counters: 6, ..Choices::default() }).mdcr;
    assert!(!mdcr.intersects(MdcrEl2::TPM | MdcrEl2::HPMD | MdcrEl2::HCCD));
    assert_eq!(mdcr.hpmn(), 0);
}

#[test]
fn the_os_lock_traps_only_where_a_double_lock_could_be_left_behind() {
    let with = |double_lock| {
        processor(&[(Encoding::ID_AA64DFR0_EL1, Dfr0::DOUBLELOCK_SHIFT, double_lock)])
    };
    let traps = |host| GuestControls::new(&host, &Choices::default()).mdcr.contains(MdcrEl2::TDOSA);
    assert!(traps(with(0)));
    assert!(!traps(with(0xf)));
}

#[test]
fn a_constraint_wins_over_any_value() {
    for host in [IdRegisters::ZERO, armv8_0(), everything()] {
        let constraint = HcrConstraint::new(&host);
        assert!((constraint.forced_on & constraint.forced_off).is_empty());
        for value in [HcrEl2::empty(), HcrEl2::all()] {
            let applied = constraint.apply(value);
            assert!(applied.contains(constraint.forced_on));
            assert!(!applied.intersects(constraint.forced_off));
        }
    }
}

#[test]
fn a_guest_never_sees_an_extension_whose_enabling_bit_is_forced_off() {
    // With the guest's own view as the host, nothing that is still visible needs a bit of its own but pointer
    // authentication.
    let guest = crate::identification::sanitise(&everything(), &Policy::new(48, true, true));
    let controls =
        GuestControls::new(&guest, &Choices { pointer_authentication: true, ..Choices::default() });
    assert!(!controls.hcr.intersects(HcrEl2::TLOR | HcrEl2::TERR));
    assert_eq!((controls.hcrx, controls.fine_grained, controls.partitioning), (None, None, None));
    assert!(controls.hcr.contains(HcrEl2::API | HcrEl2::APK));
}
