//! Linux on the emulated machine, with and without a hypervisor: what boot, idling and three kinds of work cost.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};

use super::counter::{self, Count};
use super::figures::Figures;
use super::machine::{self, GUEST_MEMORY};
use super::mark;
use crate::arch::Arch;
use crate::initramfs::{Archive, Module};
use crate::modules;
use crate::pack;
use crate::qemu;
use crate::setup::Guest;
use crate::vmfile::{Size, VmFile};
use crate::workspace::Workspace;

/// Counts by the name of the row.
pub type Rows = BTreeMap<String, Count>;

/// Seconds that the guest sleeps.
const IDLE_SECONDS: u64 = 10;
const HOST_MEMORY: Size = Size(1 << 30);
const DISK: u64 = 32 << 20;
/// How long a run may take: Linux executes some 10^9 instructions, a slow machine 10^7 a second.
const LIMIT: Duration = Duration::from_secs(900);
/// The kernel's drivers for the disk.
const DRIVERS: [&str; 4] = ["virtio", "virtio_ring", "virtio_mmio", "virtio_blk"];

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name in JSON.
    pub name: &'static str,
    /// What is counted.
    pub title: &'static str,
}

const fn row(name: &'static str, title: &'static str) -> Row {
    Row { name, title }
}

/// What is counted from one mark to the next: at the kernel's first instruction, then in the order of `linux-init`.
pub const ROWS: [Row; 9] = [
    row(START, "power-on to the kernel's first instruction"),
    row("boot", "boot to the first program"),
    row("prepare", "preparation: mounts, drivers, random numbers"),
    row(IDLE, "a second of idling"),
    row("compute", "compute: SHA-256 of 8 MiB"),
    row("processes", "fork and exec: 200 programs"),
    row("disk-read", "disk: 4 MiB read in blocks of 4 KiB"),
    row("disk-write", "disk: 4 MiB written in blocks of 4 KiB"),
    row("console", "console: 4 KiB written"),
];

/// The row in which there is no guest yet.
pub const START: &str = "start";
/// The row that is counted for seconds.
const IDLE: &str = "idle";

/// A machine on which Linux is counted, with as many virtual CPUs as CPUs.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Its architecture.
    pub arch: Arch,
    /// Model of its CPUs.
    pub model: &'static str,
    /// Number of its CPUs.
    pub cpus: u32,
}

impl Setup {
    const fn new(arch: Arch, model: &'static str, cpus: u32) -> Self {
        Setup { arch, model, cpus }
    }

    /// Its name in tables and in JSON.
    pub fn name(self) -> String {
        let plural = if self.cpus == 1 { "" } else { "s" };
        format!("{}, {} CPU{plural}", self.model, self.cpus)
    }
}

/// Every machine on which Linux is counted. Peers are counted on the first.
pub const SETUPS: [Setup; 3] = [
    Setup::new(Arch::Aarch64, "cortex-a72", 1),
    Setup::new(Arch::Aarch64, "max", 1),
    Setup::new(Arch::X86_64, "amd-v", 1),
];

/// The name of a machine's counts among the budgets.
pub fn budget_name(setup: &str) -> String {
    format!("linux-{}", setup.replace(", ", "-").replace(' ', "-").to_lowercase())
}

/// The hypervisor's own counts, which repeat.
pub fn own(rows: &Rows) -> Figures {
    rows.iter().map(|(name, count)| (name.clone(), count.hypervisor)).collect()
}

/// The kernel, the RAM disk and the disk that every machine gets.
#[derive(Debug)]
pub struct Payload {
    /// Debian's kernel, which begins with a mark.
    pub kernel: PathBuf,
    /// A RAM disk that runs the workloads.
    pub initrd: PathBuf,
    /// A disk of zeroes.
    pub disk: PathBuf,
}

impl Payload {
    /// Makes what is not fetched.
    ///
    /// # Errors
    /// When `cargo xtask setup` has not fetched the guests.
    pub fn prepare(workspace: &Workspace, arch: Arch) -> Result<Self> {
        let fetched = |guest: Guest| {
            let file = guest.file(arch).map(|file| workspace.guests().join(file));
            file.with_context(|| format!("there is no {} for this architecture", guest.name()))
        };
        let fetched_kernel = fetched(Guest::Debian61)?;
        let busybox = fetched(Guest::Initramfs)?.with_file_name("busybox");
        let busybox = fs::read(&busybox).with_context(|| {
            format!("can't read {}; run `cargo xtask setup`", busybox.display())
        })?;
        let modules = modules::read(&fetched_kernel.with_file_name("modules"))?;
        let file = |what: &str| workspace.target().join(format!("bench-linux-{arch}.{what}"));
        let kernel = file("img");
        fs::write(&kernel, marked(arch, fs::read(&fetched_kernel)?)?)?;
        let initrd = file("cpio.gz");
        fs::write(&initrd, ramdisk(arch, &busybox, &modules)?)?;
        let disk = file("disk");
        fs::File::create(&disk)?.set_len(DISK)?;
        Ok(Payload { kernel, initrd, disk })
    }
}

