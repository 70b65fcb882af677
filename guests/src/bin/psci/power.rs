//! CPUs that go on and off, and wait.

use core::sync::atomic::{AtomicU64, Ordering};

use guests::aarch64::psci::{self, Suspended, call, call32, function, result};
use guests::aarch64::smp::{self, EntryState};
use guests::aarch64::timer::{self, Timer};
use guests::aarch64::{cpu, gic, machine};
use guests::tap::{Stop, Verdict};
use guests::{check, check_eq, println};

use super::common::{CALL_64, OFF, ON, affinity, affinity_info, features, need, stop};

/// `CPU_SUSPEND`: power down rather than stand by.
const POWER_DOWN: u32 = 1 << 16;

const PENDING: i64 = 2;

/// An affinity that no CPU has.
fn nobody() -> u64 {
    (0..=0xff).rev().find(|value| !machine().cpus().contains(value)).unwrap_or(0xff_ffff)
}

pub(super) fn affinity_levels() -> Verdict {
    let this = affinity(smp::index());
    check_eq!(affinity_info(this, 0), ON, "this CPU");
    for level in 1..=3 {
        let answer = affinity_info(this, level);
        // Levels above 0 need not be supported since version 1.0.
        let fine = answer == ON || answer == result::INVALID_PARAMETERS;
        check!(fine, "level {level}: {answer}");
    }
    for level in [4, 0xffff_ffff] {
        let answer = affinity_info(this, level);
        let fine = answer == result::INVALID_PARAMETERS || !psci::under_hypervisor();
        check!(fine, "level {level:#x}: {answer}");
    }
    for wrong in [nobody(), 0x8000_0000 | this, this | 1 << 24, this | 1 << 63] {
        check_eq!(affinity_info(wrong, 0), result::INVALID_PARAMETERS, "affinity {wrong:#x}");
    }
    for index in smp::others() {
        check_eq!(affinity_info(affinity(index), 0), OFF, "CPU {index} before its start");
    }
    Ok(())
}

pub(super) fn cpu_on_refusals() -> Verdict {
    let (entry, context) = (smp::entry as fn(usize) -> (u64, u64))(smp::count() - 1);
    let this = affinity(smp::index());
    for id in [function::CPU_ON, function::CPU_ON | CALL_64] {
        let answer = call32(id, this, entry, context);
        check_eq!(answer, result::ALREADY_ON, "this CPU by {id:#x}");
        for wrong in [nobody(), 0x8000_0000 | this, this | 1 << 24] {
            let answer = call32(id, wrong, entry, context);
            check_eq!(answer, result::INVALID_PARAMETERS, "affinity {wrong:#x} by {id:#x}");
        }
    }
    let answer = call32(function::CPU_ON | CALL_64, this | 1 << 63, entry, context);
    check_eq!(answer, result::INVALID_PARAMETERS, "affinity with a reserved bit");
    if let Some(other) = smp::others().last() {
        let answer = psci::cpu_on(affinity(other), entry + 2, context);
        let refused = [result::INVALID_ADDRESS, result::INVALID_PARAMETERS].contains(&answer);
        check!(refused, "unaligned entry: {answer}");
        check_eq!(affinity_info(affinity(other), 0), OFF, "CPU {other} after a refusal");
    }
    Ok(())
}

fn entry_state_is_right(index: usize) -> Verdict {
    let EntryState { sctlr, daif, el } = smp::entry_state(index);
    // MMU, data and instruction cache off, little-endian, everything masked.
    check_eq!(sctlr & (1 | 1 << 2 | 1 << 12 | 1 << 25), 0, "SCTLR_EL1 of CPU {index}");
    check_eq!(daif, 0x3c0, "DAIF of CPU {index}");
    check_eq!(el, 1, "exception level of CPU {index}");
    Ok(())
}

