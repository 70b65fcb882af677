//! Writes bundles: a standard flattened image tree with external data.
//!
//! The tree comes first and stays small; the payloads follow, each on a
//! page boundary, named by `data-position` and `data-size` (FIT
//! specification, "External data"). What FIT has no word for is a property
//! of the VM's configuration that starts with `bunshin,`.

#[cfg(test)]
mod tests;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use vm_fdt::FdtWriter;

use crate::arch::Arch;
use crate::disk::SparseImage;
use crate::vmfile::DEFAULT_WEIGHT;

/// Version of the properties that start with `bunshin,`.
pub const VERSION: u32 = 1;

/// Payloads start at multiples of this many bytes.
pub const ALIGNMENT: usize = 4096;

/// Longest name of a VM, so that the names of its images are valid node names.
pub const NAME_LENGTH: usize = 24;

/// Placement of a raw binary in guest-physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw {
    /// Address of the first byte.
    pub load: u64,
    /// Address of the first instruction.
    pub entry: u64,
}

/// One virtual machine with its payloads.
#[derive(Debug, Clone)]
pub struct Vm {
    /// Unique name, at most [`NAME_LENGTH`] characters of `[a-z0-9_-]`.
    pub name: String,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Kernel or firmware.
    pub kernel: Vec<u8>,
    /// Placement of a kernel that does not describe itself.
    pub raw: Option<Raw>,
    /// Initial RAM disk.
    pub initrd: Option<Vec<u8>>,
    /// Kernel command line.
    pub command_line: String,
    /// Host CPUs it may run on; empty means any.
    pub cpus: Vec<u32>,
    /// Share of a host CPU.
    pub weight: u32,
    /// Whether it starts at boot.
    pub autostart: bool,
    /// Whether each virtual CPU has a host CPU of its own.
    pub pinned: bool,
    /// Budget and period in microseconds.
    pub reservation: Option<(u32, u32)>,
    /// Whether it may manage the other VMs.
    pub control: bool,
    /// Whether it has a balloon.
    pub balloon: bool,
    /// Whether its memory has the addresses of the host's.
    pub direct_memory: bool,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Network ports.
    pub nets: Vec<Net>,
    /// Paths of devices of the host that it gets for itself.
    pub devices: Vec<String>,
}

