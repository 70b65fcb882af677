//! EL2's own stage-1 map: one to one, write xor execute, guards under stacks.
//!
//! Built by the walker of the `stage2` crate with a stage-1 entry format, so
//! that there is one walker in the image.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::mutex::TicketMutex;
use stage2::{
    Attributes, Entry, Error, Format, IntermediateAddress, Leaf, MemoryType, PageTable,
    PhysicalAddress, Software, TableMemory, TlbMaintenance,
};

use crate::el2::registers::{read_register, synchronize, write_register};

/// Size of a page of this map in bytes.
pub(crate) const PAGE: u64 = 4096;

/// Attributes of the hypervisor's code.
pub(crate) const CODE: Attributes =
    Attributes { read: true, write: false, execute: true, memory: MemoryType::Normal };
/// Attributes of its constants.
pub(crate) const CONSTANTS: Attributes =
    Attributes { read: true, write: false, execute: false, memory: MemoryType::Normal };
/// Attributes of all other memory.
pub(crate) const DATA: Attributes =
    Attributes { read: true, write: true, execute: false, memory: MemoryType::Normal };
/// Attributes of device registers.
pub(crate) const DEVICE: Attributes =
    Attributes { read: true, write: true, execute: false, memory: MemoryType::DeviceNGnRnE };

/// Fields of a stage-1 descriptor (Arm ARM D8.3).
mod descriptor {
    pub(super) const VALID: u64 = 1 << 0;
    /// Table at levels 0 to 2, page at level 3.
    pub(super) const TABLE: u64 = 1 << 1;
    /// Attr0 of `MAIR_EL2`: normal memory.
    pub(super) const NORMAL: u64 = 0 << 2;
    /// Attr1: Device-nGnRnE.
    pub(super) const DEVICE: u64 = 1 << 2;
    /// AP[1]: RES1 where EL2 has no EL0 below it.
    pub(super) const AP_RES1: u64 = 1 << 6;
    pub(super) const READ_ONLY: u64 = 1 << 7;
    pub(super) const INNER_SHAREABLE: u64 = 0b11 << 8;
    pub(super) const ACCESSED: u64 = 1 << 10;
    pub(super) const ADDRESS: u64 = 0xffff_ffff_f000;
    /// PXN where EL2 has an EL0 below it.
    pub(super) const PRIVILEGED_EXECUTE_NEVER: u64 = 1 << 53;
    /// XN or UXN.
    pub(super) const EXECUTE_NEVER: u64 = 1 << 54;
    /// Four bits for software.
    pub(super) const SOFTWARE_SHIFT: u32 = 55;
}

/// VMSAv8-64 stage 1 of EL2, 4 KiB granule, 48-bit addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostFormat {
    unprivileged: bool,
    output_bits: u32,
}

impl Format for HostFormat {
    fn granule_shift(&self) -> u32 {
        12
    }
    fn input_bits(&self) -> u32 {
        48
    }
    fn output_bits(&self) -> u32 {
        self.output_bits
    }
    fn levels(&self) -> u32 {
        4
    }
    fn leaf_at(&self, level: u32) -> bool {
        level <= 2
    }
    fn expresses(&self, attributes: Attributes) -> bool {
        attributes.read && !(attributes.write && attributes.execute)
    }
    fn leaf(&self, level: u32, leaf: &Leaf) -> u64 {
        use descriptor::*;
        let mut entry = VALID | ACCESSED | INNER_SHAREABLE | leaf.address.0 & ADDRESS;
        if level == 0 {
            entry |= TABLE;
        }
        entry |= match leaf.attributes.memory {
            MemoryType::Normal => NORMAL,
            MemoryType::NormalNonCacheable | MemoryType::DeviceNGnRnE | MemoryType::DeviceNGnRE => {
                DEVICE
            }
        };
        if !leaf.writable() {
            entry |= READ_ONLY;
        }
        if self.unprivileged {
            entry |= EXECUTE_NEVER;
            if !leaf.attributes.execute {
                entry |= PRIVILEGED_EXECUTE_NEVER;
            }
        } else {
            entry |= AP_RES1;
            if !leaf.attributes.execute {
                entry |= EXECUTE_NEVER;
            }
        }
        entry | u64::from(leaf.software().bits()) << SOFTWARE_SHIFT
    }
    fn table(&self, table: PhysicalAddress) -> u64 {
        descriptor::VALID | descriptor::TABLE | table.0 & descriptor::ADDRESS
    }
    fn decode(&self, level: u32, entry: u64) -> Entry {
        use descriptor::*;
        if entry & VALID == 0 {
            return Entry::Invalid;
        }
        let address = PhysicalAddress(entry & ADDRESS);
        if level > 0 && entry & TABLE != 0 {
            return Entry::Table(address);
        }
        let never = if self.unprivileged { PRIVILEGED_EXECUTE_NEVER } else { EXECUTE_NEVER };
        let attributes = Attributes {
            read: true,
            write: true,
            execute: entry & never == 0,
            memory: if entry & DEVICE == 0 { MemoryType::Normal } else { MemoryType::DeviceNGnRnE },
        };
        let software = Software::from_bits_truncate((entry >> SOFTWARE_SHIFT) as u8);
        Entry::Leaf(Leaf::from_software(address, attributes, software))
    }
}

