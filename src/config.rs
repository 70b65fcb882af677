//! What a virtual machine is made of, as its VM file said it.

use alloc::string::String;
use alloc::vec::Vec;

use crate::scheduler::DEFAULT_WEIGHT;

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
    /// Whether each virtual CPU has a host CPU of its own.
    pub pinned: bool,
    /// Time that every virtual CPU gets without fail.
    pub reservation: Option<Reservation>,
    /// Whether it may manage the other virtual machines.
    pub control: bool,
    /// Whether it has a balloon: memory that it does not need goes back to the host.
    pub balloon: bool,
    /// Whether its memory has the addresses of the host's, so that devices
    /// without an IOMMU can be handed to it.
    pub direct_memory: bool,
    /// Its disks, in the order of the VM file.
    pub disks: Vec<DiskConfig>,
    /// Its network ports, in the order of the VM file.
    pub nets: Vec<NetConfig>,
    /// Paths of the host's devices that it gets for itself, in the host's device tree.
    pub devices: Vec<String>,
}

impl VmConfig {
    /// A virtual machine with usual values: one like others, which starts at
    /// boot and has no disk and no network.
    pub fn new(name: &str, vcpus: u32, memory: u64, kernel: Payload) -> Self {
        VmConfig {
            name: name.into(),
            vcpus,
            memory,
            kernel,
            raw: None,
            initrd: None,
            command_line: String::new(),
            cpus: Vec::new(),
            weight: DEFAULT_WEIGHT,
            autostart: true,
            pinned: false,
            reservation: None,
            control: false,
            balloon: false,
            direct_memory: false,
            disks: Vec::new(),
            nets: Vec::new(),
            devices: Vec::new(),
        }
    }
}

/// A share of a host CPU that is always there: `budget_us` in every `period_us`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// Time that the virtual CPU may use in each period, in microseconds; at least 1 and at
    /// most the period.
    pub budget_us: u32,
    /// Length of a period in microseconds.
    pub period_us: u32,
}

/// One disk of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// Where its blocks come from.
    pub source: DiskSource,
    /// Whether the guest can only read it.
    pub read_only: bool,
}

/// Where the blocks of a disk come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// An image in the bundle. What the guest writes stays in memory.
    Image(DiskImage),
    /// A disk of the host.
    Host {
        /// Its number, from 0, in the order in which the host finds its disks.
        disk: u32,
        /// One partition of it, from 1; absent: the whole disk.
        partition: Option<u32>,
    },
}

/// A disk image with the blocks that are not zero; all others read as zeroes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskImage {
    /// Size of the disk in bytes, a multiple of 512, not 0.
    pub size: u64,
    /// What is not zero: ascending, inside of the disk and none over another.
    pub extents: Vec<DiskExtent>,
}

/// A range of a disk image that is in the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskExtent {
    /// Offset on the disk in bytes, a multiple of 4096.
    pub start: u64,
    /// Its bytes; the length is a multiple of 512.
    pub data: Payload,
}

/// One network port of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetConfig {
    /// Address of the guest's network device, unicast.
    pub mac: [u8; 6],
    /// VLAN of the port, 1 to 4094; absent: the network of all ports without one.
    pub vlan: Option<u16>,
}

/// A network device of the host that joins the virtual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkConfig {
    /// Its number, from 0, in the order in which the host finds its network devices.
    pub nic: u32,
    /// VLAN of the port, 1 to 4094; absent: the network of all ports without one.
    pub vlan: Option<u16>,
}

/// Everything that a bundle describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineConfig {
    /// The virtual machines, in the order of the VM file.
    pub vms: Vec<VmConfig>,
    /// The host's network devices on the virtual network.
    pub uplinks: Vec<UplinkConfig>,
}

impl MachineConfig {
    /// Only virtual machines.
    pub fn new(vms: Vec<VmConfig>) -> Self {
        MachineConfig { vms, uplinks: Vec::new() }
    }
}
