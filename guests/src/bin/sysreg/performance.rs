//! The performance monitors (Arm ARM D13).

use guests::aarch64::sysreg::id_field;
use guests::aarch64::{gic, timer};
use guests::tap::{Stop, Verdict};
use guests::{check, check_eq, mrs, msr, println};

/// `PMCR_EL0`: enable, reset events, reset cycles, 64-bit cycles.
const E: u64 = 1 << 0;
const P: u64 = 1 << 1;
const C: u64 = 1 << 2;
const LC: u64 = 1 << 6;
/// The cycle counter in enable, overflow and interrupt registers.
const CYCLES: u64 = 1 << 31;
/// `PMCCFILTR_EL0.P`, `PMEVTYPER<n>_EL0.P`: not at EL1.
const NOT_AT_EL1: u64 = 1 << 31;
/// The overflow interrupt (`virt` machine, BSA 3.8.1).
const INTERRUPT: u32 = 23;
/// Events.
const SW_INCR: u64 = 0x00;
const INST_RETIRED: u64 = 0x08;
const CPU_CYCLES: u64 = 0x11;

fn present() -> Verdict {
    let version = id_field(mrs!("id_aa64dfr0_el1"), 8);
    if version == 0 || version == 15 { Err(Stop::Skip("no PMUv3")) } else { Ok(()) }
}

/// Number of event counters.
fn counters() -> u64 {
    mrs!("pmcr_el0") >> 11 & 0x1f
}

fn start(filter: u64) {
    stop();
    msr!("pmccfiltr_el0", filter);
    msr!("pmcr_el0", E | P | C | LC);
    msr!("pmcntenset_el0", CYCLES);
}

fn stop() {
    msr!("pmcr_el0", 0);
    msr!("pmcntenclr_el0", 0xffff_ffff);
    msr!("pmintenclr_el1", 0xffff_ffff);
    msr!("pmovsclr_el0", 0xffff_ffff);
}

pub(super) fn cycles() -> Verdict {
    present()?;
    start(0);
    let first = mrs!("pmccntr_el0");
    timer::spin(timer::microseconds(1_000));
    let second = mrs!("pmccntr_el0");
    msr!("pmcntenclr_el0", CYCLES);
    let third = mrs!("pmccntr_el0");
    timer::spin(timer::microseconds(1_000));
    let fourth = mrs!("pmccntr_el0");
    msr!("pmccntr_el0", 12_345);
    let written = mrs!("pmccntr_el0");
    stop();
    check!(second > first, "the cycle counter stands at {first}");
    check_eq!(fourth, third, "the cycle counter while it is disabled");
    check_eq!(written, 12_345, "the cycle counter after a write");
    println!("# {} cycles in a millisecond", second - first);
    Ok(())
}

/// Counts an event on counter 0 while `work` runs.
fn count(event: u64, filter: u64, work: fn()) -> u64 {
    stop();
    msr!("pmselr_el0", 0);
    msr!("pmxevtyper_el0", event | filter);
    msr!("pmxevcntr_el0", 0);
    msr!("pmcr_el0", E | LC);
    msr!("pmcntenset_el0", 1);
    work();
    let counted = mrs!("pmevcntr0_el0");
    stop();
    counted
}

fn work() {
    timer::spin(timer::microseconds(1_000));
}

pub(super) fn events() -> Verdict {
    present()?;
    if counters() == 0 {
        return Err(Stop::Skip("no event counters"));
    }
    let supported = mrs!("pmceid0_el0");
    let increments = count(SW_INCR, 0, || (0..10).for_each(|_| msr!("pmswinc_el0", 1)));
    check_eq!(increments, 10, "software increments");
    for event in [CPU_CYCLES, INST_RETIRED] {
        if supported >> event & 1 == 0 {
            println!("# event {event:#x} is not supported");
            continue;
        }
        let counted = count(event, 0, work);
        check!(counted > 0, "event {event:#x} is not counted");
        println!("# event {event:#x}: {counted} in a millisecond");
    }
    Ok(())
}

pub(super) fn filter() -> Verdict {
    present()?;
    start(NOT_AT_EL1);
    let first = mrs!("pmccntr_el0");
    work();
    let second = mrs!("pmccntr_el0");
    stop();
    check_eq!(second, first, "cycles though EL1 is excluded");
    if counters() > 0 && mrs!("pmceid0_el0") >> CPU_CYCLES & 1 != 0 {
        check_eq!(count(CPU_CYCLES, NOT_AT_EL1, work), 0, "event though EL1 is excluded");
    }
    Ok(())
}

pub(super) fn overflow() -> Verdict {
    present()?;
    start(0);
    gic::enable(INTERRUPT);
    for round in 0..3 {
        msr!("pmccntr_el0", 0_u64.wrapping_sub(10_000));
        msr!("pmintenset_el1", CYCLES);
        let taken = gic::wait();
        let flags = mrs!("pmovsset_el0");
        msr!("pmintenclr_el1", CYCLES);
        msr!("pmovsclr_el0", CYCLES);
        if !taken.is_spurious() {
            gic::end(taken);
        }
        if taken.interrupt() != INTERRUPT {
            stop();
        }
        check_eq!(taken.interrupt(), INTERRUPT, "round {round}");
        check_eq!(flags & CYCLES, CYCLES, "overflow flag in round {round}");
        let quiet = timer::wait_until(|| !gic::is_pending(INTERRUPT));
        check!(quiet && gic::acknowledge().is_spurious(), "round {round}: the level stays");
    }
    stop();
    Ok(())
}
