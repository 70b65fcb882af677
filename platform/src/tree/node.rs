//! A node of a validated tree and what its neighbours say about it.

use super::index::{NodeIndex, is_enabled_status};
use super::{Interrupts, Properties, Property, PropertyError, Strings, Tree, blob};
use crate::{PhysicalAddress, Region};
use core::fmt;

/// A node. Copies are cheap.
#[derive(Clone, Copy)]
pub struct Node<'t> {
    tree: &'t Tree,
    index: NodeIndex,
}

impl PartialEq for Node<'_> {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.tree, other.tree) && self.index == other.index
    }
}

impl Eq for Node<'_> {}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().fmt(f)
    }
}

impl<'t> Node<'t> {
    pub(super) fn new(tree: &'t Tree, index: NodeIndex) -> Self {
        Self { tree, index }
    }

    /// The tree that this is a node of.
    #[must_use]
    pub fn tree(&self) -> &'t Tree {
        self.tree
    }

    /// The name with the unit address, such as `pl011@9000000`; empty for the root.
    #[must_use]
    pub fn name(&self) -> &'t str {
        self.tree
            .record(self.index)
            .and_then(|record| blob::string(&self.tree.blob, record.name as usize))
            .and_then(|name| core::str::from_utf8(name).ok())
            .unwrap_or_default()
    }

    /// The name without the unit address.
    #[must_use]
    pub fn base_name(&self) -> &'t str {
        self.name().split('@').next().unwrap_or_default()
    }

    /// The full path, to be displayed.
    #[must_use]
    pub fn path(&self) -> NodePath<'t> {
        NodePath(*self)
    }

    /// The node above; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Node<'t>> {
        let parent = self.tree.record(self.index)?.parent;
        (parent != self.index).then_some(Self { tree: self.tree, index: parent })
    }

    /// The nodes directly below, in document order.
    #[must_use]
    pub fn children(&self) -> Children<'t> {
        let end = self.tree.record(self.index).map_or(self.index, |record| record.end);
        Children { tree: self.tree, next: self.index.next(), end }
    }

    /// All nodes below, parents before children.
    #[must_use]
    pub fn descendants(&self) -> Nodes<'t> {
        let end = self.tree.record(self.index).map_or(self.index, |record| record.end);
        Nodes { tree: self.tree, next: self.index.next(), end }
    }

    /// The child of that name. A name without unit address also finds the first child that has one.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<Node<'t>> {
        self.children().find(|child| child.name() == name).or_else(|| {
            (!name.contains('@'))
                .then(|| self.children().find(|child| child.base_name() == name))
                .flatten()
        })
    }

    /// The properties in document order.
    #[must_use]
    pub fn properties(&self) -> Properties<'t> {
        let blob = &self.tree.blob;
        let first =
            self.tree.record(self.index).map_or(blob.len(), |record| record.properties as usize);
        Properties::new(*self, blob, first, self.tree.strings as usize)
    }

    /// The property of that name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<Property<'t>> {
        self.properties().named(name)
    }

    /// The property of that name, as an error if there is none.
    ///
    /// # Errors
    /// If there is none.
    pub fn required(&self, name: &'static str) -> Result<Property<'t>, PropertyError> {
        self.property(name).ok_or_else(|| self.fault(name, "it is missing"))
    }

    /// An error about a property of this node.
    #[must_use]
    pub fn fault(&self, property: &str, fault: &'static str) -> PropertyError {
        use alloc::{borrow::ToOwned, string::ToString};
        PropertyError { node: self.path().to_string(), property: property.to_owned(), fault }
    }

    /// A 32-bit number; `None` if the property is absent or has another size.
    #[must_use]
    pub fn u32(&self, name: &str) -> Option<u32> {
        self.property(name)?.u32().ok()
    }

    /// A number of 32 or 64 bits; `None` if the property is absent or has another size.
    #[must_use]
    pub fn u64(&self, name: &str) -> Option<u64> {
        self.property(name)?.u64().ok()
    }

    /// A string; `None` if the property is absent or isn't one.
    #[must_use]
    pub fn str(&self, name: &str) -> Option<&'t str> {
        self.property(name)?.str().ok()
    }

    /// A list of strings; empty if the property is absent.
    #[must_use]
    pub fn strings(&self, name: &str) -> Strings<'t> {
        self.property(name).map_or_else(Strings::default, |property| property.strings())
    }

    /// The names of the programming models that the device follows, the most specific first.
    #[must_use]
    pub fn compatible(&self) -> Strings<'t> {
        self.strings("compatible")
    }

    /// Whether `compatible` names this model.
    #[must_use]
    pub fn is_compatible(&self, name: &str) -> bool {
        self.compatible().any(|compatible| compatible == name)
    }

    /// Whether `status` says that the device may be used. Nodes above aren't asked.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        // In a tree that has it twice, each must agree.
        let mut status = self.properties().filter(|property| property.name() == "status");
        status.all(|status| is_enabled_status(status.value()))
    }

    /// Whether this node and all above it may be used.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.tree.record(self.index).is_some_and(|record| record.enabled)
    }

    /// The number by which other nodes refer to this one.
    #[must_use]
    pub fn phandle(&self) -> Option<u32> {
        self.u32("phandle").or_else(|| self.u32("linux,phandle"))
    }

    /// The node that a property of one phandle names.
    #[must_use]
    pub fn reference(&self, name: &str) -> Option<Node<'t>> {
        self.tree.by_phandle(self.property(name)?.cells().next()?)
    }

    /// `#address-cells`: how many cells an address of this node's children has.
    #[must_use]
    pub fn address_cells(&self) -> usize {
        self.tree.record(self.index).map_or(0, |record| record.address_cells.into())
    }

    /// Cells of a unit address in an `interrupt-map` that names this node: none if it doesn't say, whatever the default is
    /// elsewhere (Devicetree Specification 0.4, 2.4.3.1).
    pub(super) fn interrupt_address_cells(&self) -> usize {
        self.tree.record(self.index).map_or(0, |record| record.interrupt_address_cells.into())
    }

    /// `#size-cells`: how many cells a size of this node's children has.
    #[must_use]
    pub fn size_cells(&self) -> usize {
        self.tree.record(self.index).map_or(0, |record| record.size_cells.into())
    }

    /// `#interrupt-cells`; `None` if the node is neither an interrupt controller nor a nexus.
    #[must_use]
    pub fn interrupt_cells(&self) -> Option<usize> {
        self.tree.record(self.index)?.interrupt_cells.map(usize::from)
    }

    /// The node's own `interrupt-parent`, not inherited.
    pub(super) fn own_interrupt_parent(&self) -> Option<u32> {
        self.tree.record(self.index)?.interrupt_parent
    }

    /// The interrupts that the device raises, from `interrupts-extended` or else `interrupts`.
    #[must_use]
    pub fn interrupts(&self) -> Interrupts<'t> {
        Interrupts::of(*self)
    }

    /// The ranges of `reg` as they stand, in the address space of the parent.
    ///
    /// # Errors
    /// If addresses or sizes have more than 2 cells or the value isn't a whole number of entries.
    pub fn reg(&self) -> Result<Regs<'t>, PropertyError> {
        let Some(reg) = self.property("reg") else { return Ok(Regs::default()) };
        let (address, size) = match self.parent() {
            Some(parent) => (parent.address_cells(), parent.size_cells()),
            None => return Err(reg.fault("the root has no address")),
        };
        if !matches!(address, 1 | 2) || size > 2 {
            return Err(reg.fault("addresses or sizes have more than 2 cells"));
        }
        let entry = address.saturating_add(size).saturating_mul(4);
        if reg.value().len().checked_rem(entry) != Some(0) {
            return Err(reg.fault("the value isn't a whole number of entries"));
        }
        Ok(Regs { rest: reg.value(), address, size })
    }

    /// Entry number `entry` of `reg` as the CPU sees it: translated by the `ranges` of every bus up to the root.
    ///
    /// # Errors
    /// If there is no such entry, it is empty or malformed, or a bus on the way doesn't map it.
    pub fn mapped_reg(&self, entry: usize) -> Result<Region, PropertyError> {
        let (base, size) = self
            .reg()?
            .nth(entry)
            .ok_or_else(|| self.fault("reg", "it has fewer entries than the device needs"))?;
        let base = self.to_cpu_address(base)?;
        Region::new(PhysicalAddress::new(base), size)
            .ok_or_else(|| self.fault("reg", "the range is empty or wraps"))
    }

    /// An address on the bus that the node sits on, translated by the `ranges` of every bus up to the root. An empty
    /// `ranges` is 1:1; without `ranges` a bus can't be reached (Devicetree Specification 0.4, 2.3.8).
    ///
    /// # Errors
    /// If a bus on the way doesn't map it.
    pub fn to_cpu_address(&self, address: u64) -> Result<u64, PropertyError> {
        let mut address = address;
        let mut bus = self.parent();
        // Each round goes one level up.
        while let Some(node) = bus {
            let Some(parent) = node.parent() else { break };
            let ranges = node.property("ranges").ok_or_else(|| {
                self.fault("reg", "a bus above doesn't map its children (no ranges)")
            })?;
            if !ranges.value().is_empty() {
                address = translate(&ranges, node, parent, address)?;
            }
            bus = Some(parent);
        }
        Ok(address)
    }

    /// Whether the device reaches all of `memory` by DMA at the addresses that the CPU uses: no bus above it translates
    /// them or leaves them out by its `dma-ranges` (Devicetree Specification 0.4, 2.3.9; absent or empty is 1:1).
    #[must_use]
    pub fn reaches_directly(&self, memory: Region) -> bool {
        let mut bus = self.parent();
        // Each round goes one level up.
        while let Some(node) = bus {
            let Some(parent) = node.parent() else { break };
            if let Some(ranges) = node.property("dma-ranges")
                && !ranges.value().is_empty()
                && !mappings(&ranges, node, parent)
                    .is_ok_and(|mut mappings| mappings.any(|mapping| mapping.keeps(memory)))
            {
                return false;
            }
            bus = Some(parent);
        }
        true
    }

    /// Whether what the device reads and writes by DMA is coherent with the caches of the CPUs, as the nearest node from
    /// this one up says.
    #[must_use]
    pub fn is_dma_coherent(&self) -> bool {
        let mut node = Some(*self);
        // Each round goes one level up.
        while let Some(here) = node {
            if here.property("dma-noncoherent").is_some() {
                return false;
            }
            if here.property("dma-coherent").is_some() {
                return true;
            }
            node = here.parent();
        }
        false
    }
}

