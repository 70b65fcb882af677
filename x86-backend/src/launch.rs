//! From a bundle to running virtual machines.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use bunshin::address::{CpuId, VcpuId};
use bunshin::assembly::HostResources;
use bunshin::bundle;
use bunshin::bus::Bus;
use bunshin::config::{MachineConfig, VmConfig};
use bunshin::cpu::Cpu;
use bunshin::host_devices::Wanted;
use bunshin::hypervisor::Hypervisor;
use bunshin::network::Switch;
use bunshin::placement::Placement;
use bunshin::uplink::Uplinks;
use bunshin::vcpu::VcpuHandle;
use bunshin::virtio::rng::Entropy;
use bunshin::vm::Vm;
use spin::Once;
use x86_backend::boot_info::BootInfo;
use x86_backend::machine::cpuid::{Cpuid, Facts, Registers};
use x86_backend::machine::{decode, layout};
use x86_backend::paging::{Kind, Nested};

use crate::backend::X86;
use crate::engine::Engine;
use crate::hello;
use crate::host::console::CONSOLE;
use crate::host::devices;
use crate::host::entropy;
use crate::host::{self, PerCpu, give_up};
use crate::images::Images;
use crate::ram::Ram;
use crate::svm::{self, Svm};
use crate::vcpu::{BUS_KHZ, X86Vcpu, timer_clock};
use crate::virtio::{self, PoolPages};
use crate::vm::Pc;
use crate::vmx::{self, Vmx};

/// CPUID 8000_0001h EDX: pages of 1 GiB.
const CPUID_HUGE_PAGES: u32 = 1 << 26;
/// CPUID 8000_0007h EDX: invariant time-stamp counter.
const CPUID_INVARIANT_TSC: u32 = 1 << 8;

static SVM: Once<Hypervisor<X86<Svm>>> = Once::new();
static VMX: Once<Hypervisor<X86<Vmx>>> = Once::new();

/// Sets everything up and runs on the first host CPU.
pub(crate) fn launch(info: &BootInfo, cpus: usize) -> ! {
    match svm::probe() {
        Ok(()) => {
            svm::enable();
            run(&SVM, info, cpus, Kind::Npt)
        }
        Err(Some(missing)) => give_up(&missing),
        Err(None) => {}
    }
    match vmx::probe() {
        Ok(()) => {
            vmx::enable();
            run(&VMX, info, cpus, Kind::Ept)
        }
        Err(Some(missing)) => give_up(&missing),
        Err(None) => give_up(
            &"this processor has neither AMD-V (CPUID 8000_0001h ECX bit 2) nor VT-x (CPUID 1 ECX bit 5)",
        ),
    }
}

/// The other host CPUs come here.
pub(crate) fn join() -> ! {
    if let Some(hypervisor) = SVM.get() {
        svm::enable();
        Cpu::new(hypervisor, PerCpu::current().id).run()
    }
    if let Some(hypervisor) = VMX.get() {
        vmx::enable();
        Cpu::new(hypervisor, PerCpu::current().id).run()
    }
    give_up(&"a processor came before its time")
}

fn run<E: Engine>(
    place: &'static Once<Hypervisor<X86<E>>>,
    info: &BootInfo,
    cpus: usize,
    kind: Kind,
) -> ! {
    let options = E::options();
    let with = if options.is_empty() { "" } else { ", with " };
    log::info!("{} on {cpus} processors{with}{}", E::NAME, options.join(", "));
    let hypervisor = place.call_once(|| Hypervisor::new(X86::new(), cpus, &CONSOLE));
    decode::warm_up();
    let (bundle, machine) = match info.modules.first() {
        Some(module) => {
            let bundle = host::memory::module(*module);
            match bundle::open(bundle) {
                Ok(machine) => (bundle, machine),
                Err(error) => give_up(&format_args!("bundle: {error}")),
            }
        }
        None => {
            log::info!("no bundle: give one as the first module (`-initrd`, `module2`)");
            (hello::bytes(), MachineConfig::new(alloc::vec![hello::config()]))
        }
    };
    let placement = Placement::new((0..cpus).map(CpuId), &machine.vms);
    let resources = resources(bundle, &machine, &hypervisor.uplinks);
    for config in machine.vms {
        let name = config.name.clone();
        let autostart = config.autostart;
        match make_vm::<E>(config, &resources, &placement, kind) {
            Ok((vm, vcpus)) => {
                hypervisor.add(vm.clone(), vcpus);
                if autostart && !vm.start(&hypervisor.backend) {
                    CONSOLE.withdraw_focus(&name);
                }
            }
            Err(reason) => {
                log::error!("vm \"{name}\": {reason}");
                CONSOLE.forget(&name);
            }
        }
    }
    CONSOLE.use_interrupts();
    hypervisor.complete_start();
    host::release_others();
    Cpu::new(hypervisor, CpuId(0)).run()
}

