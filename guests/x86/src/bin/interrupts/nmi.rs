//! Non-maskable interrupts.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use guests::tap::{Stop, Verdict};
use guests::x86_64::exception::{self, NMI};
use guests::x86_64::time::{wait_for, wait_without_exits};
use guests::x86_64::{apic, cpu, smp};
use guests::{check, check_eq};

use crate::guest::{LOW, PATIENCE};

pub(crate) fn comes_always() -> Verdict {
    apic::send(apic::id(), apic::ICR_NMI);
    let came = (0..100_000).any(|_| {
        core::hint::spin_loop();
        apic::id();
        exception::count(NMI) == 1
    });
    check!(came, "no NMI with interrupts off");
    // Another one after the first has been handled.
    apic::send(apic::id(), apic::ICR_NMI);
    check!(wait_for(PATIENCE, || exception::count(NMI) == 2), "no second NMI");
    Ok(())
}

/// The NMIs that the first one's handler had seen at its end.
static INSIDE: AtomicU64 = AtomicU64::new(0);

fn send_another_nmi(vector: u8) {
    if vector != NMI || exception::count(NMI) > 1 {
        return;
    }
    apic::send(apic::id(), apic::ICR_NMI);
    wait_without_exits(2000, || false);
    INSIDE.store(exception::count(NMI), Ordering::Release);
}

pub(crate) fn waits_for_the_one_before() -> Verdict {
    for round in 0..20 {
        exception::forget();
        exception::set_handler(send_another_nmi);
        INSIDE.store(0, Ordering::Release);
        apic::send(apic::id(), apic::ICR_NMI);
        let came = wait_without_exits(1000 * PATIENCE, || exception::count(NMI) == 2);
        check_eq!(INSIDE.load(Ordering::Acquire), 1, "NMIs inside the handler, round {round}");
        check!(came, "the second NMI is lost in round {round}");
    }
    Ok(())
}

/// Interrupts that had come when HLT inside the handler ended.
static ENDED_BY: AtomicU64 = AtomicU64::new(0);

fn halt_inside(vector: u8) {
    if vector != NMI || exception::count(NMI) > 1 {
        return;
    }
    apic::send(apic::id(), apic::ICR_NMI);
    cpu::write_msr(apic::DIVIDE, apic::DIVIDE_BY_1);
    cpu::write_msr(apic::LVT_TIMER, LOW.into());
    cpu::write_msr(apic::INITIAL, 5_000_000);
    cpu::halt();
    ENDED_BY.store(exception::count(LOW), Ordering::Release);
}

pub(crate) fn ends_no_halt_while_held_back() -> Verdict {
    exception::set_handler(halt_inside);
    apic::send(apic::id(), apic::ICR_NMI);
    let came = wait_without_exits(1000 * PATIENCE, || exception::count(NMI) == 2);
    check_eq!(ENDED_BY.load(Ordering::Acquire), 1, "interrupts that ended HLT");
    check!(came, "the second NMI is lost");
    Ok(())
}

/// NMIs that CPU 1 sends, each when the one before has come.
const NMIS: u64 = 20;

fn send_nmis() {
    for number in 1..=NMIS {
        apic::send(smp::apic_id(0), apic::ICR_NMI);
        if !wait_without_exits(1000 * PATIENCE, || exception::count(NMI) >= number) {
            return;
        }
    }
}

pub(crate) fn comes_between_shadows() -> Verdict {
    if smp::count() == 1 {
        return Err(Stop::Skip("one CPU"));
    }
    check!(smp::start(1), "CPU 1 does not start");
    smp::run(1, send_nmis);
    while !smp::is_idle(1) {
        // SAFETY: handlers keep every register; SS stays what it is.
        unsafe {
            asm!("mov {0:x}, ss", "sti", "cli", "mov ss, {0:x}", "nop", "sti", "cli", out(reg) _);
        }
    }
    let came = exception::count(NMI);
    smp::stop(1);
    check_eq!(came, NMIS, "NMIs");
    Ok(())
}
