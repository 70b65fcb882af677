//! Disks and network devices of the host, as its device tree names them.

mod hal;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;

use bunshin::network::MacAddress;
use bunshin::uplink::HostNic;
use bunshin::virtio::block::{SECTOR, Storage, StorageError};
use host_virtio::disk::Patience;
use host_virtio::mmio::{MmioTransport, VirtIOHeader};
use host_virtio::{DeviceType, Disk, DiskError, Nic, Transport};
use log::{error, info, warn};
use platform::Region;
use platform::discover::VirtioTransport;
use spin::Once;
use spin::mutex::SpinMutex;

use crate::el2::registers::read_register;
use crate::el2::{host, interrupts, mmu, percpu};
use hal::El2Hal;

type Mmio = MmioTransport<'static>;

/// Seconds after which a disk that does not answer is given up.
const PATIENCE_SECONDS: u64 = 10;

/// Devices of the host that guests can use, in the order of their addresses.
#[derive(Default)]
pub(crate) struct HostDevices {
    pub(crate) disks: Vec<Arc<dyn Storage>>,
    pub(crate) nics: Vec<Arc<dyn HostNic>>,
}

/// The network devices, for the interrupt handler.
static NICS: Once<Vec<Arc<HostVirtioNic>>> = Once::new();

/// Which devices have a use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) disks: bool,
    pub(crate) nics: bool,
}

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
            DeviceType::Block if wanted.disks => match HostDisk::new(mmio) {
                Ok(disk) => {
                    info!(
                        "host disk {}: {} MiB",
                        devices.disks.len(),
                        disk.capacity_sectors() >> 11
                    );
                    devices.disks.push(Arc::new(disk));
                }
                Err(reason) => warn!("{reason}"),
            },
            DeviceType::Network if wanted.nics => match Nic::new(mmio) {
                Ok(nic) => {
                    let mac = MacAddress(nic.mac_address());
                    info!("host network device {}: {mac}", devices.nics.len());
                    let interrupt = transport.interrupt.as_ref();
                    let interrupt =
                        interrupt.and_then(|it| interrupts::intid(&host::host().controller, it));
                    let nic = Arc::new(HostVirtioNic { mac, interrupt, nic: SpinMutex::new(nic) });
                    devices.nics.push(nic.clone());
                    nics.push(nic);
                }
                Err(reason) => warn!("network device: {reason}"),
            },
            _ => {}
        }
    }
    for number in NICS.call_once(|| nics).iter().filter_map(|nic| nic.interrupt) {
        let mut interface = percpu::this().interface();
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
    let Some(nic) = nics.iter().find(|nic| nic.interrupt == Some(number)) else { return false };
    nic.nic.lock().acknowledge();
    if let Some(hypervisor) = host::hypervisor() {
        hypervisor.uplinks.notify();
    }
    true
}

/// A network device. The lock covers one frame.
struct HostVirtioNic {
    mac: MacAddress,
    interrupt: Option<u32>,
    nic: SpinMutex<Nic<El2Hal, Mmio>>,
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
        self.interrupt.is_some()
    }
}

/// A disk. The lock covers one request, since the disk takes one at a time.
struct HostDisk {
    sectors: u64,
    read_only: bool,
    disk: SpinMutex<Disk<El2Hal, Mmio>>,
}

impl HostDisk {
    fn new(mmio: Mmio) -> Result<Self, DiskError> {
        let limit = read_register!("cntfrq_el0").saturating_mul(PATIENCE_SECONDS);
        let disk = Disk::new(mmio, Patience { now: interrupts::counter, limit })?;
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
