//! The one radix walker.

use crate::layout::{Layout, Range, Slot};
use crate::{Entry, Error, Format, Leaf, PhysicalAddress, TableMemory};

/// Something that can be walked.
pub(crate) trait Tree {
    fn layout(&self) -> Layout;
    fn root(&self) -> PhysicalAddress;
    fn entry(&self, slot: &Slot) -> Entry;
}

/// What the walker does after a visit.
pub(crate) enum Step {
    /// Go on with the next entry.
    Next,
    /// Walk the table that the entry points to now, then go on.
    Descend,
}

/// What to do at the entries of a range.
pub(crate) trait Visitor<T: Tree> {
    /// Sees an entry that intersects the range, parents before children. It may change the entry.
    fn visit(&mut self, tree: &mut T, slot: &Slot, entry: Entry) -> Result<Step, Error>;

    /// Sees the entry that points to `child` after all visits below it.
    fn leave(&mut self, _tree: &mut T, _slot: &Slot, _child: PhysicalAddress) {}
}

/// Visits all entries of `tree` that intersect `range`, in the order of addresses.
pub(crate) fn walk<T: Tree>(
    tree: &mut T,
    range: Range,
    visitor: &mut impl Visitor<T>,
) -> Result<(), Error> {
    let (root, level) = (tree.root(), tree.layout().root_level());
    walk_table(tree, root, level, range, visitor)
}

/// The recursion ends at level 0, so it is at most five deep.
fn walk_table<T: Tree>(
    tree: &mut T,
    table: PhysicalAddress,
    level: u32,
    range: Range,
    visitor: &mut impl Visitor<T>,
) -> Result<(), Error> {
    let layout = tree.layout();
    let mut address = range.start;
    while address < range.end {
        let slot = layout.slot(table, level, address);
        let entry = tree.entry(&slot);
        if let Step::Descend = visitor.visit(tree, &slot, entry)?
            && let Some(below) = level.checked_sub(1)
            && let Entry::Table(child) = tree.entry(&slot)
        {
            let part = Range { start: address, end: range.end.min(slot.end()) };
            walk_table(tree, child, below, part, visitor)?;
            visitor.leave(tree, &slot, child);
        }
        address = slot.end();
    }
    Ok(())
}

/// The leaf that translates `address`, by the shortest way.
pub(crate) fn find<T: Tree>(tree: &T, address: u64) -> Option<(Slot, Leaf)> {
    let layout = tree.layout();
    if address >= layout.input_end() {
        return None;
    }
    let mut table = tree.root();
    for level in (0..=layout.root_level()).rev() {
        let slot = layout.slot(table, level, address);
        match tree.entry(&slot) {
            Entry::Invalid => return None,
            Entry::Leaf(leaf) => return Some((slot, leaf)),
            Entry::Table(child) => table = child,
        }
    }
    None
}

/// A tree that is only read.
pub(crate) struct View<'a, F, M> {
    pub(crate) format: &'a F,
    pub(crate) layout: Layout,
    pub(crate) root: PhysicalAddress,
    pub(crate) memory: &'a M,
}

impl<F: Format, M: TableMemory> Tree for View<'_, F, M> {
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
