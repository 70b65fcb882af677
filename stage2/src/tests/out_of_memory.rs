//! Memory for tables that runs out at every possible moment.

use super::formats::{kib4, kib16};
use super::machine::Machine;
use super::model::{Extent, normalise};
use super::sequences::leaves;
use crate::{
    Attributes, Error, Format, IntermediateAddress, PageTable, PhysicalAddress, WriteFault,
};

const GIB: u64 = 1 << 30;

type Operation<F> =
    fn(&mut PageTable<F>, &mut Machine<F>, &mut Machine<F>, page: u64) -> Result<(), Error>;

/// A table with a hole, blocks that are shared and logged, and single pages.
fn prepare<F: Format + Copy>(format: F) -> (Machine<F>, PageTable<F>) {
    let machine = Machine::new(format);
    let (memory, tlb) = (&mut machine.clone(), &mut machine.clone());
    let mut table = PageTable::new(format, memory).unwrap();
    machine.load_root(table.root());
    let at = IntermediateAddress;
    let ram = Attributes::RAM;
    table.map(memory, tlb, at(GIB), PhysicalAddress(GIB), GIB, ram).unwrap();
    table.map_shared(memory, tlb, at(4 * GIB), PhysicalAddress(4 * GIB), GIB, ram).unwrap();
    let page = table.layout().granule();
    table.map(memory, tlb, at(3 * GIB + page), PhysicalAddress(0), page, ram).unwrap();
    (machine, table)
}

fn contents<F: Format + Copy>(table: &PageTable<F>, machine: &Machine<F>) -> Vec<Extent> {
    normalise(leaves(table, machine))
}

/// Runs an operation with memory for no table, one table, and so on until it succeeds.
fn try_all<F: Format + Copy>(format: F, name: &str, operation: Operation<F>) {
    for budget in 0.. {
        let (machine, mut table) = prepare(format);
        let (memory, tlb) = (&mut machine.clone(), &mut machine.clone());
        let before = (contents(&table, &machine), table.table_bytes());
        machine.set_budget(Some(budget));
        let page = table.layout().granule();
        let result = operation(&mut table, memory, tlb, page);
        machine.check_quiescent();
        assert_eq!(table.table_bytes(), machine.allocated_bytes(), "{name}");
        if result.is_ok() {
            assert_ne!(contents(&table, &machine), before.0, "{name} did nothing");
            assert!(budget > 0, "{name} needed no memory, so it tests nothing");
            break;
        }
        assert_eq!(result, Err(Error::OutOfTableMemory), "{name}");
        assert_eq!((contents(&table, &machine), table.table_bytes()), before, "{name} {budget}");
        machine.set_budget(None);
        operation(&mut table, memory, tlb, page).unwrap();
        machine.unload_root();
        table.destroy(memory, tlb);
        assert_eq!(machine.allocated_bytes(), 0, "{name}");
    }
}

fn all<F: Format + Copy>(format: F) {
    let operations: [(&str, Operation<F>); 9] = [
        ("map pages at both ends", |t, memory, tlb, page| {
            let (start, target) = (IntermediateAddress(page), PhysicalAddress(page));
            t.map(memory, tlb, start, target, GIB - 2 * page, Attributes::RAM)
        }),
        ("map beside a page", |t, memory, tlb, page| {
            let start = IntermediateAddress(3 * GIB + 2 * page);
            t.map(memory, tlb, start, PhysicalAddress(0), 3000 * page, Attributes::RAM)
        }),
        ("map shared", |t, memory, tlb, page| {
            let (start, target) = (IntermediateAddress(6 * GIB), PhysicalAddress(page));
            t.map_shared(memory, tlb, start, target, 4 * page, Attributes::RAM)
        }),
        ("unmap the middle", |t, memory, tlb, page| {
            t.unmap(memory, tlb, IntermediateAddress(GIB + page), GIB - 2 * page)
        }),
        ("protect the middle", |t, memory, tlb, page| {
            let start = IntermediateAddress(GIB + page);
            t.protect(memory, tlb, start, GIB - 2 * page, Attributes::ROM)
        }),
        ("share", |t, memory, tlb, page| {
            t.share(memory, tlb, IntermediateAddress(GIB + page), page)
        }),
        ("unshare", |t, memory, tlb, page| {
            t.unshare(memory, tlb, IntermediateAddress(4 * GIB + page), page)
        }),
        ("log", |t, memory, tlb, page| {
            t.start_dirty_log(memory, tlb, IntermediateAddress(GIB + page), page)
        }),
        ("resolve a copy", |t, memory, tlb, page| {
            let copy = PhysicalAddress(64 * GIB);
            t.resolve_copy(memory, tlb, IntermediateAddress(4 * GIB + page), copy).map(|_| ())
        }),
    ];
    for (name, operation) in operations {
        try_all(format, name, operation);
    }
}

#[test]
fn an_operation_that_runs_out_of_memory_changes_nothing_on_4_kib_pages() {
    all(kib4());
}

#[test]
fn an_operation_that_runs_out_of_memory_changes_nothing_on_16_kib_pages() {
    all(kib16());
}

#[test]
fn without_memory_there_is_no_table() {
    let mut machine = Machine::new(kib4());
    machine.set_budget(Some(0));
    assert_eq!(PageTable::new(kib4(), &mut machine).err(), Some(Error::OutOfTableMemory));
}

#[test]
fn a_logged_write_without_memory_marks_what_it_cannot_split() {
    // Tables available; the part of the block that counts as written.
    for (budget, bytes) in [(0, GIB), (1, 2 << 20), (2, 4 << 10)] {
        let (machine, mut table) = prepare(kib4());
        let (memory, tlb) = (&mut machine.clone(), &mut machine.clone());
        let start = IntermediateAddress(GIB);
        table.start_dirty_log(memory, tlb, start, GIB).unwrap();
        machine.set_budget(Some(budget));
        let written = IntermediateAddress(GIB + (6 << 20) + 0x5678);
        assert_eq!(table.write_fault(memory, tlb, written), WriteFault::Retry);
        machine.check_quiescent();
        assert!(table.translate(memory, written).unwrap().writable);
        let mut runs = vec![];
        table.collect_dirty(memory, tlb, start, GIB, |at, bytes| runs.push((at.0, bytes))).unwrap();
        let expected = written.0 & !(bytes - 1);
        assert_eq!(runs, [(expected, bytes)]);
        assert!(!table.translate(memory, written).unwrap().writable);
    }
}
