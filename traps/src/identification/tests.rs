//! The identification registers of real and emulated processors, and what a guest sees of them.

use super::*;

/// Builds a set of registers from the ones that are not zero.
fn processor(registers: &[(Encoding, u64)]) -> IdRegisters {
    let mut all = IdRegisters::ZERO;
    for &(encoding, value) in registers {
        all.set(encoding, value);
    }
    all
}

/// Cortex-A53, as QEMU 10.0 models it, with a GICv3.
fn cortex_a53() -> IdRegisters {
    processor(&[
        (Encoding::ID_PFR0_EL1, 0x131),
        (Encoding::ID_PFR1_EL1, 0x1001_1001),
        (Encoding::ID_DFR0_EL1, 0x300_0006),
        (Encoding::ID_MMFR0_EL1, 0x1010_1105),
        (Encoding::ID_MMFR1_EL1, 0x4000_0000),
        (Encoding::ID_MMFR2_EL1, 0x126_0000),
        (Encoding::ID_MMFR3_EL1, 0x210_2211),
        (Encoding::ID_ISAR0_EL1, 0x210_1110),
        (Encoding::ID_ISAR1_EL1, 0x1311_2111),
        (Encoding::ID_ISAR2_EL1, 0x2123_2042),
        (Encoding::ID_ISAR3_EL1, 0x111_2131),
        (Encoding::ID_ISAR4_EL1, 0x1_1142),
        (Encoding::ID_ISAR5_EL1, 0x1_1121),
        (Encoding::MVFR0_EL1, 0x1011_0222),
        (Encoding::MVFR1_EL1, 0x1211_1111),
        (Encoding::MVFR2_EL1, 0x43),
        (Encoding::ID_AA64PFR0_EL1, 0x100_0222),
        (Encoding::ID_AA64DFR0_EL1, 0x1030_5106),
        (Encoding::ID_AA64ISAR0_EL1, 0x1_1120),
        (Encoding::ID_AA64MMFR0_EL1, 0x1122),
    ])
}

/// Cortex-A72, as QEMU 10.0 models it, with a GICv3.
fn cortex_a72() -> IdRegisters {
    processor(&[
        (Encoding::ID_PFR0_EL1, 0x131),
        (Encoding::ID_PFR1_EL1, 0x1001_1001),
        (Encoding::ID_DFR0_EL1, 0x300_0006),
        (Encoding::ID_MMFR0_EL1, 0x1020_1105),
        (Encoding::ID_MMFR1_EL1, 0x4000_0000),
        (Encoding::ID_MMFR2_EL1, 0x126_0000),
        (Encoding::ID_MMFR3_EL1, 0x210_2211),
        (Encoding::ID_ISAR0_EL1, 0x210_1110),
        (Encoding::ID_ISAR1_EL1, 0x1311_2111),
        (Encoding::ID_ISAR2_EL1, 0x2123_2042),
        (Encoding::ID_ISAR3_EL1, 0x111_2131),
        (Encoding::ID_ISAR4_EL1, 0x1_1142),
        (Encoding::ID_ISAR5_EL1, 0x1_1121),
        (Encoding::MVFR0_EL1, 0x1011_0222),
        (Encoding::MVFR1_EL1, 0x1211_1111),
        (Encoding::MVFR2_EL1, 0x43),
        (Encoding::ID_AA64PFR0_EL1, 0x100_0222),
        (Encoding::ID_AA64DFR0_EL1, 0x1030_5106),
        (Encoding::ID_AA64ISAR0_EL1, 0x1_1120),
        (Encoding::ID_AA64MMFR0_EL1, 0x1124),
    ])
}

