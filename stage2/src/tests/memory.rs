//! Memory that comes and goes, against a host that knows whose each frame is and a model that is a set
//! of pages.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proptest::prelude::*;

use super::formats::{Ept, kib4, kib16};
use super::machine::Machine;
use crate::{
    BLOCK, Format, FrameSource, GuestMap, IntermediateAddress, PAGE, PageTable, PhysicalAddress,
    Piece, Provided,
};

const RAM: u64 = 1 << 30;
const HOME: u64 = 1 << 32;

/// Frames of the host: free or not, clean or not.
#[derive(Default)]
struct Host {
    free: BTreeSet<u64>,
    dirty: BTreeSet<u64>,
}

/// A handle; clones are the same host.
#[derive(Clone, Default)]
struct Frames(Rc<RefCell<Host>>);

impl Frames {
    fn lend(&self, start: u64, bytes: u64) {
        let mut host = self.0.borrow_mut();
        host.free.extend((start..start + bytes).step_by(PAGE as usize));
    }

    fn free(&self) -> u64 {
        self.0.borrow().free.len() as u64 * PAGE
    }

    fn pages(start: u64, bytes: u64) -> impl Iterator<Item = u64> {
        (start..start + bytes).step_by(PAGE as usize)
    }
}

impl FrameSource for Frames {
    fn take(&mut self, bytes: u64) -> Option<PhysicalAddress> {
        let candidates: Vec<u64> = self.0.borrow().free.iter().copied().collect();
        let found = candidates
            .into_iter()
            .filter(|start| start.is_multiple_of(bytes))
            .find(|start| self.take_at(PhysicalAddress(*start), bytes));
        found.map(PhysicalAddress)
    }

    fn take_at(&mut self, address: PhysicalAddress, bytes: u64) -> bool {
        assert!(address.0.is_multiple_of(bytes));
        let mut host = self.0.borrow_mut();
        let fits = Self::pages(address.0, bytes).all(|page| host.free.contains(&page));
        if fits {
            for page in Self::pages(address.0, bytes) {
                host.free.remove(&page);
                host.dirty.remove(&page);
            }
        }
        fits
    }

    fn give(&mut self, address: PhysicalAddress, bytes: u64) {
        let mut host = self.0.borrow_mut();
        for page in Self::pages(address.0, bytes) {
            assert!(host.free.insert(page), "{page:#x} was given twice");
        }
    }

    fn clear(&mut self, address: PhysicalAddress, bytes: u64) {
        let mut host = self.0.borrow_mut();
        for page in Self::pages(address.0, bytes) {
            assert!(!host.free.contains(&page), "{page:#x} is not the guest's any more");
            host.dirty.remove(&page);
        }
    }
}

struct Guest<F> {
    machine: Machine<F>,
    frames: Frames,
    map: GuestMap<F>,
}

impl<F: Format + Copy> Guest<F> {
    /// A guest with these pieces: guest address and length, at homes from [`HOME`] on.
    fn new(format: F, pieces: &[(u64, u64)]) -> Self {
        let machine = Machine::new(format);
        let table = PageTable::new(format, &mut machine.clone()).unwrap();
        machine.load_root(table.root());
        let pieces = pieces.iter().map(|(start, bytes)| Piece {
            guest: IntermediateAddress(*start),
            host: PhysicalAddress(HOME + start),
            bytes: *bytes,
        });
        let (mut tables, mut tlb) = (machine.clone(), machine.clone());
        let map = GuestMap::new(table, &mut tables, &mut tlb, pieces.collect()).unwrap();
        Guest { machine, frames: Frames::default(), map }
    }

    /// Calls an operation and checks what it left behind.
    fn call<R>(
        &mut self,
        operation: impl FnOnce(&mut GuestMap<F>, &mut Machine<F>, &mut Machine<F>, &mut Frames) -> R,
    ) -> R {
        let (mut tables, mut tlb) = (self.machine.clone(), self.machine.clone());
        let result = operation(&mut self.map, &mut tables, &mut tlb, &mut self.frames.clone());
        self.machine.check_quiescent();
        result
    }

