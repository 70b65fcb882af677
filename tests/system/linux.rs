//! Unmodified Debian kernels.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::arch::Arch;
use xtask::fit::Vm;
use xtask::setup::Guest;
use xtask::workspace::Workspace;

use crate::emulator::Emulator;
use crate::host::{self, Host, USUAL};
use crate::{Case, case};

pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// Fifty starts of two seconds each, on a busy machine.
const RESTARTS_LIMIT: Duration = Duration::from_secs(400);
const MEMORY: u64 = 512 << 20;
const VCPUS: u32 = 4;
pub(crate) const PROMPT: &str = "guest# ";

/// Restarts of a guest in a row that must not cost any memory.
const RESTARTS: usize = 50;

pub(crate) fn trials(full: bool) -> Vec<Case> {
    let mut cases = vec![
        case("linux::a_user_works_at_the_shell", || {
            shell(Below::Hypervisor, Guest::Debian61, USUAL)
        }),
        case("linux::fifty_restarts_leave_free_memory_unchanged", restarts),
    ];
    let hosts = if full { host::matrix().collect() } else { host::selection() };
    for (index, host) in hosts.into_iter().enumerate() {
        let both = [Guest::Debian61, Guest::Debian612];
        // The normal run gives each host one of the two kernels.
        let kernels = if full { &both[..] } else { &both[index % 2..=index % 2] };
        for kernel in kernels.iter().copied() {
            let name = format!("linux::selftest/{}/{host}", kernel.name());
            cases.push(case(name, move || selftest(Below::Hypervisor, kernel, host)));
            if full {
                let name = format!("linux::shell/{}/{host}", kernel.name());
                cases.push(case(name, move || shell(Below::Hypervisor, kernel, host)));
            }
        }
    }
    // What fails here too is not the hypervisor's fault.
    cases.push(case("reference::selftest", || selftest(Below::Nothing, Guest::Debian61, USUAL)));
    if full {
        cases.push(case("reference::a_user_works_at_the_shell", || {
            shell(Below::Nothing, Guest::Debian61, USUAL)
        }));
    }
    cases
}

/// Makes Linux report about itself and power off.
pub(crate) const SELFTEST: &str = "quiet bunshin.selftest";

fn command_line(arguments: &str) -> String {
    format!("console=ttyAMA0 {arguments}")
}

/// A virtual machine with Debian's kernel.
pub(crate) fn debian(kernel: Guest, vcpus: u32, arguments: &str) -> Result<Vm> {
    let mut vm = host::vm("linux", host::fetched(kernel)?, vcpus, MEMORY);
    vm.initrd = Some(host::fetched(Guest::Initramfs)?);
    vm.command_line = command_line(arguments);
    Ok(vm)
}

/// What Linux runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    Hypervisor,
    /// The bare emulator, without EL2.
    Nothing,
}

impl Below {
    /// Starts Linux on `vcpus` CPUs of a machine with the CPU model and interrupt controller of `host`.
    fn boot(self, kernel: Guest, host: Host, vcpus: u32, arguments: &str) -> Result<Emulator> {
        let limit = if arguments.contains("bunshin.reboot") { RESTARTS_LIMIT } else { LIMIT };
        if self == Below::Hypervisor {
            return host.boot(&[debian(kernel, vcpus, arguments)?], limit);
        }
        let guests = Workspace::locate().guests();
        let mut command = Command::new(Arch::Aarch64.qemu());
        command
            .args(["-M", &format!("virt,gic-version={}", host.gic), "-cpu", host.cpu])
            .args(["-smp", &vcpus.to_string(), "-m", "512M", "-nographic", "-nodefaults"])
            .args(["-serial", "mon:stdio", "-append", &command_line(arguments)])
            .arg("-kernel")
            .arg(guests.join(kernel.file(Arch::Aarch64).context("no such kernel")?))
            .arg("-initrd")
            .arg(guests.join(Guest::Initramfs.file(Arch::Aarch64).context("no RAM disk")?));
        Emulator::start(command, limit, None)
    }

    /// Waits for the next start of the guest; a shell that is being ended
    /// may have shown its prompt again in the meantime.
    fn expect_start(self, emulator: &mut Emulator) -> Result<()> {
        if self == Below::Hypervisor {
            emulator.expect("vm \"linux\": started")?;
        }
        emulator.expect("Booting Linux on physical CPU").map(drop)
    }
}

/// The kernel reports about itself and powers off; the host ends with it.
fn selftest(below: Below, kernel: Guest, host: Host) -> Result<()> {
    let mut emulator = below.boot(kernel, host, VCPUS, SELFTEST)?;
    judge_selftest(&mut emulator, VCPUS)?;
    emulator.finish().map(drop)
}

