//! Each operation by itself: what it does to the table, and what it costs.

use super::formats::{Ept, kib4, kib16};
use super::machine::Machine;
use crate::{
    Attributes, Entry, Error, Format, IntermediateAddress, Leaf, MemoryType, PageTable,
    PhysicalAddress, Vmsa, WriteFault,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const RAM: u64 = GIB;
const TARGET: u64 = 64 * GIB;

/// A table on a machine, with shorter ways to call it.
struct Guest<F> {
    machine: Machine<F>,
    table: PageTable<F>,
}

impl<F: Format + Copy> Guest<F> {
    fn new(format: F) -> Self {
        let mut machine = Machine::new(format);
        let table = PageTable::new(format, &mut machine).unwrap();
        machine.load_root(table.root());
        Self { machine, table }
    }

    /// Calls an operation and checks what it left behind.
    fn call<R>(
        &mut self,
        operation: impl FnOnce(&mut PageTable<F>, &mut Machine<F>, &mut Machine<F>) -> R,
    ) -> R {
        self.machine.take_invalidations();
        let (memory, tlb) = (&mut self.machine.clone(), &mut self.machine.clone());
        let result = operation(&mut self.table, memory, tlb);
        self.machine.check_quiescent();
        assert_eq!(self.table.table_bytes(), self.machine.allocated_bytes());
        result
    }

    fn map(&mut self, start: u64, target: u64, bytes: u64) -> Result<(), Error> {
        let (start, target) = (IntermediateAddress(start), PhysicalAddress(target));
        self.call(|t, memory, tlb| t.map(memory, tlb, start, target, bytes, Attributes::RAM))
    }

    fn size(&self, address: u64) -> Option<u64> {
        let address = IntermediateAddress(address);
        self.table.translate(&self.machine, address).map(|mapping| mapping.size)
    }

    fn end(self) {
        let Self { machine, table } = self;
        machine.unload_root();
        table.destroy(&mut machine.clone(), &mut machine.clone());
        assert_eq!(machine.allocated_bytes(), 0);
    }
}

/// 1 GiB of RAM in one block, on an A72 with 40 bits.
fn guest() -> Guest<Vmsa> {
    let mut guest = Guest::new(kib4());
    guest.map(RAM, TARGET, GIB).unwrap();
    guest
}

fn at(address: u64) -> IntermediateAddress {
    IntermediateAddress(address)
}

#[test]
fn the_largest_leaves_that_both_alignments_allow_are_used() {
    // start, target, bytes; the size of the leaf at the start, and of the tables beside the root
    let cases = [
        (RAM, TARGET, GIB, GIB, 0),
        (RAM, TARGET, 2 * GIB, GIB, 0),
        (RAM, TARGET + 2 * MIB, GIB, 2 * MIB, 4 * KIB),
        (RAM + 2 * MIB, TARGET + 2 * MIB, 4 * MIB, 2 * MIB, 4 * KIB),
        (RAM, TARGET + 4 * KIB, 2 * MIB, 4 * KIB, 8 * KIB),
        (RAM, TARGET, 4 * KIB, 4 * KIB, 8 * KIB),
        (0, 0, GIB, GIB, 0),
        // From 4 KiB below 1 GiB to 4 KiB above 2 GiB: two tables at each end, a block between.
        (GIB - 4 * KIB, TARGET - 4 * KIB, GIB + 8 * KIB, 4 * KIB, 16 * KIB),
        // The last page of the second root table.
        ((1 << 40) - 4 * KIB, 0, 4 * KIB, 4 * KIB, 8 * KIB),
    ];
    for (start, target, bytes, size, tables) in cases {
        let mut guest = Guest::new(kib4());
        guest.map(start, target, bytes).unwrap();
        assert_eq!(guest.size(start), Some(size), "{start:#x}");
        assert_eq!(guest.table.table_bytes(), 8 * KIB + tables, "{start:#x}");
        assert_eq!(guest.machine.take_invalidations(), (0, 0), "new mappings need none");
        guest.call(|t, memory, tlb| t.unmap(memory, tlb, at(start), bytes)).unwrap();
        assert_eq!(guest.table.table_bytes(), 8 * KIB);
        guest.end();
    }
    let mut guest = Guest::new(kib16());
    guest.map(RAM, TARGET, GIB).unwrap();
    assert_eq!(guest.size(RAM), Some(32 * MIB));
    guest.end();
}

#[test]
fn addresses_that_do_not_fit_are_refused() {
    let mut guest = guest();
    let end = 1 << 40;
    let misaligned = |value| Err(Error::Misaligned { value, granule: 4 * KIB });
    let input = |start, bytes| {
        Err(Error::OutOfInputRange { start: IntermediateAddress(start), bytes, bits: 40 })
    };
    let output = |start, bytes| {
        Err(Error::OutOfOutputRange { start: PhysicalAddress(start), bytes, bits: 44 })
    };
    let page = 4 * KIB;
    let cases = [
        (page + 1, 0, page, misaligned(page + 1)),
        (0, 8, page, misaligned(8)),
        (0, 0, page - 1, misaligned(page - 1)),
        (end, 0, page, input(end, page)),
        (end - page, 0, 2 * page, input(end - page, 2 * page)),
        (!0xfff, 0, page, input(!0xfff, page)),
        (!0xfff, 0, !0xfff, input(!0xfff, !0xfff)),
        (0, 1 << 44, page, output(1 << 44, page)),
        (0, (1 << 44) - page, 2 * page, output((1 << 44) - page, 2 * page)),
        (0, !0xfff, page, output(!0xfff, page)),
        (RAM + 8 * page, 0, page, Err(Error::Overlap { at: at(RAM) })),
        (RAM - page, 0, 2 * page, Err(Error::Overlap { at: at(RAM) })),
        // Nothing is always possible.
        (RAM, 0, 0, Ok(())),
        (end, 0, 0, Ok(())),
    ];
    for (start, target, bytes, expected) in cases {
        let before = guest.table.table_bytes();
        assert_eq!(guest.map(start, target, bytes), expected, "{start:#x} {target:#x} {bytes:#x}");
        assert_eq!(guest.table.table_bytes(), before);
    }
    guest.call(|t, memory, tlb| {
        assert_eq!(t.unmap(memory, tlb, at(end), page), input(end, page));
        assert_eq!(t.mark_dirty(memory, tlb, at(u64::MAX)), Err(Error::NotMapped { at: at(!0) }));
        assert_eq!(t.write_fault(memory, tlb, at(u64::MAX)), WriteFault::NotMapped);
        assert_eq!(t.translate(memory, at(u64::MAX)), None);
        let copy = PhysicalAddress(page + 8);
        assert_eq!(
            t.resolve_copy(memory, tlb, at(RAM), copy),
            Err(Error::Misaligned { value: page + 8, granule: page })
        );
    });
    guest.end();
}

#[test]
fn attributes_without_an_encoding_are_refused() {
    let mut guest = Guest::new(Ept);
    let attributes = Attributes { read: false, ..Attributes::RAM };
    guest.call(|t, memory, tlb| {
        let result = t.map(memory, tlb, at(0), PhysicalAddress(0), MIB, attributes);
        assert_eq!(result, Err(Error::UnsupportedAttributes));
        let result = t.protect(memory, tlb, at(0), MIB, attributes);
        assert_eq!(result, Err(Error::UnsupportedAttributes));
    });
    guest.end();
}

#[test]
fn translation_keeps_the_offset_and_knows_holes() {
    let mut guest = guest();
    let hole = RAM + 6 * MIB;
    guest.call(|t, memory, tlb| t.unmap(memory, tlb, at(hole), 4 * KIB)).unwrap();
    for (address, expected) in [
        (RAM, Some((TARGET, 2 * MIB))),
        (RAM + 0x1234_5678, Some((TARGET + 0x1234_5678, 2 * MIB))),
        (hole - 1, Some((TARGET + 6 * MIB - 1, 2 * MIB))),
        (hole, None),
        (hole + 4 * KIB - 1, None),
        (hole + 4 * KIB, Some((TARGET + 6 * MIB + 4 * KIB, 4 * KIB))),
        (RAM - 1, None),
        (RAM + GIB, None),
        (1 << 40, None),
    ] {
        let found = guest.table.translate(&guest.machine, at(address));
        assert_eq!(found.map(|found| (found.address.0, found.size)), expected, "{address:#x}");
    }
    guest.end();
}

#[test]
fn addresses_beyond_the_address_space_do_not_wrap_around() {
    let mut guest = Guest::new(kib4());
    guest.map(0, TARGET, GIB).unwrap();
    for beyond in [1 << 40, 1 << 41, 1 << 63] {
        assert_eq!(guest.size(beyond), None, "{beyond:#x}");
        let answer = guest.call(|t, memory, tlb| t.write_fault(memory, tlb, at(beyond)));
        assert_eq!(answer, WriteFault::NotMapped);
    }
    guest.end();
}

#[test]
fn a_split_block_merges_again_when_its_parts_agree() {
    let mut guest = guest();
    let page = RAM + 5 * MIB;
    for (attributes, size) in [(Attributes::ROM, 4 * KIB), (Attributes::RAM, 4 * KIB)] {
        guest.call(|t, memory, tlb| t.protect(memory, tlb, at(page), 4 * KIB, attributes)).unwrap();
        assert_eq!(guest.size(page), Some(size));
        let tables = guest.table.table_bytes();
        assert_eq!(tables, 16 * KIB);
        let freed = guest.call(|t, memory, tlb| t.coalesce(memory, tlb, at(page), 4 * KIB));
        assert_eq!(freed, Ok(if attributes == Attributes::RAM { 8 * KIB } else { 0 }));
    }
    assert_eq!(guest.size(page), Some(GIB));
    guest.end();
}

#[test]
fn a_change_of_permissions_alone_costs_one_instruction_and_no_break() {
    let mut guest = guest();
    for attributes in [Attributes::ROM, Attributes::RAM] {
        guest.call(|t, memory, tlb| t.protect(memory, tlb, at(RAM), GIB, attributes)).unwrap();
        assert_eq!(guest.machine.take_invalidations(), (1, 0));
        assert_eq!(guest.size(RAM), Some(GIB));
    }
    // Nothing changes: nothing to invalidate, nothing to split.
    guest.call(|t, memory, tlb| t.protect(memory, tlb, at(RAM), 4 * KIB, Attributes::RAM)).unwrap();
    assert_eq!(guest.machine.take_invalidations(), (0, 0));
    assert_eq!(guest.size(RAM), Some(GIB));
    let device = Attributes { memory: MemoryType::DeviceNGnRE, ..Attributes::RAM };
    guest.call(|t, memory, tlb| t.protect(memory, tlb, at(RAM), GIB, device)).unwrap();
    assert_eq!(guest.machine.take_invalidations(), (1, 0));
    guest.end();
}

#[test]
fn many_changes_are_invalidated_at_once() {
    let mut guest = Guest::new(kib4());
    guest.map(RAM, TARGET + 4 * KIB, 4 * MIB).unwrap();
    guest.call(|t, memory, tlb| t.unmap(memory, tlb, at(RAM), MIB)).unwrap();
    assert_eq!(guest.machine.take_invalidations(), (1, 0), "256 pages: a range");
    guest.call(|t, memory, tlb| t.unmap(memory, tlb, at(RAM + MIB), 3 * MIB)).unwrap();
    assert_eq!(guest.machine.take_invalidations(), (0, 1), "768 pages: everything");
    guest.end();
}

#[test]
fn the_dirty_log_splits_only_what_is_written() {
    let mut guest = guest();
    let written = [RAM + 3 * MIB, RAM + 3 * MIB + 4 * KIB, RAM + 700 * MIB];
    guest.call(|t, memory, tlb| t.start_dirty_log(memory, tlb, at(RAM), GIB)).unwrap();
    assert_eq!(guest.size(RAM), Some(GIB));
    for round in 0..2 {
        for page in written {
            let mapping = guest.table.translate(&guest.machine, at(page)).unwrap();
            assert!(!mapping.writable && mapping.attributes.write, "round {round} {page:#x}");
            let answer = guest.call(|t, memory, tlb| t.write_fault(memory, tlb, at(page + 0x10)));
            assert_eq!(answer, WriteFault::Retry);
        }
        let mut dirty = vec![];
        guest
            .call(|t, memory, tlb| {
                t.collect_dirty(memory, tlb, at(RAM), GIB, |page, bytes| {
                    dirty.push((page.0, bytes))
                })
            })
            .unwrap();
        assert_eq!(dirty, written.map(|page| (page, 4 * KIB)));
        // A root of two pages, one table of blocks, one table of pages for each block written.
        assert_eq!(guest.table.table_bytes(), 20 * KIB);
    }
    guest.call(|t, memory, tlb| t.stop_dirty_log(memory, tlb, at(RAM), GIB)).unwrap();
    guest.call(|t, memory, tlb| t.coalesce(memory, tlb, at(RAM), GIB)).unwrap();
    let mapping = guest.table.translate(&guest.machine, at(RAM)).unwrap();
    assert!(mapping.writable && mapping.size == GIB);
    guest.end();
}

#[test]
fn a_shared_page_is_copied_at_the_first_write() {
    let mut guest = guest();
    let page = RAM + 9 * MIB;
    let write =
        |guest: &mut Guest<Vmsa>| guest.call(|t, memory, tlb| t.write_fault(memory, tlb, at(page)));
    assert_eq!(write(&mut guest), WriteFault::Retry, "a private page");
    guest.call(|t, memory, tlb| t.share(memory, tlb, at(RAM), GIB)).unwrap();
    let WriteFault::Shared(mapping) = write(&mut guest) else { panic!() };
    assert_eq!(mapping.address.0, TARGET + 9 * MIB);
    let copy = PhysicalAddress(128 * GIB);
    let old = guest.call(|t, memory, tlb| t.resolve_copy(memory, tlb, at(page), copy));
    assert_eq!(old, Ok(mapping.address));
    assert_eq!(write(&mut guest), WriteFault::Retry);
    let again = guest.call(|t, memory, tlb| t.resolve_copy(memory, tlb, at(page), copy));
    assert_eq!(again, Err(Error::NotShared { at: at(page) }));
    let mapping = guest.table.translate(&guest.machine, at(page)).unwrap();
    assert_eq!((mapping.address, mapping.writable, mapping.shared), (copy, true, false));
    let next = guest.table.translate(&guest.machine, at(page + 4 * KIB)).unwrap();
    assert_eq!((next.writable, next.shared), (false, true));
    // The last one to share it needs no copy.
    guest.call(|t, memory, tlb| t.unshare(memory, tlb, at(RAM), GIB)).unwrap();
    let next = guest.table.translate(&guest.machine, at(page + 4 * KIB)).unwrap();
    assert_eq!((next.writable, next.shared), (true, false));
    guest.end();
}

#[test]
fn a_write_to_rom_is_forbidden_even_if_it_is_shared_and_logged() {
    let mut guest = Guest::new(kib4());
    guest
        .call(|t, memory, tlb| {
            t.map_shared(memory, tlb, at(0), PhysicalAddress(0), 2 * MIB, Attributes::ROM)
        })
        .unwrap();
    guest.call(|t, memory, tlb| t.start_dirty_log(memory, tlb, at(0), 2 * MIB)).unwrap();
    let answer = guest.call(|t, memory, tlb| t.write_fault(memory, tlb, at(0x1234)));
    assert!(matches!(answer, WriteFault::Forbidden(mapping) if mapping.address.0 == 0x1234));
    assert_eq!(guest.size(0), Some(2 * MIB));
    guest.end();
}

#[test]
fn all_mappings_are_seen_in_order_with_those_that_reach_into_the_range() {
    let mut guest = guest();
    guest.map(0x900_0000, 0x900_0000, 4 * KIB).unwrap();
    guest.map(RAM - 4 * KIB, 0, 4 * KIB).unwrap();
    let mut seen = vec![];
    let (start, bytes) = (at(RAM - 8 * KIB), 16 * KIB);
    guest
        .table
        .for_each_mapping(&guest.machine, start, bytes, |at, mapping| {
            seen.push((at.0, mapping.address.0, mapping.size));
        })
        .unwrap();
    assert_eq!(seen, [(RAM - 4 * KIB, 0, 4 * KIB), (RAM, TARGET, GIB)]);
    guest.end();
}

#[test]
fn two_tables_do_not_meet() {
    let mut guest = guest();
    let mut memory = guest.machine.clone();
    let other = PageTable::new(kib4(), &mut memory).unwrap();
    assert_eq!(other.translate(&memory, at(RAM)), None);
    other.destroy(&mut memory, &mut guest.machine.clone());
    guest.map(2 * GIB, TARGET, GIB).unwrap();
    guest.end();
}

/// A format whose answers can be made to contradict each other.
#[derive(Clone, Copy)]
struct Odd {
    granule_shift: u32,
    input_bits: u32,
    output_bits: u32,
    levels: u32,
    leaves: u32,
}

impl Format for Odd {
    fn granule_shift(&self) -> u32 {
        self.granule_shift
    }
    fn input_bits(&self) -> u32 {
        self.input_bits
    }
    fn output_bits(&self) -> u32 {
        self.output_bits
    }
    fn levels(&self) -> u32 {
        self.levels
    }
    fn leaf_at(&self, level: u32) -> bool {
        self.leaves & 1 << level != 0
    }
    fn expresses(&self, _: Attributes) -> bool {
        true
    }
    fn leaf(&self, _: u32, _: &Leaf) -> u64 {
        0
    }
    fn table(&self, _: PhysicalAddress) -> u64 {
        0
    }
    fn decode(&self, _: u32, _: u64) -> Entry {
        Entry::Invalid
    }
}

#[test]
fn a_format_that_contradicts_itself_is_refused() {
    let good = Odd { granule_shift: 12, input_bits: 48, output_bits: 48, levels: 4, leaves: 0b111 };
    let odd = [
        Odd { granule_shift: 0, ..good },
        Odd { granule_shift: 64, ..good },
        Odd { input_bits: 39, ..good },
        Odd { input_bits: 53, ..good },
        Odd { input_bits: 0, ..good },
        Odd { input_bits: u32::MAX, ..good },
        Odd { output_bits: 53, ..good },
        Odd { levels: 0, ..good },
        Odd { levels: 3, ..good },
        Odd { levels: 5, ..good },
        Odd { levels: 6, ..good },
        Odd { levels: u32::MAX, ..good },
        Odd { leaves: 0b110, ..good },
        Odd { leaves: 0b101, ..good },
    ];
    let mut memory = Machine::new(kib4());
    for format in odd {
        let table = PageTable::new(format, &mut memory);
        assert_eq!(table.err(), Some(Error::InvalidFormat));
    }
    assert!(PageTable::new(good, &mut memory).is_ok());
}
