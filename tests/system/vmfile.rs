//! Machines as a VM file describes them, on both architectures.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use xtask::arch::Arch;
use xtask::vmfile::{Size, VmFile};
use xtask::workspace::Workspace;
use xtask::{pack, qemu};

use crate::emulator::Emulator;

/// Memory of the emulated host unless the file says otherwise.
const MEMORY: Size = Size(1 << 30);
const CPUS: u32 = 2;

/// Architectures of what both of them run by the same core: a normal run has time for one.
pub(crate) fn architectures(full: bool) -> &'static [Arch] {
    if full { &Arch::ALL } else { &[Arch::Aarch64] }
}

/// One of the project's VM files.
pub(crate) fn load(name: &str) -> Result<VmFile> {
    VmFile::load(&Workspace::locate().root().join("vms").join(name))
}

/// Adds words to the kernel command line of the VM called `name`.
pub(crate) fn add_words(file: &mut VmFile, name: &str, words: &str) -> Result<()> {
    let vm = file.vm_mut(name).with_context(|| format!("no vm {name:?}"))?;
    vm.cmdline = format!("{} {words}", vm.cmdline);
    Ok(())
}

/// Starts the host that `file` describes, with the disks in `folder`.
pub(crate) fn boot(file: &VmFile, arch: Arch, folder: &Path, limit: Duration) -> Result<Emulator> {
    let workspace = Workspace::locate();
    let image = workspace.image(arch);
    ensure!(
        image.is_file(),
        "{} is absent; run `cargo xtask build --arch {arch}`",
        image.display()
    );
    let files = TempDir::new()?;
    let bundle = files.path().join("bundle.itb");
    fs::write(&bundle, pack::bundle(file, folder, &workspace, arch)?)?;
    let cpus = file.machine.cpus.unwrap_or(CPUS);
    let memory = file.machine.memory.unwrap_or(MEMORY);
    let mut command = qemu::Machine::default().command(arch, cpus, memory)?;
    command.args(["-nodefaults", "-serial", "mon:stdio"]);
    file.host_devices(folder).add_to(&mut command, arch);
    qemu::boot(&mut command, &image, &bundle);
    Emulator::start(command, limit, Some(files))
}