/// Finds the entry of `ranges` that maps `address` of `bus` into the space of `parent`.
fn translate(
    ranges: &Property<'_>,
    bus: Node<'_>,
    parent: Node<'_>,
    address: u64,
) -> Result<u64, PropertyError> {
    mappings(ranges, bus, parent)?
        .find_map(|mapping| {
            let offset = address.checked_sub(mapping.child).filter(|it| *it < mapping.size)?;
            mapping.parent.checked_add(offset)
        })
        .ok_or_else(|| ranges.fault("no entry maps an address that a device below has"))
}

/// More entries than the `ranges` of any bus have; the limit bounds the time for a hostile tree.
const MAX_MAPPINGS: usize = 1024;

/// An entry of `ranges` or `dma-ranges`.
struct Mapping {
    child: u64,
    parent: u64,
    size: u64,
}

impl Mapping {
    /// Whether it maps all of `region` to the same addresses.
    fn keeps(&self, region: Region) -> bool {
        let (base, end) = (region.base().get(), region.end().get());
        // An end beyond 64 bits is the end of the space.
        self.child == self.parent
            && base >= self.child
            && self.child.checked_add(self.size).is_none_or(|last| end <= last)
    }
}

/// The entries of `ranges` or `dma-ranges` of `bus`.
fn mappings<'t>(
    ranges: &Property<'t>,
    bus: Node<'_>,
    parent: Node<'_>,
) -> Result<impl Iterator<Item = Mapping> + use<'t>, PropertyError> {
    let cells = [bus.address_cells(), parent.address_cells(), bus.size_cells()];
    if !cells.iter().all(|count| matches!(count, 1 | 2)) {
        return Err(ranges.fault("addresses or sizes have other than 1 or 2 cells"));
    }
    let [child_cells, parent_cells, size_cells] = cells;
    let entry =
        cells.iter().fold(0_usize, |sum, count| sum.saturating_add(*count)).saturating_mul(4);
    Ok(ranges.value().chunks_exact(entry).take(MAX_MAPPINGS).filter_map(move |entry| {
        let mut rest = entry;
        let child = take_number(&mut rest, child_cells)?;
        let parent = take_number(&mut rest, parent_cells)?;
        let size = take_number(&mut rest, size_cells)?;
        Some(Mapping { child, parent, size })
    }))
}

