//! Memory and where it ends.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use guests::aarch64::exception::{self, class, status};
use guests::aarch64::timer::Timer;
use guests::aarch64::{cache, console, machine, mmio, mmu, smp, sysreg, timer};
use guests::tap::{Stop, Verdict};
use guests::{check, check_eq, mrs, println};

const PAGE: u64 = 4096;

/// Something done to an address.
type Access = fn(u64);

/// Addresses where the `virt` machine has nothing.
pub(super) fn hole_addresses() -> [u64; 5] {
    let end = machine().ram.end;
    [0x0901_1000, 0x0b00_0000, end, end + (1 << 30), 1 << 35]
}

fn load(address: u64) -> u64 {
    mmio::read64(address)
}

fn store(address: u64, value: u64) {
    mmio::write64(address, value);
}

pub(super) fn bounds() -> Verdict {
    let ram = machine().ram;
    for address in [ram.start, ram.start + 8, ram.end - PAGE, ram.end - 8] {
        let old = load(address);
        let (_, fault) = exception::catch(|| store(address, !old));
        check_eq!(fault, None, "store to {address:#x}");
        let found = load(address);
        store(address, old);
        check_eq!(found, !old, "contents of {address:#x}");
    }
    Ok(())
}

pub(super) fn holes() -> Verdict {
    const WNR: u64 = 1 << 6;
    let accesses: [(&str, bool, Access); 8] = [
        ("8-bit load", false, |a| _ = mmio::read8(a)),
        ("16-bit load", false, |a| _ = mmio::read16(a)),
        ("32-bit load", false, |a| _ = mmio::read32(a)),
        ("64-bit load", false, |a| _ = mmio::read64(a)),
        ("8-bit store", true, |a| mmio::write8(a, 0)),
        ("16-bit store", true, |a| mmio::write16(a, 0)),
        ("32-bit store", true, |a| mmio::write32(a, 0)),
        ("64-bit store", true, |a| mmio::write64(a, 0)),
    ];
    for hole in hole_addresses() {
        for address in [hole, hole + 0x128, hole + PAGE - 8] {
            for (name, is_store, access) in accesses {
                let Some(fault) = exception::fault_of(|| access(address)) else {
                    check!(false, "{name} at {address:#x} does not abort");
                    return Ok(());
                };
                check_eq!(fault.class(), class::DATA_ABORT, "{name} at {address:#x}: class");
                check_eq!(fault.status(), status::EXTERNAL, "{name} at {address:#x}: status");
                check_eq!(fault.far, address, "{name}: FAR_EL1");
                check_eq!(fault.esr & WNR != 0, is_store, "{name} at {address:#x}: WnR");
            }
        }
    }
    Ok(())
}

pub(super) fn across_the_end() -> Verdict {
    let end = machine().ram.end;
    for back in 1..8 {
        let Some(fault) = exception::fault_of(|| _ = load(end - back)) else {
            check!(false, "load {back} bytes before the end does not abort");
            return Ok(());
        };
        check_eq!(fault.class(), class::DATA_ABORT, "class {back} bytes before the end");
    }
    Ok(())
}

pub(super) fn unaligned() -> Verdict {
    const BLOCK: u64 = 2 << 20;
    let free = machine().free_ram();
    let block = free.start.next_multiple_of(BLOCK);
    for border in [block + BLOCK, block + PAGE, block + BLOCK + 64] {
        for back in 1..8 {
            let value = 0x0123_4567_89ab_cdef_u64.rotate_left(back as u32 * 8);
            store(border - back, value);
            check_eq!(load(border - back), value, "{back} bytes before {border:#x}");
            store(border - back, 0);
        }
    }
    Ok(())
}

