//! PCs: AMD-V in QEMU, VT-x in Bochs; started by `-kernel`, or by GRUB from BIOS and UEFI.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::arch::Arch;
use xtask::fit::{self, Vm};
use xtask::media::pc;
use xtask::setup::Guest;
use xtask::vmfile::Size;
use xtask::workspace::Workspace;
use xtask::{bochs, build, image, qemu};

use crate::emulator::Emulator;
use crate::{Case, case, linux, monitor, tap};

const LIMIT: Duration = Duration::from_secs(180);
/// Bochs interprets every instruction: Debian takes some 6 minutes, and more on a busy machine.
const BOCHS_LIMIT: Duration = Duration::from_secs(1200);

/// Memory of the host.
const HOST_MEMORY: Size = Size(1 << 30);
/// Memory of small guests.
const MEMORY: u64 = 64 << 20;
const LINUX_MEMORY: u64 = 512 << 20;
/// Memory of a guest on both sides of the hole below 4 GiB, and of the host for it.
const LARGE_MEMORY: u64 = 4 << 30;
const LARGE_HOST_MEMORY: Size = Size(5200 << 20);

/// CPUs of the host and of a guest.
const CPUS: u32 = 2;

/// Guests that test something, say what in TAP, and power off.
const TESTS: [&str; 7] = ["hello", "timer", "interrupts", "smp", "real_mode", "memory", "sweep"];
/// Those that a bare machine passes too; `sweep` is for machines that nothing can harm.
const ON_BARE_MACHINE: [&str; 6] = ["hello", "timer", "interrupts", "smp", "real_mode", "memory"];

/// Models of Bochs with VT-x and EPT, and what the hypervisor says that they have.
const VMX_MODELS: [(&str, &str); 4] = [
    (bochs::CPU, "with preemption timer, VPID, 1 GiB pages, PAUSE-loop exiting\n"),
    ("corei7_haswell_4770", "with preemption timer, VPID, 1 GiB pages, PAUSE-loop exiting\n"),
    ("corei5_arrandale_m520", "with preemption timer, VPID\n"),
    (WITHOUT_REAL_MODE, "with preemption timer, VPID, real mode by virtual-8086 mode\n"),
];
/// It has EPT, and cannot do without protection and paging in a guest.
const WITHOUT_REAL_MODE: &str = "corei5_lynnfield_750";

/// Restarts in a row that must not cost any memory.
const RESTARTS: usize = 30;

