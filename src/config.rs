//! What a virtual machine is made of, as its VM file said it.

use alloc::string::String;
use alloc::vec::Vec;

/// A blob inside the bundle whose digest has been verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// Offset of the first byte from the start of the bundle.
    pub offset: usize,
    /// Length in bytes.
    pub size: usize,
}

/// Where a raw kernel binary goes; other kernel formats say it themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawPlacement {
    /// Guest-physical address of the first byte.
    pub load: u64,
    /// Guest-physical address of the first instruction.
    pub entry: u64,
}

/// One virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// Unique name, 1 to 24 characters of `[a-z0-9_-]`.
    pub name: String,
    /// Number of virtual CPUs, 1 to 64.
    pub vcpus: u32,
    /// Size of memory in bytes, a multiple of 2 MiB.
    pub memory: u64,
    /// The kernel or firmware image.
    pub kernel: Payload,
    /// Placement of a kernel that is a raw binary; absent for self-describing formats.
    pub raw: Option<RawPlacement>,
    /// Initial RAM disk.
    pub initrd: Option<Payload>,
    /// Kernel command line.
    pub command_line: String,
    /// Host CPUs on which the virtual CPUs may run, by logical number; empty means any.
    pub cpus: Vec<u32>,
    /// Share of a host CPU beside other virtual CPUs on it, 1 to 1024; 256 is usual.
    pub weight: u32,
    /// Whether the virtual machine starts at boot.
    pub autostart: bool,
}

/// Everything that a bundle describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfig {
    /// The virtual machines, in the order of the VM file.
    pub vms: Vec<VmConfig>,
}
