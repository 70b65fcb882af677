//! A virtual machine's table: mapping, unmapping, permissions.

use crate::editor::Editor;
use crate::layout::{Layout, Range, Slot};
use crate::walk::{Step, Tree, View, Visitor, find, walk};
use crate::{
    Attributes, Entry, Error, Format, IntermediateAddress, Leaf, PhysicalAddress, TableMemory,
    TlbMaintenance,
};

/// What [`PageTable::translate`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The physical address that the asked address translates to (not rounded to a page).
    pub address: PhysicalAddress,
    /// What the guest is entitled to; see [`writable`](Mapping::writable).
    pub attributes: Attributes,
    /// Bytes that the leaf maps: the size of a page or block.
    pub size: u64,
    /// Whether the hardware lets a write through now. False although `attributes.write` is true
    /// means that sharing or the dirty log wants to see the write first
    /// ([`PageTable::write_fault`]).
    pub writable: bool,
    /// The page is shared copy-on-write.
    pub shared: bool,
}

/// The translation table of one virtual machine.
///
/// Every method that edits it takes the [`TableMemory`] that holds its tables and the
/// [`TlbMaintenance`] of the CPUs that walk it; both must be the same ones always. When a method
/// returns, all CPUs see the outcome. A [`PageTable`] that is dropped without
/// [`destroy`](PageTable::destroy) leaks its tables.
#[derive(Debug)]
pub struct PageTable<F> {
    format: F,
    layout: Layout,
    root: PhysicalAddress,
    /// Granules in use for tables.
    pages: u64,
}

impl<F: Format> PageTable<F> {
    /// An empty table.
    ///
    /// # Errors
    /// [`Error::InvalidFormat`], [`Error::OutOfTableMemory`].
    pub fn new(format: F, memory: &mut impl TableMemory) -> Result<Self, Error> {
        let layout = Layout::of(&format)?;
        let bytes = usize::try_from(layout.root_bytes()).map_err(|_| Error::InvalidFormat)?;
        let root = memory.allocate(bytes).ok_or(Error::OutOfTableMemory)?;
        Ok(Self { format, layout, root, pages: layout.root_pages() })
    }

    /// Address of the root, for the control register (`VTTBR_EL2`, EPTP, nCR3).
    pub fn root(&self) -> PhysicalAddress {
        self.root
    }

    /// The format of the entries.
    pub fn format(&self) -> &F {
        &self.format
    }

    /// Bytes in use for tables, the root's included.
    pub fn table_bytes(&self) -> u64 {
        self.pages.saturating_mul(self.layout.granule())
    }

    /// Maps `bytes` from `start` to the memory from `target`, by the largest leaves that the
    /// alignment of both allows. Nothing of the range may be mapped yet.
    ///
    /// # Errors
    /// [`Error::Overlap`], [`Error::OutOfTableMemory`], [`Error::Misaligned`],
    /// [`Error::OutOfInputRange`], [`Error::OutOfOutputRange`], [`Error::UnsupportedAttributes`].
    pub fn map(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        target: PhysicalAddress,
        bytes: u64,
        attributes: Attributes,
    ) -> Result<(), Error> {
        self.map_leaf(memory, tlb, start, bytes, Leaf::new(target, attributes))
    }

    /// As [`map`](PageTable::map), with all that a leaf can say; `leaf.address` is the target.
    pub(crate) fn map_leaf(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        bytes: u64,
        leaf: Leaf,
    ) -> Result<(), Error> {
        let range = self.layout.range(start, bytes)?;
        self.layout.check_output(leaf.address, bytes)?;
        if !self.format.expresses(leaf.attributes) {
            return Err(Error::UnsupportedAttributes);
        }
        walk(&mut self.view(memory), range, &mut RefuseMapped)?;
        self.edit(memory, tlb, |editor| {
            let mapped = walk(editor, range, &mut Map { range, leaf });
            if mapped.is_err() {
                // All of the range was free before, so all that is there now is our own.
                walk(editor, range, &mut Unmap { range })?;
            }
            mapped
        })
    }

