//! From ID registers to control registers.

use proptest::prelude::*;

use crate::layout::Layout;
use crate::{
    Geometry, GeometryError, Granule, IdRegisters, PhysicalAddress, VmidAllocator, VmidBits,
};

const A53: IdRegisters = IdRegisters { mmfr0: 0x1122, mmfr1: 0 };
const A72: IdRegisters = IdRegisters { mmfr0: 0x1124, mmfr1: 0 };
/// 52-bit physical addresses, every granule at both stages with LPA2, 16-bit VMIDs.
const QEMU_MAX: IdRegisters =
    IdRegisters { mmfr0: 0x032_3310_2120_1126 & !(0xf << 28) | 1 << 28, mmfr1: 0x20 };
/// 36-bit physical addresses, only 16 KiB at stage 2.
const ONLY_16_KIB: IdRegisters =
    IdRegisters { mmfr0: 1 << 40 | 0xf << 28 | 0xf << 24 | 1 << 20 | 1, mmfr1: 0 };

/// `VTCR_EL2` without what is the same always.
fn vtcr(t0sz: u64, sl0: u64, tg0: u64, ps: u64, vs: u64) -> u64 {
    1 << 31
        | vs << 19
        | ps << 16
        | tg0 << 14
        | 0b11 << 12
        | 0b01 << 10
        | 0b01 << 8
        | sl0 << 6
        | t0sz
}

#[test]
fn known_cpus_get_the_tables_that_suit_them() {
    use Granule::{Kib4, Kib16};
    // ID registers, bits asked for; granule, bits, start level, root bytes, VTCR_EL2
    let cases = [
        (A53, None, (Kib4, 40, 1, 0x2000, vtcr(24, 1, 0, 2, 0))),
        (A53, Some(32), (Kib4, 32, 2, 0x4000, vtcr(32, 0, 0, 2, 0))),
        (A53, Some(39), (Kib4, 39, 1, 0x1000, vtcr(25, 1, 0, 2, 0))),
        (A72, None, (Kib4, 44, 0, 0x1000, vtcr(20, 2, 0, 4, 0))),
        (A72, Some(40), (Kib4, 40, 1, 0x2000, vtcr(24, 1, 0, 4, 0))),
        (A72, Some(43), (Kib4, 43, 1, 0x10000, vtcr(21, 1, 0, 4, 0))),
        (QEMU_MAX, None, (Kib4, 48, 0, 0x1000, vtcr(16, 2, 0, 5, 1))),
        (QEMU_MAX, Some(40), (Kib4, 40, 1, 0x2000, vtcr(24, 1, 0, 5, 1))),
        (ONLY_16_KIB, None, (Kib16, 36, 2, 0x4000, vtcr(28, 1, 2, 1, 0))),
        (ONLY_16_KIB, Some(32), (Kib16, 32, 2, 0x4000, vtcr(32, 1, 2, 1, 0))),
    ];
    for (ids, asked, expected) in cases {
        let geometry = Geometry::choose(ids, asked).unwrap();
        let layout = Layout::of(&geometry.format()).unwrap();
        let found = (
            geometry.granule(),
            geometry.input_bits(),
            geometry.start_level(),
            layout.root_bytes(),
            geometry.vtcr(),
        );
        assert_eq!(found, expected, "{ids:#x?} {asked:?}");
    }
    // What Linux gives an A53 with 40 bits.
    assert_eq!(Geometry::choose(A53, None).unwrap().vtcr(), 0x8002_3558);
}

#[test]
fn a_stage_2_granule_field_overrides_that_of_stage_1() {
    // TGran4_2, TGran16_2, TGran4, TGran16; the choice
    let cases = [
        ((0, 0, 0, 1), Some(Granule::Kib4)),
        ((1, 0, 0, 1), Some(Granule::Kib16)),
        ((1, 1, 0, 1), None),
        ((1, 2, 0, 0), Some(Granule::Kib16)),
        ((2, 0, 15, 0), Some(Granule::Kib4)),
        ((3, 0, 15, 0), Some(Granule::Kib4)),
        ((0, 0, 15, 0), None),
        ((0, 0, 15, 2), Some(Granule::Kib16)),
        ((0, 0, 1, 0), Some(Granule::Kib4)),
        ((0, 3, 15, 0), Some(Granule::Kib16)),
        // Values that no manual knows yet count for no.
        ((7, 9, 0, 1), None),
    ];
    for ((four_2, sixteen_2, four, sixteen), granule) in cases {
        let mmfr0 = four_2 << 40 | sixteen_2 << 32 | four << 28 | sixteen << 20 | 2;
        let geometry = Geometry::choose(IdRegisters { mmfr0, mmfr1: 0 }, None);
        let expected = granule.ok_or(GeometryError::NoGranule { mmfr0 });
        assert_eq!(geometry.map(|geometry| geometry.granule()), expected, "{mmfr0:#x}");
    }
}

#[test]
fn a_guest_address_space_wider_than_the_cpu_is_refused() {
    for asked in [31, 41, 64, u32::MAX] {
        let error = GeometryError::InputBits { asked, least: 32, most: 40 };
        assert_eq!(Geometry::choose(A53, Some(asked)), Err(error));
    }
}

#[test]
fn cores_of_two_kinds_share_what_both_can() {
    let max = Geometry::choose(QEMU_MAX, None).unwrap();
    let a53 = Geometry::choose(A53, None).unwrap();
    let both = max.common(a53).unwrap();
    assert_eq!(both, a53.common(max).unwrap());
    assert_eq!((both.input_bits(), both.output_bits()), (40, 40));
    assert_eq!(both.vmid_bits(), VmidBits::Eight);
    let odd = Geometry::choose(ONLY_16_KIB, None).unwrap();
    assert_eq!(a53.common(odd), Err(GeometryError::MixedGranules));
}

#[test]
fn vttbr_joins_tag_and_root() {
    let geometry = Geometry::choose(QEMU_MAX, None).unwrap();
    let mut vmids = VmidAllocator::new(geometry.vmid_bits(), 1).unwrap();
    for number in 1..=0xabcd_u64 {
        let vmid = vmids.activate(0, &mut Default::default(), || {}).unwrap();
        let root = PhysicalAddress(0xfedc_ba98_7000);
        assert_eq!(geometry.vttbr(vmid, root), number << 48 | root.0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_the_cpu_the_walk_starts_as_low_as_it_can(
        mmfr0: u64,
        mmfr1: u64,
        asked in prop::option::of(30_u32..54),
    ) {
        let Ok(geometry) = Geometry::choose(IdRegisters { mmfr0, mmfr1 }, asked) else {
            return Ok(());
        };
        let shift = geometry.granule().shift();
        let bits = geometry.input_bits();
        prop_assert!(asked.is_none_or(|asked| asked == bits));
        prop_assert!(bits <= geometry.output_bits() && geometry.output_bits() <= 48);
        let level = geometry.start_level();
        prop_assert!(level <= 3);
        let root_bits = |level: u32| bits as i32 - (shift + (3 - level) * (shift - 3)) as i32;
        prop_assert!((1..=shift as i32 + 1).contains(&root_bits(level)));
        // A level lower would take more than sixteen tables.
        prop_assert!(level == 3 || root_bits(level + 1) > shift as i32 + 1);
        prop_assert!(Layout::of(&geometry.format()).is_ok());
        prop_assert_eq!(geometry.vtcr() & 0x3f, u64::from(64 - bits));
    }
}
