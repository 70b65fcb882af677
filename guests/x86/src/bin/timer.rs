//! Tests of everything that tells the time.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod guest {
    use core::sync::atomic::{Ordering, compiler_fence};

    use guests::tap::{Stop, Verdict, test};
    use guests::x86_64::acpi::acpi;
    use guests::x86_64::time::{self, ticks, tsc_khz, wait_for};
    use guests::x86_64::{self, apic, cpu, exception, ioapic, port};
    use guests::{check, check_eq, entry};

    const VECTOR: u8 = 0x50;
    const PIT_VECTOR: u8 = 0x60;
    /// Milliseconds until something must have happened.
    const PATIENCE: u64 = 3000;

    fn needs_deadline() -> Verdict {
        match cpu::cpuid(1, 0).ecx & cpu::TSC_DEADLINE != 0 {
            true => Ok(()),
            false => Err(Stop::Skip("this CPU has no TSC deadline")),
        }
    }

    /// Has the timer interrupt after so many microseconds of the counter.
    fn arm_deadline(microseconds: u64) -> u64 {
        cpu::write_msr(apic::LVT_TIMER, apic::BY_DEADLINE | u64::from(VECTOR));
        let due = cpu::tsc() + ticks(microseconds);
        cpu::write_msr(apic::DEADLINE, due);
        due
    }

    fn deadline_is_kept() -> Verdict {
        needs_deadline()?;
        for microseconds in [100, 1000, 5000, 20000] {
            exception::forget();
            let due = arm_deadline(microseconds);
            check!(wait_for(PATIENCE, || exception::count(VECTOR) > 0), "no interrupt");
            let now = cpu::tsc();
            check!(now >= due, "{} ticks early", due - now);
            check_eq!(cpu::read_msr(apic::DEADLINE), 0, "deadline after its interrupt");
        }
        Ok(())
    }

    fn deadline_in_the_past() -> Verdict {
        needs_deadline()?;
        cpu::write_msr(apic::LVT_TIMER, apic::BY_DEADLINE | u64::from(VECTOR));
        cpu::write_msr(apic::DEADLINE, 1);
        check!(wait_for(PATIENCE, || exception::count(VECTOR) == 1), "no interrupt");
        time::pause(5);
        check_eq!(exception::count(VECTOR), 1, "interrupts");
        Ok(())
    }

    fn deadline_disarmed() -> Verdict {
        needs_deadline()?;
        arm_deadline(50_000);
        cpu::write_msr(apic::DEADLINE, 0);
        time::pause(100);
        check_eq!(exception::count(VECTOR), 0, "interrupts");
        Ok(())
    }

    fn arm_counter(mode: u64, count: u64) {
        cpu::write_msr(apic::DIVIDE, apic::DIVIDE_BY_1);
        cpu::write_msr(apic::LVT_TIMER, mode | u64::from(VECTOR));
        cpu::write_msr(apic::INITIAL, count);
    }

    /// Counts of the timer in a millisecond, by the counter.
    fn timer_rate() -> u64 {
        arm_counter(apic::MASKED, 0xffff_ffff);
        let start = cpu::tsc();
        let first = cpu::read_msr(apic::CURRENT);
        while cpu::tsc() - start < ticks(2000) {}
        let second = cpu::read_msr(apic::CURRENT);
        let passed = cpu::tsc() - start;
        ((first - second) * tsc_khz() / passed).max(1)
    }

    fn one_shot_is_once() -> Verdict {
        arm_counter(0, timer_rate() * 5);
        check!(wait_for(PATIENCE, || exception::count(VECTOR) > 0), "no interrupt");
        check_eq!(cpu::read_msr(apic::CURRENT), 0, "current count after the end");
        time::pause(20);
        check_eq!(exception::count(VECTOR), 1, "interrupts");
        Ok(())
    }

    fn periodic_goes_on() -> Verdict {
        arm_counter(apic::PERIODIC, timer_rate() * 5);
        check!(wait_for(PATIENCE, || exception::count(VECTOR) >= 10), "too few interrupts");
        cpu::write_msr(apic::INITIAL, 0);
        let seen = exception::count(VECTOR);
        time::pause(20);
        check!(exception::count(VECTOR) <= seen + 1, "goes on after it was stopped");
        Ok(())
    }

    fn masked_is_silent() -> Verdict {
        arm_counter(apic::MASKED, timer_rate());
        time::pause(20);
        check_eq!(exception::count(VECTOR), 0, "interrupts");
        Ok(())
    }

    fn divider_divides() -> Verdict {
        let measure = |divider| {
            cpu::write_msr(apic::LVT_TIMER, apic::MASKED);
            cpu::write_msr(apic::DIVIDE, divider);
            cpu::write_msr(apic::INITIAL, 0xffff_ffff);
            let start = cpu::tsc();
            while cpu::tsc() - start < ticks(10_000) {}
            let counted = 0xffff_ffff - cpu::read_msr(apic::CURRENT);
            counted * 1_000_000 / (cpu::tsc() - start)
        };
        let (fast, slow) = (measure(apic::DIVIDE_BY_1), measure(0b0011));
        check!(slow * 12 < fast && fast < slow * 21, "{fast} and {slow} with a divider of 16");
        Ok(())
    }

    fn halt_ends() -> Verdict {
        for _ in 0..50 {
            let before = exception::count(VECTOR);
            arm_counter(0, timer_rate());
            cpu::halt();
            check_eq!(exception::count(VECTOR), before + 1, "interrupts after HLT");
        }
        Ok(())
    }

    fn pit_agrees() -> Verdict {
        let seen = (0..3).map(|_| time::measure_by_pit()).min().unwrap_or(0);
        let ratio = seen * 100 / tsc_khz();
        check!((90..130).contains(&ratio), "{seen} kHz by the i8254, {} kHz told", tsc_khz());
        Ok(())
    }

    fn pit_interrupts() -> Verdict {
        // Pin 2 on PCs; firmware of others says 0.
        for pin in [0, 2] {
            ioapic::set_entry(pin, u64::from(apic::id()) << 56 | u64::from(PIT_VECTOR));
        }
        let count = (time::PIT_FREQUENCY / 100) as u16;
        // Channel 0, both bytes, mode 2: a rate of 100 Hz.
        port::write8(time::PIT_MODE, 0b0011_0100);
        for byte in count.to_le_bytes() {
            port::write8(0x40, byte);
        }
        let start = cpu::tsc();
        let came = wait_for(PATIENCE, || exception::count(PIT_VECTOR) >= 20);
        let milliseconds = (cpu::tsc() - start) / tsc_khz();
        // Mode 0 with no count: silent.
        port::write8(time::PIT_MODE, 0b0011_0000);
        check!(came, "{} interrupts", exception::count(PIT_VECTOR));
        check!(milliseconds >= 150, "20 interrupts of 100 Hz in {milliseconds} ms");
        Ok(())
    }

    fn pm_timer_agrees() -> Verdict {
        const FREQUENCY: u64 = 3_579_545;
        let timer = acpi().map_or(0, |acpi| acpi.timer);
        if timer == 0 {
            return Err(Stop::Skip("the tables name no ACPI timer"));
        }
        let start = cpu::tsc();
        let first = port::read32(timer);
        while cpu::tsc() - start < ticks(30_000) {}
        let second = port::read32(timer);
        let ticks = u64::from(second.wrapping_sub(first) & 0xff_ffff);
        let expected = (cpu::tsc() - start) * FREQUENCY / 1000 / tsc_khz();
        let ratio = ticks * 100 / expected;
        check!((85..115).contains(&ratio), "{ticks} ticks, {expected} expected");
        Ok(())
    }

    fn cmos_second() -> u8 {
        const UPDATING: u8 = 1 << 7;
        loop {
            port::write8(0x70, 0x0a);
            if port::read8(0x71) & UPDATING == 0 {
                break;
            }
        }
        port::write8(0x70, 0);
        port::read8(0x71)
    }

    fn clock_goes_on() -> Verdict {
        let first = cmos_second();
        check!(wait_for(PATIENCE, || cmos_second() != first), "the second stays {first:#x}");
        Ok(())
    }

    /// `pvclock_vcpu_time_info` of KVM.
    #[repr(C, align(64))]
    struct SystemTime([u32; 8]);

    static mut SYSTEM_TIME: SystemTime = SystemTime([0; 8]);

    fn kvm_clock() -> (u64, u64) {
        // SAFETY: only the hypervisor writes there, and only during a write of the register.
        let words = unsafe { (&raw const SYSTEM_TIME.0).read_volatile() };
        compiler_fence(Ordering::SeqCst);
        let wide = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
        let now = cpu::tsc();
        let passed = now.wrapping_sub(wide(2));
        let shift = words[7] as u8 as i8;
        let shifted = if shift < 0 { passed >> -shift } else { passed << shift };
        let scaled = (u128::from(shifted) * u128::from(words[6])) >> 32;
        (now, wide(4) + scaled as u64)
    }

    fn kvm_clock_agrees() -> Verdict {
        const SYSTEM_TIME_MSR: u32 = 0x4b56_4d01;
        if !cpu::has_kvm_interface() {
            return Err(Stop::Skip("no kvm-clock here"));
        }
        cpu::write_msr(SYSTEM_TIME_MSR, &raw const SYSTEM_TIME as u64 | 1);
        // SAFETY: as in `kvm_clock`.
        let version = unsafe { (&raw const SYSTEM_TIME.0[0]).read_volatile() };
        check!(version != 0 && version % 2 == 0, "version {version}");
        let (start, first) = kvm_clock();
        while cpu::tsc() - start < ticks(20_000) {}
        let (end, second) = kvm_clock();
        cpu::write_msr(SYSTEM_TIME_MSR, 0);
        let expected = (end - start) * 1_000_000 / tsc_khz();
        let difference = (second - first).abs_diff(expected);
        check!(difference < expected / 1000 + 1000, "{} ns, {expected} expected", second - first);
        Ok(())
    }

    fn main() -> ! {
        x86_64::run(&[
            test("a TSC deadline interrupts when it is due, and not before", deadline_is_kept),
            test("a TSC deadline in the past interrupts at once, once", deadline_in_the_past),
            test("a TSC deadline of zero is none", deadline_disarmed),
            test("a one-shot timer interrupts once and stays at zero", one_shot_is_once),
            test("a periodic timer goes on until it is stopped", periodic_goes_on),
            test("a masked timer does not interrupt", masked_is_silent),
            test("the divider slows the timer down", divider_divides),
            test("HLT ends with the interrupt of the timer", halt_ends),
            test("the i8254 and the time-stamp counter agree", pit_agrees),
            test("channel 0 of the i8254 interrupts at its rate", pit_interrupts),
            test("the ACPI timer and the time-stamp counter agree", pm_timer_agrees),
            test("the seconds of the CMOS clock go on", clock_goes_on),
            test("kvm-clock and the time-stamp counter agree", kvm_clock_agrees),
        ])
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
