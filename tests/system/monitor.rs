//! The console multiplexer and the monitor, driven over the serial line.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::arch::Arch;
use xtask::fit::Vm;
use xtask::setup::Guest;
use xtask::vmfile::VmFile;

use crate::emulator::Emulator;
use crate::host::USUAL;
use crate::{Case, case, linux, vmfile};

const LIMIT: Duration = Duration::from_secs(240);
const MEMORY: u64 = 128 << 20;
pub(crate) const PROMPT: &str = "bunshin> ";
pub(crate) const SHELL: &str = "guest# ";

/// Resets of one machine beside another that works.
const RESETS: [usize; 2] = [10, 100];

pub(crate) fn trials(full: bool) -> Vec<Case> {
    let resets = RESETS[usize::from(full)];
    let mut cases = vec![
        case("monitor::the_focus_moves_and_others_stay_visible", focus),
        case("monitor::machines_are_paused_resumed_stopped_started_and_reset", life),
        case(format!("monitor::{resets}_resets_disturb_no_neighbour"), move || neighbour(resets)),
        case("monitor::a_control_machine_manages_others", control),
    ];
    for arch in vmfile::architectures(full).iter().copied() {
        let name = format!("monitor::a_balloon_gives_memory_back/{arch}");
        cases.push(case(name, move || balloon(arch)));
    }
    cases
}

/// A Debian at its shell, on these host CPUs.
pub(crate) fn debian(name: &str, cpus: &[u32]) -> Result<Vm> {
    let mut vm = linux::debian(Guest::Debian61, 1, "quiet")?;
    vm.name = name.to_string();
    vm.memory = MEMORY;
    vm.cpus = cpus.to_vec();
    Ok(vm)
}

/// Types a command at the monitor and gives its answer.
pub(crate) fn ask(emulator: &mut Emulator, command: &str) -> Result<String> {
    // Ctrl-A m, erase the line, an empty one: a prompt.
    emulator.send("\x01m\x15\r")?;
    emulator.expect(PROMPT)?;
    emulator.send(&format!("{command}\r"))?;
    emulator.expect(&format!("{command}\r\n"))?;
    emulator.expect(PROMPT)
}

/// Gives the focus to a machine, from 1.
pub(crate) fn focus_on(emulator: &mut Emulator, number: usize) -> Result<()> {
    emulator.send(&format!("\x01{number}"))?;
    emulator.expect("bunshin: console of vm ").map(drop)
}

/// Has the shell of the machine in focus run `command`; gives what it prints.
pub(crate) fn shell(emulator: &mut Emulator, command: &str) -> Result<String> {
    // The marks are computed, so that the echo of the typed line has none.
    emulator.send(&format!("\necho '<''<'; {command}; echo '>''>'\n"))?;
    emulator.expect("<<")?;
    Ok(emulator.expect(">>")?.trim().to_string())
}

/// Gives the focus to a machine and waits for its shell, which may not have started yet: what is typed
/// before is lost.
pub(crate) fn shell_of(emulator: &mut Emulator, number: usize) -> Result<()> {
    focus_on(emulator, number)?;
    while !emulator.expect_within(SHELL, Duration::from_secs(2))? {
        emulator.send("\n")?;
    }
    shell(emulator, "true").map(drop)
}

/// Two Debians on two host CPUs, both at their shells, the first in focus.
fn two(limit: Duration) -> Result<Emulator> {
    let vms = [debian("one", &[0])?, debian("two", &[1])?];
    let mut emulator = USUAL.boot(&vms, limit)?;
    emulator.expect(SHELL)?;
    shell_of(&mut emulator, 2)?;
    focus_on(&mut emulator, 1)?;
    Ok(emulator)
}

fn focus() -> Result<()> {
    let mut emulator = two(LIMIT)?;
    let name = shell(&mut emulator, "echo first > /tmp/name; cat /tmp/name")?;
    ensure!(name.ends_with("first"), "{name}");
    focus_on(&mut emulator, 2)?;
    let name = shell(&mut emulator, "cat /tmp/name || echo other")?;
    ensure!(name.ends_with("other"), "input went to the wrong machine: {name}");
    // What a machine without the focus sends is shown with its name.
    emulator.send("(sleep 2; echo; echo la''te) &\n")?;
    focus_on(&mut emulator, 1)?;
    emulator.expect("[two] late")?;
    // Ctrl-A Ctrl-A is one Ctrl-A for the guest, which has it start of line.
    emulator.send("cho li''teral\x01\x01e\n")?;
    emulator.expect("literal")?;
    emulator.send("\x01?")?;
    emulator.expect("Ctrl-A and: 1 to 9")?;
    let vms = ask(&mut emulator, "vms")?;
    ensure!(vms.matches("running").count() == 2, "{vms}");
    emulator.send("\x01b")?;
    let name = shell(&mut emulator, "cat /tmp/name")?;
    ensure!(name.ends_with("first"), "Ctrl-A b led elsewhere: {name}");
    Ok(())
}

