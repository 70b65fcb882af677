//! The hypervisor's own address space: physical memory at its address, never
//! executable; the image's sections as they need it; and each processor's
//! stacks, each above a hole.

use alloc::alloc::{Layout, alloc_zeroed};

use spin::mutex::TicketMutex;
use x86_64::registers::control::{Cr3, Cr3Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::structures::paging::mapper::MapToError;
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame,
    Size1GiB, Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};
use x86_backend::boot_info::{Range, Region};

use super::memory;

/// What a stack is for; also its place among the stacks of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StackKind {
    /// All ordinary work.
    Main,
    /// Double and page faults.
    Fault,
    /// Non-maskable interrupts.
    Nmi,
    /// Machine checks.
    MachineCheck,
}

/// Kinds of stacks.
const STACK_KINDS: u64 = 4;
/// Address space of one stack; its lower part stays unmapped.
const STACK_SLOT: u64 = 256 * 1024;
/// Bytes of the main stack.
const MAIN_STACK: u64 = 64 * 1024;
/// Bytes of the others.
const SMALL_STACK: u64 = 16 * 1024;
/// Where stacks lie: the upper half, which holds nothing else.
const STACKS: u64 = 0xffff_8000_0000_0000;

const READ_WRITE: PageTableFlags = PageTableFlags::PRESENT
    .union(PageTableFlags::WRITABLE)
    .union(PageTableFlags::NO_EXECUTE)
    .union(PageTableFlags::GLOBAL);
const READ_ONLY: PageTableFlags =
    PageTableFlags::PRESENT.union(PageTableFlags::NO_EXECUTE).union(PageTableFlags::GLOBAL);
const READ_EXECUTE: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::GLOBAL);

unsafe extern "C" {
    static text_end: u8;
    static rodata_end: u8;
}

/// The root table; in the image and so below 4 GiB, where real mode can name it.
static ROOT: TicketMutex<PageTable> = TicketMutex::new(PageTable::new());

/// Page tables come from the heap, which lies at its physical address.
struct TableFrames;

// SAFETY: the heap gives each page once, and page tables are never freed.
unsafe impl FrameAllocator<Size4KiB> for TableFrames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        page().map(|address| PhysFrame::containing_address(PhysAddr::new(address)))
    }
}

/// A zeroed page of the heap.
fn page() -> Option<u64> {
    let layout = Layout::from_size_align(4096, 4096).ok()?;
    // SAFETY: the layout's size is not zero.
    let address = unsafe { alloc_zeroed(layout) } as u64;
    (address != 0).then_some(address)
}

fn map<S: PageSize + core::fmt::Debug>(
    tables: &mut impl Mapper<S>,
    from: u64,
    to: u64,
    flags: PageTableFlags,
) -> bool {
    let page = Page::<S>::containing_address(VirtAddr::new(from));
    let frame = PhysFrame::<S>::containing_address(PhysAddr::new(to));
    let parent = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
    // SAFETY: the frame is RAM, device space or part of the image, mapped at its own address or as
    // a stack that nobody else uses; code is mapped read-only.
    let result =
        unsafe { tables.map_to_with_table_flags(page, frame, flags, parent, &mut TableFrames) };
    match result {
        Ok(flush) => {
            flush.ignore();
            true
        }
        Err(MapToError::PageAlreadyMapped(_)) => true,
        Err(_) => false,
    }
}