    /// Unmaps `bytes` from `start`; holes in the range are no error. Blocks that reach over an end of
    /// the range are split, tables that become empty are freed.
    ///
    /// # Errors
    /// [`Error::OutOfTableMemory`] (only if a block must be split), [`Error::Misaligned`],
    /// [`Error::OutOfInputRange`].
    pub fn unmap(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        bytes: u64,
    ) -> Result<(), Error> {
        let range = self.layout.range(start, bytes)?;
        self.edit(memory, tlb, |editor| {
            isolate(editor, range, |_| true)?;
            walk(editor, range, &mut Unmap { range })
        })
    }

    /// Unmaps `bytes` from each of `starts`, in this order, with one invalidation for all of them.
    /// Gives how many are done: fewer than all when memory for splitting a block runs out or a range
    /// is not one that [`unmap`](PageTable::unmap) takes. The others are as they were.
    pub fn unmap_each(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        starts: impl IntoIterator<Item = IntermediateAddress>,
        bytes: u64,
    ) -> usize {
        let layout = self.layout;
        self.edit(memory, tlb, |editor| {
            let unmapped = starts.into_iter().map_while(|start| {
                let range = layout.range(start, bytes).ok()?;
                isolate(editor, range, |_| true).ok()?;
                walk(editor, range, &mut Unmap { range }).ok()
            });
            unmapped.count()
        })
    }

    /// Gives all that is mapped in `bytes` from `start` new attributes; holes in the range are no
    /// error. Blocks that reach over an end of the range are split. Sharing and dirty log go on.
    ///
    /// # Errors
    /// [`Error::OutOfTableMemory`] (only if a block must be split), [`Error::Misaligned`],
    /// [`Error::OutOfInputRange`], [`Error::UnsupportedAttributes`].
    pub fn protect(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        bytes: u64,
        attributes: Attributes,
    ) -> Result<(), Error> {
        if !self.format.expresses(attributes) {
            return Err(Error::UnsupportedAttributes);
        }
        self.update(
            memory,
            tlb,
            start,
            bytes,
            |leaf| leaf.attributes != attributes,
            |_, leaf| Leaf { attributes, ..leaf },
        )
    }

    /// Replaces complete tables whose entries map adjacent memory alike by blocks, wherever such a
    /// table touches the range. Gives the number of bytes of tables that it freed.
    ///
    /// # Errors
    /// [`Error::Misaligned`], [`Error::OutOfInputRange`].
    pub fn coalesce(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        bytes: u64,
    ) -> Result<u64, Error> {
        let range = self.layout.range(start, bytes)?;
        let before = self.table_bytes();
        self.edit(memory, tlb, |editor| walk(editor, range, &mut Coalesce))?;
        Ok(before.saturating_sub(self.table_bytes()))
    }

    /// Looks an address up: at most one load for each level, no allocation, no error.
    pub fn translate(
        &self,
        memory: &impl TableMemory,
        address: IntermediateAddress,
    ) -> Option<Mapping> {
        find(&self.view(memory), address.0).map(|(slot, leaf)| mapping(&slot, &leaf, address.0))
    }

    /// Bytes of the entry without meaning that a walk for `address` ends at; `None` where it ends at a
    /// leaf or `address` is no address of the guest.
    pub fn vacant(&self, memory: &impl TableMemory, address: IntermediateAddress) -> Option<u64> {
        let view = self.view(memory);
        let mut table = self.root;
        if address.0 >= self.layout.input_end() {
            return None;
        }
        for level in (0..=self.layout.root_level()).rev() {
            let slot = self.layout.slot(table, level, address.0);
            match view.entry(&slot) {
                Entry::Invalid => return Some(slot.span),
                Entry::Leaf(_) => return None,
                Entry::Table(child) => table = child,
            }
        }
        None
    }

    /// Calls `see` for each leaf that intersects the range, in the order of addresses, with the first
    /// address of the leaf (which can lie before the range).
    ///
    /// # Errors
    /// [`Error::Misaligned`], [`Error::OutOfInputRange`].
    pub fn for_each_mapping(
        &self,
        memory: &impl TableMemory,
        start: IntermediateAddress,
        bytes: u64,
        see: impl FnMut(IntermediateAddress, Mapping),
    ) -> Result<(), Error> {
        let range = self.layout.range(start, bytes)?;
        walk(&mut self.view(memory), range, &mut See { see })
    }

