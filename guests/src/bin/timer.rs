//! Tests the virtual and the EL1 physical timer on every CPU.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod guest {
    use core::sync::atomic::{AtomicU64, Ordering};

    use guests::aarch64::timer::{self, ENABLE, IMASK, ISTATUS, Timer};
    use guests::aarch64::{self, cpu, exception, gic, smp};
    use guests::tap::{Stop, Verdict, test};
    use guests::{check, check_eq, entry, println};
    use spin::Mutex;

    /// Runs a test for both timers.
    fn each(run: fn(Timer) -> Verdict) -> Verdict {
        for timer in Timer::ALL {
            if let Err(stop) = run(timer) {
                println!("# {timer:?} timer of CPU {}", smp::index());
                return Err(stop);
            }
            timer::stop();
        }
        Ok(())
    }

    /// A job that runs a test for both timers on the CPU that it is given to; 0 is good.
    fn each_job(run: fn(Timer) -> Verdict) -> u64 {
        cpu::mask_interrupts();
        timer::stop();
        gic::reset_cpu();
        let failed = each(run).is_err();
        timer::stop();
        exception::forget_handlers();
        u64::from(failed)
    }

    /// Runs a job on all other CPUs in turn.
    fn everywhere(job: smp::Job) -> Verdict {
        if smp::count() == 1 {
            return Err(Stop::Skip("one CPU"));
        }
        check!(smp::start_all(), "not all CPUs started");
        for other in smp::others() {
            check_eq!(smp::run(other, job, 0), Some(0), "CPU {other}");
        }
        Ok(())
    }

    fn frequency_is_plausible() -> Verdict {
        let hertz = timer::frequency();
        check!((1_000_000..=1_000_000_000).contains(&hertz), "CNTFRQ_EL0 is {hertz} Hz");
        let clock = aarch64::machine().clock;
        let Some(clock) = clock else { return Err(Stop::Skip("no real-time clock")) };
        // Two seconds of the real-time clock, from edge to edge.
        let edge = |after: u32| {
            timer::wait_until(|| aarch64::mmio::read32(clock) != after);
            (aarch64::mmio::read32(clock), Timer::Virtual.now())
        };
        let (first, _) = edge(aarch64::mmio::read32(clock));
        let (second, start) = edge(first);
        let (third, end) = edge(second);
        check!(third > second, "the real-time clock stands at {second}");
        let measured = (end - start) / u64::from(third - second);
        let near = hertz / 2..hertz * 2;
        check!(near.contains(&measured), "{measured} ticks in a second of {hertz}");
        Ok(())
    }

    fn counters_advance() -> Verdict {
        each(|timer| {
            let start = timer.now();
            let mut last = start;
            for _ in 0..10_000 {
                let now = timer.now();
                check!(now >= last, "from {last} back to {now}");
                last = now;
            }
            check!(last > start, "stands at {start}");
            Ok(())
        })
    }

    /// Arms the timer and watches it until its interrupt is pending.
    fn fires_at_deadline(timer: Timer) -> Verdict {
        let interrupt = timer.interrupt();
        gic::enable(interrupt);
        for delay in [100, 2_000, 20_000] {
            let deadline = timer.arm(timer::microseconds(delay));
            let mut early = None;
            let fired = timer::wait_until(|| {
                // A sample taken before the deadline must not show the interrupt.
                let pending = gic::is_pending(interrupt);
                let status = timer.control() & ISTATUS != 0;
                let now = timer.now();
                if (pending || status) && now < deadline {
                    early = Some(now);
                }
                pending && status || early.is_some()
            });
            check!(early.is_none(), "fired at {early:?}, before {deadline}");
            check!(fired, "has not fired long after {deadline}: it is {}", timer.now());
            let taken = gic::wait();
            check_eq!(taken.interrupt(), interrupt, "acknowledged");
            timer.set_control(0);
            gic::end(taken);
            check!(gic::acknowledge().is_spurious(), "came twice after {delay} us");
        }
        Ok(())
    }

    fn masked_does_not_interrupt(timer: Timer) -> Verdict {
        let interrupt = timer.interrupt();
        gic::enable(interrupt);
        timer.set_deadline(timer.now());
        timer.set_control(ENABLE | IMASK);
        check!(timer::wait_until(|| timer.control() & ISTATUS != 0), "no ISTATUS");
        timer::spin(timer::microseconds(1_000));
        check!(!gic::is_pending(interrupt), "pending though masked");
        check!(gic::acknowledge().is_spurious(), "acknowledged though masked");
        timer.set_control(ENABLE);
        check!(timer::wait_until(|| gic::is_pending(interrupt)), "not pending once unmasked");
        timer.set_control(ENABLE | IMASK);
        let gone = timer::wait_until(|| !gic::is_pending(interrupt));
        check!(gone, "still pending once masked again");
        timer.set_control(ENABLE);
        let taken = gic::wait();
        check_eq!(taken.interrupt(), interrupt, "acknowledged");
        timer.set_control(0);
        gic::end(taken);
        Ok(())
    }

    fn disabled_does_not_interrupt(timer: Timer) -> Verdict {
        gic::enable(timer.interrupt());
        timer.set_deadline(0);
        timer.set_control(0);
        timer::spin(timer::microseconds(1_000));
        check!(!gic::is_pending(timer.interrupt()), "pending though disabled");
        Ok(())
    }

    fn rearming_drops_the_level(timer: Timer) -> Verdict {
        let interrupt = timer.interrupt();
        gic::enable(interrupt);
        timer.arm(0);
        check!(timer::wait_until(|| gic::is_pending(interrupt)), "not pending");
        timer.arm(timer::frequency() * 100);
        check!(timer::wait_until(|| !gic::is_pending(interrupt)), "pending after it was re-armed");
        check!(gic::acknowledge().is_spurious(), "acknowledged after it was re-armed");
        // The same while the interrupt is active.
        timer.arm(0);
        let taken = gic::wait();
        check_eq!(taken.interrupt(), interrupt, "acknowledged");
        check!(gic::is_active(interrupt), "not active after acknowledgement");
        timer.arm(timer::frequency() * 100);
        gic::end(taken);
        check!(!gic::is_active(interrupt), "active after its end");
        check!(gic::acknowledge().is_spurious(), "came again though re-armed");
        Ok(())
    }

    fn level_comes_again_until_it_drops(timer: Timer) -> Verdict {
        let interrupt = timer.interrupt();
        gic::enable(interrupt);
        timer.arm(0);
        for round in 0..10 {
            let taken = gic::wait();
            check_eq!(taken.interrupt(), interrupt, "round {round}");
            gic::end(taken);
        }
        timer.set_control(0);
        check!(timer::wait_until(|| !gic::is_pending(interrupt)), "pending though disabled");
        Ok(())
    }

    const TICKS: u64 = 100;
    /// Ticks seen, next deadline and unexpected interrupts of the periodic test.
    static SEEN: AtomicU64 = AtomicU64::new(0);
    static DEADLINE: AtomicU64 = AtomicU64::new(0);
    static STRAY: AtomicU64 = AtomicU64::new(0);
    static PERIODIC: Mutex<Timer> = Mutex::new(Timer::Virtual);

    fn tick() {
        let taken = gic::acknowledge();
        if taken.is_spurious() {
            STRAY.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let timer = *PERIODIC.lock();
        let due = DEADLINE.load(Ordering::Relaxed);
        if taken.interrupt() != timer.interrupt() || timer.now() < due {
            STRAY.fetch_add(1, Ordering::Relaxed);
        }
        let next = due + timer::microseconds(1_000);
        DEADLINE.store(next, Ordering::Relaxed);
        timer.set_deadline(next);
        SEEN.fetch_add(1, Ordering::Relaxed);
        gic::end(taken);
    }

    fn periodic_ticks(timer: Timer) -> Verdict {
        *PERIODIC.lock() = timer;
        SEEN.store(0, Ordering::Relaxed);
        STRAY.store(0, Ordering::Relaxed);
        exception::set_interrupt_handler(tick);
        gic::enable(timer.interrupt());
        let start = timer.now();
        DEADLINE.store(start, Ordering::Relaxed);
        timer.set_deadline(start);
        timer.set_control(ENABLE);
        cpu::unmask_interrupts();
        let done = timer::wait_until(|| SEEN.load(Ordering::Relaxed) >= TICKS);
        cpu::mask_interrupts();
        let took = timer.now() - start;
        timer.set_control(0);
        check!(done, "{} ticks of {TICKS}", SEEN.load(Ordering::Relaxed));
        check_eq!(STRAY.load(Ordering::Relaxed), 0, "early or spurious interrupts");
        check!(took >= timer::microseconds(1_000) * (TICKS - 1), "{TICKS} ticks in {took}");
        Ok(())
    }

    /// Waits by WFI, masked, for the timer; the timer must be what wakes the CPU.
    fn wfi_wakes(timer: Timer) -> Verdict {
        let interrupt = timer.interrupt();
        gic::enable(interrupt);
        for delay in [0, 50, 1_000, 10_000] {
            let deadline = timer.arm(timer::microseconds(delay));
            let mut wakes = 0;
            while !gic::is_signalled() && wakes < 100_000 {
                cpu::wait_for_interrupt();
                wakes += 1;
            }
            check!(gic::is_signalled(), "{wakes} wake-ups without an interrupt");
            let now = timer.now();
            check!(now >= deadline, "woke at {now}, before {deadline}");
            let taken = gic::acknowledge();
            check_eq!(taken.interrupt(), interrupt, "acknowledged");
            timer.set_control(0);
            gic::end(taken);
        }
        Ok(())
    }

    fn timer_value_is_relative(timer: Timer) -> Verdict {
        timer.set_control(0);
        for ticks in [0_u64, 1, 1_000, 0x7fff_ffff] {
            let before = timer.now();
            timer.set_left(ticks);
            let after = timer.now();
            let deadline = timer.deadline();
            let range = before + ticks..=after + ticks;
            check!(range.contains(&deadline), "TVAL {ticks:#x}: CVAL {deadline} not in {range:?}");
        }
        for ticks in [1_u64, 0x1000, 0x8000_0000] {
            let before = timer.now();
            timer.set_left(ticks.wrapping_neg() & 0xffff_ffff);
            let after = timer.now();
            let deadline = timer.deadline();
            let range = before.wrapping_sub(ticks) as i64..=after.wrapping_sub(ticks) as i64;
            check!(range.contains(&(deadline as i64)), "TVAL -{ticks:#x}: CVAL {deadline:#x}");
        }
        // TVAL is readable only while the timer is enabled.
        timer.set_control(ENABLE | IMASK);
        let before = timer.now();
        timer.set_deadline(before + 0x1000_0000);
        let left = timer.left();
        let passed = timer.now() - before;
        check!(
            left <= 0x1000_0000 && left + passed >= 0x1000_0000,
            "TVAL {left:#x} with {passed:#x} of 0x10000000 ticks passed"
        );
        timer.set_deadline(0);
        let low = (timer.now() as u32).wrapping_neg();
        let left = timer.left();
        check!(low.wrapping_sub(left as u32) < 1 << 30, "TVAL {left:#x} instead of {low:#x}");
        check_eq!(left >> 32, 0, "upper half of TVAL");
        Ok(())
    }

    fn negative_timer_value_fires_at_once(timer: Timer) -> Verdict {
        gic::enable(timer.interrupt());
        timer.set_left(0xffff_ffff);
        timer.set_control(ENABLE);
        let taken = gic::wait();
        check_eq!(taken.interrupt(), timer.interrupt(), "acknowledged");
        timer.set_control(0);
        gic::end(taken);
        Ok(())
    }

    fn compare_is_unsigned_over_64_bits(timer: Timer) -> Verdict {
        gic::enable(timer.interrupt());
        timer.set_control(ENABLE);
        for deadline in [u64::MAX, 1 << 63, 1 << 62, timer.now() + (1 << 40)] {
            timer.set_deadline(deadline);
            timer::spin(timer::microseconds(500));
            check_eq!(timer.deadline(), deadline, "CVAL");
            check_eq!(timer.control(), ENABLE, "CTL with CVAL {deadline:#x}");
            let quiet = timer::wait_until(|| !gic::is_pending(timer.interrupt()));
            check!(quiet, "pending with CVAL {deadline:#x}");
        }
        timer.set_deadline(0);
        check_eq!(timer.control(), ENABLE | ISTATUS, "CTL with CVAL 0");
        check!(timer::wait_until(|| gic::is_pending(timer.interrupt())), "not pending with CVAL 0");
        Ok(())
    }

    fn both_timers_fire_independently() -> Verdict {
        for timer in Timer::ALL {
            gic::enable(timer.interrupt());
            timer.arm(0);
        }
        let mut seen = [false; 2];
        for _ in 0..2 {
            let taken = gic::wait();
            let Some(slot) = Timer::ALL.iter().position(|t| t.interrupt() == taken.interrupt())
            else {
                check!(false, "acknowledged {}", taken.interrupt());
                return Ok(());
            };
            Timer::ALL[slot].set_control(0);
            gic::end(taken);
            seen[slot] = true;
        }
        check_eq!(seen, [true, true], "virtual and physical");
        check!(gic::acknowledge().is_spurious(), "a third interrupt");
        // One armed far away does not disturb the other.
        Timer::Physical.arm(timer::frequency() * 100);
        fires_at_deadline(Timer::Virtual)?;
        Timer::Virtual.arm(timer::frequency() * 100);
        fires_at_deadline(Timer::Physical)
    }

    static LATEST: Mutex<[u64; 2]> = Mutex::new([0; 2]);

    /// Looks whether the counters ever seem to go back between CPUs.
    fn race_counters(rounds: u64) -> u64 {
        let mut backwards = 0;
        for _ in 0..rounds {
            let mut latest = LATEST.lock();
            for (last, timer) in latest.iter_mut().zip(Timer::ALL) {
                let now = timer.now();
                backwards += u64::from(now < *last);
                *last = now;
            }
        }
        backwards
    }

    fn counters_agree_between_cpus() -> Verdict {
        const ROUNDS: u64 = 5_000;
        if smp::count() == 1 {
            return Err(Stop::Skip("one CPU"));
        }
        check!(smp::start_all(), "not all CPUs started");
        for other in smp::others() {
            smp::begin(other, race_counters, ROUNDS);
        }
        check_eq!(race_counters(ROUNDS), 0, "steps back on CPU {}", smp::index());
        for other in smp::others() {
            check_eq!(smp::finish(other), Some(0), "steps back on CPU {other}");
        }
        Ok(())
    }

    /// Ticks on several CPUs at once, each with its own deadline.
    fn tick_alone(rounds: u64) -> u64 {
        cpu::mask_interrupts();
        timer::stop();
        gic::reset_cpu();
        let timer = Timer::Virtual;
        gic::enable(timer.interrupt());
        let mut failures = 0;
        for round in 0..rounds {
            let deadline = timer.arm(timer::microseconds(200 + 37 * (smp::index() as u64 + round)));
            while !gic::is_signalled() {
                cpu::wait_for_interrupt();
            }
            let now = timer.now();
            let taken = gic::acknowledge();
            timer.set_control(0);
            failures += u64::from(now < deadline || taken.interrupt() != timer.interrupt());
            gic::end(taken);
        }
        failures
    }

    fn all_cpus_tick_at_once() -> Verdict {
        const ROUNDS: u64 = 100;
        if smp::count() == 1 {
            return Err(Stop::Skip("one CPU"));
        }
        check!(smp::start_all(), "not all CPUs started");
        for other in smp::others() {
            smp::begin(other, tick_alone, ROUNDS);
        }
        check_eq!(tick_alone(ROUNDS), 0, "CPU {}", smp::index());
        for other in smp::others() {
            check_eq!(smp::finish(other), Some(0), "CPU {other}");
        }
        Ok(())
    }

    fn main() -> ! {
        aarch64::run(&[
            test("the frequency is the one of the counter", frequency_is_plausible),
            test("counters advance and never go back", counters_advance),
            test("a timer fires at its deadline and not before", || each(fires_at_deadline)),
            test("a masked timer has status but no interrupt", || each(masked_does_not_interrupt)),
            test("a disabled timer is silent", || each(disabled_does_not_interrupt)),
            test("re-arming drops the level", || each(rearming_drops_the_level)),
            test("an interrupt comes again while its level is high", || {
                each(level_comes_again_until_it_drops)
            }),
            test("a hundred periodic ticks arrive", || each(periodic_ticks)),
            test("WFI ends at the deadline", || each(wfi_wakes)),
            test("TVAL is relative to the counter", || each(timer_value_is_relative)),
            test("a negative TVAL fires at once", || each(negative_timer_value_fires_at_once)),
            test("CVAL is compared unsigned", || each(compare_is_unsigned_over_64_bits)),
            test("both timers fire independently", both_timers_fire_independently),
            test("counters agree between CPUs", counters_agree_between_cpus),
            test("timers of the other CPUs fire at their deadlines", || {
                everywhere(|_| each_job(fires_at_deadline))
            }),
            test("the other CPUs receive periodic ticks", || {
                everywhere(|_| each_job(periodic_ticks))
            }),
            test("the other CPUs wake from WFI", || everywhere(|_| each_job(wfi_wakes))),
            test("all CPUs tick at once", all_cpus_tick_at_once),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