pub(super) fn atomics() -> Verdict {
    const ROUNDS: u64 = 1_000;
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let add: smp::Job = |rounds| {
        (0..rounds).for_each(|_| _ = COUNTER.fetch_add(1, Ordering::Relaxed));
        0
    };
    check!(smp::start_all(), "not all CPUs started");
    COUNTER.store(0, Ordering::Relaxed);
    for other in smp::others() {
        smp::begin(other, add, ROUNDS);
    }
    add(ROUNDS);
    for other in smp::others() {
        check_eq!(smp::finish(other), Some(0), "CPU {other}");
    }
    let expected = ROUNDS * smp::count() as u64;
    check_eq!(COUNTER.load(Ordering::Relaxed), expected, "sum by exclusives");
    if sysreg::id_field(mrs!("id_aa64isar0_el1"), 20) >= 2 {
        let mut old: u64 = 5;
        // SAFETY: the counter is an atomic of this size.
        unsafe {
            asm!(
                ".arch_extension lse", "ldaddal {old}, {old}, [{address}]",
                old = inout(reg) old, address = in(reg) COUNTER.as_ptr(), options(nostack)
            );
        }
        check_eq!(old, expected, "old value of LDADDAL");
        check_eq!(COUNTER.load(Ordering::Relaxed), expected + 5, "sum by LDADDAL");
    }
    Ok(())
}

/// A first-level index that nothing else uses: addresses from 200 GiB.
const SPARE: usize = 200;

pub(super) fn tables_in_holes() -> Verdict {
    const GIB: u64 = 1 << 30;
    let old = mmu::ROOT.get(SPARE);
    let tables = hole_addresses().map(|a| a & !(PAGE - 1));
    for table in tables.into_iter().chain([console::base()]) {
        mmu::ROOT.set(SPARE, table | mmu::descriptor::TABLE | mmu::descriptor::VALID);
        mmu::invalidate();
        let fault = exception::fault_of(|| _ = load(SPARE as u64 * GIB + 0x1000));
        mmu::ROOT.set(SPARE, old);
        mmu::invalidate();
        let Some(fault) = fault else {
            check!(false, "a walk through {table:#x} does not abort");
            return Ok(());
        };
        check_eq!(fault.class(), class::DATA_ABORT, "walk through {table:#x}: class");
        check_eq!(fault.far, SPARE as u64 * GIB + 0x1000, "walk through {table:#x}: FAR_EL1");
        let on_walk = fault.status() & !3 == status::EXTERNAL_WALK;
        // A device that answers the walk gives an invalid descriptor.
        let invalid = table == console::base() && fault.status() & !3 == status::TRANSLATION;
        check!(on_walk || invalid, "walk through {table:#x}: status {:#x}", fault.status());
    }
    Ok(())
}

/// Fills some memory, runs an operation over its lines and compares.
fn kept(name: &str, operation: fn(u64)) -> Verdict {
    let start = machine().free_ram().start.next_multiple_of(PAGE);
    for address in (start..start + PAGE).step_by(8) {
        store(address, address.rotate_left(17));
    }
    // Invalidation may throw away what has not been cleaned.
    cache::clean_to_coherency(start, PAGE);
    for address in (start..start + PAGE).step_by(64) {
        let fault = exception::fault_of(|| operation(address));
        check_eq!(fault, None, "{name} of {address:#x}");
    }
    cache::barrier();
    for address in (start..start + PAGE).step_by(8) {
        check_eq!(load(address), address.rotate_left(17), "{name}: contents of {address:#x}");
        store(address, 0);
    }
    Ok(())
}

macro_rules! operation {
    ($instruction:literal) => {
        (
            $instruction,
            (|address: u64| {
                // SAFETY: the operation is on a free page that has been cleaned.
                unsafe {
                    asm!(concat!($instruction, ", {}"), in(reg) address, options(nostack));
                }
            }) as Access,
        )
    };
}

/// Cache operations by address.
pub(super) const OPERATIONS: [(&str, Access); 5] = [
    operation!("dc civac"),
    operation!("dc cvac"),
    operation!("dc cvau"),
    operation!("dc ivac"),
    operation!("ic ivau"),
];

pub(super) fn cache_operations() -> Verdict {
    OPERATIONS.into_iter().try_for_each(|(name, operation)| kept(name, operation))
}

