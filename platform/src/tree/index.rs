//! One pass over an untrusted blob: checks it, writes the clean copy and the index.

use super::blob::{self, Blocks, RESERVATION_BYTES, Token, Tokens};
use super::{MAX_DEPTH, MAX_NODES, PropertyError, Tree, TreeError};
use crate::{PhysicalAddress, Region};
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

/// Longest accepted name of a node or property, in bytes. The specification says 31, real trees have 46; the limit
/// bounds the time that a look-up by name takes.
pub(super) const MAX_NAME_BYTES: usize = 255;
/// Cells of an address where `#address-cells` is absent (Devicetree Specification 0.4, 2.3.5).
const DEFAULT_ADDRESS_CELLS: u8 = 2;
/// Cells of a size where `#size-cells` is absent.
const DEFAULT_SIZE_CELLS: u8 = 1;

/// The position of a node in document order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeIndex(u32);

impl NodeIndex {
    pub(super) const ROOT: Self = Self(0);

    pub(super) fn from_position(position: usize) -> Self {
        // Never saturates: positions are at most MAX_NODES.
        Self(u32::try_from(position).unwrap_or(u32::MAX))
    }

    pub(super) fn position(self) -> usize {
        self.0 as usize
    }

    pub(super) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What is remembered of a node. Its descendants are the records after it up to `end`.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Offset of the name in the clean blob.
    pub(super) name: u32,
    /// Offset of the first property in the clean blob.
    pub(super) properties: u32,
    /// The root is its own parent.
    pub(super) parent: NodeIndex,
    /// The node after the last descendant.
    pub(super) end: NodeIndex,
    /// The node's own `interrupt-parent`.
    pub(super) interrupt_parent: Option<u32>,
    /// Cells of an interrupt specifier, if the node is a controller or nexus.
    pub(super) interrupt_cells: Option<u8>,
    /// Cells of the addresses of the node's children.
    pub(super) address_cells: u8,
    /// The same for the parents of interrupts, which have none where nothing is said.
    pub(super) interrupt_address_cells: u8,
    /// Cells of the sizes of the node's children.
    pub(super) size_cells: u8,
    /// Whether the `status` of this node and of all above it allows its use.
    pub(super) enabled: bool,
}

/// Whether `status` says that a device may be used (Devicetree Specification 0.4, 2.3.4; "ok" is an old spelling).
pub(super) fn is_enabled_status(value: &[u8]) -> bool {
    matches!(value, b"okay\0" | b"ok\0")
}

/// What the first pass has counted.
#[derive(Default)]
struct Census {
    nodes: usize,
    phandles: usize,
    structure_bytes: usize,
}

/// The tree of an untrusted blob.
pub(super) fn build(bytes: &[u8]) -> Result<Tree, TreeError> {
    let blocks = Blocks::of(bytes)?;
    let reservations = read_reservations(blocks.reservations)?;
    // The first pass finds all faults and how much memory there must be; the second can allocate exactly that.
    let mut counter = Builder::new(&blocks, Counter::default());
    counter.run()?;
    let census = counter.sink.0;
    let reservation_bytes = reservations.len().saturating_add(1).saturating_mul(RESERVATION_BYTES);
    let out_of_memory = |bytes| TreeError::OutOfMemory { bytes };
    let header = blob::header(reservation_bytes, census.structure_bytes, blocks.strings.len())
        .ok_or(out_of_memory(usize::MAX))?;
    let structure_start = header.len().saturating_add(reservation_bytes);
    let strings_start = structure_start.saturating_add(census.structure_bytes);
    let total = strings_start.saturating_add(blocks.strings.len());

    let mut blob = exact_capacity(total)?;
    blob.extend_from_slice(&header);
    for region in &reservations {
        blob.extend_from_slice(&region.base().get().to_be_bytes());
        blob.extend_from_slice(&region.size().to_be_bytes());
    }
    blob.extend_from_slice(&[0; RESERVATION_BYTES]);
    let writer = Writer {
        blob,
        records: exact_capacity(census.nodes)?,
        phandles: exact_capacity(census.phandles)?,
    };
    let mut builder = Builder::new(&blocks, writer);
    builder.run()?;
    let Writer { mut blob, records, mut phandles } = builder.sink;
    blob.extend_from_slice(blocks.strings);
    phandles.sort_unstable();
    let strings = u32::try_from(strings_start).map_err(|_| out_of_memory(total))?;
    Ok(Tree { blob, strings, records, phandles, reservations })
}

/// An empty vector with room for exactly `count` elements.
fn exact_capacity<T>(count: usize) -> Result<Vec<T>, TreeError> {
    let mut vector = Vec::new();
    vector
        .try_reserve_exact(count)
        .map_err(|_| TreeError::OutOfMemory { bytes: count.saturating_mul(size_of::<T>()) })?;
    Ok(vector)
}