pub(crate) fn trials(full: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for name in TESTS {
        cases.push(case(format!("x86::guest/{name}/svm"), move || {
            judge(&boot(&[small(name, CPUS)?], CPUS)?.finish()?)
        }));
    }
    cases.push(case("x86::guest/smp/svm/four_on_two", || {
        judge(&boot(&[small("smp", 4)?], CPUS)?.finish()?)
    }));
    cases.push(case("x86::guest/hello/svm/memory_above_4_gib", || {
        let vm = Vm::new("hello", small_file("hello")?, CPUS, LARGE_MEMORY);
        judge(&boot_with(&[vm], CPUS, LARGE_HOST_MEMORY)?.finish()?)
    }));
    cases.push(case("x86::a_multiboot_kernel_starts", multiboot));
    cases.push(case("x86::restarts_leave_free_memory_unchanged", restarts));
    cases.push(case("x86::without_a_bundle_the_embedded_guest_runs", embedded));
    cases.push(case("x86::a_neighbour_survives_a_triple_fault", neighbour));
    cases
        .push(case("x86::a_neighbour_survives_nonsense", || nonsense(&mut beside("chaos", CPUS)?)));
    cases.push(case("x86::iso_by_bios", || iso(&["-cdrom"])));
    cases.push(case("x86::iso_by_uefi", || iso(&["-bios", OVMF, "-cdrom"])));
    cases.push(case("x86::iso_on_a_disk_by_bios", || iso(&["-hda"])));
    for (firmware, arguments) in [("bios", &[][..]), ("uefi", &["-bios", OVMF])] {
        cases.push(case(format!("x86::iso_on_a_stick_by_{firmware}"), || stick(arguments)));
    }
    for name in ["timer", "interrupts"] {
        cases.push(case(format!("x86::guest/{name}/svm/pinned"), move || {
            let mut vm = small(name, CPUS)?;
            vm.pinned = true;
            judge(&boot(&[vm], CPUS)?.finish()?)
        }));
    }
    cases.push(case("x86::more_memory_than_addresses_reach_is_refused", unreachable_memory));
    for (cpu, missing) in [
        ("max,-svm", "CPUID 8000_0001h ECX bit 2"),
        ("max,+svm,-npt", "CPUID 8000_000Ah EDX bit 0"),
    ] {
        let name = format!("x86::the_missing_feature_is_named/{cpu}");
        cases.push(case(name, move || incapable(cpu, missing)));
    }
    cases.push(case("x86::linux_selftest/debian:6.1/2cpu", || selftest(Guest::Debian61, 2)));
    cases.push(case("x86::a_user_works_at_the_shell", shell));
    if full {
        for name in ON_BARE_MACHINE {
            cases.push(case(format!("reference::x86/{name}"), move || bare(name)));
        }
        for (kernel, cpus) in [
            (Guest::Debian61, 1),
            (Guest::Debian61, 4),
            (Guest::Debian612, 1),
            (Guest::Debian612, 2),
        ] {
            let name = format!("x86::linux_selftest/{}/{cpus}cpu", kernel.name());
            cases.push(case(name, move || selftest(kernel, cpus)));
        }
        for (cpu, options) in VMX_MODELS {
            for name in TESTS {
                cases.push(case(format!("x86::guest/{name}/vmx/{cpu}"), move || {
                    guest_on_vmx(cpu, 1, options, small(name, CPUS)?)
                }));
            }
        }
        for (cpu, name) in [
            (bochs::CPU, "interrupts"),
            (bochs::CPU, "smp"),
            (WITHOUT_REAL_MODE, "smp"),
            (WITHOUT_REAL_MODE, "real_mode"),
        ] {
            cases.push(case(format!("x86::guest/{name}/vmx/{cpu}/two_processors"), move || {
                guest_on_vmx(cpu, CPUS, "VT-x on 2 processors", small(name, CPUS)?)
            }));
        }
        for cpu in [bochs::CPU, WITHOUT_REAL_MODE] {
            cases.push(case(format!("x86::a_neighbour_survives_nonsense/vmx/{cpu}"), move || {
                let mut bochs = Bochs::boot(cpu, 1, &[small("chaos", CPUS)?, small("memory", 1)?])?;
                bochs.emulator.expect("vm \"memory\": off")?;
                nonsense(&mut bochs.emulator)
            }));
        }
        for (control, expected) in [
            (0b000, "VT-x on 1 processors"),
            (0b001, "MSR 3Ah: bit 2, VMX outside SMX, is 0 and bit 0, lock, is 1"),
            (0b011, "in SMX operation only"),
        ] {
            let name = format!("x86::firmware_that_locks_vmx_is_named/{control:03b}");
            cases.push(case(name, move || firmware_lock(control, expected)));
        }
        for (cpu, missing) in
            [("p4_prescott_celeron_336", "CPUID 1 ECX bit 5"), ("core2_penryn_t9600", "EPT")]
        {
            let name = format!("x86::the_missing_feature_is_named/{cpu}");
            cases.push(case(name, move || incapable_vmx(cpu, missing)));
        }
        for (cpu, vcpus) in [(bochs::CPU, 1), (WITHOUT_REAL_MODE, CPUS)] {
            let name = format!("x86::linux_selftest/debian:6.1/vmx/{cpu}");
            cases.push(case(name, move || linux_on_vmx(cpu, vcpus)));
        }
        cases.push(case("x86::a_user_works_at_the_shell/vmx", shell_on_vmx));
        cases.push(case("x86::a_balloon_gives_memory_back/vmx", balloon_on_vmx));
    }
    cases
}

/// UEFI firmware for QEMU's PCs.
const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

/// The emulator's command line, with nothing to boot yet.
fn command(cpu: Option<&str>, cpus: u32, memory: Size) -> Result<Command> {
    let machine = qemu::Machine { cpu: cpu.map(str::to_string), ..qemu::Machine::default() };
    let mut command = machine.command(Arch::X86_64, cpus, memory)?;
    command.args(["-nodefaults", "-serial", "mon:stdio"]);
    Ok(command)
}

