//! Devices of the host that guests have for themselves: registers in stage 2, interrupts forwarded, a node in the
//! guest's tree.
//!
//! Lock order: `FORWARDED` is read with no other lock held; a machine's interrupt controller is locked afterwards.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use bunshin::config::VmConfig;
use gic::{IntId, Line};
use platform::discover::{HostDevice, Trigger};
use platform::guest::tree::{GuestDevice, GuestInterrupt};
use platform::guest::{GuestAddress, GuestRange, layout};
use spin::RwLock;
use spin::mutex::TicketMutex;

use crate::el2::host::host;
use crate::el2::interrupts;
use crate::el2::machine::Machine;
use crate::el2::percpu;

/// A device that a guest has.
pub(crate) struct PassedDevice {
    device: HostDevice<'static>,
    registers: Vec<Registers>,
    interrupts: Vec<Forwarding>,
}

/// A range of registers.
struct Registers {
    guest: GuestRange,
    /// What is mapped: whole pages.
    guest_page: u64,
    host_page: u64,
    size: u64,
}

/// An interrupt that is forwarded.
struct Forwarding {
    /// Its number at the guest.
    guest: u32,
    /// Its number at the host.
    physical: u32,
    edge: bool,
}

/// Paths of the devices that are somebody's: the console's, and those of guests.
static TAKEN: TicketMutex<Vec<String>> = TicketMutex::new(Vec::new());

/// Keeps a device from guests.
pub(crate) fn keep(path: &str) {
    TAKEN.lock().push(path.to_string());
}

/// The devices of a configuration.
///
/// # Errors
/// Why the guest cannot have one of them.
pub(crate) fn devices(config: &VmConfig) -> Result<Vec<PassedDevice>, String> {
    if config.direct_memory {
        return Err("direct memory: this version cannot give a VM the host's addresses".into());
    }
    let page = host().geometry.granule().bytes();
    let mut next_page = layout::PASSED.base().get();
    let mut next_spi = layout::FIRST_PASSED_SPI;
    let mut passed = Vec::new();
    for path in &config.devices {
        let device =
            HostDevice::find(host().tree, path, page).map_err(|error| error.to_string())?;
        let path = device.node.path().to_string();
        let mut taken = TAKEN.lock();
        if taken.contains(&path) {
            return Err(format!("device {path}: the hypervisor or another VM has it"));
        }
        taken.push(path.clone());
        drop(taken);
        let mut registers = Vec::new();
        for region in &device.registers {
            let base = region.base().get();
            let host_page = base & !(page - 1);
            let size = (region.end().get() - host_page).next_multiple_of(page);
            let guest = next_page
                .checked_add(base - host_page)
                .and_then(|guest| GuestRange::new(GuestAddress::new(guest), region.size()))
                .filter(|guest| guest.end().get() <= layout::PASSED.end().get())
                .ok_or_else(|| format!("device {path}: no space left for its registers"))?;
            registers.push(Registers { guest, guest_page: next_page, host_page, size });
            next_page += size;
        }
        let mut forwarded = Vec::new();
        for interrupt in &device.interrupts {
            let physical = interrupts::intid(&host().controller, interrupt)
                .filter(|number| IntId::new(*number).is_shared())
                .ok_or_else(|| format!("device {path}: {interrupt} cannot be forwarded"))?;
            if next_spi >= layout::FIRST_PASSED_SPI + layout::PASSED_SPIS {
                return Err(format!("device {path}: more than {} interrupts", layout::PASSED_SPIS));
            }
            let edge = matches!(interrupt.trigger, Trigger::EdgeRising);
            forwarded.push(Forwarding { guest: layout::FIRST_SPI + next_spi, physical, edge });
            next_spi += 1;
        }
        passed.push(PassedDevice { device, registers, interrupts: forwarded });
    }
    Ok(passed)
}

impl PassedDevice {
    /// Guest address, host address and size of what has to be mapped.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.registers.iter().map(|range| (range.guest_page, range.host_page, range.size))
    }

    /// Virtual and physical numbers of its interrupts.
    pub(crate) fn links(&self) -> impl Iterator<Item = (Line, u32)> {
        self.interrupts.iter().map(|entry| (Line::Spi(IntId::new(entry.guest)), entry.physical))
    }
}

/// The nodes of the guest's tree for its devices; `write` gets them.
pub(crate) fn describe<R>(
    devices: &[PassedDevice],
    write: impl FnOnce(&[GuestDevice<'_>]) -> R,
) -> R {
    struct Parts {
        compatible: Vec<&'static str>,
        registers: Vec<GuestRange>,
        interrupts: Vec<GuestInterrupt>,
        clock_names: Vec<&'static str>,
        properties: Vec<(&'static str, &'static [u8])>,
    }
    let parts: Vec<Parts> = devices
        .iter()
        .map(|passed| Parts {
            compatible: passed.device.node.compatible().collect(),
            registers: passed.registers.iter().map(|range| range.guest).collect(),
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

/// Lets the interrupts of a machine's devices through, to this CPU.
pub(crate) fn connect(machine: &Arc<Machine>) {
    for entry in machine.passed.iter().flat_map(|passed| &passed.interrupts) {
        FORWARDED.write().push(Route {
            physical: entry.physical,
            machine: Arc::downgrade(machine),
            line: Line::Spi(IntId::new(entry.guest)),
        });
        let intid = IntId::new(entry.physical);
        let trigger = if entry.edge { gic::host::Trigger::Edge } else { gic::host::Trigger::Level };
        let mut interface = percpu::this().interface();
        interface.set_trigger(intid, trigger);
        interface.target_self(intid);
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
    machine.change_interrupts(|vgic| vgic.inject_linked(line));
    true
}