/// Reads the reservation block up to its end mark, an entry of two zeros.
fn read_reservations(block: &[u8]) -> Result<Vec<Region>, TreeError> {
    let mut reservations = Vec::new();
    for (entry, bytes) in block.chunks(RESERVATION_BYTES).enumerate() {
        let fault = TreeError::Reservation { entry };
        let (Some(base), Some(size)) = (blob::double_word(bytes, 0), blob::double_word(bytes, 8))
        else {
            return Err(fault);
        };
        if size == 0 {
            if base == 0 {
                return Ok(reservations);
            }
            continue;
        }
        let region = Region::new(PhysicalAddress::new(base), size).ok_or(fault)?;
        reservations.try_reserve(1).map_err(|_| TreeError::OutOfMemory { bytes: block.len() })?;
        reservations.push(region);
    }
    Err(TreeError::Reservation { entry: block.len().checked_div(RESERVATION_BYTES).unwrap_or(0) })
}

/// Where the pass puts what it finds.
trait Sink {
    fn begin_node(&mut self, name: &[u8], parent: Option<NodeIndex>, enabled: bool) -> NodeIndex;
    fn end_node(&mut self, node: NodeIndex);
    fn property(&mut self, name: u32, value: &[u8]);
    fn end(&mut self);
    /// Gives the record of an open node to `change`.
    fn change(&mut self, node: NodeIndex, change: impl FnOnce(&mut Record));
    fn phandle(&mut self, phandle: u32, node: NodeIndex);
}

#[derive(Default)]
struct Counter(Census);

impl Counter {
    fn add(&mut self, words: usize, bytes: usize) {
        let bytes = words.saturating_mul(4).saturating_add(bytes.next_multiple_of(4));
        self.0.structure_bytes = self.0.structure_bytes.saturating_add(bytes);
    }
}

impl Sink for Counter {
    fn begin_node(&mut self, name: &[u8], _parent: Option<NodeIndex>, _enabled: bool) -> NodeIndex {
        self.add(1, name.len().saturating_add(1));
        let index = NodeIndex::from_position(self.0.nodes);
        self.0.nodes = self.0.nodes.saturating_add(1);
        index
    }

    fn end_node(&mut self, _node: NodeIndex) {
        self.add(1, 0);
    }

    fn property(&mut self, _name: u32, value: &[u8]) {
        self.add(3, value.len());
    }

    fn end(&mut self) {
        self.add(1, 0);
    }

    fn change(&mut self, _node: NodeIndex, _change: impl FnOnce(&mut Record)) {}

    fn phandle(&mut self, _phandle: u32, _node: NodeIndex) {
        self.0.phandles = self.0.phandles.saturating_add(1);
    }
}

/// Appends to vectors whose capacity the first pass has found.
struct Writer {
    blob: Vec<u8>,
    records: Vec<Record>,
    phandles: Vec<(u32, NodeIndex)>,
}

impl Writer {
    fn word(&mut self, word: u32) {
        self.blob.extend_from_slice(&word.to_be_bytes());
    }

    fn align(&mut self) {
        self.blob.resize(self.blob.len().next_multiple_of(4), 0);
    }

    fn offset(&self) -> u32 {
        // Never saturates: MAX_BLOB_BYTES bounds the blob.
        u32::try_from(self.blob.len()).unwrap_or(u32::MAX)
    }
}

impl Sink for Writer {
    fn begin_node(&mut self, name: &[u8], parent: Option<NodeIndex>, enabled: bool) -> NodeIndex {
        let index = NodeIndex::from_position(self.records.len());
        self.word(blob::BEGIN_NODE);
        let name_offset = self.offset();
        self.blob.extend_from_slice(name);
        self.blob.push(0);
        self.align();
        self.records.push(Record {
            name: name_offset,
            properties: self.offset(),
            parent: parent.unwrap_or(index),
            end: index.next(),
            interrupt_parent: None,
            interrupt_cells: None,
            address_cells: DEFAULT_ADDRESS_CELLS,
            interrupt_address_cells: 0,
            size_cells: DEFAULT_SIZE_CELLS,
            enabled,
        });
        index
    }

    fn end_node(&mut self, node: NodeIndex) {
        self.word(blob::END_NODE);
        let end = NodeIndex::from_position(self.records.len());
        self.change(node, |record| record.end = end);
    }

    fn property(&mut self, name: u32, value: &[u8]) {
        self.word(blob::PROPERTY);
        self.word(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.word(name);
        self.blob.extend_from_slice(value);
        self.align();
    }

    fn end(&mut self) {
        self.word(blob::END);
    }

    fn change(&mut self, node: NodeIndex, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.records.get_mut(node.position()) {
            change(record);
        }
    }

    fn phandle(&mut self, phandle: u32, node: NodeIndex) {
        self.phandles.push((phandle, node));
    }
}

/// A node whose end hasn't come yet.
struct Open<'a> {
    index: NodeIndex,
    name: &'a [u8],
    has_children: bool,
    enabled: bool,
}

/// The pass itself.
struct Builder<'a, S> {
    tokens: Tokens<'a>,
    blocks: &'a Blocks<'a>,
    open: Vec<Open<'a>>,
    nodes: usize,
    sink: S,
}

impl<'a, S: Sink> Builder<'a, S> {
    fn new(blocks: &'a Blocks<'a>, sink: S) -> Self {
        Self { tokens: Tokens::new(blocks.structure, 0), blocks, open: Vec::new(), nodes: 0, sink }
    }

