//! Disks and network devices of the host, as guests' devices use them: one
//! driver, [`host_virtio`], behind the traits of the core.

use alloc::sync::Arc;
use alloc::vec::Vec;

use host_virtio::disk::Patience;
use host_virtio::{Disk, DiskError, Hal, Nic, Transport};
use log::{error, info, warn};
use spin::mutex::SpinMutex;

use crate::config::{DiskConfig, DiskSource, MachineConfig};
use crate::network::MacAddress;
use crate::uplink::HostNic;
use crate::virtio::block::{SECTOR, Storage, StorageError};

/// Seconds after which a disk that does not answer is given up.
const PATIENCE_SECONDS: u64 = 10;

/// Which devices of the host have a use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Some disk of a guest is one of the host's.
    pub disks: bool,
    /// Some network of guests has an uplink.
    pub nics: bool,
}

impl Wanted {
    /// Those that the guests of `machine` use.
    pub fn new(machine: &MachineConfig) -> Self {
        let is_host = |disk: &DiskConfig| matches!(disk.source, DiskSource::Host { .. });
        Wanted {
            disks: machine.vms.iter().any(|vm| vm.disks.iter().any(is_host)),
            nics: !machine.uplinks.is_empty(),
        }
    }
}

/// Devices of the host that guests can use, in the order of their numbers.
#[derive(Default)]
pub struct HostDevices {
    /// Disks.
    pub disks: Vec<Arc<dyn Storage>>,
    /// Network devices.
    pub nics: Vec<Arc<dyn HostNic>>,
}

impl HostDevices {
    /// Starts the disk behind `transport`. `now` counts time, `frequency` ticks a second.
    pub fn add_disk<H, T>(&mut self, transport: T, now: fn() -> u64, frequency: u64)
    where
        H: Hal + 'static,
        T: Transport + Send + 'static,
    {
        let patience = Patience { now, limit: frequency.saturating_mul(PATIENCE_SECONDS) };
        match Disk::<H, T>::new(transport, patience) {
            Ok(disk) => {
                let disk = HostDisk {
                    sectors: disk.sectors(),
                    read_only: disk.is_read_only(),
                    disk: SpinMutex::new(disk),
                };
                info!("host disk {}: {} MiB", self.disks.len(), disk.sectors >> 11);
                self.disks.push(Arc::new(disk));
            }
            Err(reason) => warn!("{reason}"),
        }
    }

    /// Starts the network device behind `transport` and returns it; its frames are announced by
    /// `interrupt`, or looked for now and then without one.
    pub fn add_nic<H, T>(
        &mut self,
        transport: T,
        interrupt: Option<u32>,
    ) -> Option<Arc<VirtioNic<H, T>>>
    where
        H: Hal + 'static,
        T: Transport + Send + 'static,
    {
        match Nic::new(transport) {
            Ok(nic) => {
                let mac = MacAddress(nic.mac_address());
                info!("host network device {}: {mac}", self.nics.len());
                let nic = Arc::new(VirtioNic { mac, interrupt, nic: SpinMutex::new(nic) });
                self.nics.push(nic.clone());
                Some(nic)
            }
            Err(reason) => {
                warn!("network device: {reason}");
                None
            }
        }
    }
}

/// A network device. The lock covers one frame.
pub struct VirtioNic<H: Hal, T: Transport> {
    mac: MacAddress,
    interrupt: Option<u32>,
    nic: SpinMutex<Nic<H, T>>,
}

impl<H: Hal, T: Transport> VirtioNic<H, T> {
    /// The number of its interrupt, in the backend's numbering.
    pub fn interrupt(&self) -> Option<u32> {
        self.interrupt
    }

    /// Puts its interrupt down.
    pub fn acknowledge(&self) {
        self.nic.lock().acknowledge();
    }
}

impl<H: Hal, T: Transport + Send> HostNic for VirtioNic<H, T> {
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
        self.interrupt.is_some()
    }
}

/// A disk. The lock covers one request, since the disk takes one at a time.
struct HostDisk<H: Hal, T: Transport> {
    sectors: u64,
    read_only: bool,
    disk: SpinMutex<Disk<H, T>>,
}

/// What a guest is told of a disk's error.
fn failed(reason: DiskError) -> StorageError {
    error!("host disk: {reason}");
    StorageError::Failed
}

/// Zeros to write in one request.
static ZEROES: [u8; 32 << 10] = [0; 32 << 10];

impl<H: Hal, T: Transport + Send> Storage for HostDisk<H, T> {
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
            let part = most.min(count.saturating_sub(done));
            let bytes = usize::try_from(part).unwrap_or(0).saturating_mul(SECTOR);
            let zeroes = ZEROES.get(..bytes).unwrap_or_default();
            self.write(sector.saturating_add(done), zeroes)?;
            done = done.saturating_add(part);
        }
        Ok(())
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }
}
