//! Children of a virtual machine's configuration, and `/uplinks`: disks,
//! network ports and devices of the host.
//!
//! Children are numbered from 0 in the order of the VM file: `disk-0`, `disk-1`, …

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use platform::tree::{Node, Tree};

use super::image::{Images, Kind};
use super::{
    BLOCK, BundleError, Fault, SECTOR, cells_value, flag, optional, refuse_unknown, required,
    text_value, u32_value, u64_value,
};
use crate::config::{
    DiskConfig, DiskExtent, DiskImage, DiskSource, NetConfig, Payload, UplinkConfig, VmConfig,
};

const DISK_PROPERTIES: [&str; 5] = [
    "bunshin,extents",
    "bunshin,host-disk",
    "bunshin,partition",
    "bunshin,read-only",
    "bunshin,size",
];
const NET_PROPERTIES: [&str; 2] = ["bunshin,mac", "bunshin,vlan"];
const DEVICE_PROPERTIES: [&str; 1] = ["bunshin,path"];
const UPLINK_PROPERTIES: [&str; 2] = ["bunshin,nic", "bunshin,vlan"];

/// Set in the first byte of an address of several receivers (IEEE 802, 8.2).
const GROUP_ADDRESS: u8 = 1;

/// Reads all disks of the virtual machine that `vm` configures.
pub(super) fn disks(vm: Node<'_>, images: &Images<'_>) -> Result<Vec<DiskConfig>, BundleError> {
    numbered(vm, "disk-")?.into_iter().map(|node| disk(node, images)).collect()
}

fn disk(node: Node<'_>, images: &Images<'_>) -> Result<DiskConfig, BundleError> {
    refuse_unknown(node, &DISK_PROPERTIES)?;
    let host = optional(node, "bunshin,host-disk", u32_value)?;
    let partition = optional(node, "bunshin,partition", u32_value)?;
    if partition == Some(0) {
        let (property, expected) = ("bunshin,partition", "a number from 1");
        return Err(BundleError::new(node, Fault::Value { property, value: 0, expected }));
    }
    let in_memory = ["image", "bunshin,size", "bunshin,extents"]
        .into_iter()
        .find(|p| node.property(p).is_some());
    let source = match (host, in_memory) {
        (Some(disk), None) => DiskSource::Host { disk, partition },
        (None, Some(_)) if partition.is_none() => DiskSource::Image(image(node, images)?),
        (Some(_), Some(_)) | (None, _) => {
            return Err(BundleError::new(node, Fault::DiskSource));
        }
    };
    Ok(DiskConfig { source, read_only: flag(node, "bunshin,read-only")? })
}

fn image(node: Node<'_>, images: &Images<'_>) -> Result<DiskImage, BundleError> {
    let fail = |fault| BundleError::new(node, fault);
    let data = match optional(node, "image", text_value)? {
        None => None,
        Some(name) => {
            let image = images.find(node, "image", name)?;
            if image.kind != Kind::FileSystem {
                let expected = "the name of an image of type filesystem";
                let value = name.to_owned();
                return Err(fail(Fault::Word { property: "image", value, expected }));
            }
            Some(image.payload)
        }
    };
    let length = data.map_or(0, |data| data.size as u64);
    let size = optional(node, "bunshin,size", u64_value)?
        .or_else(|| length.checked_next_multiple_of(SECTOR))
        .unwrap_or(0);
    if size == 0 || !size.is_multiple_of(SECTOR) {
        let (property, expected) = ("bunshin,size", "a multiple of 512 that is not 0");
        return Err(fail(Fault::Value { property, value: size, expected }));
    }
    let extents = match (optional(node, "bunshin,extents", cells_value)?, data) {
        (Some(cells), data) => extents(&cells, data).ok_or_else(|| fail(Fault::Extents))?,
        (None, Some(data)) => alloc::vec![DiskExtent { start: 0, data }],
        (None, None) => Vec::new(),
    };
    let end = extents.last().map_or(Some(0), |last| last.start.checked_add(last.data.size as u64));
    if extents.iter().any(|extent| !(extent.data.size as u64).is_multiple_of(SECTOR)) {
        return Err(fail(Fault::Extents));
    }
    match end {
        Some(end) if end <= size => Ok(DiskImage { size, extents }),
        _ => Err(fail(Fault::Extents)),
    }
}

/// Ranges from pairs of cells: first block on the disk and number of blocks.
/// Their bytes follow one another in the payload and fill it. `None` if not.
fn extents(cells: &[u32], data: Option<Payload>) -> Option<Vec<DiskExtent>> {
    let (mut offset, mut left) = data.map_or((0, 0), |data| (data.offset, data.size));
    let mut free = 0;
    let mut extents = Vec::with_capacity(cells.len() / 2);
    for pair in cells.chunks(2) {
        let &[first, count] = pair else { return None };
        let start = u64::from(first).checked_mul(BLOCK)?;
        let size = u64::from(count).checked_mul(BLOCK)?;
        let length = usize::try_from(size).ok()?;
        left = left.checked_sub(length)?;
        if count == 0 || start < free {
            return None;
        }
        extents.push(DiskExtent { start, data: Payload { offset, size: length } });
        offset = offset.checked_add(length)?;
        free = start.checked_add(size)?;
    }
    (left == 0).then_some(extents)
}