fn life() -> Result<()> {
    let mut emulator = two(LIMIT)?;
    let mut expect = |command: &str, text: &str| -> Result<()> {
        emulator.send("\x01m\x15\r")?;
        emulator.expect(PROMPT)?;
        emulator.send(&format!("{command}\r"))?;
        emulator.expect(text).map(drop).with_context(|| format!("after {command:?}"))
    };
    expect("pause one", "vm \"one\": paused")?;
    expect("pause one", "vm \"one\" is paused")?;
    expect("vms", "paused")?;
    expect("start one", "`resume` lets it go on")?;
    expect("resume 1", "vm \"one\": goes on")?;
    expect("stop one", "vm \"one\": off")?;
    expect("stop two", "vm \"two\": off")?;
    // Whoever stops the last one by hand may want to start it again.
    expect("start two", "vm \"two\": started, ")?;
    expect("start one", "vm \"one\": started, ")?;
    expect("reset nobody", "no VM \"nobody\"")?;
    expect("nonsense", "no such command")?;
    expect("stats", "vcpu 0 on host CPU 1")?;
    expect("trace 0", "host-interrupt")?;
    expect("mem", "one")?;
    expect("log", "vm \"one\": goes on")?;
    focus_on(&mut emulator, 2)?;
    let time = clock_stands_still(&mut emulator)?;
    ensure!(time < 3, "the guest's clock went on by {time} s in a pause of 4 s");
    ask(&mut emulator, "poweroff")?;
    emulator.finish().map(drop)
}

/// Pauses the second machine for four seconds; by how many its clock went on.
fn clock_stands_still(emulator: &mut Emulator) -> Result<u64> {
    emulator.expect(SHELL)?;
    let uptime = |emulator: &mut Emulator| -> Result<u64> {
        let text = shell(emulator, "cut -d. -f1 /proc/uptime")?;
        let last = text.lines().last().context("no time")?;
        last.trim().parse().with_context(|| format!("{text:?} is no time"))
    };
    let before = uptime(emulator)?;
    ask(emulator, "pause two")?;
    emulator.survive(Duration::from_secs(4))?;
    ask(emulator, "resume two")?;
    focus_on(emulator, 2)?;
    Ok(uptime(emulator)? - before)
}

/// One machine is reset again and again while the other reads and writes.
fn neighbour(resets: usize) -> Result<()> {
    const STARTED: &str = "vm \"two\": started, ";
    let resets_take = Duration::from_secs(6) * u32::try_from(resets)?;
    let mut emulator = two(LIMIT + resets_take)?;
    let work = "while dd if=/dev/urandom of=/tmp/a bs=64k count=16 2>/dev/null && cp /tmp/a /tmp/b \
                && cmp /tmp/a /tmp/b; do date +%s > /tmp/last; echo r >> /tmp/rounds; done; echo wr''ong";
    shell(&mut emulator, "touch /tmp/rounds")?;
    emulator.send(&format!("({work}) &\n"))?;
    let rounds = |emulator: &mut Emulator| -> Result<u64> {
        focus_on(emulator, 1)?;
        let text = shell(emulator, "wc -l < /tmp/rounds")?;
        let last = text.lines().last().unwrap_or_default();
        last.trim().parse().with_context(|| format!("{text:?} is no number"))
    };
    let before = rounds(&mut emulator)?;
    let mut free = None;
    for reset in 1..=resets {
        ask(&mut emulator, "reset two")?;
        let now = emulator.expect_line(STARTED)?;
        let first = free.get_or_insert_with(|| now.clone());
        ensure!(now == *first, "reset {reset}: {now:?}, but at first it was {first:?}");
    }
    let after = rounds(&mut emulator)?;
    ensure!(after > before, "the neighbour stands still at round {before}");
    let text = emulator.text();
    ensure!(!text.contains("wrong\r"), "the neighbour read what it had not written");
    println!("{resets} resets; the neighbour went from round {before} to {after}");
    Ok(())
}