/// The hypervisor's image.
fn hypervisor() -> Result<std::path::PathBuf> {
    let file = Workspace::locate().image(Arch::X86_64);
    ensure!(file.is_file(), "{} is absent; run `cargo xtask build --arch x86_64`", file.display());
    Ok(file)
}

/// Starts the hypervisor with a bundle of `vms`.
fn boot(vms: &[Vm], cpus: u32) -> Result<Emulator> {
    boot_with(vms, cpus, HOST_MEMORY)
}

/// The same on a host with so much memory.
fn boot_with(vms: &[Vm], cpus: u32, memory: Size) -> Result<Emulator> {
    let folder = tempfile::tempdir()?;
    let bundle = folder.path().join("bundle.itb");
    fs::write(&bundle, fit::write(Arch::X86_64, vms)?)?;
    let mut command = command(None, cpus, memory)?;
    command.arg("-kernel").arg(hypervisor()?).arg("-initrd").arg(bundle);
    Emulator::start(command, LIMIT, Some(folder))
}

fn small_file(name: &str) -> Result<Vec<u8>> {
    let file = build::guest(&Workspace::locate(), Arch::X86_64, name);
    fs::read(&file)
        .with_context(|| format!("{}: run `cargo xtask build --arch x86_64`", file.display()))
}

fn small(name: &str, vcpus: u32) -> Result<Vm> {
    Ok(Vm::new(name, small_file(name)?, vcpus, MEMORY))
}

fn judge(text: &str) -> Result<()> {
    tap::judge(text).with_context(|| format!("of this output:\n{text}"))
}

/// The same guest without a hypervisor: what fails here too is not the hypervisor's fault.
fn bare(name: &str) -> Result<()> {
    let mut command = command(None, CPUS, HOST_MEMORY)?;
    command.arg("-kernel").arg(build::guest(&Workspace::locate(), Arch::X86_64, name));
    judge(&Emulator::start(command, LIMIT, None)?.finish()?)
}

/// The guests are PVH kernels, and flat Multiboot ones when only their memory is left of them.
fn multiboot() -> Result<()> {
    let flat = image::flatten(&small_file("hello")?)?;
    let text = boot(&[Vm::new("hello", flat, CPUS, MEMORY)], CPUS)?.finish()?;
    ensure!(text.contains("started by Multiboot"), "not started by Multiboot:\n{text}");
    judge(&text)
}

fn restarts() -> Result<()> {
    const STARTED: &str = "vm \"reset\": started, ";
    let mut emulator = boot(&[small("reset", 1)?], CPUS)?;
    let first = emulator.expect_line(STARTED)?;
    for restart in 1..=RESTARTS {
        emulator.expect("reset by ")?;
        let now = emulator.expect_line(STARTED)?;
        ensure!(now == first, "restart {restart}: {now:?}, but at first it was {first:?}");
    }
    Ok(())
}

fn embedded() -> Result<()> {
    let mut command = command(None, CPUS, HOST_MEMORY)?;
    command.arg("-kernel").arg(hypervisor()?);
    let mut emulator = Emulator::start(command, LIMIT, None)?;
    emulator.expect("Hello from a guest!")?;
    emulator.finish().map(drop)
}

/// A guest with a neighbour on its host CPU that does something strange.
fn beside(name: &str, vcpus: u32) -> Result<Emulator> {
    let mut mad = small(name, vcpus)?;
    let mut sane = small("memory", 1)?;
    mad.cpus = vec![0];
    sane.cpus = vec![0];
    let mut emulator = boot(&[mad, sane], CPUS)?;
    emulator.expect("vm \"memory\": off")?;
    Ok(emulator)
}

/// The other guest executes nonsense for ever, and goes on when its neighbour has finished.
fn nonsense(emulator: &mut Emulator) -> Result<()> {
    // A line for some rounds, or for a start after a triple fault.
    emulator.expect("chaos: ")?;
    emulator.expect("chaos: ").map(drop)
}

/// One guest restarts all the time, by triple faults among others; the other finishes.
fn neighbour() -> Result<()> {
    beside("reset", 1)?.survive(Duration::from_secs(1))
}

/// The medium that `cargo xtask image pc` makes, in a drive.
fn iso(drive: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bunshin.iso");
    let bundle = fit::write(Arch::X86_64, &[small("hello", CPUS)?])?;
    pc::write(&file, &hypervisor()?, Some(&bundle))?;
    let mut command = command(None, CPUS, HOST_MEMORY)?;
    command.args(drive).arg(file);
    judge(&Emulator::start(command, LIMIT, Some(folder))?.finish()?)
}