impl Vm {
    /// A VM with usual values around `kernel`: it starts at boot and has no disk and no network.
    pub fn new(name: &str, kernel: Vec<u8>, vcpus: u32, memory: u64) -> Self {
        Vm {
            name: name.to_string(),
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

/// One disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Where its blocks come from.
    pub source: DiskSource,
    /// Whether the guest can only read it.
    pub read_only: bool,
}

/// Where the blocks of a disk come from.
#[derive(Debug, Clone)]
pub enum DiskSource {
    /// An image in the bundle.
    Image(SparseImage),
    /// A disk of the host.
    Host {
        /// Its number.
        disk: u32,
        /// One of its partitions, counted from 1.
        partition: Option<u32>,
    },
}

/// One network port.
#[derive(Debug, Clone, Copy)]
pub struct Net {
    /// Address of the guest's device.
    pub mac: [u8; 6],
    /// VLAN of the port.
    pub vlan: Option<u16>,
}

/// A network device of the host on the VMs' network.
#[derive(Debug, Clone, Copy)]
pub struct Uplink {
    /// Its number.
    pub nic: u32,
    /// VLAN of the port.
    pub vlan: Option<u16>,
}

/// A payload and the node that describes it.
struct Image<'a> {
    name: String,
    description: String,
    kind: &'static str,
    data: &'a [u8],
    raw: Option<Raw>,
    digest: [u8; 32],
}

/// Names of the images of one VM.
struct References {
    kernel: String,
    initrd: Option<String>,
    /// One for each disk; `None` for those of the host and those of zeroes.
    disks: Vec<Option<String>>,
}

/// The bundle of `vms` for a machine of `arch`. Payloads that several VMs share are stored once.
///
/// # Errors
/// When there is no VM or a name is not fit for a node.
pub fn write(arch: Arch, vms: &[Vm]) -> Result<Vec<u8>> {
    write_with_uplinks(arch, vms, &[])
}

/// As [`write()`], with network devices of the host on the VMs' network.
///
/// # Errors
/// As [`write()`].
pub fn write_with_uplinks(arch: Arch, vms: &[Vm], uplinks: &[Uplink]) -> Result<Vec<u8>> {
    ensure!(!vms.is_empty(), "a bundle needs at least one vm");
    let mut images: Vec<Image<'_>> = Vec::new();
    let references = references(vms, &mut images);
    let content = Content { arch, vms, uplinks, references: &references, images: &images };

    // The length of the tree does not depend on the values of positions.
    let start = content.tree(0)?.len().next_multiple_of(ALIGNMENT);
    let mut bundle = content.tree(start)?;
    for image in &images {
        bundle.resize(bundle.len().next_multiple_of(ALIGNMENT), 0);
        bundle.extend_from_slice(image.data);
    }
    // Bootloaders copy whole words.
    bundle.resize(bundle.len().next_multiple_of(8), 0);
    Ok(bundle)
}

/// Collects the images of `vms`, each once.
fn references<'a>(vms: &'a [Vm], images: &mut Vec<Image<'a>>) -> Vec<References> {
    let mut add = |vm: &Vm, kind, suffix: &str, data: &'a [u8], raw| {
        let digest: [u8; 32] = Sha256::digest(data).into();
        let same = |i: &&Image<'_>| i.kind == kind && i.raw == raw && i.digest == digest;
        if let Some(image) = images.iter().find(same) {
            return image.name.clone();
        }
        let name = format!("{}-{suffix}", vm.name);
        let description = format!("{suffix} of {}", vm.name);
        images.push(Image { name: name.clone(), description, kind, data, raw, digest });
        name
    };
    let mut references = Vec::new();
    for vm in vms {
        let kind = if vm.raw.is_some() { "standalone" } else { "kernel" };
        let kernel = add(vm, kind, "kernel", &vm.kernel, vm.raw);
        let initrd = vm.initrd.as_ref().map(|data| add(vm, "ramdisk", "initrd", data, None));
        let mut disks = Vec::new();
        for (index, disk) in vm.disks.iter().enumerate() {
            disks.push(match &disk.source {
                DiskSource::Image(image) if !image.data.is_empty() => {
                    let suffix = format!("disk-{index}");
                    Some(add(vm, "filesystem", &suffix, &image.data, None))
                }
                _ => None,
            });
        }
        references.push(References { kernel, initrd, disks });
    }
    references
}

/// What the tree describes.
struct Content<'a> {
    arch: Arch,
    vms: &'a [Vm],
    uplinks: &'a [Uplink],
    references: &'a [References],
    images: &'a [Image<'a>],
}

impl Content<'_> {
    /// The tree of a bundle whose payloads start at `start`.
    fn tree(&self, start: usize) -> Result<Vec<u8>> {
        let mut fdt = FdtWriter::new()?;
        let root = fdt.begin_node("")?;
        fdt.property_string("description", "Bunshin bundle")?;
        fdt.property_u32("timestamp", timestamp())?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("bunshin,version", VERSION)?;

        let node = fdt.begin_node("images")?;
        let mut position = start;
        for image in self.images {
            image
                .describe(&mut fdt, self.arch, position)
                .with_context(|| format!("image {}", image.name))?;
            position = (position + image.data.len()).next_multiple_of(ALIGNMENT);
        }
        fdt.end_node(node)?;

        let node = fdt.begin_node("configurations")?;
        if let Some(first) = self.vms.first() {
            fdt.property_string("default", &first.name)?;
        }
        for (vm, references) in self.vms.iter().zip(self.references) {
            vm.describe(&mut fdt, references).with_context(|| format!("vm {}", vm.name))?;
        }
        fdt.end_node(node)?;
        if !self.uplinks.is_empty() {
            let node = fdt.begin_node("uplinks")?;
            for (index, uplink) in self.uplinks.iter().enumerate() {
                let node = fdt.begin_node(&format!("uplink-{index}"))?;
                fdt.property_u32("bunshin,nic", uplink.nic)?;
                describe_vlan(&mut fdt, uplink.vlan)?;
                fdt.end_node(node)?;
            }
            fdt.end_node(node)?;
        }
        fdt.end_node(root)?;
        Ok(fdt.finish()?)
    }
}

