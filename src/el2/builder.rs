//! From a configuration to a virtual machine: memory, devices, virtual CPUs.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use bunshin::address::VcpuId;
use bunshin::assembly::{self, DeviceHandles, HostResources, Resources};
use bunshin::bus::{Bus, InterruptLine, Space};
use bunshin::config::VmConfig;
use bunshin::console::Channel;
use bunshin::device::clock::WallClock;
use bunshin::device::console::ConsoleSink;
use bunshin::device::flash::ErasedFlash;
use bunshin::device::pl011::{Pl011, Revision};
use bunshin::device::pl031::Pl031;
use bunshin::hypervisor::Hypervisor;
use bunshin::placement::Placement;
use bunshin::vcpu::VcpuHandle;
use bunshin::vm::Vm;
use gic::vgic::{Config, Version};
use gic::{Affinity, Line, Vgic};
use log::info;
use platform::Region;
use platform::guest::layout;
use spin::Once;
use spin::mutex::SpinMutex;
use stage2::{Attributes, IntermediateAddress, MemoryType, PhysicalAddress};
use traps::identification::{self, Policy};

use crate::el2::backend::El2;
use crate::el2::console::CONSOLE;
use crate::el2::host::host;
use crate::el2::machine::{self, Machine, Seat, Wire};
use crate::el2::memory::Ram;
use crate::el2::passthrough::{self, Passed};
use crate::el2::registers::read_register;
use crate::el2::stage2_hardware::{FrameTables, GuestTlb};
use crate::el2::stolen_time::{self, StolenTimePage};
use crate::el2::vcpu::El2Vcpu;

/// Shared peripheral interrupts that a guest's controller has, as many as QEMU's `virt`.
const GUEST_SPIS: usize = 256;
/// vCPUs in one cluster: as many as an SGI's target list reaches.
const CLUSTER: usize = 16;
/// vCPUs that a GICv2 tells apart.
const CLUSTER_V2: usize = 8;

/// Affinity of virtual CPU `number`, as on QEMU's `virt`.
fn affinity(number: usize) -> u64 {
    let cluster = if host().is_gicv3() { CLUSTER } else { CLUSTER_V2 };
    ((number / cluster) as u64) << 8 | (number % cluster) as u64
}

/// Seconds since the host started: it has no clock that knows the date.
struct Uptime;

impl WallClock for Uptime {
    fn seconds(&self) -> u64 {
        read_register!("cntpct_el0") / read_register!("cntfrq_el0").max(1)
    }
}

fn failed(reason: impl core::fmt::Display) -> String {
    format!("{reason}")
}

/// Builds a virtual machine and gives it to the hypervisor, stopped.
///
/// # Errors
/// Why it cannot be: too little memory, too many virtual CPUs.
pub(crate) fn build(
    hypervisor: &'static Hypervisor<El2>,
    resources: &HostResources,
    placement: &Placement,
    config: &VmConfig,
) -> Result<Arc<Vm<El2>>, String> {
    let count = config.vcpus as usize;
    let homes = placement.homes(config)?;
    let passed = Passed::take(config)?;
    let ram = memory(config, &passed)?;
    let stolen_time = StolenTimePage::allocate().ok_or("no memory for stolen time")?;
    map(&ram, &stolen_time, &passed)?;
    let mpidrs: Vec<u64> = (0..count).map(affinity).collect();
    let vgic = controller(&mpidrs, &passed)?;
    let host = host();
    let policy = Policy::new(
        u8::try_from(host.geometry.input_bits()).unwrap_or(u8::MAX),
        host.is_gicv3(),
        host.features.event_counters.is_some(),
    );
    let handles: Vec<Arc<VcpuHandle>> = homes
        .into_iter()
        .enumerate()
        .map(|(number, home)| Arc::new(VcpuHandle::new(VcpuId(number), home)))
        .collect();
    let seat = |handle: &Arc<VcpuHandle>| {
        let target = host.sgi_target(handle.home()).ok_or("a host CPU has not started")?;
        Ok(Seat { handle: handle.clone(), target })
    };
    let machine = Arc::new(Machine {
        config: config.clone(),
        ram: Arc::new(ram),
        virtio_devices: Once::new(),
        vgic: SpinMutex::new(vgic),
        id: identification::sanitise(&host.features.id, &policy),
        mpidrs,
        counter_offset: AtomicU64::new(0),
        stolen_time,
        passed,
        boot: SpinMutex::new(None),
        vcpus: handles.iter().map(seat).collect::<Result<_, String>>()?,
    });
    let (bus, devices) = devices(&machine, resources)?;
    passthrough::connect(&machine);
    let vcpus =
        handles.iter().map(|handle| El2Vcpu::new(machine.clone(), handle.clone())).collect();
    let vm = Vm::new(config.clone(), bus, machine, handles).with_devices(devices);
    let vm = Arc::new(vm);
    hypervisor.add(vm.clone(), vcpus);
    Ok(vm)
}