    fn surrender(&mut self, pages: &[u64]) -> u64 {
        let pages = pages.iter().copied();
        self.call(|map, tables, tlb, frames| map.surrender(tables, tlb, frames, pages))
    }

    fn provide(&mut self, address: u64, whole: bool) -> Provided {
        let address = IntermediateAddress(address);
        self.call(|map, tables, tlb, frames| map.provide(tables, tlb, frames, address, whole))
    }

    fn scrub(&mut self, address: u64) {
        let address = IntermediateAddress(address);
        self.call(|map, tables, tlb, frames| map.scrub(tables, tlb, frames, address));
    }

    /// Host address of a guest's byte.
    fn at(&self, address: u64) -> Option<u64> {
        self.map.find(&self.machine, IntermediateAddress(address)).map(|(host, _)| host.0)
    }

    /// Bytes that follow an address in one block.
    fn room(&self, address: u64) -> u64 {
        self.map.find(&self.machine, IntermediateAddress(address)).unwrap().1
    }

    fn end(self) {
        let Guest { machine, frames, mut map } = self;
        let all: u64 = map.pieces().iter().map(|piece| piece.bytes).sum();
        let (absent, free) = (map.absent(), frames.free());
        map.release(&mut machine.clone(), &mut machine.clone(), &mut frames.clone());
        assert_eq!(frames.free(), free + all - absent);
        assert_eq!(machine.allocated_bytes(), map.table().table_bytes());
        assert!(map.table().vacant(&machine, IntermediateAddress(RAM)).is_some());
    }
}

/// 1 GiB in one block.
fn guest() -> Guest<crate::Vmsa> {
    Guest::new(kib4(), &[(RAM, RAM)])
}

#[test]
fn a_page_that_is_given_up_leaves_alone() {
    let mut guest = guest();
    assert_eq!(guest.surrender(&[RAM + 5 * PAGE]), PAGE);
    assert_eq!(
        (guest.at(RAM + 5 * PAGE), guest.frames.free(), guest.map.absent()),
        (None, PAGE, PAGE)
    );
    for neighbour in [RAM + 4 * PAGE, RAM + 6 * PAGE, RAM + BLOCK] {
        assert_eq!(guest.at(neighbour), Some(HOME + neighbour));
    }
    assert_eq!(guest.room(RAM + BLOCK), BLOCK, "the other blocks are whole");
    guest.end();
}

#[test]
fn what_is_named_twice_or_is_no_memory_is_left_out() {
    let mut guest = guest();
    let pages = [RAM + PAGE, 0, RAM + PAGE, 2 * RAM, !(PAGE - 1), RAM, RAM + 1];
    assert_eq!(guest.surrender(&pages), 2 * PAGE);
    assert_eq!(guest.surrender(&pages), 0);
    guest.end();
}

#[test]
fn all_that_was_given_up_comes_back_in_one_block() {
    let mut guest = guest();
    let pages: Vec<u64> = (0..512).map(|page| RAM + 3 * BLOCK + page * PAGE).rev().collect();
    assert_eq!(guest.surrender(&pages), BLOCK);
    for page in &pages {
        assert_eq!(guest.provide(*page, false), Provided::Present);
    }
    assert_eq!((guest.map.absent(), guest.frames.free()), (0, 0));
    assert_eq!(guest.room(RAM), RAM, "as before");
    assert_eq!(guest.at(RAM + 3 * BLOCK), Some(HOME + RAM + 3 * BLOCK));
    guest.end();
}

