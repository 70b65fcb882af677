//! Puts together the virtio devices of a virtual machine, as its configuration
//! says, out of what a backend provides.
//!
//! Each device has a *slot*: a number that says at which address and with which
//! interrupt the guest finds it. Slots are given in one order on all
//! architectures: console, random numbers, the monitor of a control machine, then
//! disks and network ports in the order of the VM file, then the balloon. Absent devices leave
//! no gap.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::bus::{Device, InterruptLine};
use crate::config::{DiskConfig, DiskImage, DiskSource, Payload, VmConfig};
use crate::console::ConsoleInput;
use crate::device::console::ConsoleSink;
use crate::disk::image::Extent;
use crate::disk::{ImageDisk, PageSource, Partition, PartitionError, ReadOnly};
use crate::memory::GuestMemory;
use crate::network::switch::PortError;
use crate::network::{MacAddress, Port, PortMode, PortSettings, Switch, VlanId};
use crate::virtio::balloon::{Balloon, PageOwner};
use crate::virtio::block::{Block, Storage};
use crate::virtio::console::Console;
use crate::virtio::net::Net;
use crate::virtio::rng::{Entropy, Rng};
use crate::virtio::{Transport, VirtioDevice};

/// Length of the window of a device in bytes.
pub const WINDOW: u64 = Transport::<Block>::WINDOW;

/// The wire of the device in a slot, counted from 0.
pub type Wires<'a> = dyn Fn(u8) -> Arc<dyn InterruptLine> + 'a;

/// What a backend provides for the devices of one virtual machine.
pub struct Resources<'a> {
    /// Its memory.
    pub memory: Arc<dyn GuestMemory + Send + Sync>,
    /// The same as it comes and goes.
    pub pages: Arc<dyn PageOwner>,
    /// Makes the wire of a slot.
    pub wires: &'a Wires<'a>,
    /// Where its console's output goes.
    pub console: Arc<dyn ConsoleSink>,
    /// The monitor, for a machine that may manage the others.
    pub monitor: Option<Arc<dyn ConsoleSink>>,
    /// What all virtual machines share.
    pub host: &'a HostResources,
}

/// What a backend provides for the devices of all virtual machines.
pub struct HostResources {
    /// The bundle, with the payloads of all configurations.
    pub bundle: &'static [u8],
    /// Memory for what guests write to disk images.
    pub pages: Arc<dyn PageSource>,
    /// The host's disks, in the order of their numbers.
    pub disks: Vec<Arc<dyn Storage>>,
    /// The virtual network.
    pub switch: Arc<Switch>,
    /// Random numbers, where there are any.
    pub entropy: Option<Arc<dyn Entropy>>,
}

/// Devices of a virtual machine as the user sees them while it runs.
#[derive(Default)]
pub struct DeviceHandles {
    /// How the user asks for memory back, if the machine has a balloon.
    pub balloon: Option<Arc<Transport<Balloon>>>,
    /// Its ports of the virtual network, by number.
    pub ports: Vec<Arc<Port>>,
}

/// The devices of one virtual machine.
pub struct Assembly {
    /// One for each slot.
    pub devices: Vec<Arc<dyn Device>>,
    /// What the user types goes here.
    pub console: Arc<dyn ConsoleInput>,
    /// What the monitor answers goes here.
    pub monitor: Option<Arc<dyn ConsoleInput>>,
    /// What the user looks at and asks of.
    pub handles: DeviceHandles,
}

/// Why a virtual machine cannot have a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// The host has fewer disks.
    #[error("disk {index}: the host has {found} disks, and none with number {disk}")]
    NoHostDisk {
        /// Number of the virtual machine's disk.
        index: usize,
        /// Number of the host's disk.
        disk: u32,
        /// Disks that the host has.
        found: usize,
    },
    /// The virtual network refuses a port.
    #[error("net {index}: {reason}")]
    Port {
        /// Number of the virtual machine's network port.
        index: usize,
        /// What is wrong with it.
        reason: PortError,
    },
    /// The host's disk has no such partition.
    #[error("disk {index}: {reason}")]
    Partition {
        /// Number of the virtual machine's disk.
        index: usize,
        /// What is wrong with its partition.
        reason: PartitionError,
    },
}