/// Sectors of a `bzImage` before its protected-mode part, less one (Linux, Documentation/arch/x86/boot.rst, `setup_sects`).
const SETUP_SECTORS: usize = 0x1f1;
const SECTOR: usize = 512;
/// Offset of the 64-bit entry in the protected-mode part.
const ENTRY_64: usize = 0x200;

/// `kernel` with a mark in place of its first instructions. Those do nothing either.
///
/// That of an arm64 `Image` is the signature of an EFI program (Linux, Documentation/arch/arm64/booting.rst, `code0`). At the
/// 64-bit entry of a `bzImage`, where all loaders come by, they are `CLD` and `CLI`: both flags are clear already.
fn marked(arch: Arch, mut kernel: Vec<u8>) -> Result<Vec<u8>> {
    let (at, expected): (usize, &[u8]) = match arch {
        Arch::Aarch64 => (0, b"MZ"),
        Arch::X86_64 => {
            let sectors = kernel.get(SETUP_SECTORS).copied().unwrap_or(0);
            ((usize::from(sectors) + 1) * SECTOR + ENTRY_64, &[0xfc, 0xfa])
        }
    };
    let mark = counter::mark(arch);
    let place = kernel.get_mut(at..at + mark.len()).context("the kernel is cut off")?;
    ensure!(place.starts_with(expected), "the kernel does not begin as kernels do");
    place.copy_from_slice(mark);
    Ok(kernel)
}

/// The RAM disk: busybox, the drivers of the disk, `mark`, and what runs the workloads.
fn ramdisk(arch: Arch, busybox: &[u8], modules: &[Module]) -> Result<Vec<u8>> {
    let mut archive = Archive::new(GzEncoder::new(Vec::new(), Compression::best()));
    archive.folders(&["bin", "dev", "lib", "proc", "sys", "tmp"])?;
    archive.shell(busybox)?;
    archive.program("bin/mark", &mark::program(arch))?;
    archive.program("init", include_bytes!("linux-init"))?;
    let drivers = DRIVERS.into_iter().filter_map(|name| modules.iter().find(|m| m.name == name));
    let mut order = Vec::new();
    for module in drivers {
        let name = format!("lib/{}.ko", module.name);
        archive.file(&name, &module.data)?;
        order.push(name);
    }
    archive.file("lib/order", (order.join("\n") + "\n").as_bytes())?;
    Ok(archive.finish()?.finish()?)
}

/// Linux without a hypervisor.
///
/// # Errors
/// When the emulator fails or Linux does not come to its end.
pub fn bare(
    workspace: &Workspace,
    counter: &Path,
    payload: &Payload,
    setup: Setup,
) -> Result<Rows> {
    let mut command = Command::new(setup.arch.qemu());
    match setup.arch {
        Arch::Aarch64 => command.args(["-M", "virt,gic-version=3,dtb-randomness=off"]),
        // The machine of the emulator whose devices are those of the guests.
        Arch::X86_64 => command.args(["-M", "microvm,acpi=on,rtc=on,pit=on,pic=on"]),
    };
    command
        .args(["-cpu", &machine::bare_cpu(setup.arch, setup.model)])
        .args(["-smp", &setup.cpus.to_string()])
        .args(["-m", GUEST_MEMORY, "-nographic"])
        .args(["-append", &format!("console={}", setup.arch.console())]);
    qemu::boot(&mut command, &payload.kernel, &payload.initrd);
    // A disk that finishes at once: the time that a file takes is not the machine's, and it idles for as long.
    let disk = format!("if=none,id=disk0,driver=null-co,size={DISK},read-zeroes=on");
    command
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .args(["-global", "virtio-mmio.ioeventfd=off"])
        .args(["-drive", &disk, "-device", "virtio-blk-device,drive=disk0"]);
    run(workspace, command, counter, &(0..0))
}

