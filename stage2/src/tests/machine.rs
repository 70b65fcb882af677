//! A machine that checks what is done to its tables.
//!
//! Its TLB is the worst one that the architecture allows: it holds every entry from the moment that
//! a walk could reach it, and lets go of it only when told to and when it is out of date. Stores
//! that clash with what it holds are violations, as are tables freed while it knows a way to them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::layout::Layout;
use crate::{
    Entry, Format, IntermediateAddress, Leaf, PhysicalAddress, TableMemory, TlbMaintenance,
};

/// Where tables come from.
const FIRST_TABLE: u64 = 0x1000_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cached {
    /// Where the entry was read from.
    entry: u64,
    value: u64,
}

/// Which part of the tree a page of tables is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Linked {
    level: u32,
    start: u64,
}

struct State<F> {
    format: F,
    layout: Layout,
    /// Granule-sized pages that are allocated, by address.
    pages: HashMap<u64, Vec<u64>>,
    sizes: HashMap<u64, usize>,
    free: Vec<(u64, usize)>,
    next: u64,
    /// Allocations until memory runs out.
    budget: Option<usize>,
    /// Pages that a walk from the root reaches.
    linked: HashMap<u64, Linked>,
    /// What the TLB holds, by level and first guest address.
    cached: BTreeMap<(u32, u64), Vec<Cached>>,
    unpublished: bool,
    ranges: usize,
    flushes: usize,
}

/// A handle; clones are the same machine.
pub(super) struct Machine<F>(Rc<RefCell<State<F>>>);

impl<F> Clone for Machine<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<F: Format + Copy> Machine<F> {
    pub(super) fn new(format: F) -> Self {
        Self(Rc::new(RefCell::new(State {
            format,
            layout: Layout::of(&format).unwrap(),
            pages: HashMap::new(),
            sizes: HashMap::new(),
            free: vec![],
            next: FIRST_TABLE,
            budget: None,
            linked: HashMap::new(),
            cached: BTreeMap::new(),
            unpublished: false,
            ranges: 0,
            flushes: 0,
        })))
    }

    /// The control register is loaded: walks start at `root`.
    pub(super) fn load_root(&self, root: PhysicalAddress) {
        let mut state = self.0.borrow_mut();
        let level = state.layout.root_level();
        let granule = state.layout.granule();
        let span = granule / 8 * state.layout.span(level);
        for page in 0..state.layout.root_pages() {
            let start = page * span;
            state.linked.insert(root.0 + page * granule, Linked { level, start });
        }
    }

    /// The control register is loaded with something else.
    pub(super) fn unload_root(&self) {
        let mut state = self.0.borrow_mut();
        state.linked.clear();
        state.cached.clear();
    }

    pub(super) fn set_budget(&self, allocations: Option<usize>) {
        self.0.borrow_mut().budget = allocations;
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        let state = self.0.borrow();
        state.pages.len() as u64 * state.layout.granule()
    }

    /// Invalidations of ranges and of everything since the last call.
    pub(super) fn take_invalidations(&self) -> (usize, usize) {
        let mut state = self.0.borrow_mut();
        (std::mem::take(&mut state.ranges), std::mem::take(&mut state.flushes))
    }

    /// After an operation: all that the TLB holds is true, and all that is true is visible.
    pub(super) fn check_quiescent(&self) {
        let state = self.0.borrow();
        assert!(!state.unpublished, "a new entry was not published");
        for (&(level, start), entries) in &state.cached {
            for cached in entries {
                assert!(
                    state.is_true(level, start, cached),
                    "level {level} {start:#x}: {cached:#x?} is still cached, the table says {:#x?}",
                    state.load(cached.entry),
                );
            }
        }
    }
}

impl<F: Format> State<F> {
    fn page_of(&self, entry: u64) -> u64 {
        entry & !(self.layout.granule() - 1)
    }

    fn load(&self, entry: u64) -> Option<u64> {
        let page = self.page_of(entry);
        self.pages.get(&page).map(|words| words[((entry - page) / 8) as usize])
    }

    fn decode(&self, level: u32, value: u64) -> Entry {
        self.format.decode(level, value)
    }

