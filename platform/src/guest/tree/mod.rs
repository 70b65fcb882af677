//! The guest's device tree, as QEMU's `virt` writes it for the devices that there are.

mod device;
#[cfg(test)]
mod tests;

pub use device::{GuestDevice, GuestInterrupt};

use super::{GuestAddress, GuestRange, layout};
use crate::discover::Mpidr;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

const GIC_PHANDLE: u32 = 1;
const CLOCK_PHANDLE: u32 = 2;
/// The phandles of the vCPUs follow each other from here.
const FIRST_CPU_PHANDLE: u32 = 16;

/// First cell of a GIC interrupt: shared.
const SPI: u32 = 0;
/// First cell of a GIC interrupt: private.
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// Where a GICv2 specifier names the CPUs of a private interrupt.
const PPI_CPUS_SHIFT: u32 = 8;

/// PSCI functions that the node lists (PSCI 5.1).
const PSCI_CPU_SUSPEND: u32 = 0xc400_0001;
const PSCI_CPU_OFF: u32 = 0x8400_0002;
const PSCI_CPU_ON: u32 = 0xc400_0003;
const PSCI_MIGRATE: u32 = 0xc400_0005;

/// Interface of the guest's interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestGic {
    /// GICv2, for up to 8 vCPUs.
    V2,
    /// GICv3 without translation service.
    V3,
    /// GICv3 with translation service.
    V3WithIts,
}

impl GuestGic {
    /// How many vCPUs it can serve: a GICv2 by its 8 CPU interfaces, a GICv3 by the room for redistributors.
    #[must_use]
    pub const fn max_vcpus(self) -> usize {
        match self {
            Self::V2 => 8,
            Self::V3 | Self::V3WithIts => {
                (layout::GICR.size() / layout::REDISTRIBUTOR_BYTES) as usize
            }
        }
    }
}

/// Memory that the guest may not use as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestReserved<'a> {
    /// Name of the node, without address.
    pub name: &'a str,
    /// Where.
    pub range: GuestRange,
    /// The guest may not even map it as normal memory.
    pub no_map: bool,
}

/// What of a guest's machine varies.
#[derive(Clone, Copy, Debug)]
pub struct GuestDescription<'a> {
    /// The vCPUs, the boot vCPU first.
    pub vcpus: &'a [Mpidr],
    /// `compatible` of the vCPUs, such as `arm,cortex-a72`.
    pub cpu_compatible: &'a str,
    /// Its memory, usually from [`layout::RAM_BASE`].
    pub memory: GuestRange,
    /// The interrupt controller.
    pub gic: GuestGic,
    /// Whether the guest has performance monitors.
    pub pmu: bool,
    /// The kernel command line.
    pub bootargs: Option<&'a str>,
    /// The initial RAM disk.
    pub initrd: Option<GuestRange>,
    /// Random bytes for the guest's random number generator; QEMU gives 32. Empty: none.
    pub rng_seed: &'a [u8],
    /// Random number for address space randomisation.
    pub kaslr_seed: Option<u64>,
    /// The virtio transports that have a device.
    pub virtio_slots: &'a [u8],
    /// Reserved memory.
    pub reserved: &'a [GuestReserved<'a>],
}

/// Why there can be no device tree for a description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptionError {
    /// No vCPU.
    #[error("a virtual machine needs at least one vCPU")]
    NoVcpu,
    /// More vCPUs than the interrupt controller serves.
    #[error("{vcpus} vCPUs are too many: the interrupt controller of this machine serves {limit}")]
    TooManyVcpus {
        /// What was asked for.
        vcpus: usize,
        /// What there can be.
        limit: usize,
    },
    /// A transport that doesn't exist.
    #[error("there is no virtio transport {slot}; the last one is 31")]
    NoTransport {
        /// Its number.
        slot: u8,
    },
    /// A text with a NUL in it.
    #[error("the {text} contains a NUL character")]
    Nul {
        /// Which text.
        text: &'static str,
    },
    /// A name with a slash, an at sign or a space in it.
    #[error("the name of a {what} may have 1 to 31 letters, digits and -,._+ only")]
    Name {
        /// What is named.
        what: &'static str,
    },
    /// A device that can't be addressed.
    #[error("a device needs a range of registers; this one has none")]
    NoRegisters,
    /// An interrupt that a guest can't have.
    #[error("interrupt {int_id} can't be a device's; there are 16 to 1019")]
    NoInterrupt {
        /// Its number.
        int_id: u32,
    },
}