/// Neoverse N1, as QEMU 10.0 models it, with a GICv3.
fn neoverse_n1() -> IdRegisters {
    processor(&[
        (Encoding::ID_PFR0_EL1, 0x1001_0131),
        (Encoding::ID_PFR1_EL1, 0x1001_0000),
        (Encoding::ID_DFR0_EL1, 0x400_0008),
        (Encoding::ID_MMFR0_EL1, 0x1020_1105),
        (Encoding::ID_MMFR1_EL1, 0x4000_0000),
        (Encoding::ID_MMFR2_EL1, 0x126_0000),
        (Encoding::ID_MMFR3_EL1, 0x212_2211),
        (Encoding::ID_ISAR0_EL1, 0x210_1110),
        (Encoding::ID_ISAR1_EL1, 0x1311_2111),
        (Encoding::ID_ISAR2_EL1, 0x2123_2042),
        (Encoding::ID_ISAR3_EL1, 0x111_2131),
        (Encoding::ID_ISAR4_EL1, 0x1_0142),
        (Encoding::ID_ISAR5_EL1, 0x101_1121),
        (Encoding::ID_MMFR4_EL1, 0x2_1110),
        (Encoding::ID_ISAR6_EL1, 0x10),
        (Encoding::MVFR0_EL1, 0x1011_0222),
        (Encoding::MVFR1_EL1, 0x1321_1111),
        (Encoding::MVFR2_EL1, 0x43),
        (Encoding::ID_PFR2_EL1, 0x11),
        (Encoding::ID_AA64PFR0_EL1, 0x1100_0000_1111_0112),
        (Encoding::ID_AA64PFR1_EL1, 0x20),
        (Encoding::ID_AA64DFR0_EL1, 0x1030_5408),
        (Encoding::ID_AA64ISAR0_EL1, 0x1000_1021_1120),
        (Encoding::ID_AA64ISAR1_EL1, 0x10_0001),
        (Encoding::ID_AA64MMFR0_EL1, 0x10_1125),
        (Encoding::ID_AA64MMFR1_EL1, 0x1021_2122),
        (Encoding::ID_AA64MMFR2_EL1, 0x1011),
    ])
}

/// The `max` CPU of QEMU 10.0, with a GICv3.
fn emulator_max() -> IdRegisters {
    processor(&[
        (Encoding::ID_PFR0_EL1, 0x1102_0131),
        (Encoding::ID_PFR1_EL1, 0x1001_1001),
        (Encoding::ID_DFR0_EL1, 0x600_000a),
        (Encoding::ID_MMFR0_EL1, 0x1010_1105),
        (Encoding::ID_MMFR1_EL1, 0x4000_0000),
        (Encoding::ID_MMFR2_EL1, 0x126_0000),
        (Encoding::ID_MMFR3_EL1, 0x212_2211),
        (Encoding::ID_ISAR0_EL1, 0x210_1110),
        (Encoding::ID_ISAR1_EL1, 0x1311_2111),
        (Encoding::ID_ISAR2_EL1, 0x2123_2042),
        (Encoding::ID_ISAR3_EL1, 0x111_2131),
        (Encoding::ID_ISAR4_EL1, 0x1_1142),
        (Encoding::ID_ISAR5_EL1, 0x1101_1121),
        (Encoding::ID_MMFR4_EL1, 0x2002_1110),
        (Encoding::ID_ISAR6_EL1, 0x111_1111),
        (Encoding::MVFR0_EL1, 0x1011_0222),
        (Encoding::MVFR1_EL1, 0x1321_1111),
        (Encoding::MVFR2_EL1, 0x43),
        (Encoding::ID_PFR2_EL1, 0x11),
        (Encoding::ID_DFR1_EL1, 0x10),
        (Encoding::ID_MMFR5_EL1, 0x2),
        (Encoding::ID_AA64PFR0_EL1, 0x1301_0011_2111_0222),
        (Encoding::ID_AA64PFR1_EL1, 0x10_0100_0121),
        (Encoding::ID_AA64ZFR0_EL1, 0x110_1101_0021_0021),
        (Encoding::ID_AA64SMFR0_EL1, 0x80f1_00fd_0000_0000),
        (Encoding::ID_AA64DFR0_EL1, 0x1000_0000_1030_560a),
        (Encoding::ID_AA64ISAR0_EL1, 0x1221_1111_1021_2120),
        (Encoding::ID_AA64ISAR1_EL1, 0x111_2111_1021_1502),
        (Encoding::ID_AA64ISAR2_EL1, 0x11_0012),
        (Encoding::ID_AA64MMFR0_EL1, 0x2100_0323_1020_1126),
        (Encoding::ID_AA64MMFR1_EL1, 0x110_1120_1031_2122),
        (Encoding::ID_AA64MMFR2_EL1, 0x1221_0111_1201_1011),
        (Encoding::ID_AA64MMFR3_EL1, 0x1000_0000_0000_0000),
    ])
}

