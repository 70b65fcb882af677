//! Disks, network ports and uplinks of a VM file.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde::de::{self, Deserializer};
use toml::Spanned;

use super::{Machine, Size, Vm};
use crate::arch::Arch;
use crate::disk::{self, Format, SparseImage};
use crate::fit;

/// Most disks and network ports of one VM together.
pub const MAX_DEVICES: usize = 28;

/// One disk of a VM.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// A file with its first content.
    pub image: Option<String>,
    /// Its bytes; absent, as many as the image has.
    pub size: Option<Size>,
    /// Makes an empty file system of this kind on it.
    pub format: Option<Format>,
    /// Number of a disk of the host.
    pub host: Option<u32>,
    /// Number of one of the host disk's partitions.
    pub partition: Option<u32>,
    /// Whether the guest can only read it.
    #[serde(default)]
    pub read_only: bool,
}

impl Disk {
    fn check(&self) -> Result<()> {
        if let Some(Size(size)) = self.size {
            ensure!(
                size > 0 && size.is_multiple_of(disk::BLOCK as u64),
                "size of {size} bytes is not a multiple of {}",
                disk::BLOCK
            );
        }
        ensure!(self.partition != Some(0), "partition = 0: partitions are counted from 1");
        match self {
            Disk { host: Some(_), image: None, size: None, format: None, .. } => {}
            Disk { host: Some(_), .. } => bail!("a host disk has no image, size or format"),
            Disk { partition: Some(_), .. } => bail!("partition belongs to a host disk; give host"),
            Disk { image: Some(_), format: Some(_), .. } => {
                bail!("either the image is its content or format makes one; leave one out")
            }
            Disk { image: Some(_), .. } | Disk { size: Some(_), .. } => {}
            _ => bail!("no content: give image = \"FILE\", size = \"64M\" or host = 0"),
        }
        Ok(())
    }

    fn resolve(&self, name: &str, base: &Path) -> Result<fit::Disk> {
        let size = self.size.map(|Size(size)| size);
        let source = match (self.host, &self.image) {
            (Some(disk), _) => fit::DiskSource::Host { disk, partition: self.partition },
            (None, Some(file)) => {
                fit::DiskSource::Image(SparseImage::read(&base.join(file), size)?)
            }
            (None, None) => {
                let size = size.context("size is absent")?;
                fit::DiskSource::Image(match self.format {
                    Some(format) => SparseImage::format(format, name, size)?,
                    None => SparseImage::blank(size),
                })
            }
        };
        Ok(fit::Disk { source, read_only: self.read_only })
    }
}

/// One network port of a VM.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Net {
    /// Address of the guest's network device.
    pub mac: Option<Mac>,
    /// VLAN of the port.
    pub vlan: Option<u16>,
}

impl Net {
    /// The address of this port, number `port` of VM number `vm`.
    fn mac(&self, vm: usize, port: usize) -> Mac {
        let [vm_high, vm_low] = u16::try_from(vm).unwrap_or(u16::MAX).to_be_bytes();
        let port = u8::try_from(port).unwrap_or(u8::MAX);
        self.mac.unwrap_or(Mac([0x52, 0x54, 0x00, vm_high, vm_low, port]))
    }
}

/// A network device of the host that joins the VMs' network.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// Its number among the host's network devices.
    #[serde(default)]
    pub nic: u32,
    /// VLAN of the port.
    pub vlan: Option<u16>,
}

fn check_vlan(vlan: Option<u16>) -> Result<()> {
    match vlan {
        None | Some(1..=4094) => Ok(()),
        Some(vlan) => bail!("vlan = {vlan}: a VLAN is 1 to 4094"),
    }
}

/// One device of the host that a VM gets for itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its path in the host's device tree.
    pub path: String,
}

/// Address of a network device, written as `"52:54:00:12:34:56"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl std::str::FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|part| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten())
            .collect();
        let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        let Some(bytes) = bytes else {
            bail!("mac {text:?} is not six bytes such as \"52:54:00:12:34:56\"");
        };
        // Bit 0 of the first byte means several receivers (IEEE 802, 8.2).
        ensure!(
            bytes[0] & 1 == 0 && bytes != [0; 6],
            "mac {text:?} is no address of one device; make its first byte even"
        );
        Ok(Mac(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format!("{error:#}")))
    }
}

