//! Memory and what of it is reserved.

use super::Refusal;
use crate::tree::{Node, Tree};
use crate::{PhysicalAddress, Region, merge_regions};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// More ranges than any machine has.
const MAX_REGIONS: usize = 1024;

/// Memory that belongs to firmware, a bootloader or a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Where.
    pub region: Region,
    /// The memory may not even be mapped as normal memory (`no-map`).
    pub no_map: bool,
    /// Name of the node; empty for an entry of the header's reservation block.
    pub node: String,
}

/// All tuples of all memory nodes; nodes and tuples of size 0 stand for absent memory.
pub(super) fn memory(tree: &Tree) -> Result<Vec<Region>, Refusal> {
    let is_memory = |node: &Node<'_>| {
        node.property("device_type").is_some_and(|kind| kind.value() == b"memory\0")
            && node.is_enabled()
    };
    let mut regions = Vec::new();
    let mut last_node = None;
    for node in tree.root().children().filter(is_memory) {
        add_regions(&node, |region| {
            regions.push(region);
            regions.len()
        })?;
        last_node = Some(node);
    }
    match last_node {
        None => Err(Refusal::NoMemoryNode),
        Some(node) if regions.is_empty() => {
            Err(Refusal::NoMemory { node: node.path().to_string() })
        }
        Some(_) => Ok(merge_regions(regions)),
    }
}

/// The header's reservation block and the static regions of `/reserved-memory`. A child without `reg` asks the
/// operating system for memory of its choice and reserves none by itself.
pub(super) fn reserved(tree: &Tree) -> Result<Vec<Reserved>, Refusal> {
    let from_header = |&region: &Region| Reserved { region, no_map: false, node: String::new() };
    let mut reserved: Vec<Reserved> = tree.reservations().iter().map(from_header).collect();
    let nodes = tree.node("/reserved-memory").map(|node| node.children());
    for node in nodes.into_iter().flatten().filter(Node::is_enabled) {
        let no_map = node.property("no-map").is_some();
        add_regions(&node, |region| {
            reserved.push(Reserved { region, no_map, node: node.name().to_string() });
            reserved.len()
        })?;
    }
    Ok(reserved)
}

/// Gives the non-empty ranges of `reg` to `add`, which answers how many there are by now.
fn add_regions(node: &Node<'_>, mut add: impl FnMut(Region) -> usize) -> Result<(), Refusal> {
    for (base, size) in node.reg()?.filter(|(_, size)| *size != 0) {
        let region = Region::new(PhysicalAddress::new(base), size)
            .ok_or_else(|| node.fault("reg", "the range ends beyond the address space"))?;
        if add(region) > MAX_REGIONS {
            return Err(Refusal::TooManyRegions {
                node: node.name().to_string(),
                limit: MAX_REGIONS,
            });
        }
    }
    Ok(())
}
