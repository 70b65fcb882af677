//! The guest's registers, one by one.

use super::*;
use crate::ConfigError;
use proptest::prelude::*;

#[test]
fn v2_identifies_itself() {
    let mut machine = Machine::new(Version::V2, 4, 4);
    for (name, offset, expected) in [
        ("CTLR", 0x000, 0),
        ("TYPER: 64 SPIs and 32 private, 4 CPUs", 0x004, 2 | 3 << 5),
        ("IIDR", 0x008, 0x4200_043b),
        ("PIDR0", 0xfe0, 0x90),
        ("PIDR1", 0xfe4, 0xb4),
        ("PIDR2: architecture 2", 0xfe8, 0x2b),
        ("PIDR4", 0xfd0, 0x44),
        ("CIDR0", 0xff0, 0x0d),
        ("CIDR1", 0xff4, 0xf0),
        ("CIDR2", 0xff8, 0x05),
        ("CIDR3", 0xffc, 0xb1),
        ("reserved", 0x00c, 0),
        ("ISENABLER0: SGIs", 0x100, 0xffff),
        ("ISENABLER3: beyond the last", 0x10c, 0),
        ("ICFGR0: SGIs are edges", 0xc00, 0xaaaa_aaaa),
        ("ICFGR1", 0xc04, 0),
        ("SGIR is write-only", 0xf00, 0),
        ("ITARGETSR0", 0x800, 0x0101_0101),
    ] {
        assert_eq!(machine.read(V0, offset), expected, "{name}");
    }
    assert_eq!(
        machine.read(VcpuIndex::new(2), 0x81c),
        0x0404_0404,
        "private interrupts target the reader"
    );
}

#[test]
fn v3_identifies_itself() {
    let mut machine = Machine::new(Version::V3, 4, 4);
    let mut read = |frame, offset, width| machine.vgic.read(frame, V0, offset, width);
    let value = |value| Read::Value(value);
    let distributor = |offset| (Frame::Distributor, offset, Width::Word);
    let last = Frame::Redistributor(VcpuIndex::new(3));
    let second = Frame::Redistributor(V1);
    for (name, (frame, offset, width), expected) in [
        ("CTLR: ARE and DS", distributor(0), 1 << 4 | 1 << 6),
        ("TYPER", distributor(4), 2 | 9 << 19 | 1 << 24 | 1 << 25),
        ("IIDR", distributor(8), 0x4200_043b),
        ("PIDR2: architecture 3", distributor(0xffe8), 0x3b),
        ("CIDR3", distributor(0xfffc), 0xb1),
        ("IGROUPR0 is in the redistributor", distributor(0x80), 0),
        ("IGROUPR1", distributor(0x84), 0xffff_ffff),
        ("ISENABLER0 is in the redistributor", distributor(0x100), 0),
        ("ITARGETSR doesn't exist", distributor(0x820), 0),
        ("no GICR CTLR bit", (second, 0, Width::Word), 0),
        ("GICR_IIDR", (second, 4, Width::Word), 0x4200_043b),
        ("GICR_TYPER", (second, 8, Width::Double), 1 << 32 | 1 << 8),
        ("GICR_TYPER low", (second, 8, Width::Word), 1 << 8),
        ("GICR_TYPER high", (second, 12, Width::Word), 1),
        ("GICR_TYPER.Last", (last, 8, Width::Double), 3 << 32 | 3 << 8 | 1 << 4),
        ("GICR_WAKER: asleep", (second, 0x14, Width::Word), 0b110),
        ("GICR_PIDR2", (second, 0xffe8, Width::Word), 0x3b),
        ("GICR_IGROUPR0", (second, 0x1_0080, Width::Word), 0xffff_ffff),
        ("GICR_ICFGR0", (second, 0x1_0c00, Width::Word), 0xaaaa_aaaa),
        ("GICR_IGRPMODR0", (second, 0x1_0d00, Width::Word), 0),
        ("GICR_NSACR", (second, 0x1_0e00, Width::Word), 0),
        ("SGI_base has no second bank", (second, 0x1_0084, Width::Word), 0),
        ("nothing beyond", (second, 0x2_0080, Width::Word), 0),
        ("no redistributor", (Frame::Redistributor(VcpuIndex::new(4)), 8, Width::Double), 0),
    ] {
        assert_eq!(read(frame, offset, width), value(expected), "{name}");
    }
}

#[test]
fn a_redistributor_wakes_at_once() {
    let mut machine = Machine::new(Version::V3, 2, 4);
    let frame = Frame::Redistributor(V1);
    let _ = machine.vgic.write(frame, V1, 0x14, Width::Word, 0);
    assert_eq!(machine.vgic.read(frame, V1, 0x14, Width::Word), Read::Value(0));
    let _ = machine.vgic.write(frame, V1, 0x14, Width::Word, 0b10);
    assert_eq!(machine.vgic.read(frame, V1, 0x14, Width::Word), Read::Value(0b110));
}