pub(super) fn all_cpus_start() -> Verdict {
    need(2)?;
    for index in smp::others() {
        check!(smp::start(index), "CPU {index} does not start");
        check_eq!(affinity_info(affinity(index), 0), ON, "CPU {index}");
        let (entry, context) = (0x4000_0000, 0);
        let answer = psci::cpu_on(affinity(index), entry, context);
        check_eq!(answer, result::ALREADY_ON, "CPU {index} once more");
        entry_state_is_right(index)?;
        let found = smp::run(index, |_| cpu::affinity(), 0);
        check_eq!(found, Some(affinity(index)), "MPIDR_EL1 of CPU {index}");
    }
    for index in smp::others() {
        stop(index)?;
    }
    Ok(())
}

pub(super) fn narrow_cpu_on() -> Verdict {
    need(2)?;
    let index = smp::count() - 1;
    let (entry, context) = smp::entry(index);
    if (entry | context) >> 32 != 0 {
        return Err(Stop::Skip("the image is above 4 GiB"));
    }
    let answer = call32(function::CPU_ON, affinity(index), entry, context);
    check_eq!(answer, result::SUCCESS, "32-bit CPU_ON");
    check!(timer::wait_until(|| smp::is_idle(index)), "CPU {index} does not start");
    stop(index)
}

pub(super) fn cycles_of_off_and_on() -> Verdict {
    const CYCLES: usize = 100;
    need(2)?;
    for cycle in 0..CYCLES {
        let index = 1 + cycle % (smp::count() - 1);
        check!(smp::start(index), "cycle {cycle}: CPU {index} does not start");
        entry_state_is_right(index)?;
        let doubled = smp::run(index, |argument| argument * 2, cycle as u64);
        check_eq!(doubled, Some(cycle as u64 * 2), "cycle {cycle}");
        stop(index)?;
    }
    Ok(())
}

static GATE: AtomicU64 = AtomicU64::new(0);

/// A job: waits for the gate, then tries to start the last CPU.
fn race(context: u64) -> u64 {
    let last = smp::count() - 1;
    let entry = ENTRY.load(Ordering::Relaxed);
    GATE.fetch_add(1, Ordering::SeqCst);
    while GATE.load(Ordering::SeqCst) < last as u64 {}
    psci::cpu_on(affinity(last), entry, context) as u64
}

static ENTRY: AtomicU64 = AtomicU64::new(0);

pub(super) fn cpu_on_race() -> Verdict {
    const ROUNDS: usize = 50;
    need(3)?;
    let last = smp::count() - 1;
    check!((1..last).all(smp::start), "not all CPUs started");
    for round in 0..ROUNDS {
        let (entry, context) = smp::entry(last);
        ENTRY.store(entry, Ordering::Relaxed);
        GATE.store(0, Ordering::SeqCst);
        for index in 1..last {
            smp::begin(index, race, context);
        }
        let mut won = 0;
        let own = race(context) as i64;
        for index in 0..last {
            let answer = if index == 0 { Some(own) } else { smp::finish(index).map(|a| a as i64) };
            match answer {
                Some(result::SUCCESS) => won += 1,
                Some(result::ALREADY_ON | result::ON_PENDING) => {}
                other => check!(false, "round {round}: CPU {index}: {other:?}"),
            }
        }
        // On the bare emulator a CPU is off a moment longer, so that several may win.
        let strict = psci::under_hypervisor();
        check!(won == 1 || won > 1 && !strict, "round {round}: {won} winners");
        let info = affinity_info(affinity(last), 0);
        check!(info == ON || info == PENDING || !strict, "round {round}: AFFINITY_INFO {info}");
        check!(timer::wait_until(|| smp::is_idle(last)), "round {round}: no CPU {last}");
        stop(last)?;
    }
    for index in 1..last {
        stop(index)?;
    }
    Ok(())
}

/// Arms the virtual timer so that it ends a suspension.
fn arm_wake_up() -> u64 {
    gic::enable(Timer::Virtual.interrupt());
    Timer::Virtual.arm(timer::microseconds(20_000))
}

