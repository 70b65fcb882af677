//! The guest's own translation: everything at its own address, RAM cacheable
//! and executable, the rest device memory.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::machine;

const GIB: u64 = 1 << 30;
const BLOCK: u64 = 2 << 20;
const ENTRIES: usize = 512;
/// Second-level tables for gibibytes that are partly RAM.
const MIXED: usize = 8;

/// Attribute 0: Device-nGnRnE. 1: Normal write-back. 2: Normal non-cacheable. 3: Device-nGnRE.
pub const MAIR: u64 = 0x04_44_ff_00;
/// `TCR_EL1`: 39 bits (T0SZ), write-back inner-shareable walks, 4 KiB, no TTBR1 (EPD1).
pub const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23;
/// `SCTLR_EL1`: M, C, I, nothing of EL0 trapped (DZE, UCT, nTWI, nTWE, UCI), and the bits that
/// are one where their feature is absent (EOS, TSCXT, EIS, SPAN, nTLSMD, LSMAOE).
pub const SCTLR: u64 = 1
    | 1 << 2
    | 1 << 12
    | 1 << 14
    | 1 << 15
    | 1 << 16
    | 1 << 18
    | 1 << 26
    | 1 << 11
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 28
    | 1 << 29;

/// Descriptor bits (Arm ARM D8.3).
pub mod descriptor {
    /// Valid.
    pub const VALID: u64 = 1;
    /// A table, or at the last level a page.
    pub const TABLE: u64 = 1 << 1;
    /// Position of the index into `MAIR_EL1`.
    pub const ATTRIBUTE: u32 = 2;
    /// EL0 may access.
    pub const USER: u64 = 1 << 6;
    /// No writes.
    pub const READ_ONLY: u64 = 1 << 7;
    /// Inner shareable.
    pub const INNER: u64 = 3 << 8;
    /// Accessed.
    pub const ACCESSED: u64 = 1 << 10;
    /// Guarded page (BTI).
    pub const GUARDED: u64 = 1 << 50;
    /// RAM, as a block.
    pub const RAM: u64 = VALID | 1 << ATTRIBUTE | INNER | ACCESSED;
    /// A device, as a block; executable, so that a fetch reaches the bus.
    pub const DEVICE: u64 = VALID | ACCESSED;
}
use descriptor::{DEVICE, RAM, TABLE, VALID};

/// A translation table. Hardware reads it while Rust may change entries.
#[repr(C, align(4096))]
pub struct Table([AtomicU64; ENTRIES]);

impl Table {
    const fn empty() -> Self {
        Table([const { AtomicU64::new(0) }; ENTRIES])
    }

    /// Physical and virtual address.
    pub fn address(&self) -> u64 {
        core::ptr::from_ref(self) as u64
    }

    /// Replaces one entry; `index` is taken modulo the table's length.
    pub fn set(&self, index: usize, descriptor: u64) {
        self.0[index % ENTRIES].store(descriptor, Ordering::Release);
    }

    /// One entry.
    pub fn get(&self, index: usize) -> u64 {
        self.0[index % ENTRIES].load(Ordering::Acquire)
    }
}

/// Until the device tree has been read: RAM from 1 GiB to 9 GiB.
pub(super) static BOOT_ROOT: Table = {
    let mut table = [const { AtomicU64::new(0) }; ENTRIES];
    let mut index = 0;
    while index < ENTRIES {
        let kind = if index >= 1 && index < 9 { RAM } else { DEVICE };
        table[index] = AtomicU64::new((index as u64 * GIB) | kind);
        index += 1;
    }
    Table(table)
};

/// The root in use, one entry for each gibibyte.
pub static ROOT: Table = Table::empty();
static MIDDLE: [Table; MIXED] = [const { Table::empty() }; MIXED];

/// Where RAM appears once more from this address on, read-only and for EL0 too.
pub const USER_ALIAS: u64 = 256 * GIB;

/// Maps RAM as the device tree says, then changes over to that map.
pub(super) fn map_machine() {
    let ram = machine().ram;
    let mut middle = MIDDLE.iter();
    for index in 0..ENTRIES {
        let base = index as u64 * GIB;
        let (start, end) = (ram.start.clamp(base, base + GIB), ram.end.clamp(base, base + GIB));
        let entry = if end - start == GIB {
            base | RAM
        } else if end == start {
            base | DEVICE
        } else if let Some(table) = middle.next() {
            for slot in 0..ENTRIES {
                let block = base + slot as u64 * BLOCK;
                let kind = if block >= start && block + BLOCK <= end { RAM } else { DEVICE };
                table.set(slot, block | kind);
            }
            table.address() | TABLE | VALID
        } else {
            base | RAM
        };
        ROOT.set(index, entry);
    }
    let alias = (ram.start & !(GIB - 1)) | RAM | descriptor::USER | descriptor::READ_ONLY;
    ROOT.set((USER_ALIAS / GIB) as usize, alias);
    switch_root(ROOT.address());
}

/// Translates through `root` from now on.
pub fn switch_root(root: u64) {
    // SAFETY: both tables map the code, stack and data that are in use to the same place; a test
    // that passes another root expects the fault.
    unsafe {
        asm!(
            "dsb ishst", "msr ttbr0_el1, {}", "isb", "tlbi vmalle1", "dsb nsh", "isb",
            in(reg) root, options(nostack)
        );
    }
}

/// Forgets cached translations after a change of an entry, on all CPUs.
pub fn invalidate() {
    // SAFETY: the tables in memory are complete.
    unsafe { asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack)) };
}