/// Takes a number of 0 to 2 cells off the front of `bytes`.
fn take_number(bytes: &mut &[u8], cells: usize) -> Option<u64> {
    let (number, length) = match cells {
        0 => (0, 0),
        1 => (blob::word(bytes, 0)?.into(), 4),
        2 => (blob::double_word(bytes, 0)?, 8),
        _ => return None,
    };
    *bytes = bytes.get(length..)?;
    Some(number)
}

/// Iterator over the entries of a `reg`: address and size in bytes. The size is 0 if the bus has no sizes.
#[derive(Clone, Debug, Default)]
pub struct Regs<'t> {
    rest: &'t [u8],
    address: usize,
    size: usize,
}

impl Iterator for Regs<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        if self.rest.is_empty() {
            return None;
        }
        Some((take_number(&mut self.rest, self.address)?, take_number(&mut self.rest, self.size)?))
    }
}

/// Iterator over the direct children of a node.
#[derive(Clone)]
pub struct Children<'t> {
    tree: &'t Tree,
    next: NodeIndex,
    end: NodeIndex,
}

impl<'t> Iterator for Children<'t> {
    type Item = Node<'t>;

    fn next(&mut self) -> Option<Node<'t>> {
        if self.next >= self.end {
            return None;
        }
        let child = Node { tree: self.tree, index: self.next };
        self.next = self.tree.record(self.next)?.end;
        Some(child)
    }
}

