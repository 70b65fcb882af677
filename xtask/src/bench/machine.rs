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
/// CPUs of the host, and of the guest.
pub const CPUS: u32 = 2;
/// Memory of the host.
const HOST_MEMORY: Size = Size(1 << 30);
/// Memory of the guest.
pub const GUEST_MEMORY: &str = "256M";
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

/// A CPU model with a counter of 1 GHz.
pub fn model(cpu: &str) -> String {
    format!("{cpu},cntfrq=1000000000")
}

/// The guest without a hypervisor.
///
/// # Errors
/// When the emulator fails or the guest does not come to its end.
pub fn bare(workspace: &Workspace, cpu: &str) -> Result<Figures> {
    let mut command = Command::new(Arch::Aarch64.qemu());
    command
        .args(["-M", "virt,gic-version=3,dtb-randomness=off"])
        .args(["-cpu", &model(cpu)])
        .args(["-smp", &CPUS.to_string()])
        .args(["-m", GUEST_MEMORY, "-nographic"])
        .arg("-kernel")
        .arg(build::guest(workspace, Arch::Aarch64, "bench"));
    counting(&mut command);
    figures::parse(&output(command, 1, LIMIT)?)
}

/// The guest under Bunshin, in all its modes.
///
/// # Errors
/// As [`bare`].
pub fn bunshin(workspace: &Workspace, cpu: &str) -> Result<Figures> {
    let mut all = figures::parse(&boot(workspace, cpu, CPUS, "", 1)?)?;
    all.extend(figures::parse(&boot(workspace, cpu, 1, "shared", 1)?)?);
    all.extend(reset(&boot(workspace, cpu, CPUS, "reset", 2)?)?);
    Ok(all)
}

/// Boots a bundle with the benchmark in it until it has come to its end `times` times.
fn boot(workspace: &Workspace, cpu: &str, cpus: u32, mode: &str, times: usize) -> Result<String> {
    let guest = build::guest(workspace, Arch::Aarch64, "bench");
    let arguments = format!("mode={mode}");
    let command = start(workspace, Arch::Aarch64, &guest, &arguments, &model(cpu), cpus)?;
    output(command, times, LIMIT)
}

/// The emulator's command for the image and a guest of two virtual CPUs, on a host of model `cpu`.
///
/// # Errors
/// When the bundle can't be packed or there is no such machine.
pub fn start(
    workspace: &Workspace,
    arch: Arch,
    kernel: &Path,
    arguments: &str,
    cpu: &str,
    cpus: u32,
) -> Result<Command> {
    let text = format!(
        "[[vm]]\nname = \"bench\"\nvcpus = {CPUS}\nmemory = \"{GUEST_MEMORY}\"\nkernel = {:?}\ncmdline = {arguments:?}\n",
        kernel.display().to_string()
    );
    let file = VmFile::parse(&text, "benchmark")?;
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
    let mut command = start(workspace, Arch::Aarch64, &kernel, "", &model(MODELS[0]), CPUS)?;
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

/// What a reset took: from the time that the guest announced to its first instruction afterwards.
fn reset(output: &str) -> Result<Figures> {
    let (before, after) = output.split_once(END).context("the guest announced no reset")?;
    let row = |text: &str, name: &str| {
        text.lines().find_map(|line| {
            line.trim().strip_prefix("bench ")?.strip_prefix(name)?.trim().parse::<u64>().ok()
        })
    };
    let announced = row(before, "reset-physical").context("no time of the reset")?;
    let started = row(after, "start-physical").context("the guest did not start again")?;
    let start = row(before, "start-virtual").context("no time of the start")?;
    let reset = started.saturating_sub(announced);
    Ok(Figures::from([("reset".to_string(), reset), ("start".to_string(), start)]))
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
pub fn version() -> Result<String> {
    let text = process::output(Command::new(Arch::Aarch64.qemu()).arg("--version"))?;
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
        let figures = reset(output).unwrap();
        assert_eq!((figures["reset"], figures["start"]), (30, 3));
        assert!(reset("bench start-physical 5\n").is_err());
    }
}
