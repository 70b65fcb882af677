//! What can be wrong with a bundle.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};

use platform::tree::{Node, Property, TreeError};

use super::{MAX_DEVICES, MAX_NAME, MAX_VMS, VERSION};

/// Why a bundle is refused: one line that names the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bundle: {node}: {fault}")]
pub struct BundleError {
    /// Path of the node at fault.
    pub node: String,
    /// What is wrong with it.
    pub fault: Fault,
}

impl BundleError {
    pub(super) fn new(node: Node<'_>, fault: Fault) -> Self {
        BundleError { node: node.path().to_string(), fault }
    }
}

/// What is wrong with a node of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No valid device tree.
    #[error(transparent)]
    Tree(TreeError),
    /// Written by another version of the tool.
    #[error("format version {0}, but this image reads version {VERSION}; pack the bundle again")]
    Version(u32),
    /// A node of this name must exist below.
    #[error("node {0} is absent; pack the bundle again")]
    NoNode(&'static str),
    /// A property of this name must exist.
    #[error("property {0} is absent")]
    Absent(&'static str),
    /// A property's value has another form.
    #[error("property {property} is not {expected}")]
    Malformed {
        /// Name of the property.
        property: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A number that nothing can do with.
    #[error("property {property} is {value}, not {expected}")]
    Value {
        /// Name of the property.
        property: &'static str,
        /// What it is.
        value: u64,
        /// What it should be.
        expected: &'static str,
    },
    /// A property that a newer tool may have written.
    #[error("property {0} is not known; use an image as new as the tool that packed the bundle")]
    UnknownProperty(String),
    /// A text that is none of the known ones.
    #[error("property {property} is {value:?}, not {expected}")]
    Word {
        /// Name of the property.
        property: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A reference to an image that is not there.
    #[error("property {property} names {image:?}, but /images has no such node")]
    NoImage {
        /// Name of the property.
        property: &'static str,
        /// What it names.
        image: String,
    },
    /// A name that stands for two things.
    #[error("another node has that name")]
    Duplicate,
    /// A virtual machine's name.
    #[error("a virtual machine's name has 1 to {MAX_NAME} characters of a-z, 0-9, - and _")]
    Name,
    /// No virtual machine, or more than the hypervisor keeps.
    #[error("{0} virtual machines, not 1 to {MAX_VMS}")]
    VmCount(usize),
    /// The payloads alone fill the virtual machine's memory.
    #[error(
        "kernel and RAM disk have {payload} bytes, but the virtual machine has {memory}; give it more memory"
    )]
    MemoryTooSmall {
        /// Bytes of payload.
        payload: u64,
        /// Bytes of memory.
        memory: u64,
    },
    /// A disk with no source or with two.
    #[error(
        "a disk is either in memory (image, bunshin,size) or of the host (bunshin,host-disk, \
         bunshin,partition); pack the bundle again"
    )]
    DiskSource,
    /// Ranges of an image that can't be.
    #[error(
        "the ranges of the image do not ascend, do not fill its data, or leave the disk; pack the \
         bundle again"
    )]
    Extents,
    /// A hole in the numbers of devices.
    #[error("devices are numbered in order, and the next one is {0}")]
    Numbering(String),
    /// An address that no device has.
    #[error("property bunshin,mac is no address of one device; clear bit 0 of its first byte")]
    Mac,
    /// Two network ports with one address.
    #[error("{0} has the same MAC address; give each port its own")]
    MacTaken(String),
    /// A disk that two would write to.
    #[error("{0} has the same host disk or partition; share it only if all are read_only")]
    DiskTaken(String),
    /// A device that two would use.
    #[error("{0} has the same device of the host")]
    DeviceTaken(String),
    /// A network device that two would use.
    #[error("{0} has the same network device of the host")]
    Taken(&'static str),
    /// More virtual devices than a virtual machine has places for.
    #[error("{0} disks and network ports, but a virtual machine has at most {MAX_DEVICES}")]
    TooManyDevices(usize),
    /// Data that is not in the bundle.
    #[error("data ends at byte {end}, but the bundle has {size}; it was cut short, copy it again")]
    Outside {
        /// First byte behind the data.
        end: usize,
        /// Length of the bundle.
        size: usize,
    },
    /// Data whose place or length can't be.
    #[error("{0} is no place for data; pack the bundle again")]
    Place(&'static str),
    /// Two images claim the same bytes.
    #[error("data lies over that of {0}; pack the bundle again")]
    Overlap(String),
    /// No digest of a known kind.
    #[error("no sha256 digest; pack the bundle again")]
    NoDigest,
    /// The data is not what was packed.
    #[error("sha256 mismatch; pack the bundle again")]
    Mismatch,
}

impl Fault {
    pub(super) fn malformed(property: Property<'_>, expected: &'static str) -> Self {
        Fault::Malformed { property: property.name().to_owned(), expected }
    }
}
