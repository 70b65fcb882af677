//! Running the benchmark's guest on emulated machines.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::figures::{self, Figures};
use crate::arch::Arch;
use crate::vmfile::{Size, VmFile};
use crate::workspace::Workspace;
use crate::{build, pack, process, qemu};

/// Models of the host's CPUs.
pub const MODELS: [&str; 2] = ["cortex-a72", "max"];
/// The model of PCs' CPUs: all that the emulator has, with AMD-V.
const PC: &str = "amd-v";
/// What the emulator calls it. Without x2APIC, since a read of the timer's count by `RDMSR` ends an emulator that counts
/// ("Bad icount read"); the host reads it from memory then.
const PC_CPU: &str = "max,+svm,+npt,-x2apic";
/// CPUs of the host, and of the guest.
pub const CPUS: u32 = 2;
/// Memory of the host.
const HOST_MEMORY: Size = Size(1 << 30);
/// Memory of the guest.
pub const GUEST_MEMORY: &str = "256M";
/// Bytes of its disk.
const DISK: u64 = 4 << 20;
/// How long a run may take.
pub const LIMIT: Duration = Duration::from_secs(120);
/// What the guest prints at its end.
const END: &str = "bench-end";

/// Makes the emulator count: a nanosecond an instruction, nothing that depends on the time of day or on chance.
pub fn counting(command: &mut Command) {
    command
        .args(["-icount", "shift=0,sleep=off"])
        .args(["-rtc", "base=2026-01-01,clock=vm"])
        .args(["-nodefaults", "-serial", "stdio"]);
}

/// An Arm CPU model with a counter of 1 GHz.
pub fn model(cpu: &str) -> String {
    format!("{cpu},cntfrq=1000000000")
}

/// Models of `arch`'s hosts.
pub const fn models(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::Aarch64 => &MODELS,
        Arch::X86_64 => &[PC],
    }
}

/// What the emulator calls a host's model. Time-stamp counters of PCs tick a nanosecond when it counts.
pub fn cpu(arch: Arch, cpu: &str) -> String {
    match arch {
        Arch::Aarch64 => model(cpu),
        Arch::X86_64 => PC_CPU.to_string(),
    }
}

/// What the emulator calls the model of a machine without a hypervisor.
pub fn bare_cpu(arch: Arch, cpu: &str) -> String {
    match arch {
        Arch::Aarch64 => model(cpu),
        Arch::X86_64 => "max".to_string(),
    }
}

/// The guest without a hypervisor.
///
/// # Errors
/// When the emulator fails or the guest does not come to its end.
pub fn bare(workspace: &Workspace, arch: Arch) -> Result<Figures> {
    let mut command = Command::new(arch.qemu());
    match arch {
        Arch::Aarch64 => command.args(["-M", "virt,gic-version=3,dtb-randomness=off"]),
        Arch::X86_64 => command.args(["-M", "q35", "-no-reboot"]),
    };
    command
        .args(["-cpu", &bare_cpu(arch, MODELS[0])])
        .args(["-smp", &CPUS.to_string()])
        .args(["-m", GUEST_MEMORY, "-nographic"])
        .arg("-kernel")
        .arg(build::guest(workspace, arch, "bench"));
    counting(&mut command);
    figures::parse(&output(command, 1, LIMIT)?)
}

/// The guest under Bunshin, in all its modes.
///
/// # Errors
/// As [`bare`].
pub fn bunshin(workspace: &Workspace, arch: Arch, model: &str) -> Result<Figures> {
    let cpu = cpu(arch, model);
    let guest = build::guest(workspace, arch, "bench");
    let run = |cpus, mode: &str, times| {
        let text = alone(&guest, &format!("mode={mode}"));
        output(start(workspace, arch, &text, &cpu, cpus)?, times, LIMIT)
    };
    let mut all = figures::parse(&run(CPUS, "", 1)?)?;
    all.extend(figures::parse(&run(1, "shared", 1)?)?);
    all.extend(restart(&run(CPUS, "reset", 2)?)?);
    let two = start(workspace, arch, &pair(&guest), &cpu, CPUS)?;
    all.extend(figures::parse(&output(two, 1, LIMIT)?)?);
    Ok(all)
}

/// A VM file with one guest of two virtual CPUs.
fn alone(kernel: &Path, arguments: &str) -> String {
    format!(
        "[[vm]]\nname = \"bench\"\nvcpus = {CPUS}\nmemory = \"{GUEST_MEMORY}\"\nkernel = {:?}\ncmdline = {arguments:?}\n",
        kernel.display().to_string()
    )
}

/// A VM file with two guests on a switch, each on a host CPU of its own, the first of which has a disk.
fn pair(kernel: &Path) -> String {
    let kernel = kernel.display().to_string();
    let vm = |name: &str, cpu: u32, mode: &str| {
        format!(
            "[[vm]]\nname = \"{name}\"\ncpus = [{cpu}]\nmemory = \"{GUEST_MEMORY}\"\nkernel = {kernel:?}\n\
             cmdline = \"mode={mode}\"\n[[vm.net]]\n"
        )
    };
    let disk = format!("[[vm.disk]]\nsize = \"{}M\"\n", DISK >> 20);
    vm("bench", 0, "virtio") + &disk + &vm("echo", 1, "echo")
}

