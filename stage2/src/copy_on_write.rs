//! Copy-on-write sharing of pages between virtual machines, and the answer to a write fault.
//!
//! The table knows only that a page is shared; who else shares it, the caller counts.

use crate::page_table::{mapping, merge_at};
use crate::walk::find;
use crate::{
    Attributes, Entry, Error, Format, IntermediateAddress, Leaf, Mapping, PageTable,
    PhysicalAddress, TableMemory, TlbMaintenance,
};

/// What a guest's faulting write needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// Nothing is mapped there: a device, or nothing at all.
    NotMapped,
    /// The guest may not write there.
    Forbidden(Mapping),
    /// The page is shared: copy it and call [`PageTable::resolve_copy`], or call
    /// [`PageTable::unshare`] if nobody else has it any more.
    Shared(Mapping),
    /// The table permits the write (now): run the guest again.
    Retry,
}

impl<F: Format> PageTable<F> {
    /// Maps memory that others have too: writes are held back until
    /// [`resolve_copy`](PageTable::resolve_copy), whatever `attributes` say.
    ///
    /// # Errors
    /// As [`map`](PageTable::map).
    pub fn map_shared(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        target: PhysicalAddress,
        bytes: u64,
        attributes: Attributes,
    ) -> Result<(), Error> {
        let leaf = Leaf { shared: true, ..Leaf::new(target, attributes) };
        self.map_leaf(memory, tlb, start, bytes, leaf)
    }

    /// Makes what is mapped in the range shared: on return no CPU can write to it.
    ///
    /// # Errors
    /// [`Error::OutOfTableMemory`] (only if a block reaches over an end of the range),
    /// [`Error::Misaligned`], [`Error::OutOfInputRange`].
    pub fn share(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        bytes: u64,
    ) -> Result<(), Error> {
        let share = |_: &_, leaf| Leaf { shared: true, ..leaf };
        self.update(memory, tlb, start, bytes, |leaf| !leaf.shared, share)
    }

    /// Makes the VM the owner of what it shared in the range, in place. A logged page stays clean.
    ///
    /// # Errors
    /// As [`share`](PageTable::share).
    pub fn unshare(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        bytes: u64,
    ) -> Result<(), Error> {
        let own = |_: &_, leaf| Leaf { shared: false, ..leaf };
        self.update(memory, tlb, start, bytes, |leaf| leaf.shared, own)
    }

    /// Puts the copy of the shared page at `address` in its place, and gives the page that it
    /// replaces. Only the smallest page is replaced; a block is split. The copy must be complete, and
    /// counts as dirty if it is logged. `address` may lie anywhere in the page.
    ///
    /// # Errors
    /// [`Error::NotMapped`], [`Error::NotShared`], [`Error::OutOfTableMemory`],
    /// [`Error::Misaligned`] and [`Error::OutOfOutputRange`] for `copy`.
    pub fn resolve_copy(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        address: IntermediateAddress,
        copy: PhysicalAddress,
    ) -> Result<PhysicalAddress, Error> {
        self.layout().check_output(copy, self.layout().granule())?;
        self.edit(memory, tlb, |editor| {
            let (_, leaf) = find(editor, address.0).ok_or(Error::NotMapped { at: address })?;
            if !leaf.shared {
                return Err(Error::NotShared { at: address });
            }
            let page = editor.split_to_page(address.0);
            if page.is_err() {
                merge_at(editor, address.0)?;
            }
            let (slot, leaf) = page?.ok_or(Error::NotMapped { at: address })?;
            let own = Leaf { address: copy, shared: false, dirty: leaf.logged, ..leaf };
            editor.set(&slot, Entry::Leaf(own));
            Ok(leaf.address)
        })
    }

    /// Answers a write that faulted: logs it if it needs no more than that, or says what it needs.
    pub fn write_fault(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        address: IntermediateAddress,
    ) -> WriteFault {
        let found = find(&self.view(memory), address.0);
        let Some((slot, leaf)) = found else { return WriteFault::NotMapped };
        let mapping = mapping(&slot, &leaf, address.0);
        if !leaf.attributes.write {
            WriteFault::Forbidden(mapping)
        } else if leaf.shared {
            WriteFault::Shared(mapping)
        } else {
            match self.mark_dirty(memory, tlb, address) {
                Ok(()) => WriteFault::Retry,
                Err(_) => WriteFault::NotMapped,
            }
        }
    }
}
