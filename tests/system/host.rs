//! The emulated hosts and what they boot.

use std::fmt;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::arch::Arch;
use xtask::fit::{self, Vm};
use xtask::setup::Guest;
use xtask::vmfile::Size;
use xtask::workspace::Workspace;
use xtask::{build, qemu};

use crate::emulator::Emulator;

/// Memory of the host.
const MEMORY: Size = Size(1 << 30);

/// A machine of the matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    /// Version of its interrupt controller.
    pub(crate) gic: u8,
    /// Model of its CPUs.
    pub(crate) cpu: &'static str,
    /// Number of its CPUs.
    pub(crate) cpus: u32,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gic{}/{}/{}cpu", self.gic, self.cpu, self.cpus)
    }
}

/// The usual machine.
pub(crate) const USUAL: Host = Host { gic: 3, cpu: "cortex-a72", cpus: 4 };

/// Every machine that the hypervisor must run on.
pub(crate) fn matrix() -> impl Iterator<Item = Host> {
    [2, 3].into_iter().flat_map(|gic| {
        ["cortex-a53", "cortex-a72", "neoverse-n1", "max"]
            .into_iter()
            .flat_map(move |cpu| [1, 2, 4].into_iter().map(move |cpus| Host { gic, cpu, cpus }))
    })
}

/// Machines of the normal run: each value of each dimension at least once.
pub(crate) fn selection() -> Vec<Host> {
    vec![
        Host { gic: 3, cpu: "cortex-a72", cpus: 4 },
        Host { gic: 2, cpu: "cortex-a53", cpus: 2 },
        Host { gic: 3, cpu: "neoverse-n1", cpus: 2 },
        Host { gic: 3, cpu: "max", cpus: 1 },
        Host { gic: 2, cpu: "max", cpus: 4 },
    ]
}

impl Host {
    fn machine(&self) -> qemu::Machine {
        qemu::Machine { gic: self.gic, cpu: Some(self.cpu.to_string()), smp: None }
    }

    /// The emulator's command line, with nothing to boot yet.
    pub(crate) fn command(&self) -> Result<Command> {
        let mut command = self.machine().command(Arch::Aarch64, self.cpus, MEMORY)?;
        command.args(["-nodefaults", "-serial", "mon:stdio"]);
        Ok(command)
    }

    /// Starts the hypervisor with a bundle of `vms`.
    pub(crate) fn boot(&self, vms: &[Vm], limit: Duration) -> Result<Emulator> {
        self.boot_image(&fs::read(image()?)?, Some(&fit::write(Arch::Aarch64, vms)?), limit)
    }

    /// Starts the hypervisor `image` with the bytes `bundle`.
    pub(crate) fn boot_image(
        &self,
        image: &[u8],
        bundle: Option<&[u8]>,
        limit: Duration,
    ) -> Result<Emulator> {
        let folder = tempfile::tempdir()?;
        let mut command = self.command()?;
        let file = folder.path().join("bunshin.img");
        fs::write(&file, image)?;
        command.arg("-kernel").arg(file);
        if let Some(bundle) = bundle {
            let file = folder.path().join("bundle.itb");
            fs::write(&file, bundle)?;
            command.arg("-initrd").arg(file);
        }
        Emulator::start(command, limit, Some(folder))
    }
}

/// The hypervisor's image.
pub(crate) fn image() -> Result<std::path::PathBuf> {
    let file = Workspace::locate().image(Arch::Aarch64);
    anyhow::ensure!(file.is_file(), "{} is absent; run `cargo xtask build`", file.display());
    Ok(file)
}

/// A virtual machine with usual values around `kernel`.
pub(crate) fn vm(name: &str, kernel: Vec<u8>, vcpus: u32, memory: u64) -> Vm {
    Vm::new(name, kernel, vcpus, memory)
}

/// A fetched guest.
pub(crate) fn fetched(guest: Guest) -> Result<Vec<u8>> {
    let file =
        Workspace::locate().guests().join(guest.file(Arch::Aarch64).context("no such guest")?);
    fs::read(&file).with_context(|| format!("{}: run `cargo xtask setup`", file.display()))
}

/// A small guest of this project.
pub(crate) fn small(name: &str) -> Result<Vec<u8>> {
    let file = build::guest(&Workspace::locate(), Arch::Aarch64, name);
    fs::read(&file).with_context(|| format!("{}: run `cargo xtask build`", file.display()))
}