/// Writes the blob.
///
/// # Errors
/// A [`DescriptionError`] if the description is of no possible machine.
pub fn build(guest: &GuestDescription<'_>) -> Result<Vec<u8>, DescriptionError> {
    build_with_devices(guest, &[])
}

/// Writes the blob of a guest that has more devices than those of the standard machine.
///
/// # Errors
/// A [`DescriptionError`] if the description is of no possible machine or a device can't be a guest's.
pub fn build_with_devices(
    guest: &GuestDescription<'_>,
    devices: &[GuestDevice<'_>],
) -> Result<Vec<u8>, DescriptionError> {
    check(guest)?;
    devices.iter().try_for_each(GuestDevice::check)?;
    let mut tree = DeviceTree::new();
    tree.root = Node::named("")
        .cells("interrupt-parent", &[GIC_PHANDLE])
        .text("model", "linux,dummy-virt")
        .flag("dma-coherent")
        .cells("#size-cells", &[2])
        .cells("#address-cells", &[2])
        .text("compatible", "linux,dummy-virt")
        .child(psci())
        .child(memory(guest.memory))
        .children((!guest.reserved.is_empty()).then(|| reserved_memory(guest.reserved)))
        .children(virtio(guest.virtio_slots))
        .child(rtc())
        .child(uart())
        .children(devices.iter().filter_map(|device| device.node(guest)))
        .children(guest.pmu.then(|| pmu(guest)))
        .child(interrupt_controller(guest))
        .child(cpus(guest))
        .child(timer(guest))
        .child(clock())
        .child(Node::named("aliases").text("serial0", &uart_path()))
        .child(chosen(guest))
        .0;
    Ok(tree.to_dtb())
}

fn check(guest: &GuestDescription<'_>) -> Result<(), DescriptionError> {
    let (vcpus, limit) = (guest.vcpus.len(), guest.gic.max_vcpus());
    if vcpus == 0 {
        return Err(DescriptionError::NoVcpu);
    }
    if vcpus > limit {
        return Err(DescriptionError::TooManyVcpus { vcpus, limit });
    }
    if let Some(&slot) =
        guest.virtio_slots.iter().find(|slot| layout::virtio_transport(**slot).is_none())
    {
        return Err(DescriptionError::NoTransport { slot });
    }
    for (text, value) in
        [("command line", guest.bootargs.unwrap_or_default()), ("CPU type", guest.cpu_compatible)]
    {
        if value.contains('\0') {
            return Err(DescriptionError::Nul { text });
        }
    }
    if guest.reserved.iter().all(|reserved| is_name(reserved.name)) {
        Ok(())
    } else {
        Err(DescriptionError::Name { what: "reserved range" })
    }
}

/// Whether a text can name a node (Devicetree Specification 0.4, 2.2.1).
fn is_name(name: &str) -> bool {
    (1..=31).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-,._+".contains(&c))
}

/// A node under construction.
struct Node(DeviceTreeNode);

impl Node {
    fn named(name: &str) -> Self {
        Self(DeviceTreeNode::new_unchecked(name))
    }

    /// A node whose name has the address of its registers.
    fn at(name: &str, address: GuestAddress) -> Self {
        Self::named(&format!("{name}@{:x}", address.get()))
    }

    fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.0.add_property(DeviceTreeProperty::new_unchecked(name, value));
        self
    }

    fn flag(self, name: &str) -> Self {
        self.bytes(name, &[])
    }

    fn cells(self, name: &str, cells: &[u32]) -> Self {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.bytes(name, &value)
    }

    fn double_cells(self, name: &str, numbers: &[u64]) -> Self {
        let value: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        self.bytes(name, &value)
    }

    fn text(self, name: &str, text: &str) -> Self {
        self.texts(name, &[text])
    }

    fn texts(self, name: &str, texts: &[&str]) -> Self {
        let value: Vec<u8> = texts.iter().flat_map(|text| text.bytes().chain([0])).collect();
        self.bytes(name, &value)
    }

    fn reg(self, ranges: &[GuestRange]) -> Self {
        let numbers: Vec<u64> =
            ranges.iter().flat_map(|range| [range.base().get(), range.size()]).collect();
        self.double_cells("reg", &numbers)
    }

    fn child(mut self, child: Self) -> Self {
        self.0.add_child(child.0);
        self
    }

    fn children(self, children: impl IntoIterator<Item = Self>) -> Self {
        children.into_iter().fold(self, Self::child)
    }
}