/// The emulator's command for the image and the guests of the VM file `text`, on a host with CPUs of model `cpu`.
fn start(workspace: &Workspace, arch: Arch, text: &str, cpu: &str, cpus: u32) -> Result<Command> {
    let file = VmFile::parse(text, "benchmark")?;
    let bundle = workspace.target().join("bench.itb");
    pack::write(&bundle, &pack::bundle(&file, Path::new(""), workspace, arch)?)?;
    let machine = qemu::Machine { gic: 3, cpu: Some(cpu.to_string()), smp: None };
    let mut command = machine.command(arch, cpus, HOST_MEMORY)?;
    if arch == Arch::Aarch64 {
        command.args(["-machine", "dtb-randomness=off"]);
    }
    qemu::boot(&mut command, &workspace.image(arch), &bundle);
    counting(&mut command);
    Ok(command)
}

/// What the image and a guest of ours, on its own on a machine with two CPUs, print until the machine is off.
///
/// # Errors
/// When the emulator fails or takes too long.
pub fn to_the_end(workspace: &Workspace, guest: &str) -> Result<String> {
    let kernel = build::guest(workspace, Arch::Aarch64, guest);
    let mut command =
        start(workspace, Arch::Aarch64, &alone(&kernel, ""), &model(MODELS[0]), CPUS)?;
    let shown = process::shown(&command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start `{shown}`"))?;
    let mut stdout = child.stdout.take().context("no output")?;
    let (sender, output) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // Whoever waits for the text has given up if it can't be sent.
        let _ = stdout.read_to_end(&mut bytes).map(|_| sender.send(bytes));
    });
    let bytes = output.recv_timeout(LIMIT);
    // It may have ended already.
    let _ = child.kill();
    child.wait()?;
    let bytes = bytes.with_context(|| format!("`{shown}` took too long"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What power-on, a start and a reset took: the last from the time that the guest announced to its first instruction
/// afterwards.
fn restart(output: &str) -> Result<Figures> {
    let (before, after) = output.split_once(END).context("the guest announced no reset")?;
    let row = |text: &str, name: &str| {
        text.lines().find_map(|line| {
            line.trim().strip_prefix("bench ")?.strip_prefix(name)?.trim().parse::<u64>().ok()
        })
    };
    let announced = row(before, "reset-physical").context("no time of the reset")?;
    let again = row(after, "start-physical").context("the guest did not start again")?;
    let power_on = row(before, "start-physical").context("no time of the first start")?;
    let start = row(before, "start-virtual").context("no time of the start")?;
    let reset = again.saturating_sub(announced);
    Ok([("power-on", power_on), ("reset", reset), ("start", start)]
        .map(|(name, figure)| (name.to_string(), figure))
        .into())
}

/// Runs the emulator until the guest has come to its end `times` times, or by itself.
///
/// # Errors
/// When it can't be started, ends early or takes longer than `limit`.
pub fn output(mut command: Command, times: usize, limit: Duration) -> Result<String> {
    let shown = process::shown(&command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start `{shown}`"))?;
    let stdout = child.stdout.take().context("no output")?;
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + limit;
    let (mut text, mut ends) = (String::new(), 0);
    let mut late = false;
    while ends < times {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                ends += usize::from(figures::said(&line) == END);
                text += &line;
                text.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                late = true;
                break;
            }
        }
    }
    // It may have ended already.
    let _ = child.kill();
    child.wait()?;
    drop(lines);
    let _ = reader.join();
    if ends < times {
        let why = if late { "took too long" } else { "ended early" };
        bail!("`{shown}` {why}; it printed:\n{text}");
    }
    Ok(text)
}

/// Name and version of the emulator.
///
/// # Errors
/// When there is none.
pub fn version(arch: Arch) -> Result<String> {
    let text = process::output(Command::new(arch.qemu()).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_string())
}

/// Whether the image was built as it is released: figures of others say nothing.
pub fn is_release() -> bool {
    std::env::vars_os()
        .all(|(name, _)| !name.to_string_lossy().starts_with("CARGO_PROFILE_RELEASE_"))
}

/// Removes what a run leaves behind.
pub fn clean(workspace: &Workspace) {
    // Its absence is what is wanted.
    let _ = fs::remove_file(workspace.target().join("bench.itb"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_takes_from_its_announcement_to_the_next_start() {
        let output = "bench start-virtual 3\nbench start-physical 5\nbench reset-physical 100\nbench-end\nbench start-physical 130\n";
        let figures = restart(output).unwrap();
        assert_eq!((figures["reset"], figures["start"], figures["power-on"]), (30, 3, 5));
        assert!(restart("bench start-physical 5\n").is_err());
    }
}