/// The machine's memory.
fn memory(config: &VmConfig, passed: &Passed) -> Result<Ram, String> {
    let (size, free) = (config.memory >> 20, crate::el2::frames::available() >> 20);
    if !config.direct_memory {
        return Ram::allocate(layout::RAM_BASE.get(), config.memory, config.balloon).ok_or_else(
            || {
                format!(
                    "memory: no {size} MiB of host memory left ({free} MiB are free); give less"
                )
            },
        );
    }
    if config.balloon {
        return Err("balloon: a device could write to memory that the guest gave up; remove it, or direct_memory".into());
    }
    // Above what else the guest has, and where stage 2 can map it.
    let within = layout::PASSED.end().get()..1 << host().geometry.input_bits();
    let ram = Ram::allocate_direct(config.memory, within).ok_or_else(|| {
        format!(
            "direct_memory: no {size} MiB of host memory left in one piece ({free} MiB are free in all); give less, or \
             a power of two"
        )
    })?;
    info!("vm \"{}\": {size} MiB of memory at the host's address {:#x}", config.name, ram.base());
    let region = Region::new(platform::PhysicalAddress::new(ram.base()), ram.size());
    region.map_or(Ok(()), |region| passed.check_reach(region))?;
    Ok(ram)
}

/// What stage 2 has beside memory: stolen-time records, devices of its own and, on a GICv2, the
/// virtual CPU interface.
fn map(ram: &Ram, stolen_time: &StolenTimePage, passed: &Passed) -> Result<(), String> {
    let mut translation = ram.translation.write();
    // Nothing is running under this table yet: no TLB entry can be stale.
    let mut tlb = GuestTlb { vttbr: read_register!("vttbr_el2") };
    let mut put = |guest: u64, physical: u64, size: u64, attributes: Attributes| {
        translation
            .map
            .table_mut()
            .map(
                &mut FrameTables,
                &mut tlb,
                IntermediateAddress(guest),
                PhysicalAddress(physical),
                size,
                attributes,
            )
            .map_err(failed)
    };
    let records =
        Attributes { read: true, write: false, execute: false, memory: MemoryType::Normal };
    put(stolen_time::ADDRESS, stolen_time.host_address(), stolen_time::SIZE, records)?;
    for (guest, physical, size) in passed.mappings() {
        put(guest, physical, size, Attributes::DEVICE)?;
    }
    if let gic::host::Controller::V2(distributor) = &host().controller {
        put(
            layout::GICC.base().get(),
            distributor.gicv() as u64,
            gic::host::v2::Distributor::GICC_SIZE as u64,
            Attributes::DEVICE,
        )?;
    }
    Ok(())
}

