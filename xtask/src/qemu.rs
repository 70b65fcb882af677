//! The emulated host machine.

use std::path::{Path, PathBuf};
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
    /// Model of the host's CPUs [default: cortex-a72; on x86_64 max with AMD-V]
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

/// Virtio devices of the emulated host.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    /// Files of its disks, in the order of their numbers.
    pub disks: Vec<PathBuf>,
    /// Number of its network devices, each on a network of the emulator's own, where the
    /// emulator answers at 10.0.2.2.
    pub nics: u32,
}

impl Devices {
    /// Adds them. Their places are given, so that the hypervisor finds them in this order.
    pub fn add_to(&self, command: &mut Command, arch: Arch) {
        let place = |first: usize, number: usize| match arch {
            Arch::Aarch64 => format!("bus=virtio-mmio-bus.{}", first + number),
            Arch::X86_64 => format!("addr={:#x}", first + number),
        };
        let (bus, first_disk, first_nic, quiet) = match arch {
            Arch::Aarch64 => ("device", 0, 16, ""),
            // Nothing is started from the network.
            Arch::X86_64 => ("pci", 0x08, 0x10, ",romfile="),
        };
        if arch == Arch::Aarch64 && (self.nics > 0 || !self.disks.is_empty()) {
            command.args(["-global", "virtio-mmio.force-legacy=false"]);
        }
        for (number, file) in self.disks.iter().enumerate() {
            // The emulator's own option syntax: a comma is doubled.
            let file = file.display().to_string().replace(',', ",,");
            let place = place(first_disk, number);
            command
                .args(["-drive", &format!("if=none,id=disk{number},format=raw,file={file}")])
                .args(["-device", &format!("virtio-blk-{bus},drive=disk{number},{place}")]);
        }
        for number in 0..self.nics {
            let place = place(first_nic, number as usize);
            command
                .args(["-netdev", &format!("user,id=net{number}")])
                .args(["-device", &format!("virtio-net-{bus},netdev=net{number},{place}{quiet}")]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_the_places_that_give_them_their_numbers() {
        let devices = Devices { disks: vec!["a,b".into(), "c".into()], nics: 1 };
        for (arch, expected) in [
            (
                Arch::Aarch64,
                "-global virtio-mmio.force-legacy=false \
                 -drive if=none,id=disk0,format=raw,file=a,,b \
                 -device virtio-blk-device,drive=disk0,bus=virtio-mmio-bus.0 \
                 -drive if=none,id=disk1,format=raw,file=c \
                 -device virtio-blk-device,drive=disk1,bus=virtio-mmio-bus.1 \
                 -netdev user,id=net0 -device virtio-net-device,netdev=net0,bus=virtio-mmio-bus.16",
            ),
            (
                Arch::X86_64,
                "-drive if=none,id=disk0,format=raw,file=a,,b \
                 -device virtio-blk-pci,drive=disk0,addr=0x8 \
                 -drive if=none,id=disk1,format=raw,file=c \
                 -device virtio-blk-pci,drive=disk1,addr=0x9 \
                 -netdev user,id=net0 -device virtio-net-pci,netdev=net0,addr=0x10,romfile=",
            ),
        ] {
            let mut command = Command::new("emulator");
            devices.add_to(&mut command, arch);
            let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
            assert_eq!(words.join(" "), expected);
        }
    }
}