fn psci() -> Node {
    Node::named("psci")
        .cells("migrate", &[PSCI_MIGRATE])
        .cells("cpu_on", &[PSCI_CPU_ON])
        .cells("cpu_off", &[PSCI_CPU_OFF])
        .cells("cpu_suspend", &[PSCI_CPU_SUSPEND])
        // With no EL3 below, only HVC is certain to reach the hypervisor.
        .text("method", "hvc")
        .texts("compatible", &["arm,psci-1.0", "arm,psci-0.2", "arm,psci"])
}

fn memory(range: GuestRange) -> Node {
    Node::at("memory", range.base()).reg(&[range]).text("device_type", "memory")
}

fn reserved_memory(reserved: &[GuestReserved<'_>]) -> Node {
    let node = Node::named("reserved-memory")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .flag("ranges");
    node.children(reserved.iter().map(|reserved| {
        let node = Node::at(reserved.name, reserved.range.base()).reg(&[reserved.range]);
        if reserved.no_map { node.flag("no-map") } else { node }
    }))
}

fn virtio(slots: &[u8]) -> impl Iterator<Item = Node> {
    // In the order of addresses, in which Linux numbers the devices.
    let slots = (0..layout::VIRTIO_SLOTS).filter(|slot| slots.contains(slot));
    slots.filter_map(|slot| {
        let registers = layout::virtio_transport(slot)?;
        Some(
            Node::at("virtio_mmio", registers.base())
                .flag("dma-coherent")
                .cells("interrupts", &[SPI, layout::virtio_spi(slot)?, EDGE_RISING])
                .reg(&[registers])
                .text("compatible", "virtio,mmio"),
        )
    })
}

fn rtc() -> Node {
    Node::at("pl031", layout::RTC.base())
        .text("clock-names", "apb_pclk")
        .cells("clocks", &[CLOCK_PHANDLE])
        .cells("interrupts", &[SPI, layout::RTC_SPI, LEVEL_HIGH])
        .reg(&[layout::RTC])
        .texts("compatible", &["arm,pl031", "arm,primecell"])
}

fn uart() -> Node {
    Node::at("pl011", layout::UART.base())
        .texts("clock-names", &["uartclk", "apb_pclk"])
        .cells("clocks", &[CLOCK_PHANDLE, CLOCK_PHANDLE])
        .cells("interrupts", &[SPI, layout::UART_SPI, LEVEL_HIGH])
        .reg(&[layout::UART])
        .texts("compatible", &["arm,pl011", "arm,primecell"])
}

fn uart_path() -> String {
    format!("/pl011@{:x}", layout::UART.base().get())
}

/// The flags of a private interrupt: a GICv2 wants to know the CPUs.
fn private_flags(guest: &GuestDescription<'_>) -> u32 {
    let cpus = match guest.gic {
        GuestGic::V2 => {
            (1_u32 << guest.vcpus.len().min(GuestGic::V2.max_vcpus())).saturating_sub(1)
        }
        GuestGic::V3 | GuestGic::V3WithIts => 0,
    };
    cpus << PPI_CPUS_SHIFT | LEVEL_HIGH
}

fn pmu(guest: &GuestDescription<'_>) -> Node {
    Node::named("pmu")
        .cells("interrupts", &[PPI, layout::PMU_PPI, private_flags(guest)])
        .text("compatible", "arm,armv8-pmuv3")
}

fn timer(guest: &GuestDescription<'_>) -> Node {
    let ppis = [
        layout::SECURE_TIMER_PPI,
        layout::PHYSICAL_TIMER_PPI,
        layout::VIRTUAL_TIMER_PPI,
        layout::HYPERVISOR_TIMER_PPI,
    ];
    let interrupts: Vec<u32> =
        ppis.iter().flat_map(|&ppi| [PPI, ppi, private_flags(guest)]).collect();
    Node::named("timer")
        .cells("interrupts", &interrupts)
        .flag("always-on")
        .texts("compatible", &["arm,armv8-timer", "arm,armv7-timer"])
}

fn interrupt_controller(guest: &GuestDescription<'_>) -> Node {
    let node = Node::at("intc", layout::GICD.base()).cells("phandle", &[GIC_PHANDLE]);
    let node = match guest.gic {
        GuestGic::V2 => {
            node.reg(&[layout::GICD, layout::GICC]).text("compatible", "arm,cortex-a15-gic")
        }
        GuestGic::V3 | GuestGic::V3WithIts => {
            // Only as many redistributors as there are vCPUs, so that a guest touches none that isn't there.
            let redistributors =
                layout::REDISTRIBUTOR_BYTES.saturating_mul(guest.vcpus.len() as u64);
            node.double_cells(
                "reg",
                &[
                    layout::GICD.base().get(),
                    layout::GICD.size(),
                    layout::GICR.base().get(),
                    redistributors,
                ],
            )
            .cells("#redistributor-regions", &[1])
            .text("compatible", "arm,gic-v3")
        }
    };
    let node = node
        .flag("ranges")
        .cells("#size-cells", &[2])
        .cells("#address-cells", &[2])
        .flag("interrupt-controller")
        .cells("#interrupt-cells", &[3]);
    match guest.gic {
        GuestGic::V2 | GuestGic::V3 => node,
        GuestGic::V3WithIts => node.child(
            Node::at("its", layout::ITS.base())
                .reg(&[layout::ITS])
                .cells("#msi-cells", &[1])
                .flag("msi-controller")
                .text("compatible", "arm,gic-v3-its"),
        ),
    }
}

fn cpus(guest: &GuestDescription<'_>) -> Node {
    // Aff3 is beyond the first 32 bits.
    let wide = guest.vcpus.iter().any(|vcpu| vcpu.get() > u64::from(u32::MAX));
    let phandles = FIRST_CPU_PHANDLE..;
    let cores =
        (0..).zip(phandles.clone()).take(guest.vcpus.len()).map(|(number, phandle): (u32, u32)| {
            Node::named(&format!("core{number}")).cells("cpu", &[phandle])
        });
    let map = Node::named("socket0").child(Node::named("cluster0").children(cores));
    let vcpus = guest.vcpus.iter().zip(phandles).map(|(vcpu, phandle)| {
        let node = Node::named(&format!("cpu@{:x}", vcpu.get())).cells("phandle", &[phandle]);
        let node = if wide {
            node.double_cells("reg", &[vcpu.get()])
        } else {
            node.cells("reg", &[vcpu.get() as u32])
        };
        node.text("enable-method", "psci")
            .text("compatible", guest.cpu_compatible)
            .text("device_type", "cpu")
    });
    Node::named("cpus")
        .cells("#size-cells", &[0])
        .cells("#address-cells", &[if wide { 2 } else { 1 }])
        .child(Node::named("cpu-map").child(map))
        .children(vcpus)
}

fn clock() -> Node {
    Node::named("apb-pclk")
        .cells("phandle", &[CLOCK_PHANDLE])
        .text("clock-output-names", "clk24mhz")
        .cells("clock-frequency", &[layout::APB_CLOCK_HZ])
        .cells("#clock-cells", &[0])
        .text("compatible", "fixed-clock")
}

fn chosen(guest: &GuestDescription<'_>) -> Node {
    let mut node = Node::named("chosen").text("stdout-path", &uart_path());
    if let Some(initrd) = guest.initrd {
        node = node
            .double_cells("linux,initrd-start", &[initrd.base().get()])
            .double_cells("linux,initrd-end", &[initrd.end().get()]);
    }
    if let Some(bootargs) = guest.bootargs {
        node = node.text("bootargs", bootargs);
    }
    if !guest.rng_seed.is_empty() {
        node = node.bytes("rng-seed", guest.rng_seed);
    }
    if let Some(seed) = guest.kaslr_seed {
        node = node.double_cells("kaslr-seed", &[seed]);
    }
    node
}