    /// Whether the table still says what the TLB holds, as far as hardware can tell.
    fn is_true(&self, level: u32, start: u64, cached: &Cached) -> bool {
        let page = self.page_of(cached.entry);
        let Some(linked) = self.linked.get(&page) else { return false };
        let index = (cached.entry - page) / 8;
        if linked.level != level || linked.start + index * self.layout.span(level) != start {
            return false;
        }
        let now = self.load(cached.entry).unwrap();
        match (self.decode(level, cached.value), self.decode(level, now)) {
            (Entry::Leaf(old), Entry::Leaf(new)) => {
                let permits =
                    |leaf: &Leaf| [leaf.attributes.read, leaf.writable(), leaf.attributes.execute];
                let permissions = if F::CACHES_REFUSALS {
                    permits(&old) == permits(&new)
                } else {
                    permits(&old).iter().zip(permits(&new)).all(|(old, new)| !old | new)
                };
                old.address == new.address
                    && old.attributes.memory == new.attributes.memory
                    && permissions
            }
            (Entry::Table(old), Entry::Table(new)) => old == new,
            (Entry::Leaf(_) | Entry::Table(_) | Entry::Invalid, _) => false,
        }
    }

    /// A walk can see `value` at `entry` from now on, and so the TLB holds it.
    fn reach(&mut self, level: u32, start: u64, entry: u64, value: u64) {
        let new = self.decode(level, value);
        if new == Entry::Invalid {
            return;
        }
        let span = self.layout.span(level);
        for other in 0..=self.layout.root_level() {
            let from = start & !(self.layout.span(other) - 1);
            for (&(_, at), held) in self.cached.range((other, from)..(other, start + span)) {
                for cached in held {
                    let old = self.decode(other, cached.value);
                    let clash = match (old, new) {
                        (Entry::Leaf(old), Entry::Leaf(new)) => {
                            cached.entry != entry
                                || old.address != new.address
                                || old.attributes.memory != new.attributes.memory
                        }
                        (Entry::Table(old), Entry::Table(new)) => {
                            other == level && (cached.entry != entry || old != new)
                        }
                        (Entry::Leaf(_), Entry::Table(_)) => other >= level,
                        (Entry::Table(_), Entry::Leaf(_)) => level >= other,
                        (Entry::Invalid, _) | (_, Entry::Invalid) => true,
                    };
                    assert!(
                        !clash,
                        "no break before make: level {level} {start:#x} becomes {new:x?} while level \
                         {other} {at:#x} is cached as {old:x?}"
                    );
                }
            }
        }
        let cached = Cached { entry, value };
        let held = self.cached.entry((level, start)).or_default();
        if !held.contains(&cached) {
            held.push(cached);
        }
        if let Entry::Table(child) = new {
            let old = self.linked.insert(child.0, Linked { level: level - 1, start });
            assert_eq!(old, None, "a table has two parents");
            for index in 0..self.pages[&child.0].len() as u64 {
                let entry = child.0 + index * 8;
                let value = self.load(entry).unwrap();
                self.reach(level - 1, start + index * self.layout.span(level - 1), entry, value);
            }
        }
    }

    /// A walk from the root finds `table` no more.
    fn unlink(&mut self, table: u64, level: u32) {
        self.linked.remove(&table);
        for value in self.pages[&table].clone() {
            if let Entry::Table(child) = self.decode(level, value) {
                self.unlink(child.0, level - 1);
            }
        }
    }

    fn store(&mut self, entry: u64, value: u64) {
        let page = self.page_of(entry);
        let old = self.load(entry).expect("a store outside all tables");
        self.pages.get_mut(&page).unwrap()[((entry - page) / 8) as usize] = value;
        if old == value {
            return;
        }
        if let Some(&Linked { level, start }) = self.linked.get(&page) {
            let start = start + (entry - page) / 8 * self.layout.span(level);
            let (before, after) = (self.decode(level, old), self.decode(level, value));
            if let Entry::Table(child) = before
                && before != after
            {
                self.unlink(child.0, level - 1);
            }
            if before == Entry::Invalid {
                self.unpublished = true;
            }
            self.reach(level, start, entry, value);
        } else if self.is_known(page) {
            for level in 0..=self.layout.root_level() {
                let after = self.decode(level, value);
                assert_eq!(after, Entry::Invalid, "a walker may still read this table");
            }
        }
    }