#[test]
fn set_and_clear_registers_mirror_each_other() {
    for version in BOTH {
        let mut machine = Machine::started(version, 2, 4);
        for (set, clear) in [(ISENABLER, ICENABLER), (ISPENDR, ICPENDR), (ISACTIVER, ICACTIVER)] {
            for bank in [0, 4] {
                let before = machine.read(V0, set + bank);
                machine.write(V0, set + bank, 0x00f0_0000);
                assert_eq!(
                    machine.read(V0, clear + bank),
                    before | 0x00f0_0000,
                    "{version:?} {set:#x} {bank}"
                );
                machine.write(V0, clear + bank, 0x0050_0000);
                assert_eq!(
                    machine.read(V0, set + bank),
                    before | 0x00a0_0000,
                    "{version:?} {set:#x} {bank}"
                );
                machine.write(V0, clear + bank, 0x00a0_0000);
                assert_eq!(machine.read(V0, set + bank), before, "{version:?} {set:#x} {bank}");
            }
        }
    }
}

#[test]
fn private_interrupts_belong_to_each_vcpu() {
    for version in BOTH {
        let mut machine = Machine::started(version, 2, 4);
        let before = machine.read(V1, ISENABLER);
        machine.enable(V0, 27);
        assert_eq!(machine.read(V1, ISENABLER), before, "{version:?}");
        assert_eq!(machine.read(V0, ISENABLER), before | 1 << 27);
        machine.set_priority(V0, 27, 0x50);
        assert_eq!(machine.read_sized(V1, IPRIORITYR + 27, Width::Byte), 0);
    }
}

#[test]
fn a_vcpu_may_write_the_redistributor_of_another() {
    let mut machine = Machine::started(Version::V3, 2, 4);
    let frame = Frame::Redistributor(V1);
    let effects = machine.vgic.write(frame, V0, SGI_BASE + ISENABLER, Width::Word, 1 << 20);
    assert_eq!(effects, Effects::NONE);
    let effects = machine.vgic.write(frame, V0, SGI_BASE + ISPENDR, Width::Word, 1 << 20);
    assert_eq!(effects.kick, VcpuSet::only(V1));
    machine.apply(effects);
    assert_eq!(machine.acknowledge(V1), Some(20));
    assert_eq!(
        machine.vgic.read(frame, V0, SGI_BASE + ISACTIVER, Width::Word),
        Read::Retry(VcpuSet::only(V1))
    );
}

#[test]
fn priorities_have_the_bits_that_list_registers_have() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 4);
        machine.write(V0, IPRIORITYR + 40, 0x1234_56ff);
        assert_eq!(machine.read(V0, IPRIORITYR + 40), 0x1030_50f8, "{version:?}");
        assert_eq!(machine.read_sized(V0, IPRIORITYR + 41, Width::Byte), 0x50);
        machine.write_sized(V0, IPRIORITYR + 41, Width::Byte, 0x88);
        assert_eq!(machine.read(V0, IPRIORITYR + 40), 0x1030_88f8);
    }
}

#[test]
fn configuration_has_one_writable_bit_for_each_spi() {
    for version in BOTH {
        let mut machine = Machine::started(version, 1, 4);
        machine.write(V0, ICFGR + 8, 0xffff_ffff);
        machine.write(V0, ICFGR + 12, 0x0000_0008);
        machine.write(V0, ICFGR, 0);
        machine.write(V0, ICFGR + 4, 0xffff_ffff);
        let words = [0, 4, 8, 12].map(|offset| machine.read(V0, ICFGR + offset));
        assert_eq!(words, [0xaaaa_aaaa, 0, 0xaaaa_aaaa, 0x8], "{version:?}");
    }
}

#[test]
fn targets_are_those_vcpus_that_exist() {
    let mut machine = Machine::started(Version::V2, 3, 4);
    machine.write(V0, ITARGETSR + 32, 0xff02_0104);
    assert_eq!(machine.read(V0, ITARGETSR + 32), 0x0702_0104);
    machine.write_sized(V0, ITARGETSR + 33, Width::Byte, 0x08);
    assert_eq!(machine.read_sized(V0, ITARGETSR + 33, Width::Byte), 0);
    machine.write(V0, ITARGETSR, 0x0404_0404);
    assert_eq!(machine.read(V0, ITARGETSR), 0x0101_0101);
}

#[test]
fn a_single_vcpu_is_the_target_of_all() {
    let mut machine = Machine::started(Version::V2, 1, 4);
    machine.enable(V0, 40);
    machine.level(spi(40), true);
    assert_eq!(machine.read(V0, ITARGETSR + 40), 0);
    assert_eq!(machine.acknowledge(V0), Some(40));
}

#[test]
fn v2_sgis_go_where_the_filter_says() {
    for (value, expected) in [
        (0x0005_0000, 0b0101),
        (0x00ff_0000, 0b1111),
        (0x0100_0000, 0b1101),
        (0x0200_0000, 0b0010),
        (0x02ff_0000, 0b0010),
        (0x0300_0000, 0),
    ] {
        let mut machine = Machine::started(Version::V2, 4, 4);
        let effects = machine.vgic.write(Frame::Distributor, V1, SGIR, Width::Word, value);
        assert_eq!(effects.kick.bits(), expected, "{value:#x}");
        machine.apply(effects);
    }
}