#[test]
fn a_touch_of_an_absent_block_brings_all_of_it() {
    let mut guest = guest();
    let pages: Vec<u64> = (0..512).map(|page| RAM + BLOCK + page * PAGE).collect();
    guest.surrender(&pages);
    assert_eq!(guest.provide(RAM + BLOCK + 0x1234, true), Provided::Present);
    assert_eq!((guest.map.absent(), guest.room(RAM)), (0, RAM));
    // Of a block of which something is left, a page.
    guest.surrender(&pages[1..]);
    assert_eq!(guest.provide(RAM + BLOCK + 7 * PAGE, true), Provided::Present);
    assert_eq!(guest.map.absent(), 510 * PAGE);
    guest.end();
}

#[test]
fn when_its_home_is_taken_a_page_comes_back_elsewhere() {
    let mut guest = guest();
    guest.surrender(&[RAM, RAM + PAGE]);
    assert!(guest.frames.take_at(PhysicalAddress(HOME + RAM), PAGE));
    assert_eq!(guest.provide(RAM, true), Provided::Present);
    assert_eq!(guest.at(RAM), Some(HOME + RAM + PAGE));
    assert_eq!(guest.provide(RAM + PAGE, true), Provided::Short);
    assert_eq!(guest.provide(2 * RAM, true), Provided::NotMemory);
    assert_eq!(guest.provide(RAM, true), Provided::Present, "it is there");
    guest.frames.lend(HOME + RAM, PAGE);
    assert_eq!(guest.provide(RAM + PAGE, true), Provided::Present);
    guest.end();
}

#[test]
fn without_memory_for_tables_a_guest_keeps_what_it_gives() {
    let mut guest = guest();
    guest.machine.set_budget(Some(1));
    assert_eq!(guest.surrender(&[RAM]), 0, "two tables are needed to split 1 GiB");
    assert_eq!((guest.at(RAM), guest.room(RAM)), (Some(HOME + RAM), RAM));
    guest.machine.set_budget(Some(2));
    // The second block has no table any more.
    assert_eq!(guest.surrender(&[RAM, RAM + PAGE, RAM + BLOCK, RAM + 2 * PAGE]), 3 * PAGE);
    guest.end();
}

#[test]
fn scrubbing_clears_whole_blocks_and_gives_up_broken_ones() {
    let mut guest = guest();
    let dirty = [HOME + RAM, HOME + RAM + BLOCK + PAGE];
    guest.frames.0.borrow_mut().dirty.extend(dirty);
    guest.surrender(&[RAM + BLOCK]);
    guest.scrub(RAM);
    guest.scrub(RAM + BLOCK);
    assert!(!guest.frames.0.borrow().dirty.contains(&dirty[0]));
    assert_eq!((guest.map.absent(), guest.frames.free()), (BLOCK, BLOCK));
    assert_eq!(guest.provide(RAM + BLOCK + PAGE, true), Provided::Present);
    assert!(guest.frames.0.borrow().dirty.is_empty());
    assert_eq!(guest.room(RAM), RAM);
    guest.end();
}

#[test]
fn a_larger_page_of_the_host_goes_when_all_of_it_is_named() {
    let mut guest = Guest::new(kib16(), &[(RAM, 64 << 20)]);
    let part = |page: u64| RAM + page * PAGE;
    assert_eq!(guest.surrender(&[part(0), part(1), part(2), part(4), part(5)]), 0);
    let pages: Vec<u64> = (2..13).map(part).collect();
    assert_eq!(guest.surrender(&pages), 8 * PAGE);
    assert_eq!(guest.at(part(3)), Some(HOME + part(3)));
    assert_eq!((guest.at(part(4)), guest.at(part(11))), (None, None));
    assert_eq!(guest.provide(part(5), true), Provided::Present);
    assert_eq!(guest.map.absent(), 4 * PAGE);
    guest.end();
}

#[derive(Clone, Debug)]
enum Op {
    Surrender(Vec<u64>),
    Provide(u64, bool),
    Scrub(u64),
    /// Somebody else takes a frame, or gives one back.
    Foreign(bool),
}

/// Bytes of memory in the sequences.
const SMALL: u64 = 4 * BLOCK;

