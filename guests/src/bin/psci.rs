//! Tests PSCI and the other firmware services: every call and every error.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod guest {
    use core::arch::asm;
    use core::sync::atomic::{AtomicU64, Ordering};

    use guests::aarch64::exception::{self, class};
    use guests::aarch64::psci::{self, Suspended, call, call32, function, result};
    use guests::aarch64::smp::{self, EntryState};
    use guests::aarch64::timer::{self, Timer};
    use guests::aarch64::{self, cpu, gic, machine, mmio};
    use guests::tap::{Stop, Verdict, test};
    use guests::{check, check_eq, entry, println};

    const CALL_64: u64 = function::CALL_64;
    /// `CPU_SUSPEND`: power down rather than stand by.
    const POWER_DOWN: u32 = 1 << 16;
    /// `AFFINITY_INFO` answers.
    const ON: i64 = 0;
    const OFF: i64 = 1;
    const PENDING: i64 = 2;

    fn need(cpus: usize) -> Verdict {
        if smp::count() < cpus { Err(Stop::Skip("too few CPUs")) } else { Ok(()) }
    }

    fn affinity(index: usize) -> u64 {
        machine().cpus()[index]
    }

    fn affinity_info(affinity: u64, level: u64) -> i64 {
        call32(function::AFFINITY_INFO | CALL_64, affinity, level, 0)
    }

    fn features(id: u64) -> i64 {
        call32(function::FEATURES, id, 0, 0)
    }

    /// Starts a CPU, runs nothing on it, and switches it off.
    fn stop(index: usize) -> Verdict {
        smp::begin(index, smp::switch_off, 0);
        let off = timer::wait_until(|| affinity_info(affinity(index), 0) == OFF);
        check!(off, "CPU {index} is not off: {}", affinity_info(affinity(index), 0));
        Ok(())
    }

    /// An affinity that no CPU has.
    fn nobody() -> u64 {
        (0..=0xff).rev().find(|value| !machine().cpus().contains(value)).unwrap_or(0xff_ffff)
    }

    fn version() -> Verdict {
        let version = call32(function::VERSION, 0, 0, 0);
        check!(version >= 0x1_0000, "version {version:#x}");
        check!(!psci::under_hypervisor() || version >= 0x1_0001, "version {version:#x}");
        Ok(())
    }

    fn mandatory_functions() -> Verdict {
        for id in [
            function::VERSION,
            function::CPU_SUSPEND,
            function::CPU_SUSPEND | CALL_64,
            function::CPU_OFF,
            function::CPU_ON,
            function::CPU_ON | CALL_64,
            function::AFFINITY_INFO,
            function::AFFINITY_INFO | CALL_64,
            function::SYSTEM_OFF,
            function::SYSTEM_RESET,
            function::FEATURES,
        ] {
            let answer = features(id);
            check!(answer >= 0, "FEATURES of {id:#x}: {answer}");
        }
        if psci::under_hypervisor() {
            for id in [function::SYSTEM_RESET2, function::SYSTEM_RESET2 | CALL_64] {
                check!(features(id) >= 0, "FEATURES of {id:#x}: {}", features(id));
            }
        }
        Ok(())
    }

    fn unsupported_functions() -> Verdict {
        for base in [function::VERSION, function::VERSION | CALL_64] {
            for id in base..base + 0x40 {
                let answer = features(id);
                if answer >= 0 {
                    continue;
                }
                check_eq!(answer, result::NOT_SUPPORTED, "FEATURES of {id:#x}");
                check_eq!(call32(id, 0, 0, 0), result::NOT_SUPPORTED, "call of {id:#x}");
            }
        }
        for id in [0, 0x8400_7fff, 0xc400_ffff, u64::MAX, function::VERSION | CALL_64] {
            check_eq!(features(id), result::NOT_SUPPORTED, "FEATURES of {id:#x}");
        }
        Ok(())
    }

    fn unknown_identifiers() -> Verdict {
        for id in [
            0x0000_0000,
            0x0100_0000,
            0x3200_0000,
            0x8000_7ffe,
            0x8100_0000,
            0x8200_0000,
            0x8300_0000,
            0x8500_0000,
            0x8600_1234,
            0x8700_0000,
            0xb000_0000,
            0xb200_0000,
            0xbf00_ff01,
            0xc000_1234,
            0xc200_0000,
            0xc300_0000,
            0xc400_1234,
            0xc500_1234,
            0xc600_1234,
            0xffff_ffff,
        ] {
            let (answer, fault) = exception::catch(|| call32(id, 1, 2, 3));
            check_eq!(fault, None, "exception at {id:#x}");
            check_eq!(answer, result::NOT_SUPPORTED, "answer of {id:#x}");
        }
        Ok(())
    }

    fn registers_are_kept() -> Verdict {
        for id in [function::VERSION, 0xc400_1234, function::AFFINITY_INFO | CALL_64] {
            let mut registers: psci::Registers = core::array::from_fn(|i| 0x5a5a_0000 + i as u64);
            registers[..4].copy_from_slice(&[id, affinity(0), 0, 0]);
            let before = registers;
            psci::hvc(&mut registers);
            check_eq!(&registers[4..], &before[4..], "x4 to x17 after {id:#x}");
        }
        Ok(())
    }

    fn narrow_calls() -> Verdict {
        const GARBAGE: u64 = 0xdead_beef_0000_0000;
        let info = |upper: u64| {
            let mut registers = [0; 18];
            registers[0] = function::AFFINITY_INFO;
            registers[1] = affinity(0) | upper;
            registers[2] = upper;
            psci::hvc(&mut registers);
            i64::from(registers[0] as i32)
        };
        check_eq!(info(0), ON, "32-bit AFFINITY_INFO");
        let with_garbage = info(GARBAGE);
        // The bare emulator looks at the upper halves.
        let strict = psci::under_hypervisor();
        check!(with_garbage == ON || !strict, "upper halves of arguments: {with_garbage}");
        let version = call32(function::VERSION | GARBAGE, 0, 0, 0);
        let same = version == call32(function::VERSION, 0, 0, 0);
        check!(same || !strict, "upper half of the function identifier: {version:#x}");
        Ok(())
    }

    fn other_immediates() -> Verdict {
        let (answer, fault) = exception::catch(|| {
            let mut x0 = function::VERSION;
            // SAFETY: the call keeps all registers from x4 on and memory.
            unsafe {
                asm!(
                    "hvc #0x1234", inout("x0") x0, out("x1") _, out("x2") _, out("x3") _,
                    options(nostack)
                );
            }
            i64::from(x0 as i32)
        });
        let version = call32(function::VERSION, 0, 0, 0);
        let plausible = answer == version || answer == result::NOT_SUPPORTED;
        check!(fault.is_some() || plausible, "HVC with an immediate: {answer:#x}");
        Ok(())
    }

    fn smc_like_hvc() -> Verdict {
        for (id, argument) in [
            (function::VERSION, 0),
            (function::FEATURES, function::CPU_ON),
            (function::AFFINITY_INFO | CALL_64, affinity(0)),
            (0xc200_0000, 0),
            (0x8400_1234, 0),
        ] {
            let mut registers: psci::Registers = core::array::from_fn(|i| 0xa5a5_0000 + i as u64);
            registers[..4].copy_from_slice(&[id, argument, 0, 0]);
            let before = registers;
            let ((), fault) = exception::catch(|| psci::smc(&mut registers));
            if let Some(fault) = fault {
                check_eq!(fault.class(), class::UNKNOWN, "exception class of SMC");
                check!(!psci::under_hypervisor(), "SMC is undefined");
                continue;
            }
            check_eq!(registers[0] as u32, call(id, argument, 0, 0) as u32, "SMC {id:#x}");
            check_eq!(&registers[4..], &before[4..], "x4 to x17 after SMC {id:#x}");
        }
        Ok(())
    }

    fn smccc() -> Verdict {
        if features(function::SMCCC_VERSION) < 0 {
            check!(!psci::under_hypervisor(), "no SMCCC_VERSION");
            return Err(Stop::Skip("no SMCCC discovery"));
        }
        let version = call32(function::SMCCC_VERSION, 0, 0, 0);
        check!(version >= 0x1_0001, "SMCCC version {version:#x}");
        for id in [function::SMCCC_VERSION, function::ARCH_FEATURES] {
            let answer = call32(function::ARCH_FEATURES, id, 0, 0);
            check!(answer >= 0, "ARCH_FEATURES of {id:#x}: {answer}");
        }
        // The workarounds: each is absent, or present and harmless.
        for id in [0x8000_8000, 0x8000_7fff, 0x8000_3fff] {
            let answer = call32(function::ARCH_FEATURES, id, 0, 0);
            check!((-2..=1).contains(&answer), "ARCH_FEATURES of {id:#x}: {answer}");
            if answer >= 0 {
                call(id, 1, 0, 0);
            }
        }
        for id in [0x8000_1234, 0, 0xffff_ffff, 0xc200_0000] {
            let answer = call32(function::ARCH_FEATURES, id, 0, 0);
            check_eq!(answer, result::NOT_SUPPORTED, "ARCH_FEATURES of {id:#x}");
        }
        Ok(())
    }

    fn random_numbers() -> Verdict {
        const MOST: u64 = 192;
        let version = call32(function::TRNG_VERSION, 0, 0, 0);
        if version < 0 {
            check_eq!(version, result::NOT_SUPPORTED, "TRNG_VERSION");
            check!(!psci::under_hypervisor(), "no TRNG");
            return Err(Stop::Skip("no TRNG"));
        }
        check!(version >= 0x1_0000, "TRNG version {version:#x}");
        for id in [function::TRNG_FEATURES, function::TRNG_GET_UUID, function::TRNG_RND64] {
            check!(call32(function::TRNG_FEATURES, id, 0, 0) >= 0, "TRNG_FEATURES of {id:#x}");
        }
        let unknown = call32(function::TRNG_FEATURES, 0x8400_1234, 0, 0);
        check_eq!(unknown, result::NOT_SUPPORTED, "TRNG_FEATURES of nothing");
        let draw = |bits: u64| {
            let mut registers = [0; 18];
            registers[0] = function::TRNG_RND64;
            registers[1] = bits;
            psci::hvc(&mut registers);
            (registers[0] as i64, [registers[3], registers[2], registers[1]])
        };
        for bits in [0, MOST + 1, u64::MAX] {
            check_eq!(draw(bits).0, result::INVALID_PARAMETERS, "{bits} bits");
        }
        let mut seen = [0; 3];
        for bits in 1..=MOST {
            let (answer, words) = draw(bits);
            check_eq!(answer, result::SUCCESS, "{bits} bits");
            for (index, word) in words.into_iter().enumerate() {
                let wanted = bits.saturating_sub(index as u64 * 64).min(64);
                let excess = word.checked_shr(wanted as u32).unwrap_or(0);
                check_eq!(excess, 0, "word {index} of {bits} bits");
                seen[index] |= word;
            }
        }
        // The longest requests are few: enough of them that each bit is one at some time.
        for _ in 0..64 {
            for (seen, word) in seen.iter_mut().zip(draw(MOST).1) {
                *seen |= word;
            }
        }
        check_eq!(seen, [u64::MAX; 3], "bits that were ever one");
        check!(draw(MOST).1 != draw(MOST).1, "the same numbers twice");
        Ok(())
    }

    /// A job: where the record of stolen time of this CPU is.
    fn stolen_time_record(_: u64) -> u64 {
        call(function::PV_TIME_ST, 0, 0, 0) as u64
    }

    fn stolen_time() -> Verdict {
        let known = features(function::SMCCC_VERSION) >= 0
            && call32(function::ARCH_FEATURES, function::PV_TIME_FEATURES, 0, 0) >= 0;
        if !known {
            check!(!psci::under_hypervisor(), "no PV_TIME_FEATURES");
            return Err(Stop::Skip("no stolen time"));
        }
        let answer = call32(function::PV_TIME_FEATURES, function::PV_TIME_ST, 0, 0);
        check_eq!(answer, result::SUCCESS, "PV_TIME_FEATURES of PV_TIME_ST");
        let answer = call32(function::PV_TIME_FEATURES, 0xc500_0022, 0, 0);
        check_eq!(answer, result::NOT_SUPPORTED, "PV_TIME_FEATURES of nothing");
        check!(smp::start_all(), "not all CPUs started");
        let mut previous = 0;
        for index in 0..smp::count() {
            let Some(record) = smp::run(index, stolen_time_record, 0) else {
                check!(false, "CPU {index} does not answer");
                return Ok(());
            };
            check!(record as i64 > 0 && record % 64 == 0, "CPU {index}: record {record:#x}");
            check!(record != previous, "CPU {index} shares its record");
            previous = record;
            check_eq!(mmio::read32(record), 0, "revision of CPU {index}");
            check_eq!(mmio::read32(record + 4), 0, "attributes of CPU {index}");
            let first = mmio::read64(record + 8);
            let second = mmio::read64(record + 8);
            check!(second >= first, "stolen time of CPU {index} goes back");
        }
        for index in smp::others() {
            stop(index)?;
        }
        Ok(())
    }

    fn migration() -> Verdict {
        let kind = call32(function::MIGRATE_INFO_TYPE, 0, 0, 0);
        check!(kind == 2 || kind == result::NOT_SUPPORTED, "MIGRATE_INFO_TYPE {kind}");
        for id in [function::MIGRATE, function::MIGRATE_INFO_UP_CPU] {
            for id in [id, id | CALL_64] {
                check_eq!(call32(id, 0, 0, 0), result::NOT_SUPPORTED, "call of {id:#x}");
            }
        }
        Ok(())
    }

    fn affinity_levels() -> Verdict {
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

    fn cpu_on_refusals() -> Verdict {
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

    fn all_cpus_start() -> Verdict {
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

    fn narrow_cpu_on() -> Verdict {
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

    fn cycles_of_off_and_on() -> Verdict {
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

    fn cpu_on_race() -> Verdict {
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
                let answer =
                    if index == 0 { Some(own) } else { smp::finish(index).map(|a| a as i64) };
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

    fn standby() -> Verdict {
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

    fn power_down() -> Verdict {
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

    fn wrong_power_states() -> Verdict {
        // Reserved bits of the original format.
        for state in [1 << 31, 1 << 26, 1 << 18, 0xffff_ffff] {
            arm_wake_up();
            let answer = call32(function::CPU_SUSPEND | CALL_64, state, 0, 0);
            check_eq!(answer, result::INVALID_PARAMETERS, "power state {state:#x}");
        }
        Ok(())
    }

    fn system_suspend() -> Verdict {
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

    fn calls_from_all_cpus() -> Verdict {
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

    fn impossible_entry() -> Verdict {
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

    fn main() -> ! {
        aarch64::run(&[
            test("the version is 1.0 or later", version),
            test("mandatory functions are there", mandatory_functions),
            test("functions that FEATURES denies are not supported", unsupported_functions),
            test("unknown identifiers are not supported", unknown_identifiers),
            test("registers from x4 on are kept", registers_are_kept),
            test("32-bit calls ignore upper halves", narrow_calls),
            test("HVC with another immediate is harmless", other_immediates),
            test("SMC is answered like HVC", smc_like_hvc),
            test("SMCCC describes itself", smccc),
            test("random numbers have the bits asked for", random_numbers),
            test("no trusted OS needs migration", migration),
            test("AFFINITY_INFO knows who is on", affinity_levels),
            test("CPU_ON refuses what is wrong", cpu_on_refusals),
            test("all CPUs start in the state of the specification", all_cpus_start),
            test("32-bit CPU_ON starts a CPU", narrow_cpu_on),
            test("a hundred times off and on", cycles_of_off_and_on),
            test("of several CPU_ON at once one succeeds", cpu_on_race),
            test("stolen time has a record for each CPU", stolen_time),
            test("CPU_SUSPEND stands by until an interrupt", standby),
            test("CPU_SUSPEND powers down and resumes", power_down),
            test("CPU_SUSPEND refuses wrong power states", wrong_power_states),
            test("SYSTEM_SUSPEND needs all other CPUs off", system_suspend),
            test("calls from all CPUs at once are answered", calls_from_all_cpus),
            test("CPU_ON where there is no memory harms nobody else", impossible_entry),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
