//! A device that a guest is to have for itself.

use super::Interrupt;
use crate::Region;
use crate::tree::{Node, Tree};
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

const DMA_COHERENT: &str = "dma-coherent";

/// Properties by which a tree says that a device accesses memory by itself, whatever it is called.
const SIGNS_OF_DMA: &[&str] =
    &[DMA_COHERENT, "dma-noncoherent", "iommus", "memory-region", "msi-parent"];

/// Properties of what is part of the machine and no device of its own: buses, interrupt controllers, IOMMUs.
const SIGNS_OF_INFRASTRUCTURE: &[&str] =
    &["ranges", "interrupt-controller", "interrupt-map", "#iommu-cells", "#msi-cells"];

/// Values of `device_type` of such nodes.
const INFRASTRUCTURE: &[&str] = &["cpu", "memory", "pci"];

/// Properties that only mean something in the host's tree: references to other nodes, and what the guest's tree says in
/// its own way.
const LEFT_OUT: &[&str] = &[
    "assigned-clock-parents",
    "assigned-clock-rates",
    "assigned-clocks",
    "clock-names",
    "clocks",
    "compatible",
    DMA_COHERENT,
    "dma-names",
    "dmas",
    "gpio-ranges",
    "interconnects",
    "interrupt-parent",
    "interrupts",
    "interrupts-extended",
    "iommus",
    "linux,phandle",
    "mboxes",
    "memory-region",
    "msi-parent",
    "name",
    "nvmem-cells",
    "operating-points-v2",
    "phandle",
    "phy-handle",
    "phys",
    "pinctrl-names",
    "power-domains",
    "reg",
    "reset-names",
    "resets",
    "sound-dai",
    "status",
    "thermal-sensors",
];

/// On what terms a guest gets a device.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Bytes of a page of the guest's translation, a power of two.
    pub page: u64,
    /// Paths of all devices that this guest gets. They may share pages of registers.
    pub together: &'a [String],
    /// The guest's memory has the host's addresses, and its owner trusts it with devices that access memory.
    pub direct_memory: bool,
}