    /// Unmaps everything and frees all tables. No CPU may have the root in its control register any
    /// more, or be about to load it.
    pub fn destroy(mut self, memory: &mut impl TableMemory, tlb: &mut impl TlbMaintenance) {
        let all = Range { start: 0, end: self.layout.input_end() };
        // `Unmap` has no way to fail, and without the table there is nothing left to report on.
        let _ = self.edit(memory, tlb, |editor| walk(editor, all, &mut Unmap { range: all }));
        if let Ok(bytes) = usize::try_from(self.layout.root_bytes()) {
            memory.free(self.root, bytes);
        }
    }

    /// Applies `change` to the leaves of a range that `concerned` holds for, once each, splitting
    /// those that reach over an end of the range.
    pub(crate) fn update(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        bytes: u64,
        concerned: impl Fn(&Leaf) -> bool,
        change: impl FnMut(&Slot, Leaf) -> Leaf,
    ) -> Result<(), Error> {
        let range = self.layout.range(start, bytes)?;
        self.edit(memory, tlb, |editor| {
            isolate(editor, range, &concerned)?;
            walk(editor, range, &mut Update { concerned, change })
        })
    }

    /// Runs one operation on the live table, and ends it properly whether or not it failed.
    pub(crate) fn edit<M: TableMemory, T: TlbMaintenance, R>(
        &mut self,
        memory: &mut M,
        tlb: &mut T,
        operation: impl FnOnce(&mut Editor<'_, F, M, T>) -> R,
    ) -> R {
        let mut editor =
            Editor::new(&self.format, self.layout, self.root, &mut self.pages, memory, tlb);
        let result = operation(&mut editor);
        editor.finish();
        result
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn view<'a, M: TableMemory>(&'a self, memory: &'a M) -> View<'a, F, M> {
        View { format: &self.format, layout: self.layout, root: self.root, memory }
    }
}

pub(crate) fn mapping(slot: &Slot, leaf: &Leaf, address: u64) -> Mapping {
    Mapping {
        address: PhysicalAddress(leaf.address.0.saturating_add(address.saturating_sub(slot.start))),
        attributes: leaf.attributes,
        size: slot.span,
        writable: leaf.writable(),
        shared: leaf.shared,
    }
}

/// Splits the leaves that `concerned` holds for at both ends of `range`. If memory runs out, puts
/// them together again.
fn isolate<F: Format, M: TableMemory, T: TlbMaintenance>(
    editor: &mut Editor<'_, F, M, T>,
    range: Range,
    concerned: impl Fn(&Leaf) -> bool,
) -> Result<(), Error> {
    let result = [range.start, range.end]
        .into_iter()
        .try_for_each(|boundary| editor.split_at(boundary, &concerned));
    if result.is_err() {
        for boundary in [range.start, range.end] {
            merge_at(editor, boundary)?;
        }
    }
    result
}

/// Merges what can be merged of the tables on the way to `address`.
pub(crate) fn merge_at<F: Format, M: TableMemory, T: TlbMaintenance>(
    editor: &mut Editor<'_, F, M, T>,
    address: u64,
) -> Result<(), Error> {
    if address >= editor.layout.input_end() {
        return Ok(());
    }
    walk(editor, Range { start: address, end: address.saturating_add(1) }, &mut Coalesce)
}

/// Fails at the first mapping.
struct RefuseMapped;

impl<T: Tree> Visitor<T> for RefuseMapped {
    fn visit(&mut self, _: &mut T, slot: &Slot, entry: Entry) -> Result<Step, Error> {
        match entry {
            Entry::Invalid => Ok(Step::Next),
            Entry::Leaf(_) => Err(Error::Overlap { at: IntermediateAddress(slot.start) }),
            Entry::Table(_) => Ok(Step::Descend),
        }
    }
}

/// Fills a range that has no mapping.
struct Map {
    range: Range,
    /// The leaf for the first address of the range.
    leaf: Leaf,
}

impl<F: Format, M: TableMemory, T: TlbMaintenance> Visitor<Editor<'_, F, M, T>> for Map {
    fn visit(
        &mut self,
        editor: &mut Editor<'_, F, M, T>,
        slot: &Slot,
        entry: Entry,
    ) -> Result<Step, Error> {
        match entry {
            Entry::Invalid => {
                let offset = slot.start.wrapping_sub(self.range.start);
                let address = self.leaf.address.0.wrapping_add(offset);
                let aligned = address & slot.span.wrapping_sub(1) == 0;
                if self.range.contains(slot) && aligned && editor.format.leaf_at(slot.level) {
                    let leaf = Leaf { address: PhysicalAddress(address), ..self.leaf };
                    editor.set(slot, Entry::Leaf(leaf));
                    Ok(Step::Next)
                } else {
                    let table = editor.allocate()?;
                    editor.set(slot, Entry::Table(table));
                    Ok(Step::Descend)
                }
            }
            Entry::Leaf(_) => Err(Error::Overlap { at: IntermediateAddress(slot.start) }),
            Entry::Table(_) => Ok(Step::Descend),
        }
    }
}

/// Clears a range at whose ends no leaf reaches over.
struct Unmap {
    range: Range,
}

impl<F: Format, M: TableMemory, T: TlbMaintenance> Visitor<Editor<'_, F, M, T>> for Unmap {
    fn visit(
        &mut self,
        editor: &mut Editor<'_, F, M, T>,
        slot: &Slot,
        entry: Entry,
    ) -> Result<Step, Error> {
        match (entry, slot.level.checked_sub(1)) {
            (Entry::Table(child), Some(below)) if self.range.contains(slot) => {
                editor.set(slot, Entry::Invalid);
                editor.retire(child, below);
                Ok(Step::Next)
            }
            (Entry::Table(_), _) => Ok(Step::Descend),
            (Entry::Leaf(_) | Entry::Invalid, _) => {
                editor.set(slot, Entry::Invalid);
                Ok(Step::Next)
            }
        }
    }

