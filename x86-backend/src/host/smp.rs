//! Starts the other processors: INIT and start-up messages (SDM 10.4.4), one
//! processor after the other.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use spin::Once;
use x86_backend::boot_info::{BootInfo, Range, free_ranges};

use super::paging::{self, StackKind, map_stack};
use super::{apic, timer};
use alloc::vec::Vec;

/// Stack of the processor that is being started; read by the start-up code.
pub(super) static SECONDARY_STACK: AtomicU64 = AtomicU64::new(0);
/// Its logical number.
pub(super) static SECONDARY_ARGUMENT: AtomicU64 = AtomicU64::new(0);
/// Processors that run.
static ONLINE: AtomicUsize = AtomicUsize::new(1);
/// Local APIC identifiers by logical number.
static APIC_IDS: Once<Vec<AtomicU32>> = Once::new();

/// Bytes of a page, the unit in which a start-up message names an address.
const PAGE: u64 = 4096;
/// Where real mode can start.
const LOW_MEMORY: u64 = 0xa_0000;
/// Microseconds from INIT to the first start-up message.
const AFTER_INIT: u64 = 10_000;
/// Microseconds between start-up messages.
const AFTER_START_UP: u64 = 1_000;
/// How often to look whether a processor has come, one millisecond apart.
const PATIENCE: u32 = 1_000;

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_cr3: u8;
}

/// The local APIC identifier of host CPU `cpu`.
pub(crate) fn apic_id(cpu: usize) -> Option<u32> {
    APIC_IDS.get()?.get(cpu).map(|id| id.load(Ordering::Relaxed))
}

/// How many processors run; their logical numbers count from 0.
pub(super) fn online() -> usize {
    ONLINE.load(Ordering::Acquire)
}

/// Says that the processor that runs this is up.
pub(super) fn announce() {
    ONLINE.fetch_add(1, Ordering::Release);
}

/// Starts the processors in `others` (local APIC identifiers) and returns how
/// many run, the first one included.
pub(super) fn start(info: &BootInfo, others: &[u32]) -> usize {
    let ids = APIC_IDS.call_once(|| {
        core::iter::once(apic::id()).chain(others.iter().copied()).map(AtomicU32::new).collect()
    });
    if others.is_empty() {
        return 1;
    }
    let Some(page) = find_page(info) else {
        log::warn!("no page below 640 KiB is free: the other processors stay off");
        return 1;
    };
    install(page);
    if !paging::set_executable(page, true) {
        return 1;
    }
    let mut online = 1;
    for id in others {
        // Slots are filled in the order of success, so that logical numbers have no holes.
        if let Some(slot) = ids.get(online) {
            slot.store(*id, Ordering::Relaxed);
        }
        if start_one(*id, online, page) {
            online += 1;
        } else {
            log::warn!("processor with APIC id {id} does not start");
        }
    }
    paging::set_executable(page, false);
    online
}

fn find_page(info: &BootInfo) -> Option<u64> {
    let taken: Vec<Range> = info
        .modules
        .iter()
        .chain(&info.tables)
        .copied()
        .chain([
            Range { start: 0, size: PAGE },
            Range { start: LOW_MEMORY, size: u64::MAX - LOW_MEMORY },
        ])
        .collect();
    let free = free_ranges(&info.memory, &taken, PAGE);
    free.iter().map(|range| range.end() - PAGE).max()
}

/// Copies the start-up code to `page` and completes it.
fn install(page: u64) {
    let start = &raw const trampoline_start;
    let size = (&raw const trampoline_end) as usize - start as usize;
    let cr3 = (&raw const trampoline_cr3) as usize - start as usize;
    // SAFETY: the page is free memory below 640 KiB, mapped writable at its address; the code is
    // smaller than a page, and the field lies within it, 8-byte aligned.
    unsafe {
        core::ptr::copy_nonoverlapping(start, page as *mut u8, size);
        ((page as usize + cr3) as *mut u32).write(paging::root() as u32);
    }
}

fn start_one(id: u32, cpu: usize, page: u64) -> bool {
    let Some(stack) = map_stack(cpu, StackKind::Main) else { return false };
    SECONDARY_STACK.store(stack, Ordering::Relaxed);
    SECONDARY_ARGUMENT.store(cpu as u64, Ordering::Release);
    let before = ONLINE.load(Ordering::Acquire);
    let came = || ONLINE.load(Ordering::Acquire) != before;
    let number = (page / PAGE) as u8;
    apic::send_init(id);
    timer::delay(AFTER_INIT);
    apic::send_start_up(id, number);
    timer::delay(AFTER_START_UP);
    if !came() {
        apic::send_start_up(id, number);
    }
    for _ in 0..PATIENCE {
        if came() {
            return true;
        }
        timer::delay(1_000);
    }
    false
}