/// Tables out of the image's own heap: they exist before other memory does.
struct HeapTables;

fn table_layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, bytes).ok()
}

impl TableMemory for HeapTables {
    fn allocate(&mut self, bytes: usize) -> Option<PhysicalAddress> {
        let layout = table_layout(bytes)?;
        // SAFETY: the layout is not of size zero.
        let table = unsafe { alloc_zeroed(layout) };
        (!table.is_null()).then_some(PhysicalAddress(table as u64))
    }
    fn free(&mut self, table: PhysicalAddress, bytes: usize) {
        if let Some(layout) = table_layout(bytes) {
            // SAFETY: `allocate` gave this table with this layout.
            unsafe { dealloc(table.0 as *mut u8, layout) };
        }
    }
    fn load(&self, entry: PhysicalAddress) -> u64 {
        // SAFETY: the walker reads only entries of tables from `allocate`,
        // which the identity map covers.
        unsafe { AtomicU64::from_ptr(entry.0 as *mut u64).load(Ordering::Relaxed) }
    }
    fn store(&mut self, entry: PhysicalAddress, value: u64) {
        // SAFETY: as in `load`.
        unsafe { AtomicU64::from_ptr(entry.0 as *mut u64).store(value, Ordering::Release) }
    }
}

/// TLB maintenance of EL2's own regime.
struct HostTlb;

impl TlbMaintenance for HostTlb {
    fn invalidate_range(&mut self, _: IntermediateAddress, _: u64, _: u64, _: bool) {
        self.invalidate_all();
    }
    fn invalidate_all(&mut self) {
        // SAFETY: forgetting translations is always sound.
        unsafe {
            core::arch::asm!("dsb ishst", "tlbi alle2is", "dsb ish", "isb", options(nostack));
        }
    }
    fn publish(&mut self) {
        // SAFETY: barriers.
        unsafe { core::arch::asm!("dsb ishst", "isb", options(nostack)) };
    }
}

/// The map, for later additions.
static MAP: TicketMutex<Option<PageTable<HostFormat>>> = TicketMutex::new(None);

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
    static __boot_guard: u8;
    static __boot_stack_start: u8;
    static __boot_stack_top: u8;
    /// See `entry.S`.
    fn switch_tables(root: u64);
}

fn address(symbol: *const u8) -> u64 {
    symbol as u64
}

/// First address after the image, its stack included.
pub(crate) fn image_end() -> u64 {
    address(&raw const __image_end)
}

/// The boot CPU's stack.
pub(crate) fn boot_stack() -> Range<u64> {
    address(&raw const __boot_stack_start)..address(&raw const __boot_stack_top)
}

/// Bounds of the secondaries' stacks, for the backtrace.
static STACKS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Remembers where the secondaries' stacks are.
pub(crate) fn set_stacks(start: u64, end: u64) {
    STACKS[0].store(start, Ordering::Relaxed);
    STACKS[1].store(end, Ordering::Relaxed);
}

/// Whether a frame record can be at `address`.
pub(crate) fn is_stack(frame: u64) -> bool {
    let boot = boot_stack().start..boot_stack().end - 8;
    let others =
        STACKS[0].load(Ordering::Relaxed)..STACKS[1].load(Ordering::Relaxed).saturating_sub(8);
    boot.contains(&frame) || others.contains(&frame)
}

