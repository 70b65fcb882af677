//! The emulated host machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::Args;

use crate::vmfile::Size;

/// The emulator for arm64 machines.
pub const PROGRAM: &str = "qemu-system-aarch64";

/// What the emulated host is like.
#[derive(Debug, Clone, Args)]
pub struct Machine {
    /// Version of the host's interrupt controller
    #[arg(long, value_name = "2|3", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=3))]
    pub gic: u8,
    /// Model of the host's CPUs
    #[arg(long, value_name = "MODEL", default_value = "cortex-a72")]
    pub cpu: String,
    /// Number of the host's CPUs [default: the VM file's, else 4]
    #[arg(long, value_name = "N")]
    pub smp: Option<u32>,
}

impl Default for Machine {
    fn default() -> Self {
        Machine { gic: 3, cpu: "cortex-a72".to_string(), smp: None }
    }
}

impl Machine {
    /// The emulator's command line for a host with EL2, `cpus` CPUs and `memory`.
    ///
    /// # Errors
    /// When the emulator has no such machine.
    pub fn command(&self, cpus: u32, memory: Size) -> Result<Command> {
        // A GICv2 knows eight CPU interfaces.
        let most = if self.gic == 2 { 8 } else { 512 };
        ensure!((1..=most).contains(&cpus), "a host with GICv{} has 1 to {most} CPUs", self.gic);
        let mut command = Command::new(PROGRAM);
        command
            .args(["-M", &format!("virt,virtualization=on,gic-version={}", self.gic)])
            .args(["-cpu", &self.cpu])
            .args(["-smp", &cpus.to_string()])
            .args(["-m", &format!("{}M", memory.0.div_ceil(1 << 20))])
            .arg("-nographic");
        Ok(command)
    }
}

/// Adds the image and its bundle.
pub fn boot(command: &mut Command, image: &Path, bundle: &Path) {
    command.arg("-kernel").arg(image).arg("-initrd").arg(bundle);
}
