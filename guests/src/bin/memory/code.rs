//! Memory that is executed.

use core::arch::asm;

use guests::aarch64::exception::{self, class, status};
use guests::aarch64::{cache, console, machine, mmio, smp};
use guests::tap::{Stop, Verdict};
use guests::{check, check_eq};

use super::ram;

const RET: u32 = 0xd65f_03c0;

/// `movz x0, #value`.
const fn movz(value: u16) -> u32 {
    0xd280_0000 | (value as u32) << 5
}

/// Calls code at an address; returns its x0.
fn call(address: u64) -> u64 {
    let result;
    // SAFETY: the code keeps to the procedure call standard, or raises an exception that
    // returns to the link register.
    unsafe {
        asm!(
            "blr {}", in(reg) address, out("x0") result, clobber_abi("C"),
        );
    }
    result
}

pub(super) fn no_fetch() -> Verdict {
    for hole in ram::hole_addresses() {
        let Some(fault) = exception::fault_of(|| _ = call(hole)) else {
            check!(false, "code at {hole:#x} does not abort");
            return Ok(());
        };
        check_eq!(fault.class(), class::INSTRUCTION_ABORT, "class at {hole:#x}");
        check_eq!(fault.status(), status::EXTERNAL, "status at {hole:#x}");
        check_eq!(fault.elr, hole, "ELR_EL1");
    }
    // A device refuses, or its registers read as undefined instructions.
    for device in [Some(console::base() + 0x800), machine().clock.map(|base| base + 0x800)] {
        let Some(device) = device else { continue };
        let Some(fault) = exception::fault_of(|| _ = call(device)) else {
            check!(false, "code at {device:#x} does not abort");
            return Ok(());
        };
        let fine = [class::INSTRUCTION_ABORT, class::UNKNOWN].contains(&fault.class());
        check!(fine, "class {:#x} at {device:#x}", fault.class());
    }
    Ok(())
}

/// A place for code, 16 bytes.
fn place() -> u64 {
    machine().free_ram().start.next_multiple_of(4096)
}

/// Writes a function that returns `value`.
fn write(value: u16) {
    let place = place();
    mmio::write32(place, movz(value));
    mmio::write32(place + 4, RET);
    cache::synchronise_instructions(place, 8);
}

pub(super) fn self_modifying() -> Verdict {
    for value in 0..1_000 {
        write(value);
        check_eq!(call(place()), u64::from(value), "by address");
        mmio::write32(place(), movz(!value));
        cache::clean_to_coherency(place(), 4);
        // SAFETY: invalidates instruction caches.
        unsafe { asm!("ic iallu", "dsb sy", "isb", options(nostack)) };
        check_eq!(call(place()), u64::from(!value), "as a whole");
    }
    clear();
    Ok(())
}

pub(super) fn cross_modifying() -> Verdict {
    if smp::count() == 1 {
        return Err(Stop::Skip("one CPU"));
    }
    check!(smp::start_all(), "not all CPUs started");
    for round in 0..50 {
        for other in smp::others() {
            let value = round * 10 + other as u16;
            write(value);
            let found = smp::run(other, call, place());
            check_eq!(found, Some(u64::from(value)), "CPU {other}");
        }
    }
    clear();
    Ok(())
}

/// Leaves the place as it was found.
fn clear() {
    mmio::write64(place(), 0);
}
