//! From reset to the hypervisor's image, as iBoot and m1n1 leave the machine.

use core::sync::atomic::{AtomicBool, Ordering};

use machines::m1::{AFFINITIES, IMAGE, MEMORY, TREE, release_address};

use crate::trap::cpu;
use crate::{devices, gic};

core::arch::global_asm!(include_str!("entry.S"), options(raw));

unsafe extern "C" {
    /// See `entry.S`.
    fn enter(argument: u64, entry: u64) -> !;
    static parked: u8;
    static parked_end: u8;
}

/// Where the code is that the other CPUs wait in.
const PARKED: u64 = MEMORY + 0x100;

/// Entries of the table of granules: 64 GiB, 1 GiB each.
const GRANULES: usize = 64;
/// Any access.
const GRANULE_OPEN: u64 = 0xf1;
/// None.
const GRANULE_CLOSED: u64 = 0x01;
/// Where an M1 has its devices: their accesses come to EL3.
const DEVICES: core::ops::Range<usize> = 8..12;

#[repr(align(4096))]
struct Granules([u64; GRANULES]);

static mut TABLE: Granules = Granules([0; GRANULES]);

static READY: AtomicBool = AtomicBool::new(false);

mod scr {
    pub(super) const NS: u64 = 1 << 0;
    pub(super) const RES1: u64 = 3 << 4;
    pub(super) const HCE: u64 = 1 << 8;
    pub(super) const RW: u64 = 1 << 10;
    pub(super) const APK: u64 = 1 << 16;
    pub(super) const API: u64 = 1 << 17;
    /// Granule protection faults of lower levels come here.
    pub(super) const GPF: u64 = 1 << 48;
}

/// m1n1's value: API, APK, TEA, E2H, RW, TGE, AMO, IMO, FMO.
const HCR: u64 = 0x0000_0324_8800_0038;
const SCTLR_EL2_RES1: u64 = 0x30c5_0830;
/// EL2 with its own stack; debug exceptions, SError, IRQ and FIQ masked.
const SPSR: u64 = 0x3c9;
/// 64 GiB, granules of 4 KiB, walks cacheable and inner shareable, on.
const GPCCR: u64 = 0x1_3501;

/// Every CPU comes here from the reset vector.
#[unsafe(no_mangle)]
extern "C" fn start() -> ! {
    let cpu = cpu();
    if cpu == 0 {
        devices::reset();
        gic::start_distributor();
        close_granules();
        park_code();
        READY.store(true, Ordering::Release);
    }
    while !READY.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    let table = &raw const TABLE as u64;
    // SAFETY: registers of EL3 and EL2, before anything runs there.
    unsafe {
        core::arch::asm!(
            "msr scr_el3, {scr}",
            "msr cptr_el3, xzr",
            "isb",
            "msr s3_6_c2_c1_4, {table}", // GPTBR_EL3
            "msr s3_6_c2_c1_6, {gpccr}", // GPCCR_EL3
            "isb",
            "sys #6, c8, c7, #4", // TLBI PAALL
            "dsb sy",
            "isb",
            "msr hcr_el2, {hcr}",
            "msr cnthctl_el2, {counters}",
            "msr cntvoff_el2, xzr",
            "msr sctlr_el2, {sctlr}",
            "msr spsr_el3, {spsr}",
            "isb",
            scr = in(reg) scr::NS | scr::RES1 | scr::HCE | scr::RW | scr::APK | scr::API | scr::GPF,
            table = in(reg) table >> 12,
            gpccr = in(reg) GPCCR,
            hcr = in(reg) HCR,
            counters = in(reg) 3u64 << 10,
            sctlr = in(reg) SCTLR_EL2_RES1,
            spsr = in(reg) SPSR,
            options(nostack),
        );
    }
    gic::start_cpu(cpu);
    let (argument, entry) = if cpu == 0 { (TREE, IMAGE) } else { (release_address(cpu), PARKED) };
    // SAFETY: there is code at both.
    unsafe { enter(argument, entry) }
}

fn close_granules() {
    for number in 0..GRANULES {
        let granule = if DEVICES.contains(&number) { GRANULE_CLOSED } else { GRANULE_OPEN };
        // SAFETY: only the first CPU runs here.
        unsafe { (&raw mut TABLE.0[number]).write_volatile(granule) };
    }
}

/// Puts the waiting loop and an empty spin table into the boot loader's memory.
fn park_code() {
    let size = &raw const parked_end as usize - &raw const parked as usize;
    // SAFETY: this memory is the boot loader's, and nobody uses it yet.
    unsafe {
        core::ptr::copy_nonoverlapping(&raw const parked, PARKED as *mut u8, size);
        for cpu in 0..AFFINITIES.len() {
            (release_address(cpu) as *mut u64).write_volatile(0);
        }
    }
}
