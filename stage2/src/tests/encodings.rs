//! Bits of entries.

use proptest::prelude::*;

use super::formats::{Ept, Npt, kib4, kib16};
use crate::{Attributes, Entry, Format, Leaf, MemoryType, PhysicalAddress};

const MEMORY: [MemoryType; 4] = [
    MemoryType::Normal,
    MemoryType::NormalNonCacheable,
    MemoryType::DeviceNGnRnE,
    MemoryType::DeviceNGnRE,
];

#[test]
fn vmsa_entries_have_the_bits_of_the_manual() {
    const PAGE: u64 = 1 << 1;
    const WRITE_BACK: u64 = 0b1111 << 2;
    const READ: u64 = 1 << 6;
    const WRITE: u64 = 1 << 7;
    const INNER: u64 = 0b11 << 8;
    const OUTER: u64 = 0b10 << 8;
    const ACCESSED: u64 = 1 << 10;
    const NO_EXECUTE: u64 = 1 << 54;
    const MAY_WRITE: u64 = 1 << 55;
    const SHARED: u64 = 1 << 56;
    const LOGGED: u64 = 1 << 57;
    const DIRTY: u64 = 1 << 58;
    let ram = 1 | WRITE_BACK | READ | INNER | ACCESSED | MAY_WRITE;
    let address = 0x8765_4000_0000;
    let leaf = Leaf::new(PhysicalAddress(address), Attributes::RAM);
    let device = Leaf::new(PhysicalAddress(address), Attributes::DEVICE);
    let nc = Attributes { memory: MemoryType::NormalNonCacheable, ..Attributes::ROM };
    let cases = [
        (0, leaf, ram | WRITE | PAGE),
        (1, leaf, ram | WRITE),
        (2, leaf, ram | WRITE),
        (1, Leaf { shared: true, ..leaf }, ram | SHARED),
        (1, Leaf { logged: true, ..leaf }, ram | LOGGED),
        (1, Leaf { logged: true, dirty: true, ..leaf }, ram | LOGGED | DIRTY | WRITE),
        (
            0,
            device,
            1 | PAGE | 0b0001 << 2 | READ | WRITE | OUTER | ACCESSED | NO_EXECUTE | MAY_WRITE,
        ),
        (1, Leaf { attributes: nc, ..leaf }, 1 | 0b0101 << 2 | READ | OUTER | ACCESSED),
    ];
    for (level, leaf, bits) in cases {
        let entry = kib4().leaf(level, &leaf);
        assert_eq!(entry, address | bits, "level {level} {leaf:?}: {entry:#x}");
    }
    assert_eq!(kib4().table(PhysicalAddress(0x8765_4321_f000)), 0x8765_4321_f003);
    assert_eq!(kib4().decode(0, address | 1), Entry::Invalid, "a block at the last level");
}

#[test]
fn a_link_between_retired_tables_is_invalid_in_every_format() {
    let link = 0x000f_ffff_ffff_c000 | 1 << 11;
    for level in 0..4 {
        for entry in [0, link, 1 << 11] {
            assert_eq!(kib4().decode(level, entry), Entry::Invalid);
            assert_eq!(kib16().decode(level, entry), Entry::Invalid);
            assert_eq!(Ept.decode(level, entry), Entry::Invalid);
            assert_eq!(Npt.decode(level, entry), Entry::Invalid);
        }
    }
}

fn leaf() -> impl Strategy<Value = Leaf> {
    let flags = any::<[bool; 6]>();
    (0_u64..1 << 16, flags, prop::sample::select(&MEMORY[..])).prop_map(
        |(block, [read, write, execute, shared, logged, dirty], memory)| Leaf {
            address: PhysicalAddress(block << 30),
            attributes: Attributes { read, write, execute, memory },
            shared,
            logged,
            dirty,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn vmsa_leaves_decode_to_what_was_encoded(leaf in leaf(), level in 0_u32..3) {
        prop_assert_eq!(kib4().decode(level, kib4().leaf(level, &leaf)), Entry::Leaf(leaf));
        prop_assert_eq!(kib16().decode(level, kib16().leaf(level, &leaf)), Entry::Leaf(leaf));
    }

    #[test]
    fn no_value_of_an_entry_upsets_the_decoder(entry: u64, level in 0_u32..4) {
        let decoded = kib4().decode(level, entry);
        prop_assert!(level > 0 || !matches!(decoded, Entry::Table(_)));
        if let Entry::Leaf(leaf) = decoded {
            prop_assert_eq!(kib4().decode(level, kib4().leaf(level, &leaf)), decoded);
        }
    }
}
