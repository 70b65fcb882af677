//! `/configurations`: one node for each virtual machine.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use platform::tree::{Node, Tree};

use super::device::{self, Claims};
use super::image::{Image, Images, Kind};
use super::{
    BundleError, Fault, MAX_HOST_CPUS, MAX_NAME, MAX_VCPUS, MAX_VMS, MAX_WEIGHT, MEMORY_GRANULE,
    cells_value, flag, optional, refuse_unknown, required, text_value, top_node, u32_value,
    u64_value,
};
use crate::config::{Reservation, VmConfig};

/// Every property of a configuration that FIT does not define.
const OWN_PROPERTIES: [&str; 12] = [
    "bunshin,autostart",
    "bunshin,balloon",
    "bunshin,budget",
    "bunshin,command-line",
    "bunshin,control",
    "bunshin,cpus",
    "bunshin,direct-memory",
    "bunshin,memory",
    "bunshin,period",
    "bunshin,pinned",
    "bunshin,vcpus",
    "bunshin,weight",
];

const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Reads all virtual machines, in the order of the tree.
pub(super) fn read_all(
    tree: &Tree,
    images: &Images<'_>,
    blob: &[u8],
) -> Result<Vec<VmConfig>, BundleError> {
    let parent = top_node(tree, "configurations")?;
    let count = parent.children().take(MAX_VMS + 1).count();
    if count == 0 || count > MAX_VMS {
        return Err(BundleError::new(parent, Fault::VmCount(count)));
    }
    let mut names = BTreeSet::new();
    let mut vms = Vec::new();
    let mut claims = Claims::default();
    for node in parent.children() {
        if !names.insert(node.name()) {
            return Err(BundleError::new(node, Fault::Duplicate));
        }
        let vm = read(node, images, blob)?;
        claims.claim(node, &vm)?;
        vms.push(vm);
    }
    match optional(parent, "default", text_value)? {
        Some(name) if !names.contains(name) => {
            let expected = "the name of a configuration";
            let fault = Fault::Word { property: "default", value: name.to_owned(), expected };
            Err(BundleError::new(parent, fault))
        }
        _ => Ok(vms),
    }
}

fn read(node: Node<'_>, images: &Images<'_>, blob: &[u8]) -> Result<VmConfig, BundleError> {
    let fail = |fault| BundleError::new(node, fault);
    let name = node.name();
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(allowed) {
        return Err(fail(Fault::Name));
    }
    refuse_unknown(node, &OWN_PROPERTIES)?;

    let kernel_name = required(node, "kernel", text_value)?;
    let kernel = images.find(node, "kernel", kernel_name)?;
    let raw = match kernel.kind {
        Kind::Kernel => None,
        Kind::Standalone(raw) => Some(raw),
        Kind::RamDisk | Kind::FileSystem => {
            let expected = "the name of an image of type kernel or standalone";
            let value = kernel_name.to_owned();
            return Err(fail(Fault::Word { property: "kernel", value, expected }));
        }
    };
    let initrd = match optional(node, "ramdisk", text_value)? {
        None => None,
        Some(name) => {
            let image = images.find(node, "ramdisk", name)?;
            if image.kind != Kind::RamDisk {
                let expected = "the name of an image of type ramdisk";
                let value = name.to_owned();
                return Err(fail(Fault::Word { property: "ramdisk", value, expected }));
            }
            Some(image)
        }
    };

    let vcpus = number(node, "bunshin,vcpus", 1..=MAX_VCPUS, "1 to 64")?;
    let memory = required(node, "bunshin,memory", u64_value)?;
    if memory == 0 || !memory.is_multiple_of(MEMORY_GRANULE) {
        let (property, expected) = ("bunshin,memory", "a multiple of 2 MiB");
        return Err(fail(Fault::Value { property, value: memory, expected }));
    }
    let payload = loaded_bytes(kernel, blob).saturating_add(initrd.map_or(0, size));
    if payload > memory {
        return Err(fail(Fault::MemoryTooSmall { payload, memory }));
    }
    let cpus = optional(node, "bunshin,cpus", cells_value)?.unwrap_or_default();
    let mut seen = BTreeSet::new();
    for cpu in &cpus {
        if *cpu >= MAX_HOST_CPUS || !seen.insert(*cpu) {
            let expected = "a list of different CPU numbers below 1024";
            let (property, value) = ("bunshin,cpus", u64::from(*cpu));
            return Err(fail(Fault::Value { property, value, expected }));
        }
    }
    Ok(VmConfig {
        name: name.to_owned(),
        vcpus,
        memory,
        kernel: kernel.payload,
        raw,
        initrd: initrd.map(|image| image.payload),
        command_line: required(node, "bunshin,command-line", text_value)?.to_owned(),
        cpus,
        weight: number(node, "bunshin,weight", 1..=MAX_WEIGHT, "1 to 1024")?,
        autostart: flag(node, "bunshin,autostart")?,
        pinned: flag(node, "bunshin,pinned")?,
        reservation: reservation(node)?,
        control: flag(node, "bunshin,control")?,
        balloon: flag(node, "bunshin,balloon")?,
        direct_memory: flag(node, "bunshin,direct-memory")?,
        disks: device::disks(node, images)?,
        nets: device::nets(node)?,
        devices: device::devices(node)?,
    })
}

fn reservation(node: Node<'_>) -> Result<Option<Reservation>, BundleError> {
    let budget = optional(node, "bunshin,budget", u32_value)?;
    let period = optional(node, "bunshin,period", u32_value)?;
    match (budget, period) {
        (None, None) => Ok(None),
        (Some(budget_us), Some(period_us)) if (1..=period_us).contains(&budget_us) => {
            Ok(Some(Reservation { budget_us, period_us }))
        }
        (Some(budget), Some(_)) => {
            let (property, expected) = ("bunshin,budget", "1 to bunshin,period");
            let value = u64::from(budget);
            Err(BundleError::new(node, Fault::Value { property, value, expected }))
        }
        (None, Some(_)) => Err(BundleError::new(node, Fault::Absent("bunshin,budget"))),
        (Some(_), None) => Err(BundleError::new(node, Fault::Absent("bunshin,period"))),
    }
}

fn number(
    node: Node<'_>,
    property: &'static str,
    range: core::ops::RangeInclusive<u32>,
    expected: &'static str,
) -> Result<u32, BundleError> {
    let value = required(node, property, u32_value)?;
    match range.contains(&value) {
        true => Ok(value),
        false => {
            let value = u64::from(value);
            Err(BundleError::new(node, Fault::Value { property, value, expected }))
        }
    }
}

/// Bytes of memory that the file of a kernel takes at least. Most of an ELF
/// file may be symbols, which nobody loads.
fn loaded_bytes(kernel: &Image<'_>, blob: &[u8]) -> u64 {
    if kernel.data(blob).starts_with(ELF_MAGIC) { 0 } else { size(kernel) }
}

fn size(image: &Image<'_>) -> u64 {
    image.payload.size as u64
}