/// The same as a file of a USB stick, which the firmware looks for by itself.
fn stick(arguments: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bunshin.iso");
    let bundle = fit::write(Arch::X86_64, &[small("hello", CPUS)?])?;
    pc::write(&file, &hypervisor()?, Some(&bundle))?;
    let mut command = command(None, CPUS, HOST_MEMORY)?;
    command
        .args(arguments)
        .args(["-device", "qemu-xhci", "-device", "usb-storage,drive=stick", "-drive"])
        .arg(format!("if=none,id=stick,format=raw,file={}", file.display()));
    judge(&Emulator::start(command, LIMIT, Some(folder))?.finish()?)
}

/// The last byte of 64 GiB of memory lies beyond 36 bits of addresses, since devices have a part.
fn unreachable_memory() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let bundle = folder.path().join("bundle.itb");
    let vm = Vm::new("large", small_file("hello")?, CPUS, 64 << 30);
    fs::write(&bundle, fit::write(Arch::X86_64, &[vm])?)?;
    let mut command = command(Some("max,+svm,+npt,phys-bits=36"), CPUS, HOST_MEMORY)?;
    command.arg("-kernel").arg(hypervisor()?).arg("-initrd").arg(bundle);
    let mut emulator = Emulator::start(command, LIMIT, Some(folder))?;
    emulator.expect("vm \"large\": memory: 65536 MiB are more than the 64512 MiB")?;
    emulator.survive(Duration::from_secs(1))
}

fn incapable(cpu: &str, missing: &str) -> Result<()> {
    let mut command = command(Some(cpu), 1, HOST_MEMORY)?;
    command.arg("-kernel").arg(hypervisor()?);
    let mut emulator = Emulator::start(command, LIMIT, None)?;
    emulator.expect(missing)?;
    emulator.survive(Duration::from_secs(1))
}

fn debian(kernel: Guest, vcpus: u32, arguments: &str) -> Result<Vm> {
    let guests = Workspace::locate().guests();
    let read = |guest: Guest| {
        let file = guests.join(guest.file(Arch::X86_64).context("no such guest")?);
        fs::read(&file).with_context(|| format!("{}: run `cargo xtask setup`", file.display()))
    };
    let mut vm = Vm::new("linux", read(kernel)?, vcpus, LINUX_MEMORY);
    vm.initrd = Some(read(Guest::Initramfs)?);
    vm.command_line = format!("console={} {arguments}", Arch::X86_64.console());
    Ok(vm)
}

fn selftest(kernel: Guest, cpus: u32) -> Result<()> {
    let mut emulator = boot(&[debian(kernel, cpus, linux::SELFTEST)?], CPUS)?;
    linux::judge_selftest(&mut emulator, cpus)?;
    emulator.finish().map(drop)
}

/// Firmware that leaves `control` in IA32_FEATURE_CONTROL: VT-x is used, or the bit named that
/// forbids it.
fn firmware_lock(control: u64, expected: &str) -> Result<()> {
    let machine = bochs::Machine {
        cpu: bochs::CPU.to_string(),
        cpus: 1,
        memory: HOST_MEMORY.0 >> 20,
        feature_control: Some(control),
    };
    let mut bochs = Bochs::start(&machine, &[small("hello", 1)?])?;
    bochs.emulator.expect(expected).map(drop)
}

/// A user at the terminal of `cargo xtask run --emulator bochs`.
fn shell_on_vmx() -> Result<()> {
    let mut bochs = Bochs::boot(bochs::CPU, 1, &[debian(Guest::Debian61, 1, "quiet")?])?;
    let emulator = &mut bochs.emulator;
    emulator.expect(linux::PROMPT)?;
    let processors = linux::answer(emulator, "nproc")?;
    ensure!(processors == "1", "nproc says {processors}");
    // The emulator's time passes as fast as it can.
    let seconds = "cut -d. -f1 /proc/uptime; sleep 1; cut -d. -f1 /proc/uptime";
    let times = linux::answer(emulator, seconds)?;
    let times: Vec<u64> = times.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let slept = matches!(times[..], [before, after] if after > before);
    ensure!(slept, "uptime before and after `sleep 1`: {times:?}");
    emulator.send("poweroff\n")?;
    bochs.finish().map(drop)
}

