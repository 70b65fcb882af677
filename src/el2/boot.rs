//! From the boot loader to running guests.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use bunshin::address::CpuId;
use bunshin::assembly::HostResources;
use bunshin::bundle;
use bunshin::config::{MachineConfig, Payload, VmConfig};
use bunshin::cpu;
use bunshin::host_devices::Wanted;
use bunshin::hypervisor::Hypervisor;
use bunshin::network::Switch;
use bunshin::placement::Placement;
use bunshin::virtio::rng::Entropy;
use drivers::pins::{self, HeaderSerial};
use gic::Affinity;
use gic::host::{Controller, CpuInterface, aic, v2, v3};
use log::{error, info, warn};
use platform::discover::{
    self, AicVersion, Console, ConsoleKind, Cpu, InterruptController, InterruptSource, Platform,
    ResetDevice,
};
use platform::tree::Tree;
use platform::{PhysicalAddress, Region};
use spin::mutex::TicketMutex;
use stage2::{Geometry, IdRegisters, VmidAllocator};

use crate::el2::backend::El2;
use crate::el2::device_registers::DeviceRegisters;
use crate::el2::features::Features;
use crate::el2::host::{self, ARRIVED, Blob, Host, MAX_CPUS};
use crate::el2::host_devices;
use crate::el2::interrupts::Interrupts;
use crate::el2::pages::FramePages;
use crate::el2::percpu::{self, PerCpu};
use crate::el2::registers::read_register;
use crate::el2::smp::{self, Conduit};
use crate::el2::{
    builder, console, entropy, fault, frames, heap, mmu, passthrough, reset, stack, uart,
};

core::arch::global_asm!(include_str!("entry.S"), options(raw));
core::arch::global_asm!(include_str!("switch.S"), options(raw));
core::arch::global_asm!(include_str!("embedded.S"), options(raw));

/// Longest device tree that is looked at, in bytes.
const MAX_TREE: usize = 2 << 20;

/// The boot CPU arrives here from `entry.S`, with the MMU on and a coarse map of the image and
/// of the device tree, which is 0 where the boot loader gave none.
#[unsafe(no_mangle)]
extern "C" fn boot_main(tree: u64, level: u64) -> ! {
    heap::init();
    stack::paint_boot();
    console::init_log();
    if let Err(reason) = boot(tree, level) {
        error!("{reason}");
    }
    fault::halt()
}

/// Starts everything; does not return but with a reason.
fn boot(address: u64, level: u64) -> Result<(), String> {
    // Without a device tree nothing is known, not even where to say so.
    if address == 0 {
        fault::halt();
    }
    let blob = device_tree(address);
    let tree: &'static Tree = Box::leak(Box::new(Tree::from_blob(blob).map_err(text)?));
    let features = (level == 2).then(Features::read);
    let unprivileged = features.as_ref().map_or(level == 1, |features| features.e2h);
    mmu::init(unprivileged).map_err(text)?;
    let platform = Platform::discover(tree);
    mmu::activate(level);
    let serial = platform.as_ref().ok().and_then(console_of);
    if let Some(serial) = &serial
        && let Some(port) = uart::open(serial).map_err(text)?
    {
        console::open(port);
    }
    let platform = platform.map_err(text)?;
    let Some(features) = features else { return Err(format_level(level)) };
    info!("Bunshin {} on {}", env!("CARGO_PKG_VERSION"), name(&platform));
    let tree_region = region(address, blob.len() as u64);
    let bundle = platform.chosen.initrd;
    add_memory(&platform, &[tree_region, bundle])?;
    entropy::start(&platform.chosen.rng_seed);
    start(tree, &platform, features, bundle, serial.as_ref())
}

fn text(reason: impl core::fmt::Display) -> String {
    alloc::format!("{reason}")
}

fn format_level(level: u64) -> String {
    alloc::format!(
        "started at EL{level}, but a hypervisor needs EL2; with QEMU, give -M virt,virtualization=on (without secure=on)"
    )
}

