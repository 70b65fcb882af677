//! Random sequences of operations on every format, against the model.

use proptest::prelude::*;

use super::formats::{Ept, Npt, kib4, kib16};
use super::machine::Machine;
use super::model::{Extent, Model, join_runs, normalise};
use crate::walk::{Step, Tree, View, Visitor, walk};
use crate::{
    Attributes, Entry, Error, Format, IntermediateAddress, Leaf, MemoryType, PageTable,
    PhysicalAddress, WriteFault, layout,
};

/// Physical memory starts here: aligned for the largest leaf of every format.
const TARGET: u64 = 1 << 37;

/// An address or a length, in units of the leaves of each level: a few of each.
#[derive(Clone, Copy, Debug)]
struct Distance {
    pages: u64,
    blocks: u64,
    giants: u64,
}

#[derive(Clone, Debug)]
enum Action {
    Map { shift: u64, attributes: Attributes, shared: bool },
    Unmap,
    Protect(Attributes),
    Share,
    Unshare,
    StartLog,
    StopLog,
    Collect,
    Coalesce,
    ResolveCopy(u64),
    Write,
    MarkDirty,
}

#[derive(Clone, Debug)]
struct Operation {
    start: Distance,
    length: Distance,
    /// Tables that may be allocated before memory runs out.
    budget: Option<usize>,
    action: Action,
}

fn distance(giants: u64) -> impl Strategy<Value = Distance> {
    let few = prop_oneof![4 => Just(0), 2 => 1_u64..4, 1 => Just(511)];
    let blocks = prop_oneof![4 => 0_u64..4, 1 => Just(511)];
    let giants = prop_oneof![3 => Just(0), 1 => 0..=giants];
    (few, blocks, giants).prop_map(|(pages, blocks, giants)| Distance { pages, blocks, giants })
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let memory = prop_oneof![4 => Just(MemoryType::Normal), 1 => Just(MemoryType::DeviceNGnRnE)];
    let any = (any::<bool>(), any::<bool>(), any::<bool>(), memory)
        .prop_map(|(read, write, execute, memory)| Attributes { read, write, execute, memory });
    prop_oneof![3 => Just(Attributes::RAM), 1 => Just(Attributes::ROM), 2 => any]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (0_u64..3, attributes(), any::<bool>())
            .prop_map(|(shift, attributes, shared)| Action::Map { shift, attributes, shared }),
        4 => Just(Action::Unmap),
        3 => attributes().prop_map(Action::Protect),
        2 => Just(Action::Share),
        1 => Just(Action::Unshare),
        3 => Just(Action::StartLog),
        1 => Just(Action::StopLog),
        2 => Just(Action::Collect),
        2 => Just(Action::Coalesce),
        3 => (0_u64..4).prop_map(Action::ResolveCopy),
        3 => Just(Action::Write),
        2 => Just(Action::MarkDirty),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let budget = prop_oneof![2 => Just(None), 1 => (0_usize..4).prop_map(Some)];
    (distance(2), distance(1), budget, action())
        .prop_map(|(start, length, budget, action)| Operation { start, length, budget, action })
}

/// All leaves with what the hypervisor remembers of them.
pub(super) fn leaves<F: Format + Copy>(table: &PageTable<F>, machine: &Machine<F>) -> Vec<Extent> {
    struct Collect(Vec<Extent>);
    impl<T: Tree> Visitor<T> for Collect {
        fn visit(&mut self, _: &mut T, slot: &layout::Slot, entry: Entry) -> Result<Step, Error> {
            if let Entry::Leaf(leaf) = entry {
                self.0.push(Extent { start: slot.start, end: slot.end(), leaf });
            }
            Ok(Step::Descend)
        }
    }
    let layout = *table.layout();
    let mut view = View { format: table.format(), layout, root: table.root(), memory: machine };
    let mut collect = Collect(vec![]);
    let all = layout::Range { start: 0, end: layout.input_end() };
    walk(&mut view, all, &mut collect).unwrap();
    collect.0
}

struct Run<F> {
    format: F,
    machine: Machine<F>,
    table: PageTable<F>,
    model: Model,
}

impl<F: Format + Copy> Run<F> {
    fn new(format: F) -> Self {
        let mut machine = Machine::new(format);
        let table = PageTable::new(format, &mut machine).unwrap();
        machine.load_root(table.root());
        Self { format, machine, table, model: Model::default() }
    }

    fn bytes(&self, distance: Distance) -> u64 {
        let layout = self.table.layout();
        distance.pages * layout.granule()
            + distance.blocks * layout.span(1)
            + distance.giants * layout.span(2)
    }

