//! What can be wrong with a device tree.

use super::{MAX_BLOB_BYTES, MAX_DEPTH, MAX_NODES};
use alloc::string::String;

/// Why a blob isn't accepted as a device tree. Offsets count bytes from the start of the blob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// Fewer bytes than a header has.
    #[error("device tree: {bytes} bytes are too short for a header; is the file truncated?")]
    TooShort {
        /// What there is.
        bytes: usize,
    },
    /// The first word isn't 0xd00dfeed.
    #[error(
        "device tree: the magic number is {found:#010x} instead of 0xd00dfeed; this is no device-tree blob"
    )]
    Magic {
        /// The first word.
        found: u32,
    },
    /// A version that isn't compatible with 17.
    #[error(
        "device tree: version {version} (compatible back to {compatible}) isn't supported; write version 17, as dtc does"
    )]
    Version {
        /// The header's `version`.
        version: u32,
        /// The header's `last_comp_version`.
        compatible: u32,
    },
    /// Larger than [`MAX_BLOB_BYTES`].
    #[error(
        "device tree: {bytes} bytes exceed the limit of {MAX_BLOB_BYTES}; keep images outside of the tree (mkimage -E)"
    )]
    TooLarge {
        /// The header's `totalsize`.
        bytes: usize,
    },
    /// The header promises more bytes than there are.
    #[error(
        "device tree: the header says {promised} bytes, but there are {bytes}; is the file truncated?"
    )]
    Truncated {
        /// The header's `totalsize`.
        promised: usize,
        /// What there is.
        bytes: usize,
    },
    /// A block lies outside of the blob, or isn't aligned.
    #[error(
        "device tree: the {block} at offset {offset:#x} isn't aligned or isn't inside the blob"
    )]
    Block {
        /// Which block.
        block: &'static str,
        /// Where the header places it.
        offset: u32,
    },
    /// A reservation that wraps, or a list of them without end mark.
    #[error("device tree: memory reservation {entry} is beyond the blob or the address space")]
    Reservation {
        /// Its position in the list.
        entry: usize,
    },
    /// The structure block is damaged.
    #[error("device tree: {node}: at offset {offset:#x}: {fault}")]
    Structure {
        /// Path of the innermost node at that place.
        node: String,
        /// Where.
        offset: usize,
        /// What.
        fault: &'static str,
    },
    /// More than [`MAX_DEPTH`] levels.
    #[error("device tree: {node}: nested deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// Path of the last accepted node.
        node: String,
    },
    /// More than [`MAX_NODES`] nodes.
    #[error("device tree: more than {MAX_NODES} nodes")]
    TooManyNodes,
    /// The heap can't hold the tree.
    #[error("device tree: no memory for {bytes} bytes of it")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// A property that shapes the reading of others is malformed.
    #[error(transparent)]
    Property(#[from] PropertyError),
}

/// A property whose value can't be what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device tree: {node}: property {property:?}: {fault}")]
pub struct PropertyError {
    /// Path of the node.
    pub node: String,
    /// Name of the property.
    pub property: String,
    /// What is wrong with the value.
    pub fault: &'static str,
}