/// The blob of the device tree, which `entry.S` has found to begin as one does and has mapped.
fn device_tree(address: u64) -> &'static [u8] {
    // SAFETY: `entry.S` mapped as much as the header says, and at most MAX_TREE.
    unsafe {
        let size = u32::from_be(((address + 4) as *const u32).read());
        core::slice::from_raw_parts(address as *const u8, (size as usize).min(MAX_TREE))
    }
}

fn region(base: u64, size: u64) -> Option<Region> {
    Region::new(PhysicalAddress::new(base), size)
}

fn name(platform: &Platform) -> &str {
    if platform.model.is_empty() {
        platform.compatible.first().map_or("an unnamed machine", String::as_str)
    } else {
        &platform.model
    }
}

/// The serial port for the console: what the pins carry, if they tell, else what the tree says.
fn console_of(platform: &Platform) -> Option<Console> {
    let header = platform.pins.and_then(|pins| {
        let registers = DeviceRegisters::map(pins).ok()?;
        pins::header_serial(&registers)
    });
    let wired = header.map(|port| match port {
        HeaderSerial::Pl011 => ConsoleKind::Pl011,
        HeaderSerial::MiniUart => ConsoleKind::Bcm2835Aux,
    });
    platform.console_of_kind(wired.as_ref()).cloned()
}

/// Maps memory and gives what is free to the frame allocator.
fn add_memory(platform: &Platform, taken: &[Option<Region>]) -> Result<(), String> {
    let image = region(fault::image_base(), mmu::image_end() - fault::image_base());
    let mut holes: Vec<Region> = taken.iter().copied().flatten().collect();
    holes.extend(image);
    // The boot loader's tree and initrd are read, never written.
    for hole in taken.iter().flatten() {
        mmu::map(hole.base().get(), hole.size(), mmu::CONSTANTS).map_err(text)?;
    }
    for memory in platform::subtract_regions(&platform.usable_memory(), &holes) {
        // Whole pages only, so that no page is half free.
        let Some(memory) = memory.aligned_inside(mmu::PAGE) else { continue };
        mmu::map(memory.base().get(), memory.size(), mmu::DATA).map_err(text)?;
        frames::add(memory.base().get(), memory.size());
    }
    Ok(())
}

/// The interrupt controller, its maintenance interrupt, and its frames mapped.
fn open_controller(platform: &Platform) -> Result<(Controller, u32), String> {
    let device = |region: Region| -> Result<usize, String> {
        mmu::map(region.base().get(), region.size(), mmu::DEVICE).map_err(text)?;
        passthrough::keep(region);
        Ok(region.base().get() as usize)
    };
    // A tree may say less than what the driver uses.
    let distributor = |gicd: Region, size: usize| {
        device(region(gicd.base().get(), gicd.size().max(size as u64)).unwrap_or(gicd))
    };
    let number = |interrupt: &discover::Interrupt| match interrupt.source {
        InterruptSource::Gic(intid) => intid.get(),
        _ => 0,
    };
    match &platform.interrupt_controller {
        InterruptController::GicV2(gic) => {
            let (Some(gich), Some(gicv)) = (gic.gich, gic.gicv) else {
                return Err(
                    "this GICv2 has no virtual interface (GICH, GICV); guests need one".into()
                );
            };
            let frames = v2::Frames {
                gicd: distributor(gic.gicd, v2::Distributor::GICD_SIZE)?,
                gicc: device(gic.gicc)?,
                gicc_size: gic.gicc.size() as usize,
                gich: device(gich)?,
                gicv: gicv.base().get() as usize,
            };
            // SAFETY: the device tree names these frames, they are mapped as
            // devices for good, and there is no other driver.
            let distributor = unsafe { v2::Distributor::new(&frames) }.map_err(text)?;
            Ok((Controller::V2(distributor), number(&gic.maintenance)))
        }
        InterruptController::GicV3(gic) => {
            let mut redistributors = Vec::new();
            for region in &gic.redistributors {
                redistributors.push((device(*region)?, region.size() as usize));
            }
            let frames = v3::Frames {
                gicd: distributor(gic.gicd, v3::Distributor::GICD_SIZE)?,
                redistributors: &redistributors,
            };
            // SAFETY: as above.
            let distributor = unsafe { v3::Distributor::new(&frames) }.map_err(text)?;
            Ok((Controller::V3(distributor), number(&gic.maintenance)))
        }
        InterruptController::Aic(aic) => {
            let version = match aic.version {
                AicVersion::V1 => aic::Version::V1,
                AicVersion::V2 => aic::Version::V2,
                AicVersion::V3 => {
                    return Err("the interrupt controller is an AIC of version 3 (M3 and later), \
                                for which there is no driver"
                        .into());
                }
            };
            let frames = aic::Frames {
                version,
                registers: device(aic.registers)?,
                size: aic.registers.size() as usize,
                event: aic.event.map(device).transpose()?,
            };
            // SAFETY: as above.
            let distributor = unsafe { aic::Distributor::new(&frames) }.map_err(text)?;
            Ok((Controller::Aic(distributor), aic::MAINTENANCE.get()))
        }
    }
}

