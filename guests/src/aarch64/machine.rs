//! What machine this is, from its device tree.

use core::ops::Range;

use fdt::Fdt;
use fdt::node::FdtNode;
use spin::Once;

use super::{console, cpu, smp};

/// Where the interrupt controller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gic {
    /// `arm,cortex-a15-gic` and the like.
    V2 {
        /// Base of the distributor.
        distributor: u64,
        /// Base of the CPU interface.
        cpu: u64,
    },
    /// `arm,gic-v3`.
    V3 {
        /// Base of the distributor.
        distributor: u64,
        /// Base of the redistributors.
        redistributors: u64,
        /// Length of the redistributors' region in bytes.
        length: u64,
    },
}

/// A range of RAM that can be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ram {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
}

/// Places for virtio devices that the `virt` machine has.
const MAX_VIRTIO: usize = 32;

/// What the device tree says.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The first range of RAM.
    pub ram: Ram,
    /// The interrupt controller.
    pub gic: Gic,
    /// Base of the PL031 real-time clock.
    pub clock: Option<u64>,
    /// SPI number of the console, from 0.
    pub console_spi: u32,
    /// The device tree itself.
    pub device_tree: u64,
    /// Length of the device tree in bytes.
    pub device_tree_length: u64,
    /// Kernel command line.
    pub command_line: &'static str,
    affinities: [u64; smp::MAX_CPUS],
    cpus: usize,
    virtio: [(u64, u32); MAX_VIRTIO],
}

impl Machine {
    /// Affinities of the CPUs, in the order of the device tree. Never empty.
    pub fn cpus(&self) -> &[u64] {
        &self.affinities[..self.cpus]
    }

    /// Addresses and SPI numbers of the places for virtio devices, with a device or without.
    pub fn virtio(&self) -> impl Iterator<Item = (u64, u32)> {
        self.virtio.into_iter().take_while(|(base, _)| *base != 0)
    }

    /// The value of `name=value` in the command line.
    pub fn option(&self, name: &str) -> Option<&'static str> {
        let mut words = self.command_line.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// The GIC's architecture version.
    pub const fn gic_version(&self) -> u32 {
        match self.gic {
            Gic::V2 { .. } => 2,
            Gic::V3 { .. } => 3,
        }
    }

    /// Memory that the guest neither came in nor received.
    pub fn free_ram(&self) -> Range<u64> {
        let (_, image_end) = image();
        let after = image_end.max(self.ram.start);
        let tree = self.device_tree;
        if tree >= after && tree < self.ram.end {
            // The larger of the two sides of the device tree.
            let behind = tree + self.device_tree_length;
            if tree - after > self.ram.end - behind { after..tree } else { behind..self.ram.end }
        } else {
            after..self.ram.end
        }
    }
}

/// First address of this image and first address after it.
pub fn image() -> (u64, u64) {
    unsafe extern "C" {
        static image_head: u8;
        static bss_end: u8;
    }
    (&raw const image_head as u64, &raw const bss_end as u64)
}

static MACHINE: Once<Machine> = Once::new();

/// The machine.
pub fn machine() -> &'static Machine {
    MACHINE.get().expect("the start-up code has read the device tree")
}

fn region(node: FdtNode<'_, '_>, index: usize) -> (u64, u64) {
    let region = node.reg().and_then(|mut regions| regions.nth(index)).expect("no such region");
    (region.starting_address as u64, region.size.unwrap_or(0) as u64)
}

/// The SPI in the first interrupt of a device.
fn spi(node: FdtNode<'_, '_>) -> Option<u32> {
    let cell = node.property("interrupts")?.value.get(4..8)?;
    Some(u32::from_be_bytes(cell.try_into().ok()?))
}

fn is_virtio(node: &FdtNode<'_, '_>) -> bool {
    node.compatible().is_some_and(|names| names.all().any(|name| name == "virtio,mmio"))
}

pub(super) fn probe(device_tree: u64) {
    // SAFETY: the boot protocol passes the address of a device tree, which nobody changes.
    let tree = unsafe { Fdt::from_ptr(device_tree as *const u8) }.expect("x0 holds a device tree");
    // Xen's port is of the smaller kind, which has all that is used here.
    let port = tree.find_compatible(&["arm,pl011", "arm,sbsa-uart"]).expect("a PL011");
    console::set_base(region(port, 0).0);
    let console_spi = spi(port).unwrap_or(1);

    let memory = tree.memory().regions().next().expect("a memory region");
    let start = memory.starting_address as u64;
    let end = start + memory.size.expect("a size of memory") as u64;

    let gic = if let Some(node) = tree.find_compatible(&["arm,gic-v3"]) {
        let (distributor, (redistributors, length)) = (region(node, 0).0, region(node, 1));
        Gic::V3 { distributor, redistributors, length }
    } else {
        let node = tree.find_compatible(&["arm,cortex-a15-gic", "arm,gic-400"]).expect("a GIC");
        Gic::V2 { distributor: region(node, 0).0, cpu: region(node, 1).0 }
    };

    let mut affinities = [0; smp::MAX_CPUS];
    let mut cpus = 0;
    for (slot, node) in affinities.iter_mut().zip(tree.cpus()) {
        *slot = node.ids().first() as u64;
        cpus += 1;
    }
    assert!(affinities[..cpus].contains(&cpu::affinity()), "this CPU is in the device tree");
    let mut virtio = [(0, 0); MAX_VIRTIO];
    for (slot, node) in virtio.iter_mut().zip(tree.all_nodes().filter(is_virtio)) {
        *slot = (region(node, 0).0, spi(node).unwrap_or(0));
    }
    MACHINE.call_once(|| Machine {
        ram: Ram { start, end },
        gic,
        clock: tree.find_compatible(&["arm,pl031"]).map(|node| region(node, 0).0),
        console_spi,
        device_tree,
        device_tree_length: tree.total_size() as u64,
        command_line: tree.chosen().bootargs().unwrap_or_default(),
        affinities,
        cpus,
        virtio,
    });
}
