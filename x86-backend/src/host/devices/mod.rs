//! Disks and network devices of the host, on its PCI bus.

mod hal;
mod pci;

use bunshin::host_devices::{HostDevices, Wanted};
use host_virtio::DeviceType;

use super::timer;
use hal::PcHal;

/// Starts the devices that have a use. To be called once.
pub(crate) fn open(wanted: Wanted) -> HostDevices {
    let mut devices = HostDevices::default();
    let has_use = |kind| match kind {
        DeviceType::Block => wanted.disks,
        DeviceType::Network => wanted.nics,
        _ => false,
    };
    pci::for_each(has_use, |kind, transport| match kind {
        DeviceType::Block => {
            devices.add_disk::<PcHal, _>(transport, || timer::now().0, timer::frequency());
        }
        // Its interrupt is not routed.
        _ => drop(devices.add_nic::<PcHal, _>(transport, None)),
    });
    devices
}