fn conduit(platform: &Platform) -> Option<Conduit> {
    platform.psci.as_ref().map(|psci| match psci.conduit {
        discover::Conduit::Smc => Conduit::Smc,
        discover::Conduit::Hvc => Conduit::Hvc,
    })
}

/// This CPU's affinity.
fn affinity() -> u64 {
    read_register!("mpidr_el1") & smp::AFFINITY
}

/// Width of guests' physical addresses where the CPU has more: 1 TiB, and a walk of three levels.
const GUEST_ADDRESS_BITS: u32 = 40;

fn stage2_geometry(features: &Features) -> Result<Geometry, String> {
    let ids = IdRegisters { mmfr0: features.mmfr0(), mmfr1: features.mmfr1() };
    let widest = Geometry::choose(ids, None).map_err(text)?;
    Geometry::choose(ids, Some(widest.input_bits().min(GUEST_ADDRESS_BITS))).map_err(text)
}

/// Sets up the machine and its guests, and becomes CPU 0 of the hypervisor.
fn start(
    tree: &'static Tree,
    platform: &Platform,
    features: Features,
    bundle: Option<Region>,
    serial: Option<&Console>,
) -> Result<(), String> {
    let mut others: Vec<&Cpu> =
        platform.cpus.iter().filter(|cpu| cpu.mpidr.get() != affinity()).collect();
    others.truncate(MAX_CPUS - 1);
    let cpus = others.len() + 1;
    let geometry = stage2_geometry(&features)?;
    let vmids = VmidAllocator::new(geometry.vmid_bits(), cpus).map_err(text)?;
    let (controller, maintenance) = open_controller(platform)?;
    controller.init_distributor(Affinity::from_mpidr(affinity())).map_err(text)?;
    let interface = controller.init_cpu(Affinity::from_mpidr(affinity())).map_err(text)?;
    let priority_bits = interface.priority_bits();
    let watchdog = match &platform.reset {
        Some(device) => reset::open_watchdog(device).map_err(text)?,
        None => None,
    };
    let (blob, config) = open_bundle(bundle);
    let host = host::set_host(Host {
        features,
        geometry,
        tree,
        controller,
        interrupts: Interrupts::of(platform, &controller, maintenance, serial),
        conduit: conduit(platform),
        watchdog,
        bundle: blob,
        priority_bits,
        sgi_targets: Host::sgi_targets(cpus),
        vmids: TicketMutex::new(vmids),
    });
    install(0, interface);
    host.interrupts.enable_console();
    console::enable_receive_interrupt();
    let hypervisor = host::set_hypervisor(Hypervisor::new(El2, cpus, &console::CONSOLE));
    smp::start(&others, host.conduit, &ARRIVED);
    let online: Vec<CpuId> = (0..cpus)
        .filter(|cpu| *cpu == 0 || ARRIVED.get(*cpu).is_some_and(|a| a.load(Ordering::Acquire)))
        .map(CpuId)
        .collect();
    info!(
        "{} of {} CPUs, {} MiB of memory free, {}, E2H={}",
        online.len(),
        cpus,
        frames::available() >> 20,
        match host.controller {
            Controller::V2(_) => "GICv2",
            Controller::V3(_) => "GICv3",
            Controller::Aic(_) => "AIC",
        },
        u8::from(host.features.e2h)
    );
    info!(
        "stage 2: {} bits of guest address, granule {} KiB",
        host.geometry.input_bits(),
        host.geometry.granule().bytes() >> 10
    );
    info!("hypervisor heap: {} KiB free", heap::free() >> 10);
    let resources = resources(platform, config.as_ref(), hypervisor);
    let own = [serial.map(|serial| serial.registers), platform.reset.map(ResetDevice::registers)];
    own.into_iter().flatten().for_each(passthrough::keep);
    let vms = config.iter().flat_map(|config| &config.vms);
    let placement = Placement::new(online, vms.clone());
    for vm in vms {
        match builder::build(hypervisor, &resources, &placement, vm) {
            Ok(built) => {
                if vm.autostart && !built.start(&hypervisor.backend) {
                    console::CONSOLE.withdraw_focus(&vm.name);
                }
            }
            Err(reason) => {
                error!("vm \"{}\": {reason}", vm.name);
                console::CONSOLE.forget(&vm.name);
            }
        }
    }
    console::CONSOLE.use_interrupts();
    hypervisor.complete_start();
    cpu::Cpu::new(hypervisor, CpuId(0)).run()
}

