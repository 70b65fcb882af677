use super::table::SLOTS;
use super::*;
use proptest::prelude::*;

fn bank() -> Bank {
    Bank::new(Vendor::Amd, 40)
}

#[test]
fn rows_are_sorted_and_do_not_overlap() {
    assert!(ROWS.iter().all(|row| row.first <= row.last));
    assert!(ROWS.is_sorted_by(|a, b| a.last < b.first));
}

#[test]
fn every_stored_register_has_its_own_slot() {
    let mut taken = [false; SLOTS];
    for row in ROWS.iter().filter(|row| matches!(row.place, Place::Stored(_))) {
        for index in row.first..=row.last {
            let slot = row.slot + (index - row.first) as usize;
            assert!(!core::mem::replace(&mut taken[slot], true), "{index:#x}");
        }
    }
    assert!(taken.iter().all(|&taken| taken));
}

#[test]
fn what_linux_touches_exists() {
    let both = [
        0x10,
        0x1b,
        0x8b,
        0xfe,
        0x174,
        0x175,
        0x176,
        0x179,
        0x17a,
        0x200,
        0x20f,
        0x250,
        0x258,
        0x259,
        0x268,
        0x26f,
        0x277,
        0x2ff,
        0x6e0,
        0x800,
        0x83f,
        0x4b56_4d00,
        0x4b56_4d01,
        0xc000_0080,
        0xc000_0081,
        0xc000_0084,
        0xc000_0100,
        0xc000_0103,
    ];
    let amd = [0xc001_0000, 0xc001_0003, 0xc001_0007, 0xc001_0015, 0xc001_0114, 0xc001_1029];
    let intel = [0x3a, 0xce, 0x140, 0x1a0];
    for index in both {
        assert!(find(index, Vendor::Amd).is_some(), "{index:#x}");
        assert!(find(index, Vendor::Intel).is_some(), "{index:#x}");
    }
    for (own, other, indexes) in
        [(Vendor::Amd, Vendor::Intel, &amd[..]), (Vendor::Intel, Vendor::Amd, &intel[..])]
    {
        for &index in indexes {
            assert!(find(index, own).is_some(), "{index:#x}");
            assert!(find(index, other).is_none(), "{index:#x}");
        }
    }
}

#[test]
fn everything_else_faults() {
    for vendor in [Vendor::Amd, Vendor::Intel] {
        let mut bank = Bank::new(vendor, 40);
        for index in [
            0,
            0x3b,
            0x48,
            0x49,
            0x4e,
            0x10a,
            0x10b,
            0x210,
            0x251,
            0x400,
            0x480,
            0x492,
            0x900,
            0x4b56_4d02,
            0xc000_0104,
            0xc001_0117,
            0xc001_0140,
            u32::MAX,
        ] {
            assert_eq!(bank.read(index), Err(GeneralProtection), "{index:#x}");
            assert_eq!(bank.write(index, 0), Err(GeneralProtection), "{index:#x}");
        }
    }
}

#[test]
fn writes_are_checked_as_hardware_does() {
    let noncanonical = 0x0000_8000_0000_0000;
    for (index, value, valid) in [
        (0xc000_0082, 0xffff_8000_0000_0000, true),
        (0xc000_0082, 0x0000_7fff_ffff_ffff, true),
        (0xc000_0082, noncanonical, false),
        (0xc000_0083, noncanonical, false),
        (0xc000_0100, noncanonical, false),
        (0xc000_0101, noncanonical, false),
        (0xc000_0102, noncanonical, false),
        (0x175, noncanonical, false),
        (0x176, noncanonical, false),
        (0x174, u64::MAX, true),
        (0xc000_0084, 1 << 32, false),
        (0xc000_0103, 1 << 32, false),
        (0xc000_0103, 7, true),
        (0x277, 0x0007_0406_0007_0406, true),
        (0x277, 0x0007_0406_0007_0206, false),
        (0x277, 0x0307_0406_0007_0406, false),
        (0x2ff, 0xc06, true),
        (0x2ff, 0x806, true),
        (0x2ff, 0x807, false),
        (0x2ff, 0x1806, false),
        (0x250, 0x0606_0606_0606_0606, true),
        (0x250, 0x0606_0706_0606_0606, false),
        (0x200, 0x00ff_e000_0006, true),
        (0x200, 0x00e0_0000_0006, true),
        (0x200, 0x00e0_0000_0106, false),
        (0x200, 0x0100_0000_0000, false),
        (0x200, 0x100_0000_0000 << 4, false),
        (0x200, 0x02, false),
        (0x201, 0xff_e000_0800, true),
        (0x201, 0xff_e000_0400, false),
        (0x201, 0x1ff_e000_0800, false),
        (0xfe, 0x508, false),
        (0xda0, 0, true),
        (0xda0, 1, false),
    ] {
        assert_eq!(bank().write(index, value).is_ok(), valid, "{index:#x} = {value:#x}");
    }
}