/// A program in a control machine sees, pauses, resumes and resets another, and leaves the terminal alone.
fn control() -> Result<()> {
    let text = "[[vm]]\nname = \"two\"\nmemory = \"128M\"\nkernel = \"debian:6.1\"\ninitrd = \"busybox\"\n\
         cmdline = \"quiet\"\n\
         [[vm]]\nname = \"boss\"\nmemory = \"128M\"\nkernel = \"debian:6.1\"\ninitrd = \"busybox\"\n\
         control = true\ncmdline = \"quiet bunshin.run=control,two\"\n";
    let file = VmFile::parse(text, "monitor.rs")?;
    let folder = tempfile::tempdir()?;
    let mut emulator = vmfile::boot(&file, Arch::Aarch64, folder.path(), LIMIT)?;
    let mut told = |texts: &[&str]| -> Result<()> {
        for text in texts {
            emulator.expect(text).with_context(|| format!("no {text:?}"))?;
        }
        Ok(())
    };
    told(&["[boss] control: vms", "running", "[boss] control: pause two"])?;
    told(&["vm \"two\": paused", "[boss] control: vms", "two", "paused"])?;
    told(&["[boss] control: console two", "only whoever sits at the terminal"])?;
    told(&["[boss] control: resume two", "vm \"two\": goes on", "[boss] control: reset two"])?;
    told(&["vm \"two\": started", "[boss] control: vms", "vm \"two\": off"])?;
    emulator.finish().map(drop)
}

/// The host's free memory in KiB, and a machine's, as `mem` says it.
pub(crate) fn memory(emulator: &mut Emulator, name: &str) -> Result<(u64, u64)> {
    let text = ask(emulator, "mem")?;
    let number = |line: Option<&str>| {
        let word = line.and_then(|line| line.split_whitespace().nth(1));
        word.and_then(|word| word.parse().ok()).with_context(|| format!("{text:?}"))
    };
    let free = number(text.lines().find(|line| line.starts_with("free")))?;
    let own = number(text.lines().find(|line| line.contains(&format!("  {name}"))))?;
    Ok((free, own))
}

/// Asks machine "one" to make do with so many MiB, and waits until `enough` holds for what it has. Gives the host's
/// free memory in KiB.
fn resize(emulator: &mut Emulator, mib: u64, enough: impl Fn(u64) -> bool) -> Result<u64> {
    let answer = ask(emulator, &format!("balloon one {mib}M"))?;
    ensure!(answer.contains("asked for"), "{answer}");
    loop {
        let (free, own) = memory(emulator, "one")?;
        if enough(own) {
            return Ok(free);
        }
        emulator.survive(Duration::from_millis(500))?;
        ensure!(!emulator.is_late(), "{own} KiB, not {mib} MiB\n{}", emulator.report());
    }
}

fn balloon(arch: Arch) -> Result<()> {
    let text = "[[vm]]\nname = \"one\"\nvcpus = 2\nmemory = \"256M\"\nkernel = \"debian:6.1\"\n\
         initrd = \"busybox\"\ncmdline = \"quiet\"\nballoon = true\n";
    let file = VmFile::parse(text, "monitor.rs")?;
    let folder = tempfile::tempdir()?;
    let mut emulator = vmfile::boot(&file, arch, folder.path(), LIMIT)?;
    judge_balloon(&mut emulator)
}

/// Debian's own driver inflates and deflates the balloon of the machine "one", which has 256 MiB; the host's free
/// memory follows, and what the user asked for outlasts a reset.
pub(crate) fn judge_balloon(emulator: &mut Emulator) -> Result<()> {
    const SMALL: u64 = 96 << 10;
    const ALL: u64 = 256 << 10;
    emulator.expect(SHELL)?;
    let (before, all) = memory(emulator, "one")?;
    ensure!(all == ALL, "{all} KiB");
    // Tables are needed to take single pages out of blocks: 4 KiB for each 2 MiB, and few more.
    let tables = 4 * 128 + 64;
    let less = resize(emulator, 96, |own| own == SMALL)?;
    ensure!(less + tables >= before + ALL - SMALL, "free: {before} KiB, then {less} KiB");
    shell_of(emulator, 1)?;
    let total = shell(emulator, "grep MemTotal /proc/meminfo")?;
    let after = resize(emulator, 256, |own| own == ALL)?;
    ensure!(after + tables >= before && after <= before, "free: {before} KiB, then {after} KiB");
    resize(emulator, 96, |own| own == SMALL)?;
    ask(emulator, "reset one")?;
    emulator.expect("vm \"one\": started")?;
    shell_of(emulator, 1)?;
    // What has not been touched since the reset has not come back at all.
    let again = resize(emulator, 96, |own| own <= SMALL)?;
    ensure!(again + tables >= before + ALL - SMALL, "free: {before} KiB, then {again} KiB");
    resize(emulator, 256, |own| own > SMALL)?;
    // All of it can be used.
    shell_of(emulator, 1)?;
    let work = "mount -t tmpfs -o size=100m all /mnt; cd /mnt; \
                dd if=/dev/urandom of=a bs=1M count=40 2> /dev/null; cp a b; cmp a b && echo sa''me";
    let same = shell(emulator, work)?;
    ensure!(same.ends_with("same"), "{same}");
    println!("{before} KiB free, {less} with the balloon, {after} after it; inside {total}");
    Ok(())
}
