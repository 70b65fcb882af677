//! A device that a guest is to have for itself.

use super::Interrupt;
use crate::tree::{Node, Tree};
use crate::{PhysicalAddress, Region};
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// More ranges of registers than a device has that a guest can use.
const MAX_REGISTERS: usize = 16;
/// More interrupts than such a device has.
const MAX_INTERRUPTS: usize = 32;
/// Ranges of each other device that are compared.
const MAX_OTHER_REGISTERS: usize = 32;

/// Devices that only their registers can reach: they read and write no memory by themselves. Any other may, and without
/// an IOMMU a guest that has it could reach all memory of the machine.
const WITHOUT_DMA: &[&str] = &[
    "arm,pl011",
    "arm,sbsa-uart",
    "arm,pl031",
    "arm,pl061",
    "arm,sp804",
    "arm,sp805",
    "brcm,bcm2835-aux-uart",
    "brcm,bcm2835-i2c",
    "brcm,bcm2711-i2c",
    "brcm,bcm2835-spi",
    "ns16550a",
    "ns16550",
    "apple,s5l-uart",
    "apple,i2c",
];

/// Properties that only mean something in the host's tree: references to other nodes, and what the guest's tree says in
/// its own way.
const LEFT_OUT: &[&str] = &[
    "assigned-clock-parents",
    "assigned-clock-rates",
    "assigned-clocks",
    "clock-names",
    "clocks",
    "compatible",
    "dma-names",
    "dmas",
    "gpio-ranges",
    "interrupt-parent",
    "interrupts",
    "interrupts-extended",
    "iommus",
    "linux,phandle",
    "name",
    "phandle",
    "pinctrl-names",
    "power-domains",
    "reg",
    "reset-names",
    "resets",
    "status",
];

/// A device of the host that a guest can have.
#[derive(Clone, Debug)]
pub struct HostDevice<'t> {
    /// Its node.
    pub node: Node<'t>,
    /// Its registers, at least one range.
    pub registers: Vec<Region>,
    /// Its interrupts.
    pub interrupts: Vec<Interrupt>,
}

/// Why a guest can't have a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceRefusal {
    /// No such node.
    #[error("no device {0} in the host's device tree; a path is such as /soc/serial@7e201000")]
    Absent(String),
    /// The node is disabled, or a node above it is.
    #[error("{0} is disabled in the host's device tree")]
    Disabled(String),
    /// It has no registers that the CPU can reach.
    #[error("{0} has no registers, or more ranges of them than a guest can be given")]
    Registers(String),
    /// It may read and write memory by itself.
    #[error(
        "{path} ({compatible}) may access memory by itself, and this host has no IOMMU in use that would confine it"
    )]
    Dma {
        /// Path of its node.
        path: String,
        /// What it is.
        compatible: String,
    },
    /// Another device is in the same page.
    #[error("{path} shares a page of registers with {other}, which the guest would get too")]
    Shared {
        /// Path of its node.
        path: String,
        /// Path of the other one's.
        other: String,
    },
    /// An interrupt can't be forwarded.
    #[error("{0}: its interrupts go through a controller that the hypervisor does not drive")]
    Interrupts(String),
}

impl<'t> HostDevice<'t> {
    /// The device at `path`, whose registers can be mapped for a guest in pages of `page` bytes, a power of two.
    ///
    /// # Errors
    /// A [`DeviceRefusal`] if the guest could do harm with it, or could not use it.
    pub fn find(tree: &'t Tree, path: &str, page: u64) -> Result<Self, DeviceRefusal> {
        let node = tree
            .node(path)
            .filter(|node| node.parent().is_some())
            .ok_or_else(|| DeviceRefusal::Absent(path.to_owned()))?;
        let path = node.path().to_string();
        if !node.is_reachable() {
            return Err(DeviceRefusal::Disabled(path));
        }
        if !node.compatible().any(|name| WITHOUT_DMA.contains(&name)) {
            let compatible = node.compatible().next().unwrap_or("of no known kind").to_owned();
            return Err(DeviceRefusal::Dma { path, compatible });
        }
        let registers = registers(&node, MAX_REGISTERS);
        if registers.is_empty() || node.mapped_reg(MAX_REGISTERS).is_ok() {
            return Err(DeviceRefusal::Registers(path));
        }
        let pages: Vec<Region> =
            registers.iter().filter_map(|region| widened(*region, page)).collect();
        let other = tree.nodes().find(|other| {
            other.path().to_string() != path
                && other.is_reachable()
                && registers_overlap(other, &pages)
        });
        if let Some(other) = other {
            return Err(DeviceRefusal::Shared { path, other: other.path().to_string() });
        }
        let interrupts: Option<Vec<Interrupt>> = node
            .interrupts()
            .take(MAX_INTERRUPTS)
            .map(|specifier| Interrupt::from_specifier(&specifier.ok()?))
            .collect();
        let interrupts = interrupts.ok_or(DeviceRefusal::Interrupts(path))?;
        Ok(Self { node, registers, interrupts })
    }

    /// The properties that the node of a guest's tree keeps.
    #[must_use]
    pub fn properties(&self) -> Vec<(&'t str, &'t [u8])> {
        self.node
            .properties()
            .map(|property| (property.name(), property.value()))
            .filter(|(name, _)| {
                !LEFT_OUT.contains(name)
                    && !name.starts_with("pinctrl-")
                    && !name.ends_with("-supply")
                    && !name.ends_with("-gpios")
            })
            .collect()
    }
}

fn registers(node: &Node<'_>, most: usize) -> Vec<Region> {
    (0..most).map_while(|entry| node.mapped_reg(entry).ok()).collect()
}

fn registers_overlap(node: &Node<'_>, pages: &[Region]) -> bool {
    registers(node, MAX_OTHER_REGISTERS)
        .iter()
        .any(|region| pages.iter().any(|page| page.overlaps(*region)))
}

/// The whole pages that hold a region.
fn widened(region: Region, page: u64) -> Option<Region> {
    let mask = page.checked_sub(1)?;
    let start = region.base().get() & !mask;
    let end = region.end().get().checked_add(mask)? & !mask;
    Region::between(PhysicalAddress::new(start), PhysicalAddress::new(end))
}