/// Pages leave a guest's tables while its other virtual CPU runs on another processor.
fn balloon_on_vmx() -> Result<()> {
    let mut vm = debian(Guest::Debian61, CPUS, "quiet")?;
    vm.name = "one".into();
    vm.memory = 256 << 20;
    vm.balloon = true;
    let mut bochs = Bochs::boot(bochs::CPU, CPUS, &[vm])?;
    monitor::judge_balloon(&mut bochs.emulator)
}

/// What the first user does: looks around, sleeps, restarts, powers off.
fn shell() -> Result<()> {
    const STARTED: &str = "vm \"linux\": started";
    const BANNER: &str = "reboot restarts it.";
    let mut emulator = boot(&[debian(Guest::Debian61, CPUS, "quiet")?], CPUS)?;
    emulator.expect(STARTED)?;
    emulator.expect(BANNER)?;
    emulator.expect(linux::PROMPT)?;
    let processors = linux::answer(&mut emulator, "nproc")?;
    ensure!(processors == "2", "nproc says {processors}");
    let interrupts = "grep LOC: /proc/interrupts | tr -s ' ' | cut -d' ' -f3-4";
    let before = linux::answer(&mut emulator, interrupts)?;
    let start = Instant::now();
    linux::answer(&mut emulator, "sleep 1")?;
    ensure!(start.elapsed() >= Duration::from_millis(800), "sleep 1 took {:?}", start.elapsed());
    let after = linux::answer(&mut emulator, interrupts)?;
    ensure!(after != before, "/proc/interrupts stands still at {before}");
    emulator.send("reboot\n")?;
    emulator.expect(STARTED)?;
    emulator.expect(BANNER)?;
    emulator.expect(linux::PROMPT)?;
    emulator.send("poweroff\n")?;
    emulator.finish().map(drop)
}

/// A PC in Bochs, started from an ISO.
struct Bochs {
    setup: bochs::Setup,
    emulator: Emulator,
}

impl Bochs {
    /// Starts a PC with `cpus` CPUs of the model `cpu`.
    fn boot(cpu: &str, cpus: u32, vms: &[Vm]) -> Result<Self> {
        let memory = HOST_MEMORY.0 >> 20;
        let machine = bochs::Machine { cpu: cpu.to_string(), cpus, memory, feature_control: None };
        Self::start(&machine, vms)
    }

    fn start(machine: &bochs::Machine, vms: &[Vm]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let bundle = fit::write(Arch::X86_64, vms)?;
        let setup = bochs::Setup::new(folder.path(), machine, &hypervisor()?, Some(&bundle))?;
        let (child, serial) = setup.start()?;
        let console = Box::new(serial.try_clone()?);
        let shown = xtask::process::shown(&setup.command());
        let emulator = Emulator::attached(child, console, serial, shown, BOCHS_LIMIT, Some(folder));
        Ok(Bochs { setup, emulator })
    }

    /// Waits until the PC is turned off, and returns what it printed.
    fn finish(mut self) -> Result<String> {
        self.emulator.wait()?;
        ensure!(self.setup.was_turned_off(), "the PC was not turned off\n{}", self.emulator.text());
        Ok(self.emulator.text())
    }
}

/// Runs a guest on a model of Bochs that has VT-x; what the model has is in its log, `options`.
fn guest_on_vmx(cpu: &str, cpus: u32, options: &str, vm: Vm) -> Result<()> {
    let text = Bochs::boot(cpu, cpus, &[vm])?.finish()?.replace('\r', "");
    ensure!(text.contains(options), "no {options:?} in\n{text}");
    judge(&text)
}

fn incapable_vmx(cpu: &str, missing: &str) -> Result<()> {
    let mut bochs = Bochs::boot(cpu, 1, &[small("hello", 1)?])?;
    bochs.emulator.expect(missing).map(drop)
}

fn linux_on_vmx(cpu: &str, vcpus: u32) -> Result<()> {
    let vm = debian(Guest::Debian61, vcpus, linux::SELFTEST)?;
    let text = Bochs::boot(cpu, 1, &[vm])?.finish()?;
    let count = format!("selftest: cpus {vcpus}");
    for expected in [&*count, "selftest: sleep ends", "selftest: end poweroff"] {
        ensure!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    Ok(())
}
