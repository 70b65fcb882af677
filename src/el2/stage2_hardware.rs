//! What the `stage2` crate asks of hardware: memory for tables, and the TLB.

use core::sync::atomic::{AtomicU64, Ordering};

use stage2::{IntermediateAddress, PhysicalAddress, TableMemory, TlbMaintenance};

use crate::el2::registers::{read_register, synchronize, write_register};
use crate::el2::{frames, memory};

/// Tables out of host memory.
pub(crate) struct FrameTables;

impl TableMemory for FrameTables {
    fn allocate(&mut self, bytes: usize) -> Option<PhysicalAddress> {
        let table = frames::allocate(bytes as u64)?;
        memory::zero(table, bytes as u64);
        Some(PhysicalAddress(table))
    }

    fn free(&mut self, table: PhysicalAddress, bytes: usize) {
        frames::free(table.0, bytes as u64);
    }

    fn load(&self, entry: PhysicalAddress) -> u64 {
        // SAFETY: the walker reads only entries of tables from `allocate`,
        // which the identity map covers.
        unsafe { AtomicU64::from_ptr(entry.0 as *mut u64).load(Ordering::Relaxed) }
    }

    fn store(&mut self, entry: PhysicalAddress, value: u64) {
        // SAFETY: as in `load`. Walks are cacheable and inner shareable
        // (VTCR_EL2), so that no cleaning is needed.
        unsafe { AtomicU64::from_ptr(entry.0 as *mut u64).store(value, Ordering::Release) }
    }
}

/// TLB maintenance for the virtual machine with this `VTTBR_EL2`.
pub(crate) struct GuestTlb {
    /// Its VMID and root.
    pub(crate) vttbr: u64,
}

impl GuestTlb {
    /// Runs `maintain` while the virtual machine's VMID is the current one.
    fn under_its_vmid(&self, maintain: impl FnOnce()) {
        let before = read_register!("vttbr_el2");
        if before != self.vttbr {
            write_register!("vttbr_el2", self.vttbr);
            synchronize();
        }
        maintain();
        if before != self.vttbr {
            write_register!("vttbr_el2", before);
            synchronize();
        }
    }
}

impl TlbMaintenance for GuestTlb {
    fn invalidate_range(
        &mut self,
        start: IntermediateAddress,
        bytes: u64,
        stride: u64,
        leaf_only: bool,
    ) {
        self.under_its_vmid(|| {
            // SAFETY: forgetting translations is always sound.
            unsafe { core::arch::asm!("dsb ishst", options(nostack)) };
            let mut at = start.0;
            let end = start.0.saturating_add(bytes);
            while at < end {
                // The operand holds IPA[47:12] (Arm ARM C5.5).
                let page = at >> 12;
                // SAFETY: as above.
                unsafe {
                    if leaf_only {
                        core::arch::asm!("tlbi ipas2le1is, {}", in(reg) page, options(nostack));
                    } else {
                        core::arch::asm!("tlbi ipas2e1is, {}", in(reg) page, options(nostack));
                    }
                }
                let Some(next) = at.checked_add(stride.max(4096)) else { break };
                at = next;
            }
            // SAFETY: as above; stage-1 entries combine with the dropped ones.
            unsafe {
                core::arch::asm!("dsb ish", "tlbi vmalle1is", "dsb ish", "isb", options(nostack));
            }
        });
    }

    fn invalidate_all(&mut self) {
        self.under_its_vmid(|| {
            // SAFETY: forgetting translations is always sound.
            unsafe {
                core::arch::asm!(
                    "dsb ishst",
                    "tlbi vmalls12e1is",
                    "dsb ish",
                    "isb",
                    options(nostack)
                );
            }
        });
    }

    fn publish(&mut self) {
        // SAFETY: barriers.
        unsafe { core::arch::asm!("dsb ishst", "isb", options(nostack)) };
    }
}

/// Drops what any CPU has cached of any guest.
pub(crate) fn invalidate_all_guests() {
    // SAFETY: forgetting translations and cached instructions is always sound.
    unsafe {
        core::arch::asm!(
            "dsb ishst",
            "tlbi alle1is",
            "ic ialluis",
            "dsb ish",
            "isb",
            options(nostack)
        );
    }
}