/// Iterator over nodes in document order.
#[derive(Clone)]
pub struct Nodes<'t> {
    tree: &'t Tree,
    next: NodeIndex,
    end: NodeIndex,
}

impl<'t> Nodes<'t> {
    pub(super) fn new(tree: &'t Tree, next: NodeIndex, end: NodeIndex) -> Self {
        Self { tree, next, end }
    }
}

impl<'t> Iterator for Nodes<'t> {
    type Item = Node<'t>;

    fn next(&mut self) -> Option<Node<'t>> {
        if self.next >= self.end {
            return None;
        }
        let node = Node { tree: self.tree, index: self.next };
        self.next = self.next.next();
        Some(node)
    }
}

/// Displays the full path of a node.
#[derive(Clone, Copy)]
pub struct NodePath<'t>(Node<'t>);

impl fmt::Display for NodePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names of the nodes from here up to but not including the root; the builder bounds the depth.
        let mut names = [""; super::MAX_DEPTH];
        let mut node = self.0;
        let mut depth = 0_usize;
        for slot in &mut names {
            let Some(parent) = node.parent() else { break };
            *slot = node.name();
            node = parent;
            depth = depth.saturating_add(1);
        }
        if depth == 0 {
            return f.write_str("/");
        }
        names.iter().take(depth).rev().try_for_each(|name| write!(f, "/{name}"))
    }
}

impl fmt::Debug for NodePath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