#[test]
fn stored_registers_keep_what_they_may() {
    let mut bank = bank();
    for (index, reset, written, kept) in [
        (0x2ff, 0x806, 0xc00, 0xc00),
        (0x200, 0, 0x8000_0006, 0x8000_0006),
        (0x20f, 0, 0x800, 0x800),
        (0x1d9, 0, 3, 0),
        (0xc001_1029, 2, 0, 0),
        (0xc001_1029, 2, u64::MAX, 2),
    ] {
        bank.reset();
        assert_eq!(bank.read(index), Ok(Read::Value(reset)), "{index:#x}");
        assert_eq!(bank.write(index, written), Ok(Write::Done));
        assert_eq!(bank.read(index), Ok(Read::Value(kept)), "{index:#x}");
    }
}

#[test]
fn constants_ignore_or_refuse_writes() {
    let mut bank = bank();
    assert_eq!(bank.read(0xfe), Ok(Read::Value(0x508)));
    assert_eq!(bank.write(0xc001_0000, 0xffff), Ok(Write::Done));
    assert_eq!(bank.read(0xc001_0000), Ok(Read::Value(0)));
    assert_eq!(bank.read(0xc001_0114), Ok(Read::Value(0x18)));
}

#[test]
fn owners_are_named() {
    let mut bank = bank();
    for (index, place) in [
        (0x10, Place::Tsc),
        (0x1b, Place::ApicBase),
        (0x6e0, Place::TscDeadline),
        (0x80b, Place::X2Apic),
        (0x4b56_4d01, Place::KvmSystemTime),
        (0xc000_0080, Place::Processor(Register::Efer)),
    ] {
        assert_eq!(bank.read(index), Ok(Read::From(place)));
        assert_eq!(bank.write(index, 1), Ok(Write::To(place, 1)));
    }
}

#[test]
fn direct_registers_are_the_ones_that_system_calls_and_threads_use() {
    let indexes: Vec<u32> = direct().map(|(index, _)| index).collect();
    let expected = [
        0x174,
        0x175,
        0x176,
        0xc000_0081,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
    ];
    assert_eq!(indexes, expected);
}

#[test]
fn efer_refuses_what_guests_do_not_have() {
    let on = Efer::LME | Efer::LMA;
    for (old, value, paging, expected) in [
        (Efer::empty(), 0x901, false, Ok(0x901)),
        (Efer::empty(), 0x500, false, Ok(0x100)),
        (on, 0xd01, true, Ok(0xd01)),
        (on, 0x901, true, Ok(0xd01)),
        (on, 0x801, true, Err(GeneralProtection)),
        (Efer::empty(), 0x100, true, Err(GeneralProtection)),
        (Efer::empty(), 0x1000, false, Err(GeneralProtection)),
        (Efer::empty(), 0x4000, false, Err(GeneralProtection)),
        (Efer::empty(), 1 << 63, false, Err(GeneralProtection)),
    ] {
        assert_eq!(write_efer(old, value, paging).map(|efer| efer.bits()), expected, "{value:#x}");
    }
}

proptest! {
    #[test]
    fn no_register_and_no_value_makes_the_bank_panic(
        index in prop_oneof![any::<u32>(), 0u32..0x2000, 0xc000_0000u32..0xc001_2000],
        value in any::<u64>(), amd in any::<bool>(), address_bits in 0u32..70,
    ) {
        let vendor = if amd { Vendor::Amd } else { Vendor::Intel };
        let mut bank = Bank::new(vendor, address_bits);
        let written = bank.write(index, value);
        prop_assert_eq!(bank.read(index).is_err(), find(index, vendor).is_none());
        prop_assert!(written.is_err() || find(index, vendor).is_some());
    }
}
