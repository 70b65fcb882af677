//! Untrusted device-tree blobs, validated and rewritten once.
//!
//! [`Tree::from_blob`] reads a blob in one pass without recursion, checks every offset, drops what carries no meaning
//! (NOP tokens, padding), and keeps a clean copy beside an index of its nodes. Every look-up works on those two and
//! cannot panic, recurse or loop; a single call takes time linear in the size of the tree at most.
//!
//! Memory: the clean copy is never larger than the blob, and the index takes [`INDEX_BYTES_PER_NODE`] bytes a node plus
//! 8 a phandle. A typical 64 KiB tree (700 nodes, 250 phandles) needs about 90 KiB. The limits [`MAX_BLOB_BYTES`],
//! [`MAX_NODES`] and [`MAX_DEPTH`] keep the worst case below 4 MiB; where the heap has less, the answer is
//! [`TreeError::OutOfMemory`] and not an abort.
//!
//! The clean copy is a valid blob of version 17 and can be handed to other readers, such as the `fdt` crate
//! ([`Tree::fdt`]), which must not see the original: NOP tokens, deep nesting, aliases of aliases and malformed cell
//! counts are what they trip over.

mod blob;
mod error;
mod index;
mod interrupt;
mod node;
mod property;
#[cfg(test)]
pub(crate) mod test_blob;
#[cfg(test)]
mod tests;

pub use error::{PropertyError, TreeError};
pub use interrupt::{Cells, InterruptSpecifier, Interrupts, MAX_INTERRUPT_CELLS};
pub use node::{Children, Node, NodePath, Nodes, Regs};
pub use property::{Properties, Property, Strings};

use crate::Region;
use alloc::vec::Vec;
use index::{NodeIndex, Record};

/// Largest accepted blob, in bytes. The largest tree in Linux is a tenth of that.
pub const MAX_BLOB_BYTES: usize = 2 << 20;
/// Deepest accepted nesting; the root has depth 1. The deepest tree in Linux has 12 levels.
pub const MAX_DEPTH: usize = 32;
/// Largest accepted number of nodes. The largest tree in Linux has about 1,100.
pub const MAX_NODES: usize = 16384;
/// What the index takes for a node, in bytes.
pub const INDEX_BYTES_PER_NODE: usize = size_of::<Record>();

/// A validated device tree that owns its memory.
#[derive(Clone)]
pub struct Tree {
    /// The clean blob.
    blob: Vec<u8>,
    /// Where its strings block starts; it runs to the end.
    strings: u32,
    /// The nodes in document order; the first is the root.
    records: Vec<Record>,
    /// Pairs of phandle and node, sorted by phandle.
    phandles: Vec<(u32, NodeIndex)>,
    /// The header's memory reservation block.
    reservations: Vec<Region>,
}

impl Tree {
    /// Reads a device-tree blob. `blob` may be longer than the tree, such as the rest of memory.
    ///
    /// # Errors
    /// A [`TreeError`] that names the place and the fault if the blob isn't a device tree of version 17, is damaged, or
    /// exceeds a limit of this module.
    pub fn from_blob(blob: &[u8]) -> Result<Self, TreeError> {
        index::build(blob)
    }

    /// The clean blob: version 17, no NOP tokens, no padding.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The clean blob as seen by the `fdt` crate. Use only its generic functions (`all_nodes`, `properties`,
    /// `find_node`, `find_compatible`, `find_phandle`, `reg`, `compatible`, `memory_reservations`): its helpers for
    /// standard nodes panic where the node is absent.
    ///
    /// # Errors
    /// None for a tree that [`Tree::from_blob`] has made; the crate's own check of the header is passed on.
    pub fn fdt(&self) -> Result<fdt::Fdt<'_>, fdt::FdtError> {
        fdt::Fdt::new(&self.blob)
    }

    /// The root node.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        Node::new(self, NodeIndex::ROOT)
    }

    /// All nodes in document order, parents before children.
    #[must_use]
    pub fn nodes(&self) -> Nodes<'_> {
        Nodes::new(self, NodeIndex::ROOT, self.end_of_nodes())
    }

    /// The node at an absolute path. A path element without unit address also finds the first node of that name with
    /// one, as in `/memory`.
    #[must_use]
    pub fn node(&self, path: &str) -> Option<Node<'_>> {
        path.strip_prefix('/')?
            .split('/')
            .filter(|element| !element.is_empty())
            .try_fold(self.root(), |node, element| node.child(element))
    }

    /// The node that `phandle` names.
    #[must_use]
    pub fn by_phandle(&self, phandle: u32) -> Option<Node<'_>> {
        let position = self.phandles.binary_search_by_key(&phandle, |&(key, _)| key).ok()?;
        self.phandles.get(position).map(|&(_, index)| Node::new(self, index))
    }

    /// The node that an alias of `/aliases` names.
    #[must_use]
    pub fn alias(&self, name: &str) -> Option<Node<'_>> {
        self.node(self.node("/aliases")?.property(name)?.str().ok()?)
    }

    /// The node that a reference such as `stdout-path` names, a path or an alias, and the options after its colon
    /// (`serial1:115200n8`).
    #[must_use]
    pub fn resolve<'t>(&'t self, reference: &'t str) -> Option<(Node<'t>, Option<&'t str>)> {
        let (target, options) = match reference.split_once(':') {
            Some((target, options)) => (target, Some(options)),
            None => (reference, None),
        };
        let node = if target.starts_with('/') { self.node(target) } else { self.alias(target) };
        node.map(|node| (node, options))
    }

    /// All enabled nodes whose `compatible` names one of `names`, in document order. A node counts as disabled if one
    /// above it is.
    pub fn compatible<'t>(&'t self, names: &'t [&str]) -> impl Iterator<Item = Node<'t>> + 't {
        self.nodes().filter(move |node| {
            names.iter().any(|name| node.is_compatible(name)) && node.is_reachable()
        })
    }

    /// The memory reservation block of the header: ranges that nobody may use. (The blob's own place isn't included.)
    #[must_use]
    pub fn reservations(&self) -> &[Region] {
        &self.reservations
    }

    fn end_of_nodes(&self) -> NodeIndex {
        NodeIndex::from_position(self.records.len())
    }

    fn record(&self, index: NodeIndex) -> Option<&Record> {
        self.records.get(index.position())
    }
}

impl core::fmt::Debug for Tree {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tree")
            .field("bytes", &self.blob.len())
            .field("nodes", &self.records.len())
            .finish_non_exhaustive()
    }
}
