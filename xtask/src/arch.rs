//! The two architectures that the hypervisor runs on, and what differs for the tool.

use std::fmt;

use clap::ValueEnum;

/// An architecture of hosts and of their guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, ValueEnum)]
pub enum Arch {
    /// 64-bit Arm.
    #[default]
    #[value(alias = "arm64")]
    Aarch64,
    /// 64-bit PCs.
    #[value(name = "x86_64", alias = "amd64")]
    X86_64,
}

impl Arch {
    /// Both.
    pub const ALL: [Arch; 2] = [Arch::Aarch64, Arch::X86_64];

    /// The name that users type.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64",
            Arch::X86_64 => "x86_64",
        }
    }

    /// Rust's target for the image and for the small guests.
    pub const fn target(self) -> &'static str {
        match self {
            Arch::Aarch64 => "aarch64-unknown-none-softfloat",
            Arch::X86_64 => "x86_64-unknown-none",
        }
    }

    /// The package that holds the image.
    pub const fn package(self) -> &'static str {
        match self {
            Arch::Aarch64 => "bunshin",
            Arch::X86_64 => "x86-backend",
        }
    }

    /// The program of that package.
    pub const fn program(self) -> &'static str {
        match self {
            Arch::Aarch64 => "bunshin",
            Arch::X86_64 => "bunshin-x86",
        }
    }

    /// Debian's name for it.
    pub const fn debian(self) -> &'static str {
        match self {
            Arch::Aarch64 => "arm64",
            Arch::X86_64 => "amd64",
        }
    }

    /// The name in flattened image trees (FIT specification, property `arch`).
    pub const fn fit(self) -> &'static str {
        match self {
            Arch::Aarch64 => "arm64",
            Arch::X86_64 => "x86_64",
        }
    }

    /// `e_machine` of its ELF files, 32-bit ones included.
    pub const fn elf_machines(self) -> &'static [u16] {
        match self {
            Arch::Aarch64 => &[object::elf::EM_AARCH64.0],
            Arch::X86_64 => &[object::elf::EM_X86_64.0, object::elf::EM_386.0],
        }
    }

    /// Places for virtio devices in a VM: as many as QEMU's `virt` has, or as the IOAPIC has pins left.
    pub const fn virtio_slots(self) -> usize {
        match self {
            Arch::Aarch64 => 32,
            Arch::X86_64 => 19,
        }
    }

    /// Linux's name for the serial port of the guest machine.
    pub const fn console(self) -> &'static str {
        match self {
            Arch::Aarch64 => "ttyAMA0",
            Arch::X86_64 => "ttyS0",
        }
    }

    /// QEMU's program.
    pub const fn qemu(self) -> &'static str {
        match self {
            Arch::Aarch64 => "qemu-system-aarch64",
            Arch::X86_64 => "qemu-system-x86_64",
        }
    }

    /// Debian's package with that program.
    pub const fn qemu_package(self) -> &'static str {
        match self {
            Arch::Aarch64 => "qemu-system-arm",
            Arch::X86_64 => "qemu-system-x86",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_may_type_either_name_of_an_architecture() {
        for arch in Arch::ALL {
            for name in [arch.name(), arch.debian()] {
                assert_eq!(Arch::from_str(name, false), Ok(arch), "{name}");
            }
        }
    }
}