#[test]
fn v2_sgis_are_not_made_pending_by_ispendr() {
    let mut machine = Machine::started(Version::V2, 1, 4);
    machine.write(V0, ISPENDR, 1);
    assert_eq!(machine.acknowledge(V0), None);
    machine.send_sgi(V0, 1, 0);
    machine.write(V0, ICPENDR, 1);
    assert_eq!(machine.acknowledge(V0), Some(0));
}

#[test]
fn routers_take_whole_and_half_accesses() {
    let mut machine = Machine::started(Version::V3, 2, 4);
    let router = IROUTER + 40 * 8;
    machine.write_sized(V0, router, Width::Double, 0xffff_ffff_ffff_ffff);
    assert_eq!(machine.read_sized(V0, router, Width::Double), 0xff_00ff_ffff, "affinity only");
    machine.write_sized(V0, router, Width::Word, 1);
    assert_eq!(machine.read_sized(V0, router, Width::Double), 0xff_0000_0001);
    machine.enable(V0, 40);
    machine.level(spi(40), true);
    assert_eq!(machine.acknowledge(V1), None, "nobody has that affinity");
    machine.write_sized(V0, router + 4, Width::Word, 0);
    assert_eq!(machine.read_sized(V0, router + 4, Width::Word), 0);
    assert_eq!(machine.acknowledge(V1), Some(40));
    machine.write_sized(V0, IROUTER + 96 * 8, Width::Double, 1);
    assert_eq!(
        machine.read_sized(V0, IROUTER + 96 * 8, Width::Double),
        0,
        "beyond the last interrupt"
    );
}

#[test]
fn activating_by_register_takes_a_list_register_so_that_the_guest_can_end_it() {
    for version in BOTH {
        let mut machine = Machine::started(version, 2, 4);
        machine.route(40, V1);
        machine.write(V0, ISACTIVER + 4, 1 << 8);
        assert!(machine.cpus[1].holding(40).unwrap().state.active, "{version:?}");
        machine.cpus[1].deactivate_virtual(IntId::new(40), 0);
        assert_eq!(machine.read(V0, ISACTIVER + 4), 0);
    }
}

#[test]
fn a_configuration_that_cannot_be_is_refused() {
    let affinities: Vec<_> = (0..65).map(|n| Affinity::new(0, 0, n / 16, n % 16)).collect();
    let good = Config {
        version: Version::V3,
        vcpus: &affinities[..64],
        spis: 960,
        priority_bits: 5,
        hardware_deactivation: true,
    };
    assert!(Vgic::new(&good).is_ok());
    let twice = [affinities[0], affinities[1], affinities[0]];
    for (config, expected) in [
        (Config { vcpus: &[], ..good }, ConfigError::Vcpus { given: 0, limit: 64 }),
        (Config { vcpus: &affinities, ..good }, ConfigError::Vcpus { given: 65, limit: 64 }),
        (Config { version: Version::V2, ..good }, ConfigError::Vcpus { given: 64, limit: 8 }),
        (Config { vcpus: &twice, ..good }, ConfigError::SameAffinity { first: 0, second: 2 }),
        (Config { spis: 33, ..good }, ConfigError::Spis(33)),
        (Config { spis: 992, ..good }, ConfigError::Spis(992)),
        (Config { priority_bits: 3, ..good }, ConfigError::PriorityBits(3)),
    ] {
        assert_eq!(Vgic::new(&config).unwrap_err(), expected);
    }
}

fn any_width() -> impl Strategy<Value = Width> {
    prop_oneof![Just(Width::Byte), Just(Width::Half), Just(Width::Word), Just(Width::Double)]
}

proptest! {
    #[test]
    fn no_access_of_a_guest_panics_or_hangs(
        v3: bool,
        accesses in prop::collection::vec(
            (0usize..3, 0usize..4, prop_oneof![0u64..0x1000, 0u64..0x2_0100, any::<u64>()], any_width(), any::<u64>(), any::<bool>()),
            1..200,
        ),
    ) {
        let mut machine = Machine::started(if v3 { Version::V3 } else { Version::V2 }, 2, 2);
        for (vcpu, frame, offset, width, value, write) in accesses {
            // One of the vCPUs and redistributors doesn't exist.
            let vcpu = VcpuIndex::new(vcpu);
            let frame = match frame {
                0 | 1 => Frame::Distributor,
                n => Frame::Redistributor(VcpuIndex::new(n - 1)),
            };
            let mut effects = if write {
                machine.vgic.write(frame, vcpu, offset, width, value)
            } else {
                let read = machine.vgic.read(frame, vcpu, offset, width);
                Effects { kick: match read { Read::Value(_) => VcpuSet::EMPTY, Read::Retry(set) => set.without(VcpuSet::only(vcpu)) } }
            };
            effects.merge(machine.vgic.write_sgi1r(vcpu, value));
            machine.apply(effects);
            machine.maintain();
        }
    }
}
