//! The emulated host machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::Args;

use crate::arch::Arch;
use crate::vmfile::Size;

/// What the emulated host is like.
#[derive(Debug, Clone, Args)]
pub struct Machine {
    /// Version of the host's interrupt controller (aarch64)
    #[arg(long, value_name = "2|3", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    pub gic: u8,
    /// Model of the host's CPUs [default: cortex-a72; on x86_64 EPYC with what QEMU emulates of it]
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// Number of the host's CPUs [default: the VM file's, else 4]
    #[arg(long, value_name = "N")]
    pub smp: Option<u32>,
}

/// The key before the emulator's own commands: Ctrl-]. Its usual one, Ctrl-A, is Bunshin's.
const ESCAPE: &str = "0x1d";

/// Most CPUs of an emulated PC: those that 8-bit APIC identifiers name.
const PC_CPUS: u32 = 255;

/// What every emulated CPU is unless the user says otherwise.
const fn default_cpu(arch: Arch) -> &'static str {
    match arch {
        Arch::Aarch64 => "cortex-a72",
        Arch::X86_64 => "max,+svm,+npt",
    }
}

impl Default for Machine {
    fn default() -> Self {
        Machine { gic: 3, cpu: None, smp: None }
    }
}

impl Machine {
    /// The emulator's command line for a host that can virtualise, with `cpus` CPUs and `memory`.
    ///
    /// # Errors
    /// When the emulator has no such machine.
    pub fn command(&self, arch: Arch, cpus: u32, memory: Size) -> Result<Command> {
        let mut command = Command::new(arch.qemu());
        match arch {
            Arch::Aarch64 => {
                // A GICv2 knows eight CPU interfaces.
                let most = if self.gic == 2 { 8 } else { 512 };
                let gic = self.gic;
                ensure!((1..=most).contains(&cpus), "a host with GICv{gic} has 1 to {most} CPUs");
                command.args(["-M", &format!("virt,virtualization=on,gic-version={gic}")]);
            }
            Arch::X86_64 => {
                ensure!((1..=PC_CPUS).contains(&cpus), "a PC has 1 to {PC_CPUS} CPUs");
                command.args(["-M", "q35", "-no-reboot"]);
            }
        }
        command
            .args(["-cpu", self.cpu.as_deref().unwrap_or(default_cpu(arch))])
            .args(["-smp", &cpus.to_string()])
            .args(["-m", &format!("{}M", memory.0.div_ceil(1 << 20))])
            .args(["-nographic", "-echr", ESCAPE]);
        Ok(command)
    }
}

/// Adds the image and its bundle.
pub fn boot(command: &mut Command, image: &Path, bundle: &Path) {
    command.arg("-kernel").arg(image).arg("-initrd").arg(bundle);
}