    fn run(&mut self) -> Result<(), TreeError> {
        loop {
            let offset = self.tokens.offset();
            let token = self.tokens.next().map_err(|fault| self.fault(offset, fault))?;
            match token {
                Token::BeginNode { name } => self.begin_node(name, offset)?,
                Token::Property { name, value } => self.property(name, value, offset)?,
                Token::EndNode => {
                    let node = self
                        .open
                        .pop()
                        .ok_or_else(|| self.fault(offset, "a node ends that hasn't begun"))?;
                    self.sink.end_node(node.index);
                }
                Token::End if self.open.is_empty() && self.nodes > 0 => {
                    self.sink.end();
                    return Ok(());
                }
                Token::End => return Err(self.fault(offset, "the tree ends inside of a node")),
            }
        }
    }

    fn begin_node(&mut self, name: &'a [u8], offset: usize) -> Result<(), TreeError> {
        match (self.nodes, self.open.len()) {
            (0, _) if name.is_empty() => {}
            (0, _) => return Err(self.fault(offset, "the root has a name")),
            (_, 0) => return Err(self.fault(offset, "there is a second root")),
            _ if !is_name(name) => return Err(self.fault(offset, "this is no name for a node")),
            _ => {}
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(TreeError::TooDeep { node: self.path() });
        }
        if self.nodes >= MAX_NODES {
            return Err(TreeError::TooManyNodes);
        }
        self.nodes = self.nodes.saturating_add(1);
        let (parent, enabled) = match self.open.last_mut() {
            Some(parent) => {
                parent.has_children = true;
                (Some(parent.index), parent.enabled)
            }
            None => (None, true),
        };
        let index = self.sink.begin_node(name, parent, enabled);
        self.open.push(Open { index, name, has_children: false, enabled });
        Ok(())
    }

    fn property(
        &mut self,
        name_offset: u32,
        value: &'a [u8],
        offset: usize,
    ) -> Result<(), TreeError> {
        let Some(node) = self.open.last() else {
            return Err(self.fault(offset, "a property outside of any node"));
        };
        if node.has_children {
            return Err(self.fault(offset, "a property after a child node"));
        }
        let index = node.index;
        let strings = self.blocks.strings.get(name_offset as usize..).unwrap_or_default();
        let strings =
            strings.get(..strings.len().min(MAX_NAME_BYTES.saturating_add(1))).unwrap_or_default();
        let name = blob::string(strings, 0)
            .filter(|name| is_name(name))
            .ok_or_else(|| self.fault(offset, "the property has no valid name"))?;
        // An alias is a full path (Devicetree Specification 0.4, 3.3). Any other makes readers that resolve aliases
        // recursively run in circles.
        if self.is_aliases() && !value.starts_with(b"/") {
            return Ok(());
        }
        self.sink.property(name_offset, value);
        let number = || blob::word(value, 0).filter(|_| value.len() == 4);
        let cells = |name: &str| {
            number().and_then(|cells| u8::try_from(cells).ok()).ok_or_else(|| PropertyError {
                node: self.path(),
                property: name.to_owned(),
                fault: "the value isn't one small number of 4 bytes",
            })
        };
        match name {
            b"#address-cells" => {
                let cells = cells("#address-cells")?;
                self.sink.change(index, |record| {
                    record.address_cells = cells;
                    record.interrupt_address_cells = cells;
                });
            }
            b"#size-cells" => {
                let cells = cells("#size-cells")?;
                self.sink.change(index, |record| record.size_cells = cells);
            }
            b"#interrupt-cells" => {
                let cells = cells("#interrupt-cells")?;
                self.sink.change(index, |record| record.interrupt_cells = Some(cells));
            }
            b"interrupt-parent" => {
                self.sink.change(index, |record| record.interrupt_parent = number());
            }
            b"phandle" | b"linux,phandle" => {
                if let Some(phandle) = number() {
                    self.sink.phandle(phandle, index);
                }
            }
            b"status" => {
                if let Some(node) = self.open.last_mut()
                    && !is_enabled_status(value)
                {
                    node.enabled = false;
                    self.sink.change(index, |record| record.enabled = false);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the innermost open node is `/aliases`, as readers that ignore unit addresses see it.
    fn is_aliases(&self) -> bool {
        self.open.len() == 2
            && self
                .open
                .last()
                .is_some_and(|node| node.name.split(|&c| c == b'@').next() == Some(b"aliases"))
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for node in self.open.iter().skip(1) {
            path.push('/');
            // Names of open nodes have been checked to be ASCII.
            path.extend(node.name.iter().map(|&byte| char::from(byte)));
        }
        if path.is_empty() {
            path.push('/');
        }
        path
    }

    fn fault(&self, offset: usize, fault: &'static str) -> TreeError {
        TreeError::Structure {
            node: self.path(),
            offset: self.blocks.structure_offset.saturating_add(offset),
            fault,
        }
    }
}

/// Whether `name` can be the name of a node or property: printable, and no part of a path. The specification allows
/// fewer characters, but real trees use more.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'/')
}