/// What all machines' devices share, with the host's own devices that they use.
fn resources(
    platform: &Platform,
    config: Option<&MachineConfig>,
    hypervisor: &Hypervisor<El2>,
) -> HostResources {
    let uplinks = config.map(|config| &config.uplinks[..]).unwrap_or_default();
    let wanted = config.map(Wanted::new).unwrap_or_default();
    let devices = host_devices::open(&platform.virtio, wanted);
    let switch = Switch::new();
    hypervisor.uplinks.connect(uplinks, &devices.nics, &switch);
    HostResources {
        bundle: host::host().bundle.bytes(),
        pages: Arc::new(FramePages),
        disks: devices.disks,
        switch,
        entropy: entropy::generator().map(|generator| generator.clone() as Arc<dyn Entropy>),
    }
}

/// Gives this CPU its data and enables its interrupts.
fn install(cpu: usize, interface: CpuInterface) {
    let target = interface.sgi_target();
    let host = host::host();
    let percpu: &'static PerCpu = Box::leak(Box::new(PerCpu::new(cpu, host, interface)));
    percpu.install();
    host.set_sgi_target(cpu, target);
    host.interrupts.enable_private();
}

/// The other CPUs arrive here from `entry.S` with the final map and a stack of their own.
#[unsafe(no_mangle)]
extern "C" fn secondary_main(cpu: usize) -> ! {
    mmu::harden();
    let host = host::host();
    match host.controller.init_cpu(Affinity::from_mpidr(affinity())) {
        Ok(interface) => install(cpu, interface),
        Err(reason) => {
            error!("CPU {:#x}: {reason}", affinity());
            fault::halt();
        }
    }
    if let Some(arrived) = ARRIVED.get(cpu) {
        arrived.store(true, Ordering::Release);
    }
    match host::hypervisor() {
        Some(hypervisor) => cpu::Cpu::new(hypervisor, CpuId(percpu::this().cpu)).run(),
        None => fault::halt(),
    }
}

unsafe extern "C" {
    static embedded_guest: u8;
    static embedded_guest_end: u8;
}

/// The bundle that the boot loader left as initial RAM disk and what it describes; without one,
/// the embedded guest. A bundle that is not right runs nothing.
fn open_bundle(bundle: Option<Region>) -> (Blob, Option<MachineConfig>) {
    // Nothing is at address 0: a loader that left the property empty.
    let Some(region) = bundle.filter(|region| region.base().get() != 0) else {
        warn!("no bundle: running the embedded guest; give one as initial RAM disk (-initrd)");
        let base = &raw const embedded_guest as u64;
        let size = (&raw const embedded_guest_end as u64 - base) as usize;
        let kernel = Payload { offset: 0, size };
        let vm = VmConfig::new("embedded", 1, 16 << 20, kernel);
        return (Blob { base, size }, Some(MachineConfig::new(alloc::vec![vm])));
    };
    let blob = Blob { base: region.base().get(), size: region.size() as usize };
    match bundle::open(blob.bytes()) {
        Ok(config) => (blob, Some(config)),
        Err(reason) => {
            error!("{reason}");
            (blob, None)
        }
    }
}
