//! Changing entries: the only place that stores into a live table.
//!
//! The rules (Arm ARM D8.16, "TLB maintenance and break-before-make"):
//! * Invalid to valid needs no invalidation, only [`TlbMaintenance::publish`].
//! * Valid to invalid needs an invalidation before the memory behind it is reused. It is gathered
//!   over a whole operation.
//! * A change of permissions alone needs an invalidation after the store.
//! * Every other change from valid to valid is broken first: invalid, invalidate, then the new value.

use crate::layout::{Layout, Slot};
use crate::walk::{Tree, find};
use crate::{
    Entry, Error, Format, IntermediateAddress, Leaf, PhysicalAddress, TableMemory, TlbMaintenance,
};

/// An entry that no hardware takes for a valid one.
const INVALID: u64 = 0;
/// Marks the link in the first entry of a retired table. Beside an aligned address it leaves the
/// entry invalid in every format.
const LINK: u64 = 1 << 11;

/// Guest addresses whose cached entries are out of date.
#[derive(Clone, Copy)]
struct Stale {
    start: u64,
    end: u64,
    stride: u64,
    leaf_only: bool,
}

/// One operation's access to a tree. [`Editor::finish`] must end it.
pub(crate) struct Editor<'a, F, M, T> {
    pub(crate) format: &'a F,
    pub(crate) layout: Layout,
    root: PhysicalAddress,
    memory: &'a mut M,
    tlb: &'a mut T,
    /// Granules in use for tables.
    pages: &'a mut u64,
    stale: Option<Stale>,
    /// Unlinked tables that the next flush makes free, chained through their first entries.
    retired: Option<PhysicalAddress>,
    unpublished: bool,
}

impl<F: Format, M: TableMemory, T> Tree for Editor<'_, F, M, T> {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn root(&self) -> PhysicalAddress {
        self.root
    }

    fn entry(&self, slot: &Slot) -> Entry {
        self.format.decode(slot.level, self.memory.load(slot.entry))
    }
}

impl<'a, F: Format, M: TableMemory, T: TlbMaintenance> Editor<'a, F, M, T> {
    pub(crate) fn new(
        format: &'a F,
        layout: Layout,
        root: PhysicalAddress,
        pages: &'a mut u64,
        memory: &'a mut M,
        tlb: &'a mut T,
    ) -> Self {
        Self {
            format,
            layout,
            root,
            memory,
            tlb,
            pages,
            stale: None,
            retired: None,
            unpublished: false,
        }
    }

    /// Gives an entry its new value, with whatever the architecture asks for on the way.
    pub(crate) fn set(&mut self, slot: &Slot, new: Entry) {
        let old_value = self.memory.load(slot.entry);
        let new_value = self.encode(slot.level, &new);
        if old_value == new_value {
            return;
        }
        match (self.format.decode(slot.level, old_value), new) {
            (Entry::Invalid, Entry::Invalid) => {}
            (Entry::Invalid, Entry::Leaf(_) | Entry::Table(_)) => self.make(slot, new_value),
            (old, Entry::Invalid) => self.break_entry(slot, &old),
            (Entry::Leaf(old), Entry::Leaf(new)) if differs_in_permissions_only(&old, &new) => {
                self.memory.store(slot.entry, new_value);
                if revokes(&old, &new) || (F::CACHES_REFUSALS && revokes(&new, &old)) {
                    self.add_stale(slot, slot.span, true);
                }
            }
            (old, Entry::Leaf(_) | Entry::Table(_)) => {
                self.break_entry(slot, &old);
                self.make(slot, new_value);
            }
        }
    }

    fn make(&mut self, slot: &Slot, value: u64) {
        if self.stale.is_some_and(|stale| stale.start < slot.end() && slot.start < stale.end) {
            self.flush();
        }
        self.memory.store(slot.entry, value);
        self.unpublished = true;
    }

    fn break_entry(&mut self, slot: &Slot, old: &Entry) {
        self.memory.store(slot.entry, INVALID);
        match old {
            Entry::Table(_) => self.add_stale(slot, self.layout.granule(), false),
            Entry::Leaf(_) | Entry::Invalid => self.add_stale(slot, slot.span, true),
        }
    }

    fn add_stale(&mut self, slot: &Slot, stride: u64, leaf_only: bool) {
        let new = Stale { start: slot.start, end: slot.end(), stride, leaf_only };
        self.stale = Some(self.stale.map_or(new, |old| Stale {
            start: old.start.min(new.start),
            end: old.end.max(new.end),
            stride: old.stride.min(new.stride),
            leaf_only: old.leaf_only && new.leaf_only,
        }));
    }

    fn flush(&mut self) {
        if let Some(Stale { start, end, stride, leaf_only }) = self.stale.take() {
            let bytes = end.saturating_sub(start);
            if bytes.checked_div(stride).is_some_and(|steps| steps <= self.tlb.range_limit()) {
                self.tlb.invalidate_range(IntermediateAddress(start), bytes, stride, leaf_only);
            } else {
                self.tlb.invalidate_all();
            }
        }
        while let Some(table) = self.retired {
            let link = self.memory.load(table);
            self.retired = (link & LINK != 0).then_some(PhysicalAddress(link & !LINK));
            self.free(table);
        }
    }

