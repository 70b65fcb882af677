//! Devices of the host that guests have for themselves: registers in stage 2, interrupts forwarded, a node in the
//! guest's tree.
//!
//! Lock order: `TAKEN` and `OWN` stand alone. `FORWARDED` is read with no other lock held; a machine's interrupt controller is locked afterwards.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use bunshin::config::VmConfig;
use gic::{Effects, IntId, Line};
use platform::Region;
use platform::discover::{HostDevice, Terms, Trigger};
use platform::guest::tree::{GuestDevice, GuestInterrupt};
use platform::guest::windows::Windows;
use platform::guest::{GuestRange, layout};
use spin::RwLock;
use spin::mutex::TicketMutex;

use crate::el2::host::host;
use crate::el2::interrupts;
use crate::el2::machine::Machine;
use crate::el2::percpu;

/// The devices of a guest.
#[derive(Default)]
pub(crate) struct Passed {
    devices: Vec<PassedDevice>,
    windows: Windows,
}

/// A device that a guest has.
struct PassedDevice {
    device: HostDevice<'static>,
    interrupts: Vec<Forwarding>,
}

/// An interrupt that is forwarded.
struct Forwarding {
    /// Its number at the guest.
    guest: u32,
    /// Its number at the host.
    physical: u32,
    edge: bool,
}

/// Registers of devices that the hypervisor uses itself.
static OWN: TicketMutex<Vec<Region>> = TicketMutex::new(Vec::new());

/// Paths of the devices that guests have.
static TAKEN: TicketMutex<Vec<String>> = TicketMutex::new(Vec::new());

/// Keeps a device from guests.
pub(crate) fn keep(registers: Region) {
    OWN.lock().push(registers);
}

impl PassedDevice {
    /// Finds a device and takes it. The interrupts are numbered from SPI `next_spi` on.
    fn take(path: &str, terms: &Terms<'_>, next_spi: &mut u32) -> Result<Self, String> {
        let device =
            HostDevice::find(host().tree, path, terms).map_err(|error| error.to_string())?;
        let path = device.node.path().to_string();
        let own = OWN.lock().iter().any(|own| {
            let page = own.aligned_outside(terms.page).unwrap_or(*own);
            device.registers.iter().any(|registers| registers.overlaps(page))
        });
        let mut taken = TAKEN.lock();
        if own || taken.contains(&path) {
            return Err(format!("device {path}: the hypervisor or another VM has it"));
        }
        let mut interrupts = Vec::new();
        for interrupt in &device.interrupts {
            let physical = interrupts::intid(&host().controller, interrupt)
                .filter(|number| IntId::new(*number).is_shared())
                .ok_or_else(|| format!("device {path}: {interrupt} cannot be forwarded"))?;
            if *next_spi >= layout::FIRST_PASSED_SPI + layout::PASSED_SPIS {
                return Err(format!("device {path}: more than {} interrupts", layout::PASSED_SPIS));
            }
            let edge = matches!(interrupt.trigger, Trigger::EdgeRising);
            interrupts.push(Forwarding { guest: layout::FIRST_SPI + *next_spi, physical, edge });
            *next_spi += 1;
        }
        taken.push(path);
        drop(taken);
        Ok(PassedDevice { device, interrupts })
    }
}

impl Drop for PassedDevice {
    fn drop(&mut self) {
        let path = self.device.node.path().to_string();
        TAKEN.lock().retain(|taken| *taken != path);
    }
}

impl Passed {
    /// Takes the devices of a configuration.
    ///
    /// # Errors
    /// Why the guest cannot have one of them.
    pub(crate) fn take(config: &VmConfig) -> Result<Self, String> {
        let page = host().geometry.granule().bytes();
        let terms = Terms { page, together: &config.devices, direct_memory: config.direct_memory };
        let mut next_spi = layout::FIRST_PASSED_SPI;
        let mut devices = Vec::new();
        for path in &config.devices {
            devices.push(PassedDevice::take(path, &terms, &mut next_spi)?);
        }
        let registers = devices.iter().flat_map(|passed| &passed.device.registers).copied();
        let windows = Windows::place(registers, page)
            .ok_or("devices: no space for the registers of all of them")?;
        Ok(Passed { devices, windows })
    }

    /// Says of the devices that access memory whether they reach the guest's, which it has at the host's addresses.
    ///
    /// # Errors
    /// Which one does not.
    pub(crate) fn check_reach(&self, memory: Region) -> Result<(), String> {
        let mut devices = self.devices.iter();
        devices
            .try_for_each(|passed| passed.device.check_reach(memory))
            .map_err(|error| error.to_string())
    }

