//! Disks and network devices of the host, as its device tree names them.

mod hal;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;

use bunshin::host_devices::{HostDevices, VirtioNic, Wanted};
use host_virtio::mmio::{MmioTransport, VirtIOHeader};
use host_virtio::{DeviceType, Transport};
use platform::Region;
use platform::discover::VirtioTransport;
use spin::Once;

use crate::el2::registers::read_register;
use crate::el2::{host, interrupts, mmu, passthrough, percpu};
use hal::El2Hal;

type Mmio = MmioTransport<'static>;

/// The network devices, for the interrupt handler.
static NICS: Once<Vec<Arc<VirtioNic<El2Hal, Mmio>>>> = Once::new();

/// Starts the devices among `transports` that have a use. To be called once, when the interrupt
/// controller is there.
pub(crate) fn open(transports: &[VirtioTransport], wanted: Wanted) -> HostDevices {
    let mut devices = HostDevices::default();
    if !wanted.disks && !wanted.nics {
        return devices;
    }
    let mut nics = Vec::new();
    let mut transports: Vec<_> = transports.iter().collect();
    transports.sort_unstable_by_key(|transport| transport.registers.base().get());
    for transport in transports {
        let Some(mmio) = map(transport.registers) else { continue };
        match mmio.device_type() {
            DeviceType::Block if wanted.disks => {
                let frequency = read_register!("cntfrq_el0");
                devices.add_disk::<El2Hal, _>(mmio, interrupts::counter, frequency);
                passthrough::keep(transport.registers);
            }
            DeviceType::Network if wanted.nics => {
                let interrupt = transport.interrupt.as_ref();
                let interrupt =
                    interrupt.and_then(|it| interrupts::intid(&host::host().controller, it));
                nics.extend(devices.add_nic(mmio, interrupt));
                passthrough::keep(transport.registers);
            }
            _ => {}
        }
    }
    for number in NICS.call_once(|| nics).iter().filter_map(|nic| nic.interrupt()) {
        let interface = percpu::this().interface();
        interface.target_self(gic::IntId::new(number));
        interface.enable(gic::IntId::new(number));
    }
    devices
}

/// The transport at `registers`; `None` if nothing is behind it.
fn map(registers: Region) -> Option<Mmio> {
    let (base, size) = (registers.base().get(), registers.size());
    mmu::map(base, size, mmu::DEVICE).ok()?;
    let header = NonNull::new(base as *mut VirtIOHeader)?;
    // SAFETY: the device tree names the window, it is mapped as a device for good, and there is
    // no other driver for it.
    unsafe { MmioTransport::new(header, size as usize) }.ok()
}

/// The interrupt with this number came. True if it was one of these devices'.
pub(crate) fn interrupt(number: u32) -> bool {
    let nics = NICS.get().map_or(&[][..], Vec::as_slice);
    let Some(nic) = nics.iter().find(|nic| nic.interrupt() == Some(number)) else { return false };
    nic.acknowledge();
    if let Some(hypervisor) = host::hypervisor() {
        hypervisor.uplinks.notify();
    }
    true
}
