//! The interrupt controller.

use super::{Interrupt, Refusal, Trigger};
use crate::Region;
use crate::tree::{Node, PropertyError, Tree};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

pub(super) const GIC_V2: &[&str] = &[
    "arm,gic-400",
    "arm,cortex-a15-gic",
    "arm,cortex-a7-gic",
    "arm,cortex-a9-gic",
    "arm,pl390",
    "qcom,msm-qgic2",
];
pub(super) const GIC_V3: &[&str] = &["arm,gic-v3"];
pub(super) const AIC: &[&str] =
    &["apple,aic", "apple,aic2", "apple,aic3", "apple,t8103-aic", "apple,t8122-aic3"];
const ITS: &str = "arm,gic-v3-its";
/// The maintenance interrupt that Arm's base system architecture asks for, PPI 9. Old firmware of the Raspberry Pi 4
/// leaves the property out.
const DEFAULT_MAINTENANCE: Interrupt = Interrupt::gic(25, Trigger::LevelHigh);
/// No machine has more redistributor regions or translation services than sockets.
const MAX_REGIONS: usize = 64;

/// A controller that the hypervisor can drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterruptController {
    /// Arm GIC version 2, such as a GIC-400.
    GicV2(GicV2),
    /// Arm GIC version 3 or 4.
    GicV3(GicV3),
    /// Apple interrupt controller.
    Aic(Aic),
}

/// Registers of a GICv2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GicV2 {
    /// Distributor.
    pub gicd: Region,
    /// CPU interface.
    pub gicc: Region,
    /// Virtual interface control; absent where the controller can't be virtualised.
    pub gich: Option<Region>,
    /// Virtual CPU interface, to be mapped for guests.
    pub gicv: Option<Region>,
    /// Raised by the virtual interface.
    pub maintenance: Interrupt,
}

/// Registers of a GICv3. The CPU interface and its virtualisation are system registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GicV3 {
    /// Distributor.
    pub gicd: Region,
    /// Where redistributors lie, one after the other in each region.
    pub redistributors: Vec<Region>,
    /// Distance of two redistributors in bytes; `None` if they follow each other closely.
    pub redistributor_stride: Option<u64>,
    /// Interrupt translation services.
    pub its: Vec<Region>,
    /// Raised by the virtual interface.
    pub maintenance: Interrupt,
}

/// Generation of an Apple interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AicVersion {
    /// `apple,aic`: M1.
    V1,
    /// `apple,aic2`: M1 Pro and later, M2.
    V2,
    /// `apple,aic3`: M3 and later.
    V3,
}

/// Registers of an Apple interrupt controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aic {
    /// Which generation.
    pub version: AicVersion,
    /// All registers but, from version 2, the event register.
    pub registers: Region,
    /// The event register of version 2 and later; version 1 has it among the others.
    pub event: Option<Region>,
    /// `#interrupt-cells`: 4 on machines of several dies.
    pub cells: usize,
}

pub(super) fn is_one_of(node: &Node<'_>, names: &[&str]) -> bool {
    node.compatible().any(|compatible| names.contains(&compatible))
}

/// The root of the interrupt tree if it is of a known kind, or else the first known controller.
pub(super) fn discover(tree: &Tree) -> Result<InterruptController, Refusal> {
    let known = |node: &Node<'_>| {
        node.is_reachable() && [GIC_V2, GIC_V3, AIC].iter().any(|names| is_one_of(node, names))
    };
    let root_controller = tree.root().reference("interrupt-parent");
    let node =
        root_controller.filter(known).or_else(|| tree.nodes().find(known)).ok_or_else(|| {
            Refusal::InterruptController { found: describe_unknown(tree, root_controller) }
        })?;
    Ok(if is_one_of(&node, GIC_V3) {
        InterruptController::GicV3(gic_v3(&node)?)
    } else if is_one_of(&node, AIC) {
        InterruptController::Aic(aic(&node)?)
    } else {
        InterruptController::GicV2(gic_v2(&node)?)
    })
}

fn describe_unknown(tree: &Tree, root_controller: Option<Node<'_>>) -> String {
    let controller = root_controller
        .or_else(|| tree.nodes().find(|node| node.property("interrupt-controller").is_some()));
    match controller {
        Some(node) => {
            let compatible = node.compatible().next().unwrap_or("of no known kind");
            format!("{} ({compatible})", node.path())
        }
        None => "absent".to_string(),
    }
}

fn maintenance(node: &Node<'_>) -> Interrupt {
    Interrupt::first_of(node).unwrap_or(DEFAULT_MAINTENANCE)
}

fn gic_v2(node: &Node<'_>) -> Result<GicV2, PropertyError> {
    Ok(GicV2 {
        gicd: node.mapped_reg(0)?,
        gicc: node.mapped_reg(1)?,
        gich: node.mapped_reg(2).ok(),
        gicv: node.mapped_reg(3).ok(),
        maintenance: maintenance(node),
    })
}

fn gic_v3(node: &Node<'_>) -> Result<GicV3, PropertyError> {
    let regions = node.u32("#redistributor-regions").map_or(1, |count| count as usize);
    if !(1..=MAX_REGIONS).contains(&regions) {
        return Err(node.fault("#redistributor-regions", "it isn't in the range 1 to 64"));
    }
    let redistributors =
        (1..=regions).map(|entry| node.mapped_reg(entry)).collect::<Result<_, _>>()?;
    let its = node
        .children()
        .filter(|child| child.is_compatible(ITS) && child.is_reachable())
        .take(MAX_REGIONS)
        .filter_map(|child| child.mapped_reg(0).ok())
        .collect();
    Ok(GicV3 {
        gicd: node.mapped_reg(0)?,
        redistributors,
        redistributor_stride: node.u64("redistributor-stride").filter(|stride| *stride != 0),
        its,
        maintenance: maintenance(node),
    })
}

fn aic(node: &Node<'_>) -> Result<Aic, PropertyError> {
    let version = if is_one_of(node, &["apple,aic3", "apple,t8122-aic3"]) {
        AicVersion::V3
    } else if node.is_compatible("apple,aic2") {
        AicVersion::V2
    } else {
        AicVersion::V1
    };
    let event = match version {
        AicVersion::V1 => None,
        AicVersion::V2 | AicVersion::V3 => Some(node.mapped_reg(1)?),
    };
    Ok(Aic {
        version,
        registers: node.mapped_reg(0)?,
        event,
        cells: node.interrupt_cells().unwrap_or_default(),
    })
}