/// Apple M1, put together from the published list of its features: AArch64 only, 36-bit physical addresses, no GIC,
/// and performance monitors of its own.
fn apple_m1() -> IdRegisters {
    processor(&[
        (Encoding::ID_AA64PFR0_EL1, 0x1101_0000_1011_0111),
        (Encoding::ID_AA64PFR1_EL1, 0x20),
        (Encoding::ID_AA64DFR0_EL1, 0x1030_5f09),
        (Encoding::ID_AA64ISAR0_EL1, 0x0221_1001_1021_2120),
        (Encoding::ID_AA64ISAR1_EL1, 0x0000_0111_1021_1202),
        (Encoding::ID_AA64MMFR0_EL1, 0x0000_1212_0f10_0001),
        (Encoding::ID_AA64MMFR1_EL1, 0x0000_0000_1121_2100),
        (Encoding::ID_AA64MMFR2_EL1, 0x1201_0111_0000_1011),
    ])
}

fn all_processors() -> [IdRegisters; 5] {
    [cortex_a53(), cortex_a72(), neoverse_n1(), emulator_max(), apple_m1()]
}

/// A guest with a GICv3, performance monitors and 40 bits of physical address.
const USUAL: Policy = Policy::new(40, true, true);

#[test]
fn a_cortex_a53_guest_sees_its_processor_without_its_upper_levels() {
    let guest = sanitise(&cortex_a53(), &USUAL);
    let table = [
        (Encoding::ID_AA64PFR0_EL1, 0x0100_0012),
        (Encoding::ID_AA64PFR1_EL1, 0),
        (Encoding::ID_AA64DFR0_EL1, 0xf0_1030_5106),
        (Encoding::ID_AA64ISAR0_EL1, 0x1_1120),
        (Encoding::ID_AA64ISAR1_EL1, 0),
        (Encoding::ID_AA64MMFR0_EL1, 0x1122),
        (Encoding::ID_AA64MMFR1_EL1, 0),
        (Encoding::ID_AA64MMFR2_EL1, 0),
    ];
    for (encoding, value) in table {
        assert_eq!(guest.read(encoding), value, "{encoding}");
    }
}

#[test]
fn a_cortex_a72_guest_keeps_aarch32_at_el0() {
    let host = cortex_a72();
    let guest = sanitise(&host, &USUAL);
    for encoding in [
        Encoding::ID_ISAR0_EL1,
        Encoding::ID_ISAR5_EL1,
        Encoding::MVFR0_EL1,
        Encoding::ID_MMFR0_EL1,
    ] {
        assert_eq!(guest.read(encoding), host.read(encoding), "{encoding}");
        assert_ne!(guest.read(encoding), 0, "{encoding}");
    }
    assert_eq!(guest.read(Encoding::ID_DFR0_EL1), 0x0300_0006);
    let none = sanitise(&host, &Policy { aarch32: false, ..USUAL });
    assert_eq!(none.field(Encoding::ID_AA64PFR0_EL1, 0), 1);
    assert_eq!(none.read(Encoding::ID_ISAR0_EL1), 0);
}