/// The interrupt controller, with the guest's private interrupts and those of its own devices
/// linked to physical ones.
fn controller(mpidrs: &[u64], passed: &Passed) -> Result<Vgic, String> {
    let affinities: Vec<Affinity> =
        mpidrs.iter().map(|mpidr| Affinity::from_mpidr(*mpidr)).collect();
    let mut vgic = Vgic::new(&Config {
        version: if host().is_gicv3() { Version::V3 } else { Version::V2 },
        vcpus: &affinities,
        spis: GUEST_SPIS,
        priority_bits: host().priority_bits,
        // QEMU's GICv2 does not look at the input again when a guest deactivates a physical
        // interrupt through a list register: a timer that is still due would be lost. Apple's
        // list registers do not reach its controller at all.
        hardware_deactivation: matches!(host().controller, gic::host::Controller::V3(_)),
    })
    .map_err(failed)?;
    for number in 0..mpidrs.len() {
        for (virtual_number, physical) in host().interrupts.guest_private() {
            let line = Line::Ppi(machine::index(number), gic::IntId::new(virtual_number));
            vgic.link_physical(line, physical);
        }
    }
    for (line, physical) in passed.links() {
        vgic.link_physical(line, physical);
    }
    Ok(vgic)
}

/// The devices of QEMU's `virt` that every guest has, and those of its configuration.
fn devices(machine: &Arc<Machine>, host: &HostResources) -> Result<(Bus, DeviceHandles), String> {
    let console = CONSOLE.add(&machine.config.name, machine.config.autostart);
    let mut bus = Bus::new();
    bus.attach(
        Space::Memory,
        layout::FLASH.base().get(),
        layout::FLASH.size(),
        Arc::new(ErasedFlash),
    )
    .map_err(failed)?;
    let wire = Wire::to_spi(layout::UART_SPI);
    wire.connect(machine);
    let port = CONSOLE.port(console);
    let uart = Arc::new(Pl011::new(Revision::R1p1, port.clone(), wire));
    port.connect(uart.clone());
    bus.attach(Space::Memory, layout::UART.base().get(), layout::UART.size(), uart)
        .map_err(failed)?;
    let wire = Wire::to_spi(layout::RTC_SPI);
    wire.connect(machine);
    let clock = Arc::new(Pl031::new(Arc::new(Uptime), wire));
    bus.attach(Space::Memory, layout::RTC.base().get(), layout::RTC.size(), clock)
        .map_err(failed)?;
    let devices = virtio(machine, host, console, &mut bus)?;
    Ok((bus, devices))
}

/// The virtio devices of the machine's configuration, and those that the user may look at.
fn virtio(
    machine: &Arc<Machine>,
    host: &HostResources,
    console: Channel,
    bus: &mut Bus,
) -> Result<DeviceHandles, String> {
    let port = CONSOLE.port(console);
    let config = &machine.config;
    let control = config.control.then(|| CONSOLE.port(CONSOLE.add_control(&config.name)));
    let wires = |slot: u8| -> Arc<dyn InterruptLine> {
        let wire = Wire::to_spi(layout::FIRST_VIRTIO_SPI.saturating_add(slot.into()));
        wire.connect(machine);
        wire
    };
    let monitor = control.clone().map(|port| port as Arc<dyn ConsoleSink>);
    let resources = Resources {
        memory: machine.ram.clone(),
        pages: machine.ram.clone(),
        wires: &wires,
        console: port.clone(),
        monitor,
        host,
    };
    let assembly = assembly::assemble(&machine.config, &resources).map_err(failed)?;
    port.connect(assembly.console);
    if let (Some(port), Some(monitor)) = (control, assembly.monitor) {
        port.connect(monitor);
    }
    for (slot, device) in (0u8..).zip(&assembly.devices) {
        let window = layout::virtio_transport(slot)
            .ok_or_else(|| format!("more than {} virtio devices", layout::VIRTIO_SLOTS))?;
        bus.attach(Space::Memory, window.base().get(), assembly::WINDOW, device.clone())
            .map_err(failed)?;
    }
    let count = u8::try_from(assembly.devices.len()).unwrap_or(u8::MAX);
    machine.virtio_devices.call_once(|| count);
    Ok(assembly.handles)
}