/// Reads all network ports of the virtual machine that `vm` configures.
pub(super) fn nets(vm: Node<'_>) -> Result<Vec<NetConfig>, BundleError> {
    let read = |node| {
        refuse_unknown(node, &NET_PROPERTIES)?;
        let mac: [u8; 6] = required(node, "bunshin,mac", |property| {
            let bytes = property.value().try_into();
            bytes.map_err(|_| Fault::malformed(property, "an address of 6 bytes"))
        })?;
        let [first, ..] = mac;
        if first & GROUP_ADDRESS != 0 || mac == [0; 6] {
            return Err(BundleError::new(node, Fault::Mac));
        }
        Ok(NetConfig { mac, vlan: vlan(node)? })
    };
    numbered(vm, "net-")?.into_iter().map(read).collect()
}

/// Reads the paths of all devices of the host that `vm` gets.
pub(super) fn devices(vm: Node<'_>) -> Result<Vec<String>, BundleError> {
    let read = |node| {
        refuse_unknown(node, &DEVICE_PROPERTIES)?;
        let path = required(node, "bunshin,path", text_value)?;
        match path.starts_with('/') {
            true => Ok(path.to_owned()),
            false => {
                let (property, expected) = ("bunshin,path", "a path that starts with /");
                let value = path.to_owned();
                Err(BundleError::new(node, Fault::Word { property, value, expected }))
            }
        }
    };
    numbered(vm, "device-")?.into_iter().map(read).collect()
}

/// Reads `/uplinks`, which may be absent.
pub(super) fn uplinks(tree: &Tree) -> Result<Vec<UplinkConfig>, BundleError> {
    let Some(parent) = tree.root().children().find(|node| node.name() == "uplinks") else {
        return Ok(Vec::new());
    };
    let mut taken = BTreeSet::new();
    let read = |node| {
        refuse_unknown(node, &UPLINK_PROPERTIES)?;
        let nic = required(node, "bunshin,nic", u32_value)?;
        if !taken.insert(nic) {
            return Err(BundleError::new(node, Fault::Taken("another uplink")));
        }
        Ok(UplinkConfig { nic, vlan: vlan(node)? })
    };
    numbered(parent, "uplink-")?.into_iter().map(read).collect()
}

fn vlan(node: Node<'_>) -> Result<Option<u16>, BundleError> {
    let Some(value) = optional(node, "bunshin,vlan", u32_value)? else { return Ok(None) };
    // 0 means none and 4095 is reserved (IEEE 802.1Q, table 9-2).
    match u16::try_from(value) {
        Ok(vlan @ 1..=4094) => Ok(Some(vlan)),
        _ => {
            let (property, value) = ("bunshin,vlan", u64::from(value));
            let expected = "1 to 4094";
            Err(BundleError::new(node, Fault::Value { property, value, expected }))
        }
    }
}

/// Children of `parent` that `prefix` and a number name, which must count up from 0.
fn numbered<'t>(parent: Node<'t>, prefix: &'static str) -> Result<Vec<Node<'t>>, BundleError> {
    let nodes = parent.children().filter(|node| node.name().starts_with(prefix));
    let mut found = Vec::new();
    for (index, node) in nodes.enumerate() {
        if node.name() != format!("{prefix}{index}") {
            let expected = format!("{prefix}{index}");
            return Err(BundleError::new(node, Fault::Numbering(expected)));
        }
        found.push(node);
    }
    Ok(found)
}

/// What only one virtual machine can have, and the node that has it.
#[derive(Default)]
pub(super) struct Claims {
    disks: BTreeMap<(u32, u32), Claim>,
    macs: BTreeMap<[u8; 6], String>,
    paths: BTreeMap<String, String>,
}

struct Claim {
    node: String,
    read_only: bool,
}

/// Stands for all partitions of a disk.
const WHOLE: u32 = 0;

impl Claims {
    /// Claims what `vm`, read from `node`, has for itself.
    pub(super) fn claim(&mut self, node: Node<'_>, vm: &VmConfig) -> Result<(), BundleError> {
        let child = |kind: &str, index: usize| format!("{}/{kind}-{index}", node.path());
        for (index, disk) in vm.disks.iter().enumerate() {
            let DiskSource::Host { disk: number, partition } = disk.source else { continue };
            let name = child("disk", index);
            let partition = partition.unwrap_or(WHOLE);
            let same = (number, WHOLE)..=(number, u32::MAX);
            let other = self.disks.range(same).find(|((_, taken), claim)| {
                let overlap = *taken == partition || *taken == WHOLE || partition == WHOLE;
                overlap && !(claim.read_only && disk.read_only)
            });
            if let Some((_, claim)) = other {
                return Err(BundleError {
                    node: name,
                    fault: Fault::DiskTaken(claim.node.clone()),
                });
            }
            let claim = Claim { node: name, read_only: disk.read_only };
            self.disks.insert((number, partition), claim);
        }
        for (index, net) in vm.nets.iter().enumerate() {
            let name = child("net", index);
            if let Some(other) = self.macs.insert(net.mac, name.clone()) {
                return Err(BundleError { node: name, fault: Fault::MacTaken(other) });
            }
        }
        for (index, path) in vm.devices.iter().enumerate() {
            let name = child("device", index);
            if let Some(other) = self.paths.insert(path.clone(), name.clone()) {
                return Err(BundleError { node: name, fault: Fault::DeviceTaken(other) });
            }
        }
        let count = vm.disks.len().saturating_add(vm.nets.len());
        if count > super::MAX_DEVICES {
            let fault = Fault::TooManyDevices(count);
            return Err(BundleError { node: node.path().to_string(), fault });
        }
        Ok(())
    }
}
