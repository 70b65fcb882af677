//! Virtio transports (virtio 1.2, 4.2.1).

use super::Interrupt;
use crate::Region;
use crate::tree::Tree;
use alloc::vec::Vec;

/// QEMU's `virt` has 32.
const MAX_TRANSPORTS: usize = 128;

/// A window of memory-mapped virtio registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioTransport {
    /// Its registers.
    pub registers: Region,
    /// Its interrupt, if it reaches a known controller.
    pub interrupt: Option<Interrupt>,
}

pub(super) fn transports(tree: &Tree) -> Vec<VirtioTransport> {
    tree.compatible(&["virtio,mmio"])
        .take(MAX_TRANSPORTS)
        .filter_map(|node| {
            let registers = node.mapped_reg(0).ok()?;
            Some(VirtioTransport { registers, interrupt: Interrupt::first_of(&node) })
        })
        .collect()
}