#[test]
fn a_neoverse_n1_guest_sees_no_ras_and_no_profiling() {
    let guest = sanitise(&neoverse_n1(), &USUAL);
    assert_eq!(guest.read(Encoding::ID_AA64PFR0_EL1), 0x1100_0000_0111_0012);
    assert_eq!(guest.read(Encoding::ID_AA64DFR0_EL1), 0xf0_1030_5408);
    assert_eq!(guest.read(Encoding::ID_AA64MMFR1_EL1), 0x0020_2002);
    assert_eq!(guest.read(Encoding::ID_AA64ISAR0_EL1), 0x0000_1000_1021_1120);
}

#[test]
fn a_max_guest_sees_what_is_virtualised_and_nothing_else() {
    let guest = sanitise(&emulator_max(), &USUAL);
    let table = [
        (Encoding::ID_AA64PFR0_EL1, 0x1101_0000_0111_0012),
        (Encoding::ID_AA64PFR1_EL1, 0x21),
        (Encoding::ID_AA64ZFR0_EL1, 0),
        (Encoding::ID_AA64SMFR0_EL1, 0),
        (Encoding::ID_AA64DFR0_EL1, 0xf0_1030_560a),
        (Encoding::ID_AA64ISAR0_EL1, 0x1221_1111_1021_2120),
        (Encoding::ID_AA64ISAR1_EL1, 0x0111_2111_1021_1502),
        (Encoding::ID_AA64ISAR2_EL1, 0x0010_0010),
        (Encoding::ID_AA64MMFR0_EL1, 0x1020_1122),
        (Encoding::ID_AA64MMFR1_EL1, 0x0010_1020_0030_2002),
        (Encoding::ID_AA64MMFR2_EL1, 0x1021_0011_1001_0011),
        (Encoding::ID_AA64MMFR3_EL1, 0x1000_0000_0000_0000),
    ];
    for (encoding, value) in table {
        assert_eq!(guest.read(encoding), value, "{encoding}");
    }
}

#[test]
fn options_let_through_what_needs_the_hypervisors_help() {
    let host = emulator_max();
    let all =
        Policy { memory_copy: true, timed_wait: true, software_context_numbers: true, ..USUAL };
    let guest = sanitise(&host, &all);
    assert_eq!(guest.read(Encoding::ID_AA64ISAR2_EL1), 0x0011_0012);
    assert_eq!(guest.field(Encoding::ID_AA64PFR0_EL1, 56), 2, "CSV2");
    let none = sanitise(&host, &Policy { pointer_authentication: false, ..USUAL });
    assert_eq!(none.read(Encoding::ID_AA64ISAR1_EL1) & 0xff00_0ff0, 0, "APA, API, GPA and GPI");
    let none = sanitise(&host, &Policy::new(40, false, false));
    assert_eq!(none.field(Encoding::ID_AA64PFR0_EL1, 24), 0, "GIC");
    assert_eq!(none.field(Encoding::ID_AA64DFR0_EL1, 8), 0, "PMUVer");
    assert_eq!(none.field(Encoding::ID_DFR0_EL1, 24), 0, "PerfMon");
}

#[test]
fn an_apple_guest_has_no_aarch32_no_pmu_and_the_gic_that_it_is_given() {
    let guest = sanitise(&apple_m1(), &USUAL);
    assert_eq!(guest.read(Encoding::ID_AA64PFR0_EL1), 0x1101_0000_0111_0011);
    assert_eq!(
        guest.field(Encoding::ID_AA64DFR0_EL1, 8),
        0,
        "an IMPLEMENTATION DEFINED PMU is none"
    );
    assert_eq!(guest.field(Encoding::ID_AA64MMFR0_EL1, 0), 1, "36 bits");
    assert_eq!(guest.field(Encoding::ID_AA64MMFR0_EL1, 24), 0xf, "no 64 KiB granule stays so");
    assert!((0..32).all(|index| guest.get(index) == 0), "no AArch32 registers");
}

