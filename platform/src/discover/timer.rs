//! The architected timers and the performance monitors.

use super::Interrupt;
use crate::tree::{Node, Tree};
use alloc::vec::Vec;

const TIMER: &[&str] = &["arm,armv8-timer", "arm,armv7-timer"];
/// More than any machine has CPUs that need an interrupt each.
const MAX_PMU_INTERRUPTS: usize = 64;

/// The private interrupts of the architected timers. A secure one is of no use to a hypervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerInterrupts {
    /// EL1 physical timer of the secure world (`CNTPS`).
    pub secure_physical: Option<Interrupt>,
    /// EL1 physical timer (`CNTP`).
    pub physical: Option<Interrupt>,
    /// EL1 virtual timer (`CNTV`).
    pub virtual_timer: Option<Interrupt>,
    /// EL2 physical timer (`CNTHP`).
    pub hypervisor_physical: Option<Interrupt>,
    /// EL2 virtual timer (`CNTHV`), only with VHE.
    pub hypervisor_virtual: Option<Interrupt>,
}

impl TimerInterrupts {
    /// The names of the interrupts in `interrupt-names`, in the order that they have without.
    const NAMES: [&'static str; 5] = ["sec-phys", "phys", "virt", "hyp-phys", "hyp-virt"];

    fn of(node: &Node<'_>) -> Self {
        let mut timer = Self::default();
        let names = node.property("interrupt-names").map(|names| names.strings());
        let order: Vec<&str> = match names {
            Some(names) => names.take(Self::NAMES.len()).collect(),
            None => Self::NAMES.to_vec(),
        };
        for (name, specifier) in order.into_iter().zip(node.interrupts()) {
            let interrupt =
                specifier.ok().and_then(|specifier| Interrupt::from_specifier(&specifier));
            let slot = match name {
                "sec-phys" => &mut timer.secure_physical,
                "phys" => &mut timer.physical,
                "virt" => &mut timer.virtual_timer,
                "hyp-phys" => &mut timer.hypervisor_physical,
                "hyp-virt" => &mut timer.hypervisor_virtual,
                _ => continue,
            };
            *slot = interrupt;
        }
        timer
    }
}

pub(super) fn timer(tree: &Tree) -> TimerInterrupts {
    tree.compatible(TIMER)
        .next()
        .map_or_else(TimerInterrupts::default, |node| TimerInterrupts::of(&node))
}

/// The interrupts of all CPU PMU nodes, without repetition.
pub(super) fn pmu(tree: &Tree) -> Vec<Interrupt> {
    let is_pmu = |name: &str| {
        name == "arm,armv8-pmuv3"
            || (name.ends_with("-pmu")
                && ["arm,cortex-", "arm,neoverse-", "apple,"].iter().any(|p| name.starts_with(p)))
    };
    let mut interrupts = Vec::new();
    let nodes = tree.nodes().filter(|node| node.compatible().any(is_pmu) && node.is_reachable());
    for specifier in nodes.flat_map(|node| node.interrupts()).take(MAX_PMU_INTERRUPTS) {
        let Some(interrupt) =
            specifier.ok().and_then(|specifier| Interrupt::from_specifier(&specifier))
        else {
            continue;
        };
        if !interrupts.contains(&interrupt) {
            interrupts.push(interrupt);
        }
    }
    interrupts
}