    /// Ends the operation: nothing stale stays cached, nothing new stays unseen.
    pub(crate) fn finish(mut self) {
        self.flush();
        if self.unpublished {
            self.tlb.publish();
        }
    }

    fn encode(&self, level: u32, entry: &Entry) -> u64 {
        match entry {
            Entry::Invalid => INVALID,
            Entry::Leaf(leaf) => self.format.leaf(level, leaf),
            Entry::Table(table) => self.format.table(*table),
        }
    }

    fn table_bytes(&self) -> usize {
        usize::try_from(self.layout.granule()).unwrap_or(usize::MAX)
    }

    /// A zeroed table, not yet part of the tree.
    pub(crate) fn allocate(&mut self) -> Result<PhysicalAddress, Error> {
        let table = self.memory.allocate(self.table_bytes()).ok_or(Error::OutOfTableMemory)?;
        *self.pages = self.pages.saturating_add(1);
        Ok(table)
    }

    fn free(&mut self, table: PhysicalAddress) {
        let bytes = self.table_bytes();
        self.memory.free(table, bytes);
        *self.pages = self.pages.saturating_sub(1);
    }

    /// Gives up a table of `level` that was just unlinked, with all tables below it. They are freed
    /// once no CPU can have a way to them.
    pub(crate) fn retire(&mut self, table: PhysicalAddress, level: u32) {
        if let Some(below) = level.checked_sub(1) {
            for entry in self.layout.entries_of(table, level) {
                if let Entry::Table(child) = self.format.decode(level, self.memory.load(entry)) {
                    self.retire(child, below);
                }
            }
        }
        let link = self.retired.map_or(INVALID, |next| next.0 | LINK);
        self.memory.store(table, link);
        self.retired = Some(table);
    }

    pub(crate) fn is_empty(&self, table: PhysicalAddress, level: u32) -> bool {
        self.layout
            .entries_of(table, level)
            .all(|entry| self.format.decode(level, self.memory.load(entry)) == Entry::Invalid)
    }

    /// Replaces a leaf above level 0 by a table of leaves that mean the same.
    pub(crate) fn split(&mut self, slot: &Slot, leaf: Leaf) -> Result<(), Error> {
        let below = slot.level.checked_sub(1).ok_or(Error::InvalidFormat)?;
        let table = self.allocate()?;
        let mut part = leaf;
        for entry in self.layout.entries_of(table, below) {
            self.memory.store(entry, self.format.leaf(below, &part));
            part.address.0 = part.address.0.saturating_add(self.layout.span(below));
        }
        self.set(slot, Entry::Table(table));
        Ok(())
    }

    /// Splits until no leaf that `concerned` holds for lies on both sides of `boundary`.
    pub(crate) fn split_at(
        &mut self,
        boundary: u64,
        concerned: impl Fn(&Leaf) -> bool,
    ) -> Result<(), Error> {
        while let Some((slot, leaf)) = find(self, boundary) {
            if slot.start == boundary || !concerned(&leaf) {
                break;
            }
            self.split(&slot, leaf)?;
        }
        Ok(())
    }

    /// Splits until the smallest page at `address` has an entry of its own, and gives that.
    pub(crate) fn split_to_page(&mut self, address: u64) -> Result<Option<(Slot, Leaf)>, Error> {
        loop {
            match find(self, address) {
                Some((slot, leaf)) if slot.level > 0 => self.split(&slot, leaf)?,
                found => return Ok(found),
            }
        }
    }

    /// The leaf that says the same as the whole table under `slot`, if there is one.
    pub(crate) fn merged(&self, slot: &Slot, child: PhysicalAddress) -> Option<Leaf> {
        let below = slot.level.checked_sub(1)?;
        if !self.format.leaf_at(slot.level) {
            return None;
        }
        let decode = |entry| self.format.decode(below, self.memory.load(entry));
        let Entry::Leaf(first) = decode(child) else { return None };
        if first.address.0 & slot.span.saturating_sub(1) != 0 {
            return None;
        }
        let mut expected = first;
        for entry in self.layout.entries_of(child, below) {
            if decode(entry) != Entry::Leaf(expected) {
                return None;
            }
            expected.address.0 = expected.address.0.saturating_add(self.layout.span(below));
        }
        Some(first)
    }
}

/// Whether one entry can take the other's place without a break.
fn differs_in_permissions_only(old: &Leaf, new: &Leaf) -> bool {
    old.address == new.address && old.attributes.memory == new.attributes.memory
}

/// Whether `new` forbids the hardware something that `old` allowed.
fn revokes(old: &Leaf, new: &Leaf) -> bool {
    (old.attributes.read && !new.attributes.read)
        || (old.writable() && !new.writable())
        || (old.attributes.execute && !new.attributes.execute)
}