impl Vm {
    /// Checks each of its devices by itself.
    pub(super) fn check_devices(&self, machine: &Machine) -> Result<()> {
        let host_disks = machine.disks.len();
        for (index, disk) in self.disks.iter().enumerate() {
            disk.check().with_context(|| format!("disk {index}"))?;
            if let Some(host) = disk.host
                && host_disks > 0
                && host as usize >= host_disks
            {
                bail!("disk {index}: host = {host}, but the machine has {host_disks} disks");
            }
        }
        for (index, net) in self.nets.iter().enumerate() {
            check_vlan(net.vlan).with_context(|| format!("net {index}"))?;
        }
        for (index, device) in self.devices.iter().enumerate() {
            ensure!(
                device.path.starts_with('/'),
                "device {index}: path {:?} does not start with /",
                device.path
            );
        }
        let count = self.disks.len() + self.nets.len();
        ensure!(count <= MAX_DEVICES, "{count} disks and nets; a vm has at most {MAX_DEVICES}");
        Ok(())
    }

    /// Checks that `arch` has places for all of its virtio devices.
    pub(super) fn check_slots(&self, arch: Arch) -> Result<()> {
        // A console and random numbers; the monitor and a balloon.
        let own = 2 + usize::from(self.control) + usize::from(self.balloon);
        let (count, most) = (self.disks.len() + self.nets.len(), arch.virtio_slots() - own);
        ensure!(count <= most, "{count} disks and nets; on {arch} this vm has places for {most}");
        Ok(())
    }

    /// Reads the content of its disks, relative to the folder `base`.
    pub(super) fn resolve_disks(&self, base: &Path) -> Result<Vec<fit::Disk>> {
        let resolve = |(index, disk): (usize, &Disk)| {
            let name = format!("{}-{index}", self.name);
            disk.resolve(&name, base).with_context(|| format!("disk {index}"))
        };
        self.disks.iter().enumerate().map(resolve).collect()
    }

    /// Its network ports, as those of VM number `vm` of the file.
    pub(super) fn resolve_nets(&self, vm: usize) -> Vec<fit::Net> {
        let resolve =
            |(index, net): (usize, &Net)| fit::Net { mac: net.mac(vm, index).0, vlan: net.vlan };
        self.nets.iter().enumerate().map(resolve).collect()
    }
}

/// Checks the uplinks; an error comes with its place in the file.
pub(super) fn check_uplinks(
    uplinks: &[Spanned<Uplink>],
) -> Result<(), (Range<usize>, anyhow::Error)> {
    let mut seen = BTreeSet::new();
    for uplink in uplinks {
        let fail = |error: anyhow::Error| (uplink.span(), error.context("uplink"));
        let uplink = uplink.get_ref();
        check_vlan(uplink.vlan).map_err(fail)?;
        if !seen.insert(uplink.nic) {
            return Err(fail(anyhow::anyhow!("nic = {}: another uplink has it", uplink.nic)));
        }
    }
    Ok(())
}

/// What only one VM can have: refuses what a VM before `vms[index]` has already.
pub(super) fn check_claims(vms: &[Spanned<Vm>], index: usize) -> Result<()> {
    let this = vms[index].get_ref();
    for (other, vm) in vms.iter().enumerate().take(index + 1) {
        let vm = vm.get_ref();
        let earlier = |own: usize, number: usize| other < index || number < own;
        for (own, disk) in this.disks.iter().enumerate() {
            let taken = vm.disks.iter().enumerate().any(|(number, claimed)| {
                let overlap = claimed.partition == disk.partition
                    || claimed.partition.is_none()
                    || disk.partition.is_none();
                let both_read = claimed.read_only && disk.read_only;
                let same = disk.host.is_some() && claimed.host == disk.host && overlap;
                earlier(own, number) && same && !both_read
            });
            ensure!(
                !taken,
                "disk {own}: vm {:?} has the same host disk or partition; share it only if all \
                 are read_only",
                vm.name
            );
        }
        for (own, net) in this.nets.iter().enumerate() {
            let mac = net.mac(index, own);
            let mut others = vm.nets.iter().enumerate();
            ensure!(
                !others.any(|(number, net)| earlier(own, number) && net.mac(other, number) == mac),
                "net {own}: vm {:?} has a port with mac {mac}; give each its own",
                vm.name
            );
        }
        for (own, device) in this.devices.iter().enumerate() {
            let mut others = vm.devices.iter().enumerate();
            ensure!(
                !others.any(|(number, taken)| earlier(own, number) && taken.path == device.path),
                "device {own}: vm {:?} has {} already",
                vm.name,
                device.path
            );
        }
    }
    Ok(())
}
