//! KVM: Debian's kernel as the host, Debian's QEMU as its virtual machine monitor, both in one RAM disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::counter;
use super::super::figures::{self, Figures};
use super::super::linux::{self, Payload, Rows};
use super::super::machine::{self, CPUS, GUEST_MEMORY};
use super::vmm;
use crate::arch::Arch;
use crate::build;
use crate::initramfs::Archive;
use crate::qemu;
use crate::setup::Guest;
use crate::vmfile::Size;
use crate::workspace::Workspace;

const HOST_MEMORY: Size = Size(2 << 30);
/// The host boots and starts a large program before the guest begins.
const LIMIT: Duration = Duration::from_secs(1200);

/// Options of the virtual machine monitor, whose machine is the one that Bunshin's guests see.
fn monitor(cpus: u32, prefix: &str, kernel: &str, command_line: &str, more: &str) -> String {
    format!(
        "{prefix} /vmm/{} -M virt,accel=kvm,gic-version=host,dtb-randomness=off -cpu host -smp {cpus} -m {GUEST_MEMORY} \
         -nodefaults -nographic -serial stdio -kernel {kernel} -append '{command_line}' {more} < /dev/null",
        vmm::PROGRAM
    )
}

/// The host's RAM disk: the virtual machine monitor in `vmm`, `files`, and `commands` for its first process.
fn ramdisk(
    workspace: &Workspace,
    vmm: &Path,
    files: &[(&str, &Path)],
    commands: &[String],
) -> Result<PathBuf> {
    let busybox = Guest::Initramfs.file(Arch::Aarch64).context("no RAM disk")?;
    let busybox = workspace.guests().join(busybox).with_file_name("busybox");
    let busybox = fs::read(&busybox).context("no busybox; run `cargo xtask setup`")?;
    // Not compressed: the emulated host would have to unpack it.
    let mut archive = Archive::new(Vec::new());
    archive.folders(&["bin", "dev", "lib", "proc", "sys", "tmp", "vmm"])?;
    archive.shell(&busybox)?;
    for entry in fs::read_dir(vmm)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let folder = if name == vmm::LOADER { "lib" } else { "vmm" };
        archive.program(&format!("{folder}/{name}"), &fs::read(entry.path())?)?;
    }
    for (name, file) in files {
        let data = fs::read(file).with_context(|| file.display().to_string())?;
        archive.file(name, &data)?;
    }
    let init = format!(
        "#!/bin/sh\nexport PATH=/bin LD_LIBRARY_PATH=/vmm\nbusybox mount -t proc proc /proc\n\
         busybox --install -s /bin\nmount -t sysfs sysfs /sys\nmount -t devtmpfs dev /dev\n\
         mount -t tmpfs tmpfs /tmp\ndmesg | grep -i kvm\n{}\npoweroff -f\n",
        commands.join("\n")
    );
    archive.program("init", init.as_bytes())?;
    let file = workspace.target().join("bench-kvm.cpio");
    fs::write(&file, archive.finish()?)?;
    Ok(file)
}

/// The emulator with CPUs of `model`, the host's kernel and its RAM disk.
fn host(workspace: &Workspace, model: &str, cpus: u32, initrd: &Path) -> Result<Command> {
    let machine = qemu::Machine { gic: 3, cpu: Some(machine::model(model)), smp: None };
    let mut command = machine.command(Arch::Aarch64, cpus, HOST_MEMORY)?;
    command.args(["-machine", "dtb-randomness=off"]);
    let kernel = Guest::Debian612.file(Arch::Aarch64).context("no kernel")?;
    qemu::boot(&mut command, &workspace.guests().join(kernel), initrd);
    command.args(["-append", "console=ttyAMA0 quiet"]);
    machine::counting(&mut command);
    Ok(command)
}

/// The exits that the benchmark's guest counts.
///
/// # Errors
/// When the emulator fails or the guest does not come to its end.
pub fn figures(workspace: &Workspace, model: &str) -> Result<Figures> {
    let vmm = vmm::fetch(workspace)?;
    let guest = build::guest(workspace, Arch::Aarch64, "bench");
    let run =
        |prefix: &str, mode: &str| monitor(CPUS, prefix, "/bench.img", &format!("mode={mode}"), "");
    let commands = [run("", ""), run("taskset 1", "shared")];
    let initrd = ramdisk(workspace, &vmm, &[("bench.img", &guest)], &commands)?;
    let command = host(workspace, model, CPUS, &initrd)?;
    let text = machine::output(command, commands.len(), LIMIT)?;
    fs::write(workspace.target().join(format!("bench-kvm-{model}.log")), &text)?;
    figures::parse(&text)
}

/// The workloads of Linux.
///
/// # Errors
/// As [`figures()`].
pub fn linux(workspace: &Workspace, model: &str, payload: &Payload) -> Result<Rows> {
    let vmm = vmm::fetch(workspace)?;
    let files = [
        ("Image", payload.kernel.as_path()),
        ("initrd", payload.initrd.as_path()),
        ("disk", payload.disk.as_path()),
    ];
    let more = "-initrd /initrd -global virtio-mmio.force-legacy=false \
                -drive if=none,id=disk0,format=raw,file=/disk \
                -device virtio-blk-device,drive=disk0";
    let commands = [monitor(1, "", "/Image", "console=ttyAMA0", more)];
    let initrd = ramdisk(workspace, &vmm, &files, &commands)?;
    let mut command = host(workspace, model, 1, &initrd)?;
    let counter = counter::build(workspace)?;
    let out = workspace.target().join("bench-kvm.count");
    counter::add(&mut command, &counter, &(0..0), &out);
    let text = machine::output(command, 1, LIMIT)?;
    fs::write(workspace.target().join(format!("bench-kvm-{model}-linux.log")), text)?;
    linux::rows(&counter::read(&out)?)
}