pub(super) fn standby() -> Verdict {
    for id in [function::CPU_SUSPEND, function::CPU_SUSPEND | CALL_64] {
        let deadline = arm_wake_up();
        let answer = call32(id, 0, 0, 0);
        check_eq!(answer, result::SUCCESS, "standby by {id:#x}");
        check!(Timer::Virtual.now() >= deadline, "woke before the timer");
        timer::stop();
        gic::reset_cpu();
    }
    Ok(())
}

pub(super) fn power_down() -> Verdict {
    for _ in 0..5 {
        let deadline = arm_wake_up();
        match psci::cpu_suspend(POWER_DOWN) {
            // An implementation may stand by instead.
            Suspended::Resumed | Suspended::Returned(result::SUCCESS) => {}
            other => check!(false, "power-down: {other:?}"),
        }
        check!(Timer::Virtual.now() >= deadline, "woke before the timer");
        timer::stop();
        gic::reset_cpu();
    }
    Ok(())
}

pub(super) fn wrong_power_states() -> Verdict {
    // Reserved bits of the original format.
    for state in [1 << 31, 1 << 26, 1 << 18, 0xffff_ffff] {
        arm_wake_up();
        let answer = call32(function::CPU_SUSPEND | CALL_64, state, 0, 0);
        check_eq!(answer, result::INVALID_PARAMETERS, "power state {state:#x}");
    }
    Ok(())
}

pub(super) fn system_suspend() -> Verdict {
    let id = function::SYSTEM_SUSPEND | CALL_64;
    if features(id) < 0 {
        check_eq!(call32(id, 0, 0, 0), result::NOT_SUPPORTED, "SYSTEM_SUSPEND");
        return Err(Stop::Skip("no SYSTEM_SUSPEND"));
    }
    if smp::count() > 1 {
        check!(smp::start(1), "CPU 1 does not start");
        arm_wake_up();
        let answer = psci::system_suspend();
        check_eq!(answer, Suspended::Returned(result::DENIED), "while CPU 1 is on");
        stop(1)?;
    }
    let deadline = arm_wake_up();
    check_eq!(psci::system_suspend(), Suspended::Resumed, "SYSTEM_SUSPEND");
    check!(Timer::Virtual.now() >= deadline, "woke before the timer");
    Ok(())
}

/// A job: many harmless calls.
fn hammer(rounds: u64) -> u64 {
    let this = cpu::affinity();
    let version = call(function::VERSION, 0, 0, 0);
    let right = |_: &u64| {
        call(function::VERSION, 0, 0, 0) == version
            && affinity_info(this, 0) == ON
            && call32(0x8400_1234, 0, 0, 0) == result::NOT_SUPPORTED
    };
    (0..rounds).filter(|round| !right(round)).count() as u64
}

pub(super) fn calls_from_all_cpus() -> Verdict {
    const ROUNDS: u64 = 1_000;
    check!(smp::start_all(), "not all CPUs started");
    for other in smp::others() {
        smp::begin(other, hammer, ROUNDS);
    }
    check_eq!(hammer(ROUNDS), 0, "wrong answers here");
    for other in smp::others() {
        check_eq!(smp::finish(other), Some(0), "wrong answers to CPU {other}");
    }
    for other in smp::others() {
        stop(other)?;
    }
    Ok(())
}

pub(super) fn impossible_entry() -> Verdict {
    need(2)?;
    let last = smp::count() - 1;
    let hole = machine().ram.end + (1 << 30);
    let answer = psci::cpu_on(affinity(last), hole, 0);
    if answer == result::SUCCESS {
        println!("# CPU {last} was started at {hole:#x}, where there is no memory");
        // PSCI lets an implementation that does not know better accept it; this CPU must
        // not suffer.
        timer::spin(timer::microseconds(10_000));
        check_eq!(affinity_info(affinity(smp::index()), 0), ON, "this CPU");
    } else {
        check_eq!(answer, result::INVALID_ADDRESS, "entry {hole:#x}");
    }
    Ok(())
}