pub(super) fn set_way() -> Verdict {
    const SETS: u64 = 16;
    let start = Timer::Virtual.now();
    for (name, operate) in [operation!("dc csw"), operation!("dc cisw"), operation!("dc isw")] {
        let page = machine().free_ram().start.next_multiple_of(PAGE);
        store(page, 0x1234_5678);
        cache::clean_to_coherency(page, 8);
        for set in 0..SETS {
            // Level 1, way 0.
            let fault = exception::fault_of(|| operate(set << 6));
            check_eq!(fault, None, "{name} of set {set}");
        }
        check_eq!(load(page), 0x1234_5678, "memory after {name}");
        store(page, 0);
    }
    let took = Timer::Virtual.now() - start;
    println!("# {} set/way operations took {} us", 3 * SETS, took * 1_000_000 / timer::frequency());
    Ok(())
}
pub(super) fn zeroing() -> Verdict {
    const DZP: u64 = 1 << 4;
    let identification = mrs!("dczid_el0");
    if identification & DZP != 0 {
        return Err(Stop::Skip("DC ZVA is prohibited"));
    }
    let block = 4 << (identification & 0xf);
    let page = machine().free_ram().start.next_multiple_of(PAGE);
    for address in (page..page + PAGE).step_by(8) {
        store(address, u64::MAX);
    }
    let middle = page + PAGE / 2;
    // SAFETY: the block lies in a free page.
    unsafe { asm!("dc zva, {}", in(reg) middle + 8, options(nostack)) };
    for address in (page..page + PAGE).step_by(8) {
        let expected = if (middle..middle + block).contains(&address) { 0 } else { u64::MAX };
        check_eq!(load(address), expected, "contents of {address:#x}");
        store(address, 0);
    }
    Ok(())
}

/// Free pages that belong to one of several CPUs.
fn pages(index: usize) -> impl Iterator<Item = u64> {
    let free = machine().free_ram();
    let first = free.start.next_multiple_of(PAGE) + index as u64 * PAGE;
    (first..free.end & !(PAGE - 1)).step_by(PAGE as usize * smp::count())
}

const WORDS: [u64; 3] = [0, 2048, PAGE - 8];

/// A job: checks that this CPU's pages are what `old` makes of an address, and writes
/// what `old + 1` makes of it.
fn touch(old: u64) -> u64 {
    let mut wrong = 0;
    for page in pages(smp::index()) {
        for address in WORDS.map(|offset| page + offset) {
            wrong += u64::from(load(address) != pattern(address, old));
            store(address, pattern(address, old + 1));
        }
    }
    wrong
}

const fn pattern(address: u64, round: u64) -> u64 {
    if round == 0 {
        0
    } else {
        address.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(round as u32)
    }
}

static ROUND: AtomicU64 = AtomicU64::new(0);

pub(super) fn first_touch() -> Verdict {
    // Half of the pages remain for the other CPUs to touch first.
    let half = |page: &u64| (page / PAGE).is_multiple_of(2);
    let free = machine().free_ram();
    let all = || (free.start.next_multiple_of(PAGE)..free.end & !(PAGE - 1)).step_by(PAGE as usize);
    for page in all().filter(half) {
        for address in WORDS.map(|offset| page + offset) {
            check_eq!(load(address), 0, "{address:#x} at first");
            store(address, pattern(address, 1));
        }
    }
    for page in all().filter(half) {
        for address in WORDS.map(|offset| page + offset) {
            check_eq!(load(address), pattern(address, 1), "{address:#x}");
            store(address, 0);
        }
    }
    println!("# {} pages", all().count());
    Ok(())
}

pub(super) fn first_touch_together() -> Verdict {
    check!(smp::start_all(), "not all CPUs started");
    for _ in 0..3 {
        let round = ROUND.fetch_add(1, Ordering::Relaxed);
        for other in smp::others() {
            smp::begin(other, touch, round);
        }
        check_eq!(touch(round), 0, "wrong words of CPU {} in round {round}", smp::index());
        for other in smp::others() {
            check_eq!(smp::finish(other), Some(0), "wrong words of CPU {other} in round {round}");
        }
    }
    Ok(())
}