fn op() -> impl Strategy<Value = Op> {
    let page = || (0..SMALL / PAGE + 8).prop_map(|page| RAM + page * PAGE);
    let run = (page(), 1u64..600)
        .prop_map(|(start, count)| (0..count).map(|page| start + page * PAGE).collect::<Vec<_>>());
    prop_oneof![
        proptest::collection::vec(page(), 1..90).prop_map(Op::Surrender),
        run.prop_map(Op::Surrender),
        (page(), any::<bool>()).prop_map(|(page, whole)| Op::Provide(page, whole)),
        (0..4u64).prop_map(|block| Op::Scrub(RAM + block * BLOCK)),
        any::<bool>().prop_map(Op::Foreign),
    ]
}

/// Whatever a guest gives up, touches and gives up again: it has what the model says, in frames of
/// its own, and no frame is lost.
fn sequence<F: Format + Copy>(format: F, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut guest = Guest::new(format, &[(RAM, SMALL)]);
    let mut absent = BTreeSet::new();
    let mut foreign = vec![];
    for op in ops {
        match op {
            Op::Surrender(pages) => {
                let new: BTreeSet<u64> =
                    pages.iter().copied().filter(|page| *page < RAM + SMALL).collect();
                let new: Vec<u64> = new.difference(&absent).copied().collect();
                prop_assert_eq!(guest.surrender(&pages), new.len() as u64 * PAGE);
                absent.extend(new);
            }
            Op::Provide(page, whole) => {
                let free = guest.frames.free();
                let expected = match page < RAM + SMALL {
                    false => Provided::NotMemory,
                    true if absent.contains(&page) && free == 0 => Provided::Short,
                    true => Provided::Present,
                };
                prop_assert_eq!(guest.provide(page, whole), expected);
                if expected == Provided::Present && absent.remove(&page) {
                    let block = page & !(BLOCK - 1);
                    let rest: Vec<u64> = (block..block + BLOCK).step_by(PAGE as usize).collect();
                    let others = rest.iter().filter(|other| **other != page);
                    if others.clone().all(|other| absent.contains(other))
                        && rest.iter().all(|other| guest.at(*other).is_some())
                    {
                        prop_assert!(whole);
                        rest.iter().for_each(|other| {
                            absent.remove(other);
                        });
                    }
                }
            }
            Op::Scrub(block) => {
                let pages: Vec<u64> = (block..block + BLOCK).step_by(PAGE as usize).collect();
                let broken = guest.at(block).is_none() || guest.room(block) < BLOCK;
                guest.scrub(block);
                if broken {
                    absent.extend(pages);
                }
            }
            Op::Foreign(true) => foreign.extend(guest.frames.take(PAGE)),
            Op::Foreign(false) => {
                if let Some(frame) = foreign.pop() {
                    guest.frames.give(frame, PAGE);
                }
            }
        }
        let mut owners = BTreeMap::new();
        for page in (RAM..RAM + SMALL).step_by(PAGE as usize) {
            let host = guest.at(page);
            prop_assert_eq!(host.is_none(), absent.contains(&page), "{:#x}", page);
            if let Some(host) = host {
                prop_assert_eq!(owners.insert(host, page), None, "two pages in {:#x}", host);
                prop_assert!(!guest.frames.0.borrow().free.contains(&host), "{:#x} is free", host);
            }
        }
        prop_assert_eq!(guest.map.absent(), absent.len() as u64 * PAGE);
        let gone = foreign.len() as u64 * PAGE;
        prop_assert_eq!(guest.frames.free() + gone, absent.len() as u64 * PAGE);
    }
    guest.end();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn memory_is_where_the_model_says(ops in proptest::collection::vec(op(), 1..24)) {
        sequence(kib4(), ops)?;
    }

    #[test]
    fn memory_is_where_the_model_says_on_pcs(ops in proptest::collection::vec(op(), 1..16)) {
        sequence(Ept, ops)?;
    }
}
