//! The machine that a device tree describes.
//!
//! [`Platform::discover`] gathers what a hypervisor must know before it can run a guest. What it can do without is
//! optional; what it can't (memory, CPUs, an interrupt controller that it knows) is a [`Refusal`] if it is missing.
//! Everything else stays reachable through the [`Tree`] itself.

mod chosen;
mod console;
mod controller;
mod cpus;
mod device;
mod interrupt;
mod memory;
mod reset;
#[cfg(test)]
mod tests;
mod timer;
mod virtio;

pub use chosen::Chosen;
pub use console::{Console, ConsoleKind};
pub use controller::{Aic, AicVersion, GicV2, GicV3, InterruptController};
pub use cpus::{Conduit, Cpu, EnableMethod, Mpidr, Psci, PsciVersion};
pub use device::{DeviceRefusal, HostDevice, Terms};
pub use interrupt::{IntId, Interrupt, InterruptSource, Trigger};
pub use memory::Reserved;
pub use reset::ResetDevice;
pub use timer::TimerInterrupts;
pub use virtio::VirtioTransport;

use crate::tree::{PropertyError, Tree};
use crate::{Region, subtract_regions};
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

/// More names than any machine has.
const MAX_ROOT_NAMES: usize = 16;

/// What there is on this machine.
#[derive(Clone, Debug)]
pub struct Platform {
    /// `model` of the root, for people; empty if absent.
    pub model: String,
    /// `compatible` of the root, the most specific name first.
    pub compatible: Vec<String>,
    /// All memory, sorted and merged, as the bootloader reports it.
    pub memory: Vec<Region>,
    /// What of the memory is spoken for, in document order. The device tree itself and the initial RAM disk are
    /// included only if the bootloader reserves them.
    pub reserved: Vec<Reserved>,
    /// The CPUs that may be used, in document order.
    pub cpus: Vec<Cpu>,
    /// The firmware interface that starts CPUs and resets the machine. Without it no SMC or HVC may be executed.
    pub psci: Option<Psci>,
    /// The serial port that the tree chooses for messages, or else the first one.
    pub console: Option<Console>,
    /// All enabled serial ports of known kinds.
    pub serial_ports: Vec<Console>,
    /// Registers of the pin controller of a Raspberry Pi, which tell what serial port its header carries.
    pub pins: Option<Region>,
    /// The root of the interrupt tree.
    pub interrupt_controller: InterruptController,
    /// The interrupts of the architected timers.
    pub timer: TimerInterrupts,
    /// The overflow interrupts of the performance monitors: one per kind of CPU, or one per CPU.
    pub pmu: Vec<Interrupt>,
    /// What resets the machine where PSCI doesn't.
    pub reset: Option<ResetDevice>,
    /// Boot arguments, initial RAM disk, seeds.
    pub chosen: Chosen,
    /// Virtio transports, whether or not a device is behind them.
    pub virtio: Vec<VirtioTransport>,
}

impl Platform {
    /// Reads the description of a machine.
    ///
    /// # Errors
    /// A [`Refusal`] if the hypervisor can't run on it.
    pub fn discover(tree: &Tree) -> Result<Self, Refusal> {
        let root = tree.root();
        let serial_ports = console::serial_ports(tree);
        Ok(Self {
            model: root.str("model").unwrap_or_default().to_owned(),
            compatible: root.compatible().take(MAX_ROOT_NAMES).map(ToOwned::to_owned).collect(),
            memory: memory::memory(tree)?,
            reserved: memory::reserved(tree)?,
            cpus: cpus::cpus(tree)?,
            psci: cpus::psci(tree),
            console: console::chosen(tree).or_else(|| serial_ports.first().cloned()),
            serial_ports,
            pins: console::pins(tree),
            interrupt_controller: controller::discover(tree)?,
            timer: timer::timer(tree),
            pmu: timer::pmu(tree),
            reset: reset::discover(tree),
            chosen: Chosen::of(tree),
            virtio: virtio::transports(tree),
        })
    }

    /// The serial port for messages. `wired` is the kind that leads outside, if that is known from the hardware;
    /// otherwise the tree decides, and where it chooses a port of an unknown kind, any other is better than silence.
    #[must_use]
    pub fn console_of_kind(&self, wired: Option<&ConsoleKind>) -> Option<&Console> {
        let ports = || self.console.iter().chain(&self.serial_ports);
        wired
            .and_then(|kind| ports().find(|console| console.kind == *kind))
            .or_else(|| ports().find(|port| !matches!(port.kind, ConsoleKind::Unknown(_))))
    }

    /// Memory that nobody has reserved, sorted and merged.
    #[must_use]
    pub fn usable_memory(&self) -> Vec<Region> {
        let reserved: Vec<Region> = self.reserved.iter().map(|reserved| reserved.region).collect();
        subtract_regions(&self.memory, &reserved)
    }
}

/// Why the hypervisor can't run on a machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A property that can't be done without is missing or malformed.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// No node of `device_type = "memory"`.
    #[error("device tree: no memory node; the bootloader must add one")]
    NoMemoryNode,
    /// All memory nodes are empty.
    #[error("device tree: {node}: property \"reg\": no memory in it; the bootloader must fill it")]
    NoMemory {
        /// One of the nodes.
        node: String,
    },
    /// More ranges of memory or reserved memory than any machine has.
    #[error("device tree: {node}: property \"reg\": more than {limit} ranges of memory")]
    TooManyRegions {
        /// Name of the node with the first one too many.
        node: String,
        /// How many are accepted.
        limit: usize,
    },
    /// No CPU in `/cpus`.
    #[error("device tree: /cpus: no enabled CPU in it")]
    NoCpu,
    /// More CPUs than any machine has.
    #[error("device tree: /cpus: more than {limit} CPUs")]
    TooManyCpus {
        /// How many are accepted.
        limit: usize,
    },
    /// No interrupt controller that the hypervisor has a driver for.
    #[error("device tree: no GICv2, GICv3 or Apple AIC; the interrupt controller here is {found}")]
    InterruptController {
        /// Path and `compatible` of what is there instead.
        found: String,
    },
}