    fn apply(&mut self, operation: &Operation) {
        let layout = *self.table.layout();
        let start = IntermediateAddress(self.bytes(operation.start));
        let mut bytes = self.bytes(operation.length);
        let Self { format, machine, table, model } = self;
        let format = *format;
        let (memory, tlb) = (&mut machine.clone(), &mut machine.clone());
        let before = table.table_bytes();
        // With too little memory a write marks more than the model does: another test's business.
        let writes = matches!(operation.action, Action::Write | Action::MarkDirty);
        machine.set_budget(operation.budget.filter(|_| !writes));
        let result = match operation.action {
            Action::Map { shift, attributes, shared } => {
                // By one page, by one block, or not at all: which leaves are possible then?
                let shift = match shift {
                    0 => 0,
                    1 => layout.span(1),
                    _ => {
                        bytes = bytes.min(3 * layout.span(1));
                        layout.granule()
                    }
                };
                let leaf = Leaf {
                    shared,
                    ..Leaf::new(PhysicalAddress(TARGET + start.0 + shift), attributes)
                };
                let target = leaf.address;
                let result = if shared {
                    table.map_shared(memory, tlb, start, target, bytes, attributes)
                } else {
                    table.map(memory, tlb, start, target, bytes, attributes)
                };
                match result {
                    Ok(()) => assert!(model.map(start.0, bytes, leaf)),
                    Err(Error::Overlap { at }) => {
                        assert!(!model.clone().map(start.0, bytes, leaf));
                        assert!(model.find(at.0).is_some());
                    }
                    Err(Error::UnsupportedAttributes) => assert!(!format.expresses(attributes)),
                    Err(_) => {}
                }
                result
            }
            Action::Unmap => {
                let result = table.unmap(memory, tlb, start, bytes);
                if result.is_ok() {
                    model.unmap(start.0, bytes);
                }
                result
            }
            Action::Protect(attributes) => {
                let result = table.protect(memory, tlb, start, bytes, attributes);
                match result {
                    Ok(()) => model.update(start.0, bytes, |leaf| Leaf { attributes, ..leaf }),
                    Err(Error::UnsupportedAttributes) => assert!(!format.expresses(attributes)),
                    Err(_) => {}
                }
                result
            }
            Action::Share => {
                let result = table.share(memory, tlb, start, bytes);
                if result.is_ok() {
                    model.update(start.0, bytes, |leaf| Leaf { shared: true, ..leaf });
                }
                result
            }
            Action::Unshare => {
                let result = table.unshare(memory, tlb, start, bytes);
                if result.is_ok() {
                    model.update(start.0, bytes, |leaf| Leaf { shared: false, ..leaf });
                }
                result
            }
            Action::StartLog => {
                let result = table.start_dirty_log(memory, tlb, start, bytes);
                if result.is_ok() {
                    model.update(start.0, bytes, |leaf| Leaf {
                        logged: true,
                        dirty: false,
                        ..leaf
                    });
                }
                result
            }
            Action::StopLog => {
                let result = table.stop_dirty_log(memory, tlb, start, bytes);
                if result.is_ok() {
                    model.update(start.0, bytes, |leaf| Leaf {
                        logged: false,
                        dirty: false,
                        ..leaf
                    });
                }
                result
            }
            Action::Collect => {
                let mut runs = vec![];
                let result = table
                    .collect_dirty(memory, tlb, start, bytes, |at, bytes| runs.push((at, bytes)));
                if result.is_ok() {
                    assert_eq!(join_runs(runs), model.dirty(start.0, bytes));
                    model.update(start.0, bytes, |leaf| Leaf { dirty: false, ..leaf });
                } else {
                    assert_eq!(runs, []);
                }
                result
            }
            Action::Coalesce => {
                let freed = table.coalesce(memory, tlb, start, bytes);
                assert_eq!(freed, Ok(before - table.table_bytes()));
                Ok(())
            }
            Action::ResolveCopy(copy) => {
                let page = layout.granule();
                let copy = PhysicalAddress(2 * TARGET + copy * page);
                let inside = IntermediateAddress(start.0 + 0xabc);
                let result = table.resolve_copy(memory, tlb, inside, copy);
                match (result, model.find(start.0)) {
                    (Ok(old), Some(leaf)) => {
                        assert!(leaf.shared && old == leaf.address);
                        model.update(start.0, page, |leaf| Leaf {
                            address: copy,
                            shared: false,
                            dirty: leaf.logged,
                            ..leaf
                        });
                    }
                    (Err(Error::NotMapped { .. }), found) => assert_eq!(found, None),
                    (Err(Error::NotShared { .. }), Some(leaf)) => assert!(!leaf.shared),
                    (Err(Error::OutOfTableMemory), _) => {}
                    (result, _) => panic!("{result:?}"),
                }
                result.map(|_| ())
            }
            Action::Write => {
                let inside = IntermediateAddress(start.0 + 0x123);
                let answer = table.write_fault(memory, tlb, inside);
                match (answer, model.find(start.0)) {
                    (WriteFault::NotMapped, found) => assert_eq!(found, None),
                    (WriteFault::Forbidden(_), Some(leaf)) => assert!(!leaf.attributes.write),
                    (WriteFault::Shared(mapping), Some(leaf)) => {
                        assert!(leaf.shared && leaf.attributes.write);
                        assert_eq!(mapping.address.0, leaf.address.0 + 0x123);
                    }
                    (WriteFault::Retry, Some(leaf)) => {
                        assert!(leaf.attributes.write && !leaf.shared);
                        model.update(start.0, layout.granule(), |leaf| Leaf {
                            dirty: leaf.logged,
                            ..leaf
                        });
                        assert!(table.translate(memory, inside).unwrap().writable);
                    }
                    (answer, None) => panic!("{answer:?}"),
                }
                Ok(())
            }
            Action::MarkDirty => {
                let result = table.mark_dirty(memory, tlb, start);
                assert_eq!(result.is_ok(), model.find(start.0).is_some());
                model.update(start.0, layout.granule(), |leaf| Leaf { dirty: leaf.logged, ..leaf });
                Ok(())
            }
        };
        machine.set_budget(None);
        if result == Err(Error::OutOfTableMemory) {
            assert!(operation.budget.is_some());
            assert!(table.table_bytes() <= before, "tables of a failed operation stayed");
        }
        self.check();
    }

