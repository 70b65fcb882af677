//! Disks and network devices of the host, on its PCI bus.

mod hal;
mod pci;

use alloc::sync::Arc;
use alloc::vec::Vec;

use bunshin::network::MacAddress;
use bunshin::uplink::HostNic;
use bunshin::virtio::block::{SECTOR, Storage, StorageError};
use host_virtio::disk::Patience;
use host_virtio::pci::PciTransport;
use host_virtio::{DeviceType, Disk, DiskError, Nic};
use log::{error, info, warn};
use spin::mutex::SpinMutex;

use super::timer;
use hal::PcHal;

/// Seconds after which a disk that does not answer is given up.
const PATIENCE_SECONDS: u64 = 10;

/// Devices of the host that guests can use, in the order of their addresses.
#[derive(Default)]
pub(crate) struct HostDevices {
    pub(crate) disks: Vec<Arc<dyn Storage>>,
    pub(crate) nics: Vec<Arc<dyn HostNic>>,
}

/// Which devices have a use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) disks: bool,
    pub(crate) nics: bool,
}

/// Starts the devices that have a use. To be called once.
pub(crate) fn open(wanted: Wanted) -> HostDevices {
    let mut devices = HostDevices::default();
    let has_use = |kind| match kind {
        DeviceType::Block => wanted.disks,
        DeviceType::Network => wanted.nics,
        _ => false,
    };
    pci::for_each(has_use, |kind, transport| match kind {
        DeviceType::Block => match HostDisk::new(transport) {
            Ok(disk) => {
                let size = disk.capacity_sectors() >> 11;
                info!("host disk {}: {size} MiB", devices.disks.len());
                devices.disks.push(Arc::new(disk));
            }
            Err(reason) => warn!("{reason}"),
        },
        _ => match Nic::new(transport) {
            Ok(nic) => {
                let mac = MacAddress(nic.mac_address());
                info!("host network device {}: {mac}", devices.nics.len());
                devices.nics.push(Arc::new(HostVirtioNic { mac, nic: SpinMutex::new(nic) }));
            }
            Err(reason) => warn!("network device: {reason}"),
        },
    });
    devices
}

/// A network device, which is looked at now and then: its interrupt is not routed. The lock covers
/// one frame.
struct HostVirtioNic {
    mac: MacAddress,
    nic: SpinMutex<Nic<PcHal, PciTransport>>,
}

impl HostNic for HostVirtioNic {
    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn send(&self, frame: &[u8]) -> bool {
        self.nic.lock().send(frame)
    }

    fn receive(&self, frame: &mut [u8]) -> Option<usize> {
        self.nic.lock().receive(frame)
    }

    fn interrupts(&self) -> bool {
        false
    }
}

/// A disk. The lock covers one request, since the disk takes one at a time.
struct HostDisk {
    sectors: u64,
    read_only: bool,
    disk: SpinMutex<Disk<PcHal, PciTransport>>,
}

impl HostDisk {
    fn new(transport: PciTransport) -> Result<Self, DiskError> {
        let limit = timer::frequency().saturating_mul(PATIENCE_SECONDS);
        let disk = Disk::new(transport, Patience { now: || timer::now().0, limit })?;
        let (sectors, read_only) = (disk.sectors(), disk.is_read_only());
        Ok(HostDisk { sectors, read_only, disk: SpinMutex::new(disk) })
    }
}

/// What a guest is told of a disk's error.
fn failed(reason: DiskError) -> StorageError {
    error!("host disk: {reason}");
    StorageError::Failed
}

/// Zeros to write in one request.
static ZEROES: [u8; 32 << 10] = [0; 32 << 10];

impl Storage for HostDisk {
    fn capacity_sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), StorageError> {
        self.disk.lock().read(sector, bytes).map_err(failed)
    }

    fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.disk.lock().write(sector, bytes).map_err(failed)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.disk.lock().flush().map_err(failed)
    }

    fn write_zeroes(&self, sector: u64, count: u64) -> Result<(), StorageError> {
        let most = (ZEROES.len() / SECTOR) as u64;
        let mut done = 0;
        while done < count {
            let part = most.min(count - done);
            let zeroes = ZEROES.get(..part as usize * SECTOR).unwrap_or_default();
            self.write(sector + done, zeroes)?;
            done += part;
        }
        Ok(())
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }
}