    /// Whether the TLB holds a way to `page` or something that came from it.
    fn is_known(&self, page: u64) -> bool {
        self.cached.iter().any(|(&(level, _), held)| {
            held.iter().any(|cached| {
                self.page_of(cached.entry) == page
                    || self.decode(level, cached.value) == Entry::Table(PhysicalAddress(page))
            })
        })
    }

    fn invalidate(&mut self, stale: impl Fn(u32, u64, Entry) -> bool) {
        let mut cached = std::mem::take(&mut self.cached);
        cached.retain(|&(level, start), held| {
            // What is true may be read again at once.
            held.retain(|cached| {
                self.is_true(level, start, cached)
                    || !stale(level, start, self.decode(level, cached.value))
            });
            !held.is_empty()
        });
        self.cached = cached;
    }
}

impl<F: Format> TableMemory for Machine<F> {
    fn allocate(&mut self, bytes: usize) -> Option<PhysicalAddress> {
        let mut state = self.0.borrow_mut();
        if let Some(budget) = &mut state.budget {
            *budget = budget.checked_sub(1)?;
        }
        assert!(bytes.is_power_of_two() && (1 << 12..=1 << 18).contains(&bytes));
        // The last one that was freed first: that is what finds dangling ways to it.
        let found = state.free.iter().rposition(|(_, size)| *size == bytes);
        let table = match found {
            Some(index) => state.free.remove(index).0,
            None => {
                let table = state.next.next_multiple_of(bytes as u64);
                state.next = table + bytes as u64;
                table
            }
        };
        let granule = state.layout.granule();
        for page in (table..table + bytes as u64).step_by(granule as usize) {
            state.pages.insert(page, vec![0; granule as usize / 8]);
        }
        state.sizes.insert(table, bytes);
        Some(PhysicalAddress(table))
    }

    fn free(&mut self, table: PhysicalAddress, bytes: usize) {
        let mut state = self.0.borrow_mut();
        let size = state.sizes.remove(&table.0);
        assert_eq!(size, Some(bytes), "{table} was not allocated with this size");
        let granule = state.layout.granule();
        for page in (table.0..table.0 + bytes as u64).step_by(granule as usize) {
            assert!(!state.linked.contains_key(&page), "a freed table is still in use");
            assert!(!state.is_known(page), "a freed table is still cached");
            state.pages.remove(&page);
        }
        state.free.push((table.0, bytes));
    }

    fn load(&self, entry: PhysicalAddress) -> u64 {
        self.0.borrow().load(entry.0).expect("a load outside all tables")
    }

    fn store(&mut self, entry: PhysicalAddress, value: u64) {
        self.0.borrow_mut().store(entry.0, value);
    }
}

impl<F: Format> TlbMaintenance for Machine<F> {
    fn invalidate_range(
        &mut self,
        start: IntermediateAddress,
        bytes: u64,
        stride: u64,
        leaf_only: bool,
    ) {
        let mut state = self.0.borrow_mut();
        assert!(stride.is_power_of_two() && stride >= state.layout.granule());
        assert!(bytes > 0 && bytes / stride <= 512, "too many steps for a range");
        state.ranges += 1;
        let spans: Vec<_> =
            (0..=state.layout.root_level()).map(|level| state.layout.span(level)).collect();
        state.invalidate(|level, at, entry| {
            // The first step that does not lie before the entry.
            let steps = at.saturating_sub(start.0).div_ceil(stride);
            let step = start.0 + steps * stride;
            let hit = step < at + spans[level as usize] && step < start.0 + bytes;
            hit && (!leaf_only || matches!(entry, Entry::Leaf(_)))
        });
        state.unpublished = false;
    }

    fn invalidate_all(&mut self) {
        let mut state = self.0.borrow_mut();
        state.flushes += 1;
        state.invalidate(|_, _, _| true);
        state.unpublished = false;
    }

    fn publish(&mut self) {
        self.0.borrow_mut().unpublished = false;
    }
}