/// What all machines' devices share, with the host's own devices that they use.
fn resources(bundle: &'static [u8], machine: &MachineConfig, uplinks: &Uplinks) -> HostResources {
    let devices = devices::open(Wanted::new(machine));
    let switch = Switch::new();
    uplinks.connect(&machine.uplinks, &devices.nics, &switch);
    HostResources {
        bundle,
        pages: Arc::new(PoolPages),
        disks: devices.disks,
        switch,
        entropy: entropy::generator().map(|generator| Arc::new(generator) as Arc<dyn Entropy>),
    }
}

/// A virtual machine and its virtual CPUs.
type Made<E> = (Arc<Vm<X86<E>>>, Vec<X86Vcpu<E>>);

/// Devices of a PC stay the host's: there is no driver for its IOMMU.
fn refuse_host_devices(config: &VmConfig) -> Result<(), String> {
    if let Some(path) = config.devices.first() {
        return Err(format!(
            "device {path}: this hypervisor gives no device of a PC to a guest; remove it"
        ));
    }
    match config.direct_memory {
        true => Err("direct_memory: there is no use for it on a PC; remove it".into()),
        false => Ok(()),
    }
}

/// Makes what `config` describes.
fn make_vm<E: Engine>(
    config: VmConfig,
    resources: &HostResources,
    placement: &Placement,
    kind: Kind,
) -> Result<Made<E>, String> {
    refuse_host_devices(&config)?;
    let homes = placement.homes(&config)?;
    let pinned = config.pinned;
    let huge = match kind {
        Kind::Npt => __cpuid(0x8000_0001).edx & CPUID_HUGE_PAGES != 0,
        Kind::Ept => vmx::huge_pages(),
    };
    let features = E::features();
    let most = layout::most_memory(host::address_bits());
    if config.memory > most {
        return Err(format!(
            "memory: {} MiB are more than the {} MiB for which this processor's {}-bit addresses have \
             room; give it less",
            config.memory >> 20,
            most >> 20,
            host::address_bits(),
        ));
    }
    let format = Nested { kind, huge, physical_bits: host::physical_bits() };
    let elastic = config.balloon.then_some(config.vcpus as usize);
    let mut ram = Ram::new(config.memory, format, elastic)?;
    if let Some(page) = E::guest_page() {
        ram.show(page)?;
    }
    let facts = Facts {
        vcpus: config.vcpus,
        tsc_khz: timer_clock().tsc_khz,
        bus_khz: BUS_KHZ,
        address_bits: host::address_bits(),
        invariant_tsc: __cpuid(0x8000_0007).edx & CPUID_INVARIANT_TSC != 0,
        invpcid: features.invpcid,
        rdtscp: features.rdtscp,
        xsaves: false,
        xcr0: host::components(),
    };
    let cpuid = Cpuid::new(
        |leaf, subleaf| {
            let leaf = __cpuid_count(leaf, subleaf);
            Registers { eax: leaf.eax, ebx: leaf.ebx, ecx: leaf.ecx, edx: leaf.edx }
        },
        facts,
    );
    let images = Images::new(&config, resources.bundle);
    let apics: Vec<_> = (0..config.vcpus).map(X86Vcpu::<E>::local_apic).collect();
    let mailboxes = apics.iter().map(|apic| apic.mailbox().clone()).collect();
    let console = CONSOLE.add(&config.name, config.autostart);
    let (mut pc, mut bus): (Pc, Bus) =
        Pc::new(&config.name, ram, cpuid, mailboxes, console, images)
            .map_err(|_| "devices overlap")?;
    let (virtio, devices) =
        virtio::attach(&config, resources, &pc.ram, &pc.ioapic, console, &mut bus)?;
    pc.images.describe(virtio);
    let pc = Arc::new(pc);
    let handles: Vec<_> = homes
        .into_iter()
        .enumerate()
        .map(|(id, home)| Arc::new(VcpuHandle::new(VcpuId(id), home)))
        .collect();
    pc.connect(handles.clone());
    let vcpus = handles
        .iter()
        .zip(apics)
        .map(|(handle, apic)| X86Vcpu::new(handle.clone(), pc.clone(), apic, pinned))
        .collect::<Result<_, _>>()?;
    Ok((Arc::new(Vm::new(config, bus, pc, handles).with_devices(devices)), vcpus))
}
