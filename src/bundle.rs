//! The bundle: a flattened image tree (FIT) with the virtual machines of a
//! machine and their payloads.
//!
//! A bundle comes from a bootloader and is not trusted. [`open`] turns it into
//! a [`MachineConfig`] or an error of one line that names the node; behind it
//! nobody checks again. The tree comes first and the payloads follow
//! ("External data" in the FIT specification), so only the tree is copied.
//!
//! ```text
//! /                    bunshin,version
//! /images/NAME         type, compression, data-position or data-offset, data-size, load, entry
//! /images/NAME/hash-1  algo, value
//! /configurations/VM   kernel, ramdisk, bunshin,vcpus, bunshin,memory, bunshin,command-line,
//!                      bunshin,cpus, bunshin,weight, bunshin,autostart, bunshin,pinned,
//!                      bunshin,budget, bunshin,period, bunshin,control, bunshin,balloon,
//!                      bunshin,direct-memory
//! /configurations/VM/disk-0    image, bunshin,size, bunshin,extents, bunshin,host-disk,
//!                              bunshin,partition, bunshin,read-only
//! /configurations/VM/net-0     bunshin,mac, bunshin,vlan
//! /configurations/VM/device-0  bunshin,path
//! /uplinks/uplink-0            bunshin,nic, bunshin,vlan
//! ```

mod configuration;
mod device;
mod error;
mod image;
#[cfg(test)]
mod tests;

pub use error::{BundleError, Fault};

use alloc::borrow::ToOwned;
use alloc::vec::Vec;

use platform::tree::{Node, Property, Tree};
use sha2::{Digest, Sha256};

use crate::config::MachineConfig;
use image::Images;

/// Version of the properties that start with `bunshin,`.
pub const VERSION: u32 = 1;

/// Most virtual machines in a bundle.
pub const MAX_VMS: usize = 64;

/// Most virtual CPUs of one virtual machine.
pub const MAX_VCPUS: u32 = 64;

/// Memory of a virtual machine is a multiple of this many bytes.
pub const MEMORY_GRANULE: u64 = 2 << 20;

/// Host CPUs have logical numbers below this one.
pub const MAX_HOST_CPUS: u32 = 1024;

/// Weights are 1 to this.
pub const MAX_WEIGHT: u32 = 1024;

/// Most disks and network ports of one virtual machine together.
pub const MAX_DEVICES: usize = 28;

/// Unit of a disk's size in bytes.
pub const SECTOR: u64 = 512;

/// Unit of the ranges of a disk image that are not zero, in bytes.
pub const BLOCK: u64 = 4096;

/// Longest name of a virtual machine, in bytes.
pub const MAX_NAME: usize = 24;

/// Where the header of a tree says its size (Devicetree Specification 0.4, 5.2).
const TOTAL_SIZE: core::ops::Range<usize> = 4..8;

/// Checks the bundle in `blob` and returns what it describes. `blob` starts
/// with the tree and may be longer than the bundle.
///
/// # Errors
/// The first thing that is wrong: damage to the tree, a payload outside of
/// `blob` or over another, a contradiction, or a digest that does not match.
pub fn open(blob: &[u8]) -> Result<MachineConfig, BundleError> {
    let tree = read_tree(blob)?;
    let images = Images::read(&tree, tree_size(blob))?;
    images.check_places(blob.len())?;
    let vms = configuration::read_all(&tree, &images, blob)?;
    let uplinks = device::uplinks(&tree)?;
    for image in images.iter() {
        let digest = Sha256::digest(image.data(blob));
        if digest[..] != image.digest[..] {
            return Err(BundleError::new(image.node, Fault::Mismatch));
        }
    }
    Ok(MachineConfig { vms, uplinks })
}

/// Length of the whole bundle in bytes, payloads included. `start` holds the
/// tree at least; payloads are not looked at.
///
/// # Errors
/// When the tree is damaged or an image does not say where its data is.
pub fn total_size(start: &[u8]) -> Result<usize, BundleError> {
    let tree = read_tree(start)?;
    let size = tree_size(start);
    let images = Images::read(&tree, size)?;
    Ok(images.iter().map(|image| image.end).max().unwrap_or(0).max(size))
}

fn read_tree(blob: &[u8]) -> Result<Tree, BundleError> {
    let tree = Tree::from_blob(blob)
        .map_err(|error| BundleError { node: "/".into(), fault: Fault::Tree(error) })?;
    match required(tree.root(), "bunshin,version", u32_value)? {
        VERSION => Ok(tree),
        other => Err(BundleError::new(tree.root(), Fault::Version(other))),
    }
}

/// What the header says; only after the tree has been validated.
fn tree_size(blob: &[u8]) -> usize {
    let word = blob.get(TOTAL_SIZE).and_then(|bytes| bytes.try_into().ok());
    word.map_or(0, |bytes| u32::from_be_bytes(bytes) as usize)
}

/// Refuses what only a newer image would know.
fn refuse_unknown(node: Node<'_>, known: &[&str]) -> Result<(), BundleError> {
    let mut names = node.properties().map(|property| property.name());
    match names.find(|name| name.starts_with("bunshin,") && !known.contains(name)) {
        Some(name) => Err(BundleError::new(node, Fault::UnknownProperty(name.to_owned()))),
        None => Ok(()),
    }
}

/// Whether a property without a value is there.
fn flag(node: Node<'_>, name: &'static str) -> Result<bool, BundleError> {
    let found = optional(node, name, |property| match property.value() {
        [] => Ok(()),
        _ => Err(Fault::malformed(property, "empty")),
    })?;
    Ok(found.is_some())
}

/// The value of a property that must be there.
fn required<'t, T>(
    node: Node<'t>,
    name: &'static str,
    read: impl Fn(Property<'t>) -> Result<T, Fault>,
) -> Result<T, BundleError> {
    optional(node, name, read)?.ok_or_else(|| BundleError::new(node, Fault::Absent(name)))
}

/// The value of a property that may be absent.
fn optional<'t, T>(
    node: Node<'t>,
    name: &'static str,
    read: impl Fn(Property<'t>) -> Result<T, Fault>,
) -> Result<Option<T>, BundleError> {
    let value = node.property(name).map(read).transpose();
    value.map_err(|fault| BundleError::new(node, fault))
}

fn u32_value(property: Property<'_>) -> Result<u32, Fault> {
    property.u32().map_err(|_| Fault::malformed(property, "one number of 4 bytes"))
}

fn u64_value(property: Property<'_>) -> Result<u64, Fault> {
    property.u64().map_err(|_| Fault::malformed(property, "one number of 4 or 8 bytes"))
}

fn text_value<'t>(property: Property<'t>) -> Result<&'t str, Fault> {
    // A NUL inside would hide the rest from one reader and not from another.
    let text = property.str().ok();
    let text = text.filter(|text| property.value().len().checked_sub(1) == Some(text.len()));
    text.ok_or_else(|| Fault::malformed(property, "one text that ends with NUL"))
}

fn cells_value(property: Property<'_>) -> Result<Vec<u32>, Fault> {
    match property.value().len().is_multiple_of(4) {
        true => Ok(property.cells().collect()),
        false => Err(Fault::malformed(property, "numbers of 4 bytes")),
    }
}

/// A child of the root that must be there.
fn top_node<'t>(tree: &'t Tree, name: &'static str) -> Result<Node<'t>, BundleError> {
    let found = tree.root().children().find(|node| node.name() == name);
    found.ok_or_else(|| BundleError::new(tree.root(), Fault::NoNode(name)))
}