/// Makes the devices of `config`.
///
/// # Errors
/// The first device that cannot be made.
pub fn assemble(config: &VmConfig, resources: &Resources<'_>) -> Result<Assembly, AssemblyError> {
    let mut slots = Slots { devices: Vec::new(), resources };
    let console = slots.add(Console::new(resources.console.clone()));
    // Drivers wait for a number for ever, so that there is no device without a source.
    if let Some(entropy) = &resources.host.entropy {
        slots.add(Rng::new(entropy.clone()));
    }
    let monitor = resources.monitor.clone();
    let monitor = monitor.map(|sink| slots.add(Console::new(sink)) as Arc<dyn ConsoleInput>);
    for (index, disk) in config.disks.iter().enumerate() {
        let storage = storage(index, disk, resources)?;
        slots.add(Block::new(storage, &identity(&config.name, index)));
    }
    let mut ports = Vec::new();
    for (index, net) in config.nets.iter().enumerate() {
        let mac = MacAddress(net.mac);
        let vlan = net.vlan.and_then(VlanId::new).unwrap_or(VlanId::UNTAGGED);
        let settings = PortSettings { mac: Some(mac), mode: PortMode::Access(vlan) };
        let port = resources.host.switch.add_port(settings);
        let port = port.map_err(|reason| AssemblyError::Port { index, reason })?;
        let device = slots.add(Net::new(port.clone(), mac));
        port.connect(&device);
        ports.push(port);
    }
    let balloon = config.balloon.then(|| slots.add(Balloon::new(resources.pages.clone())));
    let handles = DeviceHandles { balloon, ports };
    Ok(Assembly { devices: slots.devices, console, monitor, handles })
}

/// Slots that are taken.
struct Slots<'a, 'r> {
    devices: Vec<Arc<dyn Device>>,
    resources: &'a Resources<'r>,
}

impl Slots<'_, '_> {
    /// Puts `device` into the next slot.
    fn add<D: VirtioDevice + 'static>(&mut self, device: D) -> Arc<Transport<D>> {
        let slot = u8::try_from(self.devices.len()).unwrap_or(u8::MAX);
        let line = (self.resources.wires)(slot);
        let transport = Arc::new(Transport::new(device, self.resources.memory.clone(), line));
        self.devices.push(transport.clone());
        transport
    }
}

/// Serial number of a disk, as guests see it.
fn identity(name: &str, index: usize) -> String {
    format!("{name}-{index}")
}

fn storage(
    index: usize,
    config: &DiskConfig,
    resources: &Resources<'_>,
) -> Result<Arc<dyn Storage>, AssemblyError> {
    let (disk, partition) = match &config.source {
        DiskSource::Image(image) => {
            return Ok(Arc::new(image_disk(image, config.read_only, resources)));
        }
        DiskSource::Host { disk, partition } => (*disk, *partition),
    };
    let found = usize::try_from(disk).ok().and_then(|number| resources.host.disks.get(number));
    let found = found.cloned().ok_or(AssemblyError::NoHostDisk {
        index,
        disk,
        found: resources.host.disks.len(),
    })?;
    let storage: Arc<dyn Storage> = match partition {
        None => found,
        Some(number) => Arc::new(
            Partition::open(found, number)
                .map_err(|reason| AssemblyError::Partition { index, reason })?,
        ),
    };
    Ok(if config.read_only { Arc::new(ReadOnly(storage)) } else { storage })
}

fn image_disk(image: &DiskImage, read_only: bool, resources: &Resources<'_>) -> ImageDisk {
    let extents = image.extents.iter().map(|extent| Extent {
        start: extent.start,
        data: bytes(resources.host.bundle, extent.data),
    });
    ImageDisk::new(image.size, extents.collect(), read_only, resources.host.pages.clone())
}

/// The bytes of a payload, whose place was checked when the bundle was opened.
fn bytes(bundle: &'static [u8], payload: Payload) -> &'static [u8] {
    let rest = bundle.get(payload.offset..).unwrap_or_default();
    rest.get(..payload.size).unwrap_or_default()
}