    fn leave(&mut self, editor: &mut Editor<'_, F, M, T>, slot: &Slot, child: PhysicalAddress) {
        if let Some(below) = slot.level.checked_sub(1)
            && editor.is_empty(child, below)
        {
            editor.set(slot, Entry::Invalid);
            editor.retire(child, below);
        }
    }
}

/// Changes the leaves of a range at whose ends no leaf reaches over.
struct Update<P, C> {
    concerned: P,
    change: C,
}

impl<F, M, T, P, C> Visitor<Editor<'_, F, M, T>> for Update<P, C>
where
    F: Format,
    M: TableMemory,
    T: TlbMaintenance,
    P: Fn(&Leaf) -> bool,
    C: FnMut(&Slot, Leaf) -> Leaf,
{
    fn visit(
        &mut self,
        editor: &mut Editor<'_, F, M, T>,
        slot: &Slot,
        entry: Entry,
    ) -> Result<Step, Error> {
        match entry {
            Entry::Leaf(leaf) if (self.concerned)(&leaf) => {
                editor.set(slot, Entry::Leaf((self.change)(slot, leaf)));
                Ok(Step::Next)
            }
            Entry::Leaf(_) | Entry::Invalid => Ok(Step::Next),
            Entry::Table(_) => Ok(Step::Descend),
        }
    }
}

/// Merges, from the leaves upwards.
struct Coalesce;

impl<F: Format, M: TableMemory, T: TlbMaintenance> Visitor<Editor<'_, F, M, T>> for Coalesce {
    fn visit(
        &mut self,
        _: &mut Editor<'_, F, M, T>,
        _: &Slot,
        entry: Entry,
    ) -> Result<Step, Error> {
        Ok(match entry {
            Entry::Table(_) => Step::Descend,
            Entry::Leaf(_) | Entry::Invalid => Step::Next,
        })
    }

    fn leave(&mut self, editor: &mut Editor<'_, F, M, T>, slot: &Slot, child: PhysicalAddress) {
        if let Some(leaf) = editor.merged(slot, child)
            && let Some(below) = slot.level.checked_sub(1)
        {
            editor.set(slot, Entry::Leaf(leaf));
            editor.retire(child, below);
        }
    }
}

/// Reports leaves.
struct See<C> {
    see: C,
}

impl<T: Tree, C: FnMut(IntermediateAddress, Mapping)> Visitor<T> for See<C> {
    fn visit(&mut self, _: &mut T, slot: &Slot, entry: Entry) -> Result<Step, Error> {
        match entry {
            Entry::Invalid => Ok(Step::Next),
            Entry::Leaf(leaf) => {
                (self.see)(IntermediateAddress(slot.start), mapping(slot, &leaf, slot.start));
                Ok(Step::Next)
            }
            Entry::Table(_) => Ok(Step::Descend),
        }
    }
}
