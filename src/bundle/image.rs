//! `/images`: the payloads and where they are.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;

use platform::tree::{Node, Tree};

use super::{BundleError, Fault, optional, required, text_value, top_node, u32_value, u64_value};
use crate::config::{Payload, RawPlacement};

/// Length of a SHA-256 digest in bytes.
const DIGEST: usize = 32;

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A kernel that says itself where it goes.
    Kernel,
    /// A raw binary.
    Standalone(RawPlacement),
    /// An initial RAM disk.
    RamDisk,
    /// Blocks of a disk.
    FileSystem,
}

/// One node below `/images`.
pub(super) struct Image<'t> {
    pub(super) node: Node<'t>,
    pub(super) kind: Kind,
    pub(super) payload: Payload,
    /// Offset of the first byte behind the data.
    pub(super) end: usize,
    pub(super) digest: [u8; DIGEST],
}

impl<'t> Image<'t> {
    fn read(node: Node<'t>, tree_size: usize) -> Result<Self, BundleError> {
        let fail = |fault| BundleError::new(node, fault);
        let kind = match required(node, "type", text_value)? {
            "kernel" => Kind::Kernel,
            "ramdisk" => Kind::RamDisk,
            "filesystem" => Kind::FileSystem,
            "standalone" => Kind::Standalone(RawPlacement {
                load: required(node, "load", u64_value)?,
                entry: required(node, "entry", u64_value)?,
            }),
            other => {
                let expected = "kernel, standalone, ramdisk or filesystem";
                return Err(fail(Fault::Word { property: "type", value: other.into(), expected }));
            }
        };
        match optional(node, "compression", text_value)? {
            None | Some("none") => {}
            Some(other) => {
                let (property, value) = ("compression", other.into());
                return Err(fail(Fault::Word { property, value, expected: "none" }));
            }
        }

        let position = optional(node, "data-position", u32_value)?;
        // Counted from the end of the tree, rounded up to a whole word.
        let offset = optional(node, "data-offset", u32_value)?;
        let start = match (position, offset) {
            (Some(position), None) => Some(position as usize),
            (None, Some(offset)) => {
                tree_size.checked_next_multiple_of(4).and_then(|at| at.checked_add(offset as usize))
            }
            (Some(_), Some(_)) => {
                return Err(fail(Fault::Place("both data-position and data-offset")));
            }
            (None, None) => return Err(fail(Fault::Absent("data-position"))),
        };
        let size = required(node, "data-size", u32_value)? as usize;
        let range = start.and_then(|start| Some((start, start.checked_add(size)?)));
        let (start, end) =
            range.ok_or_else(|| fail(Fault::Place("the end of the address space")))?;
        if size == 0 {
            return Err(fail(Fault::Place("an empty range")));
        }
        if start < tree_size {
            return Err(fail(Fault::Place("the inside of the tree")));
        }
        let payload = Payload { offset: start, size };
        Ok(Image { node, kind, payload, end, digest: digest(node)? })
    }

    /// The bytes; empty unless the place has been checked.
    pub(super) fn data<'b>(&self, blob: &'b [u8]) -> &'b [u8] {
        blob.get(self.payload.offset..self.end).unwrap_or_default()
    }
}

/// The digest in the first `hash` node of an image (FIT specification, "Hash nodes").
fn digest(image: Node<'_>) -> Result<[u8; DIGEST], BundleError> {
    for node in image.children().filter(|node| node.name().starts_with("hash")) {
        let algorithm = required(node, "algo", text_value)?;
        if algorithm == "sha256" {
            return required(node, "value", |property| {
                let value = property.value().try_into();
                value.map_err(|_| Fault::malformed(property, "a digest of 32 bytes"))
            });
        }
    }
    Err(BundleError::new(image, Fault::NoDigest))
}

/// All images, in the order of the tree.
pub(super) struct Images<'t> {
    list: Vec<Image<'t>>,
    by_name: BTreeMap<&'t str, usize>,
}

impl<'t> Images<'t> {
    /// Reads `/images` of a tree of `tree_size` bytes.
    pub(super) fn read(tree: &'t Tree, tree_size: usize) -> Result<Self, BundleError> {
        let mut images = Images { list: Vec::new(), by_name: BTreeMap::new() };
        for node in top_node(tree, "images")?.children() {
            if images.by_name.insert(node.name(), images.list.len()).is_some() {
                return Err(BundleError::new(node, Fault::Duplicate));
            }
            images.list.push(Image::read(node, tree_size)?);
        }
        Ok(images)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Image<'t>> {
        self.list.iter()
    }

    /// The image that `property` of `node` names.
    pub(super) fn find(
        &self,
        node: Node<'_>,
        property: &'static str,
        name: &str,
    ) -> Result<&Image<'t>, BundleError> {
        self.by_name.get(name).and_then(|index| self.list.get(*index)).ok_or_else(|| {
            BundleError::new(node, Fault::NoImage { property, image: name.to_owned() })
        })
    }

    /// Checks that all data lies inside of a bundle of `size` bytes and none over another's.
    pub(super) fn check_places(&self, size: usize) -> Result<(), BundleError> {
        if let Some(image) = self.list.iter().find(|image| image.end > size) {
            return Err(BundleError::new(image.node, Fault::Outside { end: image.end, size }));
        }
        let mut sorted: Vec<_> = self.list.iter().collect();
        sorted.sort_unstable_by_key(|image| image.payload.offset);
        let pairs = sorted.iter().zip(sorted.iter().skip(1));
        for (first, second) in pairs {
            if second.payload.offset < first.end {
                let other = first.node.path().to_string();
                return Err(BundleError::new(second.node, Fault::Overlap(other)));
            }
        }
        Ok(())
    }
}