/// Reads what the self-test in the RAM disk prints.
pub(crate) fn judge_selftest(emulator: &mut Emulator, cpus: u32) -> Result<()> {
    let found = emulator.expect_line("selftest: cpus ")?;
    ensure!(found == cpus.to_string(), "Linux sees {found} CPUs, not {cpus}");

    emulator.expect("selftest: sleep begins")?;
    let start = Instant::now();
    emulator.expect("selftest: sleep ends")?;
    let seen = start.elapsed();
    let slept = emulator.expect_line("selftest: slept ")?;
    judge_second(&slept, seen)?;

    let interrupts = emulator.expect_line("selftest: timer interrupts ")?;
    ensure!(number(&interrupts)? > 0, "no timer interrupt in a second");
    if cpus > 1 {
        for expected in [
            "selftest: cpu1 offline leaves 0 of 1 missing",
            "selftest: cpu1 online gives 0 missing",
            "selftest: cpu1 runs yes",
        ] {
            emulator.expect(expected)?;
        }
    }
    emulator.expect("selftest: end poweroff")?;
    Ok(())
}

/// A second of sleep by the guest's clock and by ours. A loaded machine makes
/// both longer, but never shorter.
fn judge_second(guest: &str, ours: Duration) -> Result<()> {
    let guest = number(guest)?;
    ensure!((990..2500).contains(&guest), "sleep 1 took {guest} ms of the guest's time");
    let ours = ours.as_millis();
    ensure!((800..5000).contains(&ours), "sleep 1 took {ours} ms of the host's time");
    Ok(())
}

fn number(text: &str) -> Result<u64> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("{text:?} is no number"))
}

/// What the first user does: looks around, sleeps, unplugs a CPU, restarts, powers off.
fn shell(below: Below, kernel: Guest, host: Host) -> Result<()> {
    let mut emulator = below.boot(kernel, host, VCPUS, "")?;
    below.expect_start(&mut emulator)?;
    emulator.expect(PROMPT)?;
    ensure!(answer(&mut emulator, "nproc")? == "4", "nproc does not say 4");

    let total = |text: &str| -> u64 { text.split_whitespace().flat_map(str::parse::<u64>).sum() };
    let interrupts = "grep arch_timer /proc/interrupts | tr -s ' ' | cut -d' ' -f3-6";
    let before = total(&answer(&mut emulator, interrupts)?);
    emulator.send("echo begin$((1)); sleep 1; echo end$((1))\n")?;
    emulator.expect("begin1")?;
    let start = Instant::now();
    emulator.expect("end1")?;
    let slept = start.elapsed();
    ensure!((800..5000).contains(&slept.as_millis()), "sleep 1 took {slept:?}");
    let after = total(&answer(&mut emulator, interrupts)?);
    ensure!(after > before, "/proc/interrupts stands still at {before}");

    let online = "/sys/devices/system/cpu/cpu1/online";
    let offline = answer(&mut emulator, &format!("echo 0 > {online}; nproc"))?;
    ensure!(offline.ends_with('3'), "CPU 1 did not go offline: {offline}");
    let again = answer(&mut emulator, &format!("echo 1 > {online}; nproc; taskset 2 echo ran"))?;
    ensure!(again.contains('4') && again.ends_with("ran"), "CPU 1 did not come back: {again}");

    emulator.send("reboot\n")?;
    below.expect_start(&mut emulator)?;
    emulator.expect(PROMPT)?;
    ensure!(answer(&mut emulator, "nproc")? == "4", "nproc does not say 4 after the restart");
    emulator.send("poweroff\n")?;
    emulator.finish().map(drop)
}

/// Types a command at the prompt and returns what it printed.
pub(crate) fn answer(emulator: &mut Emulator, command: &str) -> Result<String> {
    // The marks are computed, so that the echo of the typed line has none.
    emulator.send(&format!("echo '<''<'; {command}; echo '>''>'\n"))?;
    emulator.expect("<<")?;
    let text = emulator.expect(">>")?;
    emulator.expect(PROMPT)?;
    Ok(text.trim().to_string())
}

/// The guest restarts as soon as its first process runs.
fn restarts() -> Result<()> {
    const STARTED: &str = "vm \"linux\": started, ";
    let mut emulator = Below::Hypervisor.boot(Guest::Debian61, USUAL, 1, "quiet bunshin.reboot")?;
    let first = emulator.expect_line(STARTED)?;
    ensure!(number(&first)? > 0, "{first:?} does not say how much memory is free");
    for restart in 1..=RESTARTS {
        let now = emulator.expect_line(STARTED)?;
        ensure!(now == first, "restart {restart}: {now:?}, but at first it was {first:?}");
    }
    Ok(())
}