    fn check(&self) {
        let Self { machine, table, model, .. } = self;
        machine.check_quiescent();
        assert_eq!(table.table_bytes(), machine.allocated_bytes());
        let found = leaves(table, machine);
        assert_eq!(normalise(found.iter().copied()), model.extents());
        for extent in found {
            let last = IntermediateAddress(extent.end - 1);
            let mapping = table.translate(machine, last).unwrap();
            assert_eq!(mapping.address.0, extent.leaf.address.0 + extent.end - 1 - extent.start);
            assert_eq!(mapping.attributes, extent.leaf.attributes);
            assert_eq!(mapping.writable, extent.leaf.writable());
            assert_eq!(mapping.size, extent.end - extent.start);
        }
    }

    /// Merging everything gives the very table that mapping afresh gives; destroying it leaves
    /// nothing.
    fn end(mut self) {
        let (memory, tlb) = (&mut self.machine.clone(), &mut self.machine.clone());
        let all = self.table.layout().input_end();
        self.table.coalesce(memory, tlb, IntermediateAddress(0), all).unwrap();
        self.check();
        let mut fresh = Self::new(self.format);
        for Extent { start, end, leaf } in self.model.extents() {
            let (memory, tlb) = (&mut fresh.machine.clone(), &mut fresh.machine.clone());
            let start = IntermediateAddress(start);
            fresh.table.map_leaf(memory, tlb, start, end - start.0, leaf).unwrap();
        }
        assert_eq!(leaves(&self.table, &self.machine), leaves(&fresh.table, &fresh.machine));
        assert_eq!(self.table.table_bytes(), fresh.table.table_bytes());
        for run in [self, fresh] {
            let Self { table, machine, .. } = run;
            machine.unload_root();
            table.destroy(&mut machine.clone(), &mut machine.clone());
            assert_eq!(machine.allocated_bytes(), 0);
        }
    }
}

fn run<F: Format + Copy>(format: F, operations: &[Operation]) {
    let mut run = Run::new(format);
    for operation in operations {
        run.apply(operation);
    }
    run.end();
}

fn config(cases: u32) -> ProptestConfig {
    let (cases, failure_persistence) = if cfg!(miri) { (1, None) } else { (cases, None) };
    ProptestConfig { cases, failure_persistence, max_shrink_iters: 2000, ..Default::default() }
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(operation(), 1..if cfg!(miri) { 4 } else { 30 })
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn every_sequence_on_4_kib_pages_means_what_the_model_says(operations in operations()) {
        run(kib4(), &operations);
    }

    #[test]
    fn every_sequence_on_ept_means_what_the_model_says(operations in operations()) {
        run(Ept, &operations);
    }

    #[test]
    fn every_sequence_on_npt_means_what_the_model_says(operations in operations()) {
        run(Npt, &operations);
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn every_sequence_on_16_kib_pages_means_what_the_model_says(operations in operations()) {
        run(kib16(), &operations);
    }
}