/// Builds the map of the image with its final permissions. `unprivileged`: the
/// translation regime has an EL0 below it (EL1, and EL2 with E2H).
///
/// # Errors
/// Those of the walker.
pub(crate) fn init(unprivileged: bool) -> Result<(), Error> {
    let size = read_register!("id_aa64mmfr0_el1") & 0xf;
    let output_bits = [32, 36, 40, 42, 44, 48].get(size as usize).copied().unwrap_or(48);
    let mut map = PageTable::new(HostFormat { unprivileged, output_bits }, &mut HeapTables)?;
    let parts = [
        (&raw const __image_start, &raw const __text_end, CODE),
        (&raw const __text_end, &raw const __rodata_end, CONSTANTS),
        (&raw const __rodata_end, &raw const __boot_guard, DATA),
        (&raw const __boot_stack_start, &raw const __image_end, DATA),
    ];
    for (start, end, attributes) in parts {
        let (start, end) = (address(start), address(end));
        map.map(
            &mut HeapTables,
            &mut HostTlb,
            IntermediateAddress(start),
            PhysicalAddress(start),
            end - start,
            attributes,
        )?;
    }
    *MAP.lock() = Some(map);
    Ok(())
}

/// Maps `base..base + size`, widened to whole pages; what is mapped already stays.
///
/// # Errors
/// Those of the walker.
pub(crate) fn map(base: u64, size: u64, attributes: Attributes) -> Result<(), Error> {
    let mut guard = MAP.lock();
    let Some(map) = guard.as_mut() else { return Ok(()) };
    let mut start = base / PAGE * PAGE;
    // What wraps is no address either.
    let end = base.checked_add(size).and_then(|end| end.checked_next_multiple_of(PAGE));
    let end = end.unwrap_or(u64::MAX / PAGE * PAGE);
    while start < end {
        // The longest piece that meets nothing mapped: halve until it fits.
        let mut piece = end - start;
        loop {
            let result = map.map(
                &mut HeapTables,
                &mut HostTlb,
                IntermediateAddress(start),
                PhysicalAddress(start),
                piece,
                attributes,
            );
            match result {
                Ok(()) => break,
                Err(Error::Overlap { .. }) if piece > PAGE => {
                    piece = (piece / 2).next_multiple_of(PAGE);
                }
                Err(Error::Overlap { .. }) => break,
                Err(other) => return Err(other),
            }
        }
        start += piece;
    }
    Ok(())
}

/// Leaves a page out of the map, as a guard.
///
/// # Errors
/// Those of the walker.
pub(crate) fn unmap_page(page: u64) -> Result<(), Error> {
    match MAP.lock().as_mut() {
        Some(map) => {
            map.unmap(&mut HeapTables, &mut HostTlb, IntermediateAddress(page), PAGE).map(|_| ())
        }
        None => Ok(()),
    }
}

/// The root of the map.
pub(crate) fn root() -> u64 {
    MAP.lock().as_ref().map_or(0, |map| map.root().0)
}

/// `SCTLR_EL2.WXN`: what is writable is not executable.
const SCTLR_WXN: u64 = 1 << 19;

/// Goes over from the map of `entry.S` to this one, at this exception level.
pub(crate) fn activate(level: u64) {
    // SAFETY: the map covers the image, its heap and this stack one to one.
    unsafe { switch_tables(root()) };
    if level == 2 {
        harden();
    }
}

/// Has writable memory never be executable on this CPU.
pub(crate) fn harden() {
    write_register!("sctlr_el2", read_register!("sctlr_el2") | SCTLR_WXN);
    synchronize();
}

/// Cleans `base..base + size` to the point of coherency, for observers with
/// their caches off.
pub(crate) fn clean(base: u64, size: u64) {
    let line = 4u64 << (read_register!("ctr_el0") >> 16 & 0xf);
    let mut at = base / line * line;
    let end = base.saturating_add(size);
    while at < end {
        // SAFETY: cleaning and invalidating a line changes no value.
        unsafe { core::arch::asm!("dc civac, {}", in(reg) at, options(nostack)) };
        at += line;
    }
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb sy", options(nostack)) };
}

/// Makes instructions just written visible to the guests' fetches.
pub(crate) fn invalidate_instructions() {
    // SAFETY: forgetting cached instructions is always sound.
    unsafe { core::arch::asm!("ic ialluis", "dsb ish", "isb", options(nostack)) };
}