#[test]
fn the_physical_range_covers_the_guests_and_never_exceeds_the_hosts() {
    let host = emulator_max();
    for (bits, range) in
        [(0, 0), (32, 0), (33, 1), (39, 2), (40, 2), (44, 4), (48, 5), (52, 6), (56, 6), (255, 6)]
    {
        let guest = sanitise(&host, &Policy::new(bits, true, true));
        assert_eq!(guest.field(Encoding::ID_AA64MMFR0_EL1, 0), range, "{bits} bits");
    }
}

#[test]
fn a_host_that_has_everything_gives_nothing_new_away() {
    // Every field at its highest unsigned value but "not implemented": no limit may be exceeded, no unlisted field
    // may pass.
    let host = IdRegisters::from_fn(|_| 0xeeee_eeee_eeee_eeee);
    let guest = sanitise(&host, &USUAL);
    for crm in 4..8 {
        for op2 in 0..8 {
            let encoding = Encoding::new(3, 0, 0, crm, op2);
            for shift in (0..64).step_by(4) {
                let listed = fields::FIELDS
                    .iter()
                    .find(|field| field.register == encoding && field.shift == shift);
                let expected = listed.map_or(0, |field| field.value(0xe, &USUAL));
                assert_eq!(guest.field(encoding, shift), expected, "{encoding} bit {shift}");
            }
        }
    }
}

#[test]
fn no_field_is_listed_twice_and_every_shift_is_that_of_a_nibble() {
    for (i, a) in fields::FIELDS.iter().enumerate() {
        assert!(a.shift < 64 && a.shift % 4 == 0);
        assert!(fields::FIELDS[..i].iter().all(|b| (a.register, a.shift) != (b.register, b.shift)));
    }
}

#[test]
fn sanitising_twice_changes_nothing_more() {
    for host in all_processors() {
        let once = sanitise(&host, &USUAL);
        // AArch32 is only looked at where EL0 has it, which the first pass keeps.
        assert_eq!(sanitise(&once, &USUAL), once);
    }
}

#[test]
fn reserved_space_reads_as_zero() {
    for host in all_processors() {
        let guest = sanitise(&host, &USUAL);
        for index in [
            0,
            8 * 3 + 3,
            8 * 3 + 7,
            8 * 4 + 3,
            8 * 4 + 6,
            8 * 5 + 7,
            8 * 6 + 5,
            8 * 7 + 7,
            64,
            255,
        ] {
            assert_eq!(guest.get(index), 0, "{index}");
        }
    }
}

#[test]
fn a_report_shows_names_and_values() {
    let registers = processor(&[(Encoding::ID_AA64PFR1_EL1, 0x21)]);
    assert_eq!(format!("{registers:?}"), "{ID_AA64PFR1_EL1 S3_0_C0_C4_1: 0x0000000000000021}");
}

#[test]
fn unlike_processors_have_the_lesser_of_each_field_in_common() {
    let [a53, n1, m1] =
        [cortex_a53(), neoverse_n1(), apple_m1()].map(|host| sanitise(&host, &USUAL));
    let both = common(&a53, &n1);
    assert_eq!(both, common(&n1, &a53));
    assert_eq!(both.read(Encoding::ID_AA64PFR0_EL1), 0x0100_0012, "no FP16, no CSV2");
    assert_eq!(both.read(Encoding::ID_AA64MMFR0_EL1), 0x1122);
    assert_eq!(both.read(Encoding::ID_AA64ISAR0_EL1), 0x1_1120, "no atomics");
    let with_m1 = common(&n1, &m1);
    assert_eq!(
        with_m1.field(Encoding::ID_AA64MMFR0_EL1, 24),
        0xf,
        "not implemented is less than implemented"
    );
    assert_eq!(with_m1.field(Encoding::ID_AA64DFR0_EL1, 36), 0xf, "no double lock");
    for guest in [a53, n1, m1] {
        assert_eq!(common(&guest, &guest), guest);
    }
}