/// Linux under Bunshin, each virtual CPU pinned to a CPU.
///
/// # Errors
/// As [`bare`].
pub fn bunshin(
    workspace: &Workspace,
    counter: &Path,
    payload: &Payload,
    setup: Setup,
) -> Result<Rows> {
    let Setup { arch, model, cpus } = setup;
    let text = format!(
        "[[vm]]\nname = \"linux\"\nvcpus = {cpus}\npinned = true\nmemory = \"{GUEST_MEMORY}\"\nkernel = {:?}\n\
         initrd = {:?}\ncmdline = \"console={}\"\n[[vm.disk]]\nsize = \"{}M\"\n",
        payload.kernel.display().to_string(),
        payload.initrd.display().to_string(),
        arch.console(),
        DISK >> 20,
    );
    let file = VmFile::parse(&text, "benchmark")?;
    let bundle = workspace.target().join("bench-linux.itb");
    pack::write(&bundle, &pack::bundle(&file, Path::new(""), workspace, arch)?)?;
    let host = qemu::Machine { gic: 3, cpu: Some(machine::cpu(arch, model)), smp: None };
    let mut command = host.command(arch, cpus, HOST_MEMORY)?;
    if arch == Arch::Aarch64 {
        command.args(["-machine", "dtb-randomness=off"]);
    }
    let image = workspace.image(arch);
    qemu::boot(&mut command, &image, &bundle);
    run(workspace, command, counter, &counter::range(&image)?)
}

/// Runs the emulator to the end of the workloads and reads what was counted.
fn run(
    workspace: &Workspace,
    mut command: Command,
    counter: &Path,
    hypervisor: &std::ops::Range<u64>,
) -> Result<Rows> {
    let out = workspace.target().join("bench-linux.count");
    counter::add(&mut command, counter, hypervisor, &out);
    machine::counting(&mut command);
    let text = machine::output(command, 1, LIMIT)?;
    fs::write(workspace.target().join("bench-linux.log"), text)?;
    rows(&counter::read(&out)?)
}

/// The rows of the table from the counts at the marks.
///
/// # Errors
/// When a mark is missing.
pub fn rows(marks: &[Count]) -> Result<Rows> {
    let made = marks.len();
    ensure!(made == ROWS.len(), "Linux made {made} marks, not {}", ROWS.len());
    let mut before = Count::default();
    let mut rows = Rows::new();
    for (row, mark) in ROWS.iter().zip(marks) {
        let mut count = mark.since(before);
        if row.name == IDLE {
            count.hypervisor /= IDLE_SECONDS;
            count.others /= IDLE_SECONDS;
        }
        rows.insert(row.name.to_string(), count);
        before = *mark;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_is_what_lies_between_two_marks() {
        let at = |n: u64| Count { hypervisor: 100 * n, others: 1000 * n };
        let mut marks: Vec<_> = (1..10).map(at).collect();
        let found = rows(&marks).unwrap();
        assert_eq!(found[START], at(1));
        assert_eq!(found[IDLE], Count { hypervisor: 10, others: 100 });
        assert_eq!(found["console"], at(1));
        marks.pop();
        assert!(rows(&marks).is_err());
    }

    #[test]
    fn the_kernel_begins_with_a_mark() {
        let kernel = marked(Arch::Aarch64, b"MZ\0\x91and more".to_vec()).unwrap();
        assert!(kernel.starts_with(counter::mark(Arch::Aarch64)) && kernel.ends_with(b"and more"));
        assert!(marked(Arch::Aarch64, b"\0\0\0\x14and more".to_vec()).is_err());
        let mut kernel = vec![0; 4096];
        kernel[SETUP_SECTORS] = 2;
        assert!(marked(Arch::X86_64, kernel.clone()).is_err());
        kernel[0x800..0x804].copy_from_slice(&[0xfc, 0xfa, 0x31, 0xc0]);
        assert_eq!(marked(Arch::X86_64, kernel).unwrap()[0x800..0x804], [0x87, 0xdb, 0x31, 0xc0]);
    }

    #[test]
    fn names_of_budgets_are_toml_keys() {
        let names = SETUPS.map(|setup| budget_name(&setup.name()));
        assert_eq!(
            names,
            ["cortex-a72", "max", "amd-v"].map(|model| format!("linux-{model}-1-cpu"))
        );
    }

    #[test]
    fn the_script_makes_a_mark_for_each_row() {
        let script = include_str!("linux-init");
        let marks = script.lines().filter(|line| line.trim() == "mark").count();
        // The first is the kernel's.
        assert_eq!(marks + 1, ROWS.len());
        assert!(script.contains(&format!("sleep {IDLE_SECONDS}\n")));
        assert!(script.contains("echo bench-end"));
    }
}