impl Image<'_> {
    fn describe(&self, fdt: &mut FdtWriter, arch: Arch, position: usize) -> Result<()> {
        let node = fdt.begin_node(&self.name)?;
        fdt.property_string("description", &self.description)?;
        fdt.property_u32("data-position", u32::try_from(position).context(TOO_BIG)?)?;
        let end = position.saturating_add(self.data.len());
        ensure!(u32::try_from(end).is_ok(), TOO_BIG);
        fdt.property_u32("data-size", u32::try_from(self.data.len()).context(TOO_BIG)?)?;
        fdt.property_string("type", self.kind)?;
        fdt.property_string("arch", arch.fit())?;
        fdt.property_string("os", "linux")?;
        fdt.property_string("compression", "none")?;
        if let Some(raw) = self.raw {
            fdt.property_u64("load", raw.load)?;
            fdt.property_u64("entry", raw.entry)?;
        }
        let hash = fdt.begin_node("hash-1")?;
        fdt.property_string("algo", "sha256")?;
        fdt.property("value", &self.digest)?;
        fdt.end_node(hash)?;
        fdt.end_node(node)?;
        Ok(())
    }
}

impl Vm {
    fn describe(&self, fdt: &mut FdtWriter, references: &References) -> Result<()> {
        let node = fdt.begin_node(&self.name)?;
        fdt.property_string("description", &format!("virtual machine {}", self.name))?;
        fdt.property_string("kernel", &references.kernel)?;
        if let Some(initrd) = &references.initrd {
            fdt.property_string("ramdisk", initrd)?;
        }
        fdt.property_u32("bunshin,vcpus", self.vcpus)?;
        fdt.property_u64("bunshin,memory", self.memory)?;
        fdt.property_string("bunshin,command-line", &self.command_line)?;
        if !self.cpus.is_empty() {
            fdt.property_array_u32("bunshin,cpus", &self.cpus)?;
        }
        fdt.property_u32("bunshin,weight", self.weight)?;
        if let Some((budget, period)) = self.reservation {
            fdt.property_u32("bunshin,budget", budget)?;
            fdt.property_u32("bunshin,period", period)?;
        }
        for (flag, name) in [
            (self.autostart, "bunshin,autostart"),
            (self.pinned, "bunshin,pinned"),
            (self.control, "bunshin,control"),
            (self.balloon, "bunshin,balloon"),
            (self.direct_memory, "bunshin,direct-memory"),
        ] {
            if flag {
                fdt.property_null(name)?;
            }
        }
        for (index, (disk, image)) in self.disks.iter().zip(&references.disks).enumerate() {
            let node = fdt.begin_node(&format!("disk-{index}"))?;
            disk.describe(fdt, image.as_deref())?;
            fdt.end_node(node)?;
        }
        for (index, net) in self.nets.iter().enumerate() {
            let node = fdt.begin_node(&format!("net-{index}"))?;
            fdt.property("bunshin,mac", &net.mac)?;
            describe_vlan(fdt, net.vlan)?;
            fdt.end_node(node)?;
        }
        for (index, path) in self.devices.iter().enumerate() {
            let node = fdt.begin_node(&format!("device-{index}"))?;
            fdt.property_string("bunshin,path", path)?;
            fdt.end_node(node)?;
        }
        fdt.end_node(node)?;
        Ok(())
    }
}

impl Disk {
    fn describe(&self, fdt: &mut FdtWriter, image: Option<&str>) -> Result<()> {
        match &self.source {
            DiskSource::Image(content) => {
                fdt.property_u64("bunshin,size", content.size)?;
                if let Some(image) = image {
                    let pairs = content.extents.iter();
                    let cells: Vec<u32> = pairs.flat_map(|(at, count)| [*at, *count]).collect();
                    fdt.property_string("image", image)?;
                    fdt.property_array_u32("bunshin,extents", &cells)?;
                }
            }
            DiskSource::Host { disk, partition } => {
                fdt.property_u32("bunshin,host-disk", *disk)?;
                if let Some(partition) = partition {
                    fdt.property_u32("bunshin,partition", *partition)?;
                }
            }
        }
        if self.read_only {
            fdt.property_null("bunshin,read-only")?;
        }
        Ok(())
    }
}

fn describe_vlan(fdt: &mut FdtWriter, vlan: Option<u16>) -> Result<()> {
    if let Some(vlan) = vlan {
        fdt.property_u32("bunshin,vlan", u32::from(vlan))?;
    }
    Ok(())
}

const TOO_BIG: &str = "the bundle is 4 GiB or larger, and a flattened image tree can't be; make \
                       disk images smaller, only their blocks of zeroes take no room";

/// Seconds since 1970; 0 unless the user asks for a date, so that the same
/// input always gives the same bundle.
fn timestamp() -> u32 {
    std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|value| value.parse().ok()).unwrap_or(0)
}
