//! What the caller provides: memory for tables, and TLB maintenance.

use crate::{IntermediateAddress, PhysicalAddress};

/// Memory that holds tables.
pub trait TableMemory {
    /// Memory for a table: `bytes` is a power of two from 4 KiB to 256 KiB, the address is a
    /// multiple of `bytes`, and the contents are zero, also in the eyes of the table walker.
    /// `None` if there is none left.
    fn allocate(&mut self, bytes: usize) -> Option<PhysicalAddress>;

    /// Takes back a table of `bytes` that [`allocate`](TableMemory::allocate) gave. No CPU can reach
    /// it any more.
    fn free(&mut self, table: PhysicalAddress, bytes: usize);

    /// Reads an entry, as one access of 64 bits.
    fn load(&self, entry: PhysicalAddress) -> u64;

    /// Writes an entry, as one access of 64 bits that no earlier store may overtake (release).
    /// Where the walker does not look into the caches, cleans the line too.
    fn store(&mut self, entry: PhysicalAddress, value: u64);
}

/// Making CPUs forget what they cached of one virtual machine's table.
///
/// All methods act on every CPU that may run the VM, and under the VM's own tag (VMID, ASID, EP4TA),
/// whichever VM is loaded at the moment. On return from an invalidation no access through the old
/// entries is in flight.
pub trait TlbMaintenance {
    /// The most steps that one [`invalidate_range`](TlbMaintenance::invalidate_range) may take;
    /// longer ranges become [`invalidate_all`](TlbMaintenance::invalidate_all). Raise it where the
    /// CPU has range instructions.
    fn range_limit(&self) -> u64 {
        512
    }

    /// Drops what is cached of the `bytes` from `start`, by one instruction for each `stride` bytes
    /// (a power of two: the size of the smallest leaf that changed). With `leaf_only`, entries that
    /// point to tables may stay.
    ///
    /// AArch64: `dsb ishst`; `tlbi ipas2e1is` (`ipas2le1is` for `leaf_only`) for each step;
    /// `dsb ish`; `tlbi vmalle1is` for the combined entries; `dsb ish`; `isb`.
    fn invalidate_range(
        &mut self,
        start: IntermediateAddress,
        bytes: u64,
        stride: u64,
        leaf_only: bool,
    );

    /// Drops all that is cached of the VM. AArch64: `dsb ishst`; `tlbi vmalls12e1is`; `dsb ish`;
    /// `isb`.
    fn invalidate_all(&mut self);

    /// Makes stores of valid entries in place of invalid ones visible to the walkers before guests
    /// run on. AArch64: `dsb ishst`; `isb`.
    fn publish(&mut self);
}