    /// Guest address, host address and size of what has to be mapped.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.windows
            .iter()
            .map(|window| (window.guest.get(), window.host.base().get(), window.host.size()))
    }

    /// Virtual and physical numbers of the interrupts.
    pub(crate) fn links(&self) -> impl Iterator<Item = (Line, u32)> {
        self.forwarded().map(|entry| (Line::Spi(IntId::new(entry.guest)), entry.physical))
    }

    fn forwarded(&self) -> impl Iterator<Item = &Forwarding> {
        self.devices.iter().flat_map(|passed| &passed.interrupts)
    }
}

/// The nodes of the guest's tree for its devices; `write` gets them.
pub(crate) fn describe<R>(passed: &Passed, write: impl FnOnce(&[GuestDevice<'_>]) -> R) -> R {
    struct Parts {
        compatible: Vec<&'static str>,
        registers: Vec<GuestRange>,
        interrupts: Vec<GuestInterrupt>,
        clock_names: Vec<&'static str>,
        properties: Vec<(&'static str, &'static [u8])>,
    }
    let Passed { devices, windows } = passed;
    let parts: Vec<Parts> = devices
        .iter()
        .map(|passed| Parts {
            compatible: passed.device.node.compatible().collect(),
            registers: passed.device.registers.iter().filter_map(|it| windows.guest(*it)).collect(),
            interrupts: passed
                .interrupts
                .iter()
                .map(|entry| GuestInterrupt { int_id: entry.guest, edge: entry.edge })
                .collect(),
            clock_names: passed.device.node.strings("clock-names").collect(),
            properties: passed.device.properties(),
        })
        .collect();
    let nodes: Vec<GuestDevice<'_>> = devices
        .iter()
        .zip(&parts)
        .map(|(passed, parts)| GuestDevice {
            name: passed.device.node.base_name(),
            compatible: &parts.compatible,
            registers: &parts.registers,
            interrupts: &parts.interrupts,
            clock_names: &parts.clock_names,
            properties: &parts.properties,
        })
        .collect();
    write(&nodes)
}

/// Where a physical interrupt goes.
struct Route {
    physical: u32,
    machine: Weak<Machine>,
    line: Line,
}

static FORWARDED: RwLock<Vec<Route>> = RwLock::new(Vec::new());

/// Lets the interrupts of a machine's devices through. At first they go to the host CPU of its first virtual CPU.
pub(crate) fn connect(machine: &Arc<Machine>) {
    let first = machine.vcpus.first();
    for entry in machine.passed.forwarded() {
        FORWARDED.write().push(Route {
            physical: entry.physical,
            machine: Arc::downgrade(machine),
            line: Line::Spi(IntId::new(entry.guest)),
        });
        let intid = IntId::new(entry.physical);
        let trigger = if entry.edge { gic::host::Trigger::Edge } else { gic::host::Trigger::Level };
        let interface = percpu::this().interface();
        interface.set_trigger(intid, trigger);
        match first {
            Some(seat) => interface.target(intid, seat.target),
            None => interface.target_self(intid),
        }
        interface.enable(intid);
    }
}

/// Gives a physical interrupt, whose priority has been dropped, to the guest that has its device, and which deactivates
/// it. False if no guest has.
pub(crate) fn forward(physical: u32) -> bool {
    let routes = FORWARDED.read();
    let Some(route) = routes.iter().find(|route| route.physical == physical) else { return false };
    let Some(machine) = route.machine.upgrade() else { return false };
    let line = route.line;
    drop(routes);
    let effects = machine.vgic.lock().inject_linked(line);
    machine.kick(effects.kick);
    follow(physical, &machine, effects);
    true
}

/// Routes an interrupt to the host CPU of the one virtual CPU that had to be told of it, so that from the next one on
/// nobody else is interrupted. The guest may choose another at any time.
fn follow(physical: u32, machine: &Machine, effects: Effects) {
    let mut kicked = effects.kick.into_iter();
    let (Some(vcpu), None) = (kicked.next(), kicked.next()) else { return };
    if let Some(seat) = machine.vcpus.get(vcpu.get())
        && seat.handle.home().0 != percpu::this().cpu
    {
        percpu::this().interface().target(IntId::new(physical), seat.target);
    }
}
