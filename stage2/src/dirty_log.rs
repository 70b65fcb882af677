//! The dirty log: which pages a guest wrote, for snapshots and migration.
//!
//! Logging write-protects leaves as large as they are. The first write into a block splits it and
//! marks only the page, so that starting a log is quick and takes no memory.

use crate::walk::find;
use crate::{
    Entry, Error, Format, IntermediateAddress, Leaf, PageTable, TableMemory, TlbMaintenance,
};

impl<F: Format> PageTable<F> {
    /// Starts to log writes to what is mapped in the range; all of it counts as clean. Pages that are
    /// mapped later are not logged until this is called again.
    ///
    /// # Errors
    /// [`Error::OutOfTableMemory`] (only if a block reaches over an end of the range),
    /// [`Error::Misaligned`], [`Error::OutOfInputRange`].
    pub fn start_dirty_log(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        bytes: u64,
    ) -> Result<(), Error> {
        let clean = |leaf: &Leaf| Leaf { logged: true, dirty: false, ..*leaf };
        self.update(memory, tlb, start, bytes, |leaf| clean(leaf) != *leaf, |_, leaf| clean(&leaf))
    }

    /// Ends the log for the range. Call [`coalesce`](PageTable::coalesce) to have blocks back.
    ///
    /// # Errors
    /// As [`start_dirty_log`](PageTable::start_dirty_log).
    pub fn stop_dirty_log(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        bytes: u64,
    ) -> Result<(), Error> {
        self.update(
            memory,
            tlb,
            start,
            bytes,
            |leaf| leaf.logged,
            |_, leaf| Leaf { logged: false, dirty: false, ..leaf },
        )
    }

    /// Marks the page at `address` as written, and lets further writes to it through. For writes of
    /// the hypervisor's own devices; [`write_fault`](PageTable::write_fault) does it for the guest's.
    /// A page that is not logged is left alone. If there is no memory to split a block, all of the
    /// block is marked.
    ///
    /// # Errors
    /// [`Error::NotMapped`].
    pub fn mark_dirty(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        address: IntermediateAddress,
    ) -> Result<(), Error> {
        self.edit(memory, tlb, |editor| match find(editor, address.0) {
            None => Err(Error::NotMapped { at: address }),
            Some((_, leaf)) if !leaf.logged || leaf.dirty => Ok(()),
            Some(_) => {
                // Without memory the block stays, or a part of it: larger than need be, never wrong.
                let _ = editor.split_to_page(address.0);
                if let Some((slot, leaf)) = find(editor, address.0) {
                    editor.set(&slot, Entry::Leaf(Leaf { dirty: true, ..leaf }));
                }
                Ok(())
            }
        })
    }

    /// Reports each run of bytes (its first address, its length) that was written since the log was
    /// started or last collected, and counts it as clean again. Several leaves make several runs.
    ///
    /// Copy the contents only after the return: until then a CPU may still write through an entry
    /// that it cached.
    ///
    /// # Errors
    /// As [`start_dirty_log`](PageTable::start_dirty_log); then nothing was reported.
    pub fn collect_dirty(
        &mut self,
        memory: &mut impl TableMemory,
        tlb: &mut impl TlbMaintenance,
        start: IntermediateAddress,
        bytes: u64,
        mut report: impl FnMut(IntermediateAddress, u64),
    ) -> Result<(), Error> {
        self.update(
            memory,
            tlb,
            start,
            bytes,
            |leaf| leaf.logged && leaf.dirty,
            |slot, leaf| {
                report(IntermediateAddress(slot.start), slot.span);
                Leaf { dirty: false, ..leaf }
            },
        )
    }
}