/// A device of the host that a guest can have.
#[derive(Clone, Debug)]
pub struct HostDevice<'t> {
    /// Its node.
    pub node: Node<'t>,
    /// Its registers, at least one range.
    pub registers: Vec<Region>,
    /// Its interrupts.
    pub interrupts: Vec<Interrupt>,
    /// It may read and write memory by itself.
    pub accesses_memory: bool,
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
    /// It is no device of its own.
    #[error(
        "{0} is a part of the machine (bus, memory, CPU, interrupt controller or IOMMU), not a device for a guest"
    )]
    Infrastructure(String),
    /// It may read and write memory by itself.
    #[error(
        "{path} ({compatible}) may access memory by itself, and no IOMMU would confine it; if the guest may have that, \
         give its VM `direct_memory = true`"
    )]
    Dma {
        /// Path of its node.
        path: String,
        /// What it is.
        compatible: String,
    },
    /// Its registers are memory.
    #[error("the registers of {0} overlap the machine's memory")]
    Memory(String),
    /// An IOMMU stands between it and memory.
    #[error("{0} reaches memory through an IOMMU, which the hypervisor does not drive")]
    Iommu(String),
    /// A bus translates what it sends, or doesn't reach the guest's memory.
    #[error(
        "{path} cannot reach the memory {memory} at the addresses that the CPU uses (dma-ranges of a bus above)"
    )]
    Reach {
        /// Path of its node.
        path: String,
        /// The guest's memory.
        memory: Region,
    },
    /// Another device is in the same page.
    #[error(
        "{path} shares a page of registers with {other}, which the guest would get too; give the VM that one as well"
    )]
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
    /// The device at `path`, if a guest can have it on these terms.
    ///
    /// # Errors
    /// A [`DeviceRefusal`] if the guest could do harm with it, or could not use it.
    pub fn find(tree: &'t Tree, path: &str, terms: &Terms<'_>) -> Result<Self, DeviceRefusal> {
        let node = tree
            .node(path)
            .filter(|node| node.parent().is_some())
            .ok_or_else(|| DeviceRefusal::Absent(path.to_owned()))?;
        let path = node.path().to_string();
        if !node.is_reachable() {
            return Err(DeviceRefusal::Disabled(path));
        }
        let harmless = is_harmless(&node);
        if !harmless {
            if is_infrastructure(&node) {
                return Err(DeviceRefusal::Infrastructure(path));
            }
            if !terms.direct_memory {
                let compatible = node.compatible().next().unwrap_or("of no known kind").to_owned();
                return Err(DeviceRefusal::Dma { path, compatible });
            }
            if node.property("iommus").is_some() {
                return Err(DeviceRefusal::Iommu(path));
            }
        }
        let registers = registers(&node, MAX_REGISTERS);
        if registers.is_empty() || node.mapped_reg(MAX_REGISTERS).is_ok() {
            return Err(DeviceRefusal::Registers(path));
        }
        let pages: Vec<Region> =
            registers.iter().filter_map(|region| region.aligned_outside(terms.page)).collect();
        let memory = super::memory::memory(tree).unwrap_or_default();
        if memory.iter().any(|memory| pages.iter().any(|page| page.overlaps(*memory))) {
            return Err(DeviceRefusal::Memory(path));
        }
        let together: Vec<Node<'_>> =
            terms.together.iter().filter_map(|path| tree.node(path)).collect();
        let other = tree.nodes().find(|other| {
            *other != node
                && !together.contains(other)
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
        Ok(Self { node, registers, interrupts, accesses_memory: !harmless })
    }

    /// Whether the device, if it accesses memory by itself, does so in `memory` at the addresses that the CPU uses.
    ///
    /// # Errors
    /// [`DeviceRefusal::Reach`] if not.
    pub fn check_reach(&self, memory: Region) -> Result<(), DeviceRefusal> {
        if self.accesses_memory && !self.node.reaches_directly(memory) {
            return Err(DeviceRefusal::Reach { path: self.node.path().to_string(), memory });
        }
        Ok(())
    }

    /// The properties that the node of a guest's tree keeps.
    #[must_use]
    pub fn properties(&self) -> Vec<(&'t str, &'t [u8])> {
        let own = self
            .node
            .properties()
            .map(|property| (property.name(), property.value()))
            .filter(|(name, _)| is_kept(name));
        // A bus above may say it, too, and the guest's tree has none.
        let coherent = self.accesses_memory && self.node.is_dma_coherent();
        own.chain(coherent.then_some((DMA_COHERENT, &[][..]))).collect()
    }
}

/// Whether it is of a kind that reads and writes no memory by itself, and nothing in the tree says otherwise.
fn is_harmless(node: &Node<'_>) -> bool {
    node.compatible().any(|name| WITHOUT_DMA.contains(&name))
        && !SIGNS_OF_DMA.iter().any(|name| node.property(name).is_some())
}

fn is_infrastructure(node: &Node<'_>) -> bool {
    SIGNS_OF_INFRASTRUCTURE.iter().any(|name| node.property(name).is_some())
        || node.str("device_type").is_some_and(|kind| INFRASTRUCTURE.contains(&kind))
}

/// Whether a property means the same in the guest's tree.
fn is_kept(name: &str) -> bool {
    const SUFFIXES: [&str; 3] = ["-supply", "-gpio", "-gpios"];
    !LEFT_OUT.contains(&name)
        && !name.starts_with("pinctrl-")
        && !SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

fn registers(node: &Node<'_>, most: usize) -> Vec<Region> {
    (0..most).map_while(|entry| node.mapped_reg(entry).ok()).collect()
}

fn registers_overlap(node: &Node<'_>, pages: &[Region]) -> bool {
    registers(node, MAX_OTHER_REGISTERS)
        .iter()
        .any(|region| pages.iter().any(|page| page.overlaps(*region)))
}