fn with_tables<T>(work: impl FnOnce(&mut OffsetPageTable<'_>) -> T) -> T {
    let mut root = ROOT.lock();
    // SAFETY: the lock guards the root and everything below it; tables lie at their physical address.
    let mut tables = unsafe { OffsetPageTable::new(&mut root, VirtAddr::zero()) };
    work(&mut tables)
}

/// Whether this processor has pages of 1 GiB (CPUID 8000_0001h EDX bit 26).
fn has_huge_pages() -> bool {
    core::arch::x86_64::__cpuid(0x8000_0001).edx & 1 << 26 != 0
}

/// First address that the address space does not map: all memory and the
/// devices below 4 GiB come before.
pub(super) fn mapped_end(regions: &[Region]) -> u64 {
    let top = regions.iter().filter(|r| r.usable).map(|r| r.range.end()).max().unwrap_or(0);
    top.max(1 << 32)
}

/// Builds the address space. False when memory for tables is short.
pub(super) fn build(regions: &[Region]) -> bool {
    let image = memory::image();
    let text = (&raw const text_end) as u64;
    let rodata = (&raw const rodata_end) as u64;
    let large = |address: u64| address & !(Size2MiB::SIZE - 1);
    let image_window =
        Range { start: large(image.start), size: large(image.end() + Size2MiB::SIZE - 1) };
    let image_window = Range { size: image_window.size - image_window.start, ..image_window };
    let top = mapped_end(regions);
    let huge = has_huge_pages();
    with_tables(|tables| {
        let mut address = 0;
        while address < top {
            let meets_image =
                |size: u64| address < image_window.end() && address + size > image_window.start;
            let (size, done) =
                if huge && address % Size1GiB::SIZE == 0 && !meets_image(Size1GiB::SIZE) {
                    (Size1GiB::SIZE, map::<Size1GiB>(tables, address, address, READ_WRITE))
                } else if !meets_image(Size2MiB::SIZE) {
                    (Size2MiB::SIZE, map::<Size2MiB>(tables, address, address, READ_WRITE))
                } else {
                    let flags = if address < image.start || address >= rodata {
                        READ_WRITE
                    } else if address < text {
                        READ_EXECUTE
                    } else {
                        READ_ONLY
                    };
                    (Size4KiB::SIZE, map::<Size4KiB>(tables, address, address, flags))
                };
            if !done {
                return false;
            }
            address += size;
        }
        true
    })
}

/// Maps `address`, a page of low memory, executable, or back to what it was.
/// The page must lie in the first 2 MiB.
pub(super) fn set_executable(address: u64, executable: bool) -> bool {
    // Low memory is mapped in one large piece; the whole of it changes.
    with_tables(|tables| {
        let page = Page::<Size2MiB>::containing_address(VirtAddr::new(address));
        let flags = if executable { READ_EXECUTE } else { READ_WRITE };
        // SAFETY: the caller is the start-up of other processors, which owns that page; data in the
        // first 2 MiB is not written meanwhile.
        match unsafe { tables.update_flags(page, flags) } {
            Ok(flush) => {
                flush.flush();
                true
            }
            Err(_) => false,
        }
    })
}

/// Enters the address space on this processor.
pub(super) fn activate() {
    let root = PhysFrame::containing_address(PhysAddr::new(root()));
    // SAFETY: the tables map the image, all memory and the stacks as the running code uses them.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr4::update(|cr4| cr4.insert(Cr4Flags::PAGE_GLOBAL));
        Cr3::write(root, Cr3Flags::empty());
    }
}

/// Physical address of the root table.
pub(super) fn root() -> u64 {
    core::ptr::from_ref(&*ROOT.lock()) as u64
}

/// Maps a stack of processor `cpu` and returns its upper end; `None` when
/// memory is short.
pub(super) fn map_stack(cpu: usize, kind: StackKind) -> Option<u64> {
    let size = if kind == StackKind::Main { MAIN_STACK } else { SMALL_STACK };
    let slot = cpu as u64 * STACK_KINDS + kind as u64;
    let top = STACKS + (slot + 1) * STACK_SLOT;
    let mut address = top - size;
    while address < top {
        let frame = page()?;
        if !with_tables(|tables| map::<Size4KiB>(tables, address, frame, READ_WRITE)) {
            return None;
        }
        address += Size4KiB::SIZE;
    }
    Some(top)
}

/// Whether `address` lies in the mapped part that every stack has.
pub(super) fn is_stack(address: u64) -> bool {
    address >= STACKS && (address - STACKS) % STACK_SLOT >= STACK_SLOT - SMALL_STACK
}

/// Whether `address` lies in the hole below a stack.
pub(super) fn is_stack_guard(address: u64) -> bool {
    address >= STACKS && (address - STACKS) % STACK_SLOT < STACK_SLOT - MAIN_STACK
}
