//! Operations that trap and return, each in a loop.

use core::arch::asm;

use guests::aarch64::machine::{Gic, machine};
use guests::aarch64::{console, gic, mmio, psci};

use super::counter::{nanoseconds, now, repeat, row};

/// A function of the board maker's service, which nobody has.
const UNKNOWN: u64 = 0x8300_0099;
/// A function of the hypervisor's own service that it does not have.
const UNKNOWN_OF_SERVICE: u64 = 0x8600_0099;
/// `UARTIMSC`: no interrupts.
const UARTIMSC: u64 = 0x38;
/// A shared interrupt without a device, and the register of its enable bit.
const UNUSED: u32 = 63;
const BLOCK: u64 = 2 << 20;

/// A call with its function in X0.
#[inline(always)]
fn call(function: u64) {
    // SAFETY: a call changes X0 to X17 at most (DEN0028 2.6).
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") function => _, out("x1") _, out("x2") _, out("x3") _, out("x4") _,
            out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _,
            out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _,
            out("x17") _, options(nostack)
        );
    }
}

/// All rows of this kind.
pub(crate) fn run() {
    repeat("loop", || {
        // SAFETY: nothing happens.
        unsafe { asm!("nop", options(nostack)) };
    });
    repeat("hypercall", || call(UNKNOWN));
    repeat("hypercall-service", || call(UNKNOWN_OF_SERVICE));
    repeat("psci-version", || call(psci::function::VERSION));
    repeat("id-register", || {
        guests::mrs!("id_aa64pfr0_el1");
    });
    let port = console::base();
    repeat("device-read", || {
        mmio::read32(port + console::FR);
    });
    repeat("device-write", || mmio::write32(port + UARTIMSC, 0));
    let distributor = gic::distributor();
    repeat("distributor-read", || {
        mmio::read32(distributor + gic::gicd::IIDR);
    });
    let enable = distributor + gic::gicd::ISENABLER + u64::from(UNUSED / 32) * 4;
    repeat("distributor-write", || mmio::write32(enable, 1 << (UNUSED % 32)));
    gic::disable(UNUSED);
    if let Gic::V3 { .. } = machine().gic
        && let Some(own) = gic::redistributor(guests::aarch64::smp::index())
    {
        let enable = own + gic::gicr::SGI_FRAME + gic::gicd::ISENABLER;
        repeat("redistributor-write", || mmio::write32(enable, 1));
    }
    first_touch();
}

/// Reads memory that nobody has touched, a block further each time.
fn first_touch() {
    const BLOCKS: u64 = 8;
    let first = machine().free_ram().start.next_multiple_of(BLOCK) + BLOCK;
    let mut ticks = 0;
    for block in 0..BLOCKS {
        let start = now();
        mmio::read64(first + block * BLOCK);
        ticks += now() - start;
    }
    row("first-touch", nanoseconds(ticks, BLOCKS));
}
