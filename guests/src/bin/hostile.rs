//! Throws nonsense at everything and expects to live, on all CPUs at once.
//!
//! The command line chooses the nonsense and the end: `seed=N`, `rounds=N`, and
//! `end=off` (the default: the machine is switched off), `end=vectors` (for
//! ever an exception whose vectors are in a hole), `end=tables` (translation
//! tables in a hole), `end=spin` (all masked, for ever), `end=panic` (a crash
//! that says so).
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod guest {
    use core::arch::asm;

    use guests::aarch64::encoding::{self, Encoding, RET, WritePolicy};
    use guests::aarch64::exception::{self, SPSR_I};
    use guests::aarch64::machine::Gic;
    use guests::aarch64::psci::{self, function};
    use guests::aarch64::timer::{self, Timer};
    use guests::aarch64::{self, console, cpu, gic, machine, mmio, mmu, smp};
    use guests::random::Random;
    use guests::tap::{Stop, Verdict, test};
    use guests::{check, check_eq, entry, mrs, msr, println};

    const DEFAULT_SEED: u64 = 1;
    const DEFAULT_ROUNDS: u64 = 2_000;
    /// A place where the `virt` machine has nothing.
    const HOLE: u64 = 0x0b00_0000;

    fn option(name: &str, default: u64) -> u64 {
        machine().option(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    fn rounds() -> u64 {
        option("rounds", DEFAULT_ROUNDS)
    }

    /// A generator of this CPU's own for one kind of nonsense.
    fn random(kind: u64) -> Random {
        let mut random =
            Random::new(option("seed", DEFAULT_SEED) << 16 ^ kind << 8 ^ smp::index() as u64);
        (0..8).for_each(|_| _ = random.next());
        random
    }

    /// Numbers that break things: small, huge, addresses, all ones, noise.
    fn value(random: &mut Random) -> u64 {
        let noise = random.next();
        match random.below(9) {
            0 => 0,
            1 => u64::MAX,
            2 => noise & 0xff,
            3 => 1 << (noise & 63),
            4 => (1 << (noise & 63)) - 1,
            5 => HOLE + (noise & 0xffff),
            6 => machine().free_ram().end - (noise & 0xffff),
            7 => noise & 0xffff_ffff,
            _ => noise,
        }
    }

    /// Whether a call would take away the CPU or the machine, or wait for ever.
    fn is_final(identifier: u64) -> bool {
        let number = identifier & 0xffff_ffff & !function::CALL_64;
        [
            function::CPU_SUSPEND,
            function::CPU_OFF,
            function::SYSTEM_OFF,
            function::SYSTEM_RESET,
            function::SYSTEM_SUSPEND,
            function::SYSTEM_RESET2,
            // CPU_FREEZE, CPU_DEFAULT_SUSPEND, and the OFF of version 1.3.
            0x8400_000b,
            0x8400_000c,
            0x8400_0015,
        ]
        .contains(&number)
    }

    /// A job: calls with nonsense; the CPU that is off may be started anywhere.
    fn calls(rounds: u64) -> u64 {
        let mut random = random(1);
        for _ in 0..rounds {
            let base = [0x8000_0000, 0x8400_0000, 0xc400_0000, 0xc500_0000, 0x8600_0000, 0];
            let base = base[random.below(base.len() as u64) as usize];
            let identifier = match random.below(4) {
                0 => value(&mut random),
                1 => base | random.below(0x1_0000),
                _ => base | random.below(0x60),
            };
            if is_final(identifier) {
                continue;
            }
            let mut registers: psci::Registers = core::array::from_fn(|_| value(&mut random));
            registers[0] = identifier;
            if random.below(3) == 0 {
                exception::catch(|| psci::smc(&mut registers));
            } else {
                exception::catch(|| psci::hvc(&mut registers));
            }
        }
        0
    }

    /// A job: calls with immediates, and the other instructions that ask a higher level.
    fn immediates(rounds: u64) -> u64 {
        const HVC: u32 = 0xd400_0002;
        const SMC: u32 = 0xd400_0003;
        const BRK: u32 = 0xd420_0000;
        const HLT: u32 = 0xd440_0000;
        const DCPS: u32 = 0xd4a0_0001;
        let mut random = random(2);
        for _ in 0..rounds {
            let base = [HVC, SMC, BRK, HLT, DCPS, DCPS + 1, DCPS + 2];
            let base = base[random.below(base.len() as u64) as usize];
            let immediate = (random.next() & 0xffff) as u32;
            // x0 names no function: some hypervisors look at no immediate.
            encoding::call(encoding::write_code([base | immediate << 5, RET]), 0xdead_0000);
        }
        0
    }

    /// A register window, and offsets that would do harm to the guest itself.
    struct Window {
        base: u64,
        length: u64,
        spared: &'static [u64],
    }

    fn windows() -> [Window; 6] {
        let (distributor, other, length, spared): (_, _, _, &[u64]) = match machine().gic {
            Gic::V2 { distributor, cpu } => (distributor, cpu, 0x2000, &[]),
            // Tables of message interrupts, which the controller writes to memory.
            Gic::V3 { distributor, redistributors, .. } => (
                distributor,
                redistributors,
                0x2_0000 * smp::count() as u64,
                &[0x00, 0x70, 0x74, 0x78, 0x7c],
            ),
        };
        let size = if machine().gic_version() == 3 { 0x1_0000 } else { 0x1000 };
        [
            Window { base: distributor, length: size, spared: &[] },
            Window { base: distributor, length: 0x1000, spared: &[] },
            Window { base: other, length, spared },
            // Characters sent would disturb the report.
            Window { base: console::base(), length: 0x1000, spared: &[0, 1, 2, 3] },
            Window { base: console::base(), length: 0x50, spared: &[0, 1, 2, 3] },
            Window { base: machine().clock.unwrap_or(HOLE), length: 0x1000, spared: &[] },
        ]
    }

    /// A job: loads and stores all over the devices.
    fn devices(rounds: u64) -> u64 {
        let mut random = random(3);
        let windows = windows();
        for _ in 0..rounds {
            let window = &windows[random.below(windows.len() as u64) as usize];
            let shift = random.below(4);
            let aligned = if random.below(16) == 0 { u64::MAX } else { !((1 << shift) - 1) };
            let offset = random.below(window.length) & aligned;
            let data = value(&mut random);
            // The redistributors repeat every 0x2_0000 bytes.
            let store = random.below(2) == 0
                && !window.spared.contains(&(offset % 0x2_0000))
                && !window.spared.contains(&((offset % 0x2_0000) & !3));
            let address = window.base + offset;
            exception::catch(|| match (store, shift) {
                (false, 0) => _ = mmio::read8(address),
                (false, 1) => _ = mmio::read16(address),
                (false, 2) => _ = mmio::read32(address),
                (false, _) => _ = mmio::read64(address),
                (true, 0) => mmio::write8(address, data as u8),
                (true, 1) => mmio::write16(address, data as u16),
                (true, 2) => mmio::write32(address, data as u32),
                (true, _) => mmio::write64(address, data),
            });
        }
        0
    }

    /// A job: loads and stores where nothing is, over all that can be translated.
    fn holes(rounds: u64) -> u64 {
        let mut random = random(4);
        for _ in 0..rounds {
            let address = HOLE + random.below(1 << 24);
            exception::fault_of(|| mmio::write32(address, 1));
            let address = (machine().ram.end + random.below(1 << 36)) & !7;
            exception::fault_of(|| _ = mmio::read64(address));
            let address = random.next();
            exception::fault_of(|| _ = mmio::read8(address | 1 << 47));
        }
        0
    }

    /// A job: reads and writes registers by number.
    fn registers(rounds: u64) -> u64 {
        let mut random = random(5);
        let cpacr = mrs!("cpacr_el1");
        for _ in 0..rounds {
            let op0 = 1 + random.below(3) as u8;
            let register = Encoding::numbered(op0, random.below(1 << 14) as u32);
            let read = encoding::write_code([register.read(), RET]);
            let (old, fault) = encoding::call(read, 0);
            if register.write_policy() != WritePolicy::Any || fault.is_some() && op0 != 1 {
                continue;
            }
            let write = encoding::write_code([register.write(), RET]);
            // System instructions take an address: a free page.
            let free = machine().free_ram().start.next_multiple_of(4096);
            let data = if op0 == 1 { free } else { value(&mut random) & !1 };
            encoding::call(write, data);
            if op0 != 1 {
                encoding::call(write, old);
            }
        }
        msr!("cpacr_el1", cpacr);
        restore();
        0
    }

    /// What the guest itself needs, after registers have been played with.
    fn restore() {
        timer::stop();
        msr!("mdscr_el1", 0);
        msr!("pmcr_el0", 0);
        gic::reset_cpu();
    }

    /// A hint, and waits with a time-out that has passed, undefined where they are absent.
    fn wait_with_timeout() {
        // SAFETY: no effect on memory.
        unsafe { asm!("yield", ".inst 0xd5031001", ".inst 0xd5031021", options(nostack)) };
    }

    /// Translates an address for EL1.
    fn translate(address: u64) {
        // SAFETY: changes nothing but PAR_EL1.
        unsafe { asm!("at s1e1r, {}", "isb", in(reg) address, options(nostack)) };
    }

    /// A job: waits in every way, with a timer that is about to fire or has fired.
    fn waits(rounds: u64) -> u64 {
        let mut random = random(6);
        gic::reset_cpu();
        gic::enable(Timer::Virtual.interrupt());
        for _ in 0..rounds {
            Timer::Virtual.arm(timer::microseconds(random.below(40)));
            match random.below(5) {
                0 => cpu::wait_for_interrupt(),
                1 => cpu::relax(),
                2 => cpu::wake_others(),
                3 => _ = exception::fault_of(wait_with_timeout),
                _ => _ = psci::call(function::CPU_SUSPEND | function::CALL_64, 0, 0, 0),
            }
            Timer::Virtual.set_control(0);
        }
        0
    }

    /// A job: jumps to where there is no code.
    fn jumps(rounds: u64) -> u64 {
        let mut random = random(7);
        for _ in 0..rounds {
            let target = match random.below(6) {
                0 => HOLE + random.below(0x1000),
                1 => console::base() + 0x800 + (random.below(0x400) & !3),
                2 => machine().ram.end + (random.below(1 << 34) & !3),
                3 => random.next() | 1 << 40,
                4 => 1 << 63 | random.next(),
                _ => gic::distributor() + 0xb00,
            };
            encoding::call(target, 0);
        }
        0
    }

    /// A job: random instructions at EL0, where all memory is read-only.
    fn instructions(rounds: u64) -> u64 {
        const WORDS: usize = 16;
        const SVC: u32 = 0xd400_0001;
        let mut random = random(8);
        gic::reset_cpu();
        gic::enable(Timer::Virtual.interrupt());
        // Let EL0 reach for everything.
        let cpacr = mrs!("cpacr_el1");
        msr!("cpacr_el1", cpacr | 3 << 16 | 3 << 20 | 3 << 24);
        for _ in 0..rounds {
            let words: [u32; WORDS] = core::array::from_fn(|index| match random.below(4) {
                _ if index == WORDS - 1 => SVC,
                // System instructions and registers, vectors and matrices, anything.
                0 => 0xd500_0000 | random.next() as u32 & 0x003f_ffff,
                1 => random.next() as u32 & 0xe5ff_ffff | 0x0400_0000,
                _ => random.next() as u32,
            });
            let code = encoding::write_code(words);
            let user = mmu::USER_ALIAS + (code & ((1 << 30) - 1));
            // A loop ends with the timer.
            Timer::Virtual.arm(timer::microseconds(200));
            exception::run_user(user, value(&mut random), value(&mut random), SPSR_I);
            Timer::Virtual.set_control(0);
        }
        msr!("cpacr_el1", cpacr);
        // EL0 may have changed the floating-point mode and its own thread registers; nothing else.
        0
    }

    /// A job: translation tables where there is no memory, for addresses above.
    fn tables(rounds: u64) -> u64 {
        const EPD1: u64 = 1 << 23;
        const UPPER: u64 = 0xffff_ff80_0000_0000;
        let mut random = random(9);
        let tcr = mrs!("tcr_el1");
        for _ in 0..rounds {
            let root = match random.below(5) {
                0 => HOLE,
                1 => console::base(),
                2 => gic::distributor(),
                3 => machine().ram.end,
                _ => random.next() & 0x0000_000f_ffff_f000,
            };
            msr!("ttbr1_el1", root);
            // T1SZ, inner-shareable write-back walks and 4 KiB pages for the upper range.
            msr!("tcr_el1", tcr & !EPD1 | 25 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30);
            let address = UPPER | random.next() & 0x7f_ffff_fff8;
            match random.below(4) {
                0 => _ = exception::fault_of(|| _ = mmio::read32(address)),
                1 => _ = exception::fault_of(|| mmio::write64(address, 1)),
                2 => _ = encoding::call(address & !3, 0),
                _ => _ = exception::fault_of(|| translate(address)),
            }
            msr!("tcr_el1", tcr);
            // SAFETY: forgets translations of the upper range, which nothing uses.
            unsafe { asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack)) };
        }
        0
    }

    /// Runs a job on all CPUs at once and looks whether they live.
    fn together(job: smp::Job) -> Verdict {
        check!(smp::start_all(), "not all CPUs started");
        for other in smp::others() {
            smp::begin(other, job, rounds());
        }
        job(rounds());
        for other in smp::others() {
            let mut result = None;
            // Nonsense takes its time.
            for _ in 0..20 {
                result = result.or_else(|| smp::finish(other));
            }
            check_eq!(result, Some(0), "CPU {other}");
        }
        aarch64::quiesce();
        alive()
    }

    /// Whether interrupts, timers and calls still work.
    fn alive() -> Verdict {
        gic::enable(1);
        gic::send(1, gic::Target::This);
        let taken = gic::wait();
        check_eq!(taken.interrupt(), 1, "SGI");
        gic::end(taken);
        gic::enable(Timer::Virtual.interrupt());
        Timer::Virtual.arm(0);
        let taken = gic::wait();
        check_eq!(taken.interrupt(), Timer::Virtual.interrupt(), "timer");
        Timer::Virtual.set_control(0);
        gic::end(taken);
        check!(psci::call32(function::VERSION, 0, 0, 0) > 0, "PSCI does not answer");
        Ok(())
    }

    fn start_nowhere() -> Verdict {
        if smp::count() == 1 {
            return Err(Stop::Skip("one CPU"));
        }
        let last = smp::count() - 1;
        smp::begin(last, smp::switch_off, 0);
        timer::wait_until(|| {
            psci::call32(function::AFFINITY_INFO, machine().cpus()[last], 0, 0) == 1
        });
        // Wherever it ends up, the others live.
        psci::cpu_on(machine().cpus()[last], HOLE, u64::MAX);
        timer::spin(timer::microseconds(10_000));
        alive()
    }

    fn end() -> ! {
        match machine().option("end").unwrap_or("off") {
            "vectors" => {
                println!("# ends in an exception without vectors");
                msr!("vbar_el1", HOLE);
                // SAFETY: the guest ends here.
                unsafe { asm!("brk #0", options(noreturn)) }
            }
            "tables" => {
                println!("# ends without translation tables");
                mmu::switch_root(HOLE);
                unreachable!("there is no translation")
            }
            "spin" => {
                println!("# ends in an endless loop");
                loop {
                    core::hint::spin_loop();
                }
            }
            "panic" => panic!("as the command line wants"),
            _ => psci::system_off(),
        }
    }

    fn main() -> ! {
        println!("# seed {} rounds {}", option("seed", DEFAULT_SEED), rounds());
        guests::tap::run(
            &[
                test("calls with random arguments", || together(calls)),
                test("calls with immediates", || together(immediates)),
                test("loads and stores all over the devices", || {
                    let verdict = together(devices);
                    // A port that was switched off reports nothing.
                    console::enable();
                    verdict
                }),
                test("loads and stores in holes", || together(holes)),
                test("registers by random numbers", || together(registers)),
                test("waits of every kind", || together(waits)),
                test("jumps to where there is no code", || together(jumps)),
                test("random instructions at EL0", || together(instructions)),
                test("translation tables that are not in memory", || together(tables)),
                test("a CPU that starts in a hole", start_nowhere),
            ],
            aarch64::quiesce,
        );
        end()
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
