//! Resets the machine for ever, each time from another state, and checks each
//! time that it came up fresh. Prints `# boot` once a boot: whoever runs it
//! counts these lines and stops the machine.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod guest {
    use core::sync::atomic::{AtomicU64, Ordering};

    use guests::aarch64::gic::{self, gicd};
    use guests::aarch64::psci::{self, call32, function};
    use guests::aarch64::timer::{self, Timer};
    use guests::aarch64::{self, console, cpu, machine, mmio, smp};
    use guests::tap::{self, Verdict, test};
    use guests::{check, check_eq, entry, println};

    const IBRD: u64 = 0x24;
    const IMSC: u64 = 0x38;
    const CLOCK_MATCH: u64 = 0x04;
    const PATTERN: u64 = 0xdead_beef_dead_beef;

    /// In the image, and so loaded anew with it.
    static GENERATION: AtomicU64 = AtomicU64::new(1);

    fn image_is_fresh() -> Verdict {
        check_eq!(GENERATION.load(Ordering::Relaxed), 1, "a variable of the image");
        Ok(())
    }

    fn memory_is_fresh() -> Verdict {
        let free = machine().free_ram();
        for address in [free.start, free.end - 8] {
            let found = mmio::read64(address);
            // The bare emulator keeps memory that it loads nothing into.
            let kept = found == PATTERN && !psci::under_hypervisor();
            check!(found == 0 || kept, "{address:#x} holds {found:#x}");
        }
        Ok(())
    }

    fn devices_are_fresh() -> Verdict {
        check_eq!(mmio::read32(console::base() + IBRD), 0, "UARTIBRD");
        check_eq!(mmio::read32(console::base() + IMSC), 0, "UARTIMSC");
        Ok(())
    }

    fn interrupts_are_fresh() -> Verdict {
        let base = gic::distributor();
        check_eq!(mmio::read32(base + gicd::CTLR) & 3, 0, "GICD_CTLR enables");
        for word in 1..u64::from(gic::interrupts() / 32) {
            check_eq!(mmio::read32(base + gicd::ISENABLER + word * 4), 0, "ISENABLER {word}");
            check_eq!(mmio::read32(base + gicd::ISACTIVER + word * 4), 0, "ISACTIVER {word}");
        }
        let pending = mmio::read32(base + gicd::ISPENDR + 4 * 2);
        check_eq!(pending, 0, "ISPENDR 2");
        Ok(())
    }

    fn other_cpus_are_off() -> Verdict {
        for other in smp::others() {
            let info = call32(function::AFFINITY_INFO, machine().cpus()[other], 0, 0);
            check_eq!(info, 1, "AFFINITY_INFO of CPU {other}");
        }
        Ok(())
    }

    /// A job: calls for a reset, by one function or the other.
    fn reset(cold: u64) -> u64 {
        if cold != 0 {
            call32(function::SYSTEM_RESET2 | function::CALL_64, 0, 0, 0);
        }
        psci::call(function::SYSTEM_RESET, 0, 0, 0);
        0
    }

    /// A job that never ends.
    fn spin(_: u64) -> u64 {
        loop {
            cpu::relax();
        }
    }

    fn main() -> ! {
        tap::run(
            &[
                test("the image is loaded anew", image_is_fresh),
                test("memory is empty", memory_is_fresh),
                test("devices are reset", devices_are_fresh),
                test("the interrupt controller is reset", interrupts_are_fresh),
                test("the other CPUs are off", other_cpus_are_off),
            ],
            || (),
        );
        aarch64::quiesce();
        println!("# boot");
        // Leave traces everywhere.
        GENERATION.store(2, Ordering::Relaxed);
        let free = machine().free_ram();
        mmio::write64(free.start, PATTERN);
        mmio::write64(free.end - 8, PATTERN);
        mmio::write32(console::base() + IBRD, 0x1234);
        mmio::write32(console::base() + IMSC, 0x7f0);
        if let Some(clock) = machine().clock {
            mmio::write32(clock + CLOCK_MATCH, 1);
        }
        for interrupt in 64..96.min(gic::interrupts()) {
            gic::set_pending(interrupt);
            gic::enable(interrupt);
        }
        gic::acknowledge();
        gic::enable(Timer::Virtual.interrupt());
        Timer::Virtual.arm(timer::microseconds(1_000));
        // Any CPU may call, in any state of the others.
        let chance = Timer::Virtual.now() >> 4;
        smp::start_all();
        let caller = chance as usize % smp::count();
        for other in smp::others() {
            smp::begin(other, if other == caller { reset } else { spin }, chance & 8);
        }
        if caller == smp::index() {
            reset(chance & 8);
        }
        timer::spin(timer::frequency() * 10);
        panic!("the machine has not been reset");
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
