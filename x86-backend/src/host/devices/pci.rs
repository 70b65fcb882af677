//! The PCI bus through configuration mechanism 1 (PCI Local Bus 3.0, 3.2.2.3.2).

use host_virtio::pci::PciTransport;
use host_virtio::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use host_virtio::{DeviceType, pci};
use log::warn;
use x86_64::instructions::port::Port;

use super::hal::PcHal;

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// CONFIG_ADDRESS: an access of CONFIG_DATA is one of the configuration space.
const ENABLE: u32 = 1 << 31;

/// Registers of devices lie below; what lies above is not mapped.
const MAPPED_END: u64 = 1 << 32;

/// The two ports. Only the first processor uses them, at start-up.
struct Ports;

impl Ports {
    fn select(place: DeviceFunction, register: u8) {
        let bus = u32::from(place.bus) << 16;
        let device = u32::from(place.device & 0x1f) << 11;
        let function = u32::from(place.function & 7) << 8;
        let address = ENABLE | bus | device | function | u32::from(register & !3);
        // SAFETY: selects what the data port shows, and nothing else.
        unsafe { Port::new(CONFIG_ADDRESS).write(address) }
    }
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, place: DeviceFunction, register: u8) -> u32 {
        Self::select(place, register);
        // SAFETY: reads of configuration space have no side effects.
        unsafe { Port::new(CONFIG_DATA).read() }
    }

    fn write_word(&mut self, place: DeviceFunction, register: u8, data: u32) {
        Self::select(place, register);
        // SAFETY: the only writer is the driver of the device that was selected.
        unsafe { Port::new(CONFIG_DATA).write(data) }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Ports
    }
}

/// Calls `each` with every virtio device on the first bus that `wanted` says yes to, in the order
/// of their addresses.
pub(super) fn for_each(
    wanted: impl Fn(DeviceType) -> bool,
    mut each: impl FnMut(DeviceType, PciTransport),
) {
    let mut root = PciRoot::new(Ports);
    for (place, info) in root.enumerate_bus(0) {
        let Some(kind) = pci::virtio_device_type(&info).filter(|kind| wanted(*kind)) else {
            continue;
        };
        let reachable = root.bars(place).is_ok_and(|bars| {
            let ranges = bars.iter().flatten().filter_map(|bar| bar.memory_address_size());
            ranges.into_iter().all(|(address, size)| {
                address.checked_add(size).is_some_and(|end| end <= MAPPED_END)
            })
        });
        if !reachable {
            warn!("host device {place}: its registers lie above 4 GiB; start with less memory");
            continue;
        }
        let (_, command) = root.get_status_command(place);
        root.set_command(place, command | Command::MEMORY_SPACE | Command::BUS_MASTER);
        match PciTransport::new::<PcHal, _>(&mut root, place) {
            Ok(transport) => each(kind, transport),
            Err(reason) => warn!("host device {place}: {reason}"),
        }
    }
}
