//! Tests of starting, stopping and interrupting other CPUs.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod guest {
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    use guests::tap::{Stop, Verdict, test};
    use guests::x86_64::smp::{self, MAX_CPUS, PATIENCE};
    use guests::x86_64::{self, apic, cpu, exception, time};
    use guests::{check, check_eq, entry, println};

    fn others() -> Result<core::ops::Range<usize>, Stop> {
        match smp::count() {
            1 => Err(Stop::Skip("one CPU")),
            count => Ok(1..count),
        }
    }

    /// Starts those that do not run yet.
    fn all_run() -> Verdict {
        for number in others()? {
            if smp::starts(number) == 0 {
                check!(smp::start(number), "CPU {number} does not start");
            }
        }
        Ok(())
    }

    /// Has every other CPU do `work` at the same time.
    fn everywhere(work: fn()) -> Verdict {
        all_run()?;
        others()?.for_each(|number| smp::run(number, work));
        for number in others()? {
            check!(
                time::wait_for(PATIENCE, || smp::is_idle(number)),
                "CPU {number} does not answer"
            );
        }
        Ok(())
    }

    static SEEN: AtomicU64 = AtomicU64::new(0);
    static WRONG: AtomicU32 = AtomicU32::new(0);

    fn note_identity() {
        let id = apic::id();
        let (leaf_1, leaf_b) = (cpu::cpuid(1, 0).ebx >> 24, cpu::cpuid(0xb, 0).edx);
        let told_b = cpu::cpuid(0, 0).eax < 0xb || leaf_b == id;
        let first = cpu::read_msr(apic::BASE) & apic::BASE_FIRST != 0;
        if leaf_1 != id & 0xff || !told_b || first {
            WRONG.fetch_add(1, Ordering::AcqRel);
        }
        SEEN.fetch_or(1 << id, Ordering::AcqRel);
    }

    fn identities() -> Verdict {
        everywhere(note_identity)?;
        let expected = others()?.fold(0, |set, number| set | 1 << smp::apic_id(number));
        check_eq!(SEEN.load(Ordering::Acquire), expected, "identifiers");
        check_eq!(WRONG.load(Ordering::Acquire), 0, "CPUs whose identifiers differ");
        Ok(())
    }

    const ROUNDS: u64 = 20_000;
    static COUNTER: AtomicU64 = AtomicU64::new(0);

    fn count_up() {
        for _ in 0..ROUNDS {
            COUNTER.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn atomics() -> Verdict {
        everywhere(count_up)?;
        let cpus = smp::count() as u64 - 1;
        check_eq!(COUNTER.load(Ordering::Acquire), ROUNDS * cpus, "counted together");
        Ok(())
    }

    static PONGS: AtomicU64 = AtomicU64::new(0);

    fn pong() {
        PONGS.fetch_add(1, Ordering::AcqRel);
    }

    fn ping_pong() -> Verdict {
        all_run()?;
        for round in 0..200 {
            for number in others()? {
                let before = PONGS.load(Ordering::Acquire);
                smp::run(number, pong);
                let came = time::wait_for(PATIENCE, || PONGS.load(Ordering::Acquire) > before);
                check!(came, "CPU {number} stays asleep in round {round}");
                check!(time::wait_for(PATIENCE, || smp::is_idle(number)), "CPU {number} is stuck");
            }
        }
        Ok(())
    }

    const TO_ALL: u8 = 0x55;

    static BROADCASTS: AtomicU32 = AtomicU32::new(0);

    fn wait_for_broadcast() {
        let before = exception::count(TO_ALL);
        BROADCASTS.fetch_add(1, Ordering::AcqRel);
        time::wait_for(PATIENCE, || exception::count(TO_ALL) > before);
    }

    fn broadcast() -> Verdict {
        all_run()?;
        let cpus = others()?.len() as u64;
        others()?.for_each(|number| smp::run(number, wait_for_broadcast));
        let ready = || u64::from(BROADCASTS.load(Ordering::Acquire)) == cpus;
        check!(time::wait_for(PATIENCE, ready), "not all are ready");
        apic::send(0, apic::ICR_OTHERS | u64::from(TO_ALL));
        let all = || exception::count(TO_ALL) == cpus;
        let came = time::wait_for(PATIENCE, all);
        check!(came, "{} of {cpus} took it", exception::count(TO_ALL));
        for number in others()? {
            check!(time::wait_for(PATIENCE, || smp::is_idle(number)), "CPU {number} is stuck");
        }
        Ok(())
    }

    fn restarts() -> Verdict {
        for number in others()? {
            for round in 0..20 {
                check!(smp::start(number), "CPU {number} does not start in round {round}");
            }
        }
        Ok(())
    }

    static SPINS: AtomicU64 = AtomicU64::new(0);

    fn spin() {
        loop {
            SPINS.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn init_stops() -> Verdict {
        all_run()?;
        let number = others()?.start;
        smp::run(number, spin);
        check!(time::wait_for(PATIENCE, || SPINS.load(Ordering::Acquire) > 0), "it does not spin");
        smp::stop(number);
        let quiet = || {
            let before = SPINS.load(Ordering::Acquire);
            time::pause(5);
            SPINS.load(Ordering::Acquire) == before
        };
        check!(time::wait_for(PATIENCE, quiet), "it spins on after INIT");
        check!(smp::start(number), "it does not start again");
        Ok(())
    }

    fn second_start_up() -> Verdict {
        all_run()?;
        for number in others()? {
            let before = smp::starts(number);
            apic::send(smp::apic_id(number), apic::ICR_STARTUP | 0x8);
            time::pause(5);
            check_eq!(smp::starts(number), before, "starts of CPU {number}");
        }
        everywhere(pong)
    }

    fn nobody_there() -> Verdict {
        // Identifiers that do not exist: nothing happens, to anybody.
        for target in [MAX_CPUS as u32 + 100, 0xfe, 0x1_0000, 0xffff_fffe] {
            apic::send(target, apic::ICR_INIT);
            apic::send(target, apic::ICR_STARTUP | 0x8);
            apic::send(target, apic::ICR_NMI);
            apic::send(target, 0x77);
        }
        match smp::count() {
            1 => Ok(()),
            _ => everywhere(pong),
        }
    }

    fn main() -> ! {
        println!("{} CPUs", smp::count());
        x86_64::run(&[
            test("every CPU starts", all_run),
            test("a CPU's identifiers agree with each other", identities),
            test("CPUs count together without loss", atomics),
            test("a halted CPU wakes up for every message", ping_pong),
            test("a message to all others reaches each once", broadcast),
            test("a CPU restarts twenty times", restarts),
            test("INIT stops a busy CPU, which starts again", init_stops),
            test("a start-up message to a running CPU changes nothing", second_start_up),
            test("messages to nobody change nothing", nobody_there),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
