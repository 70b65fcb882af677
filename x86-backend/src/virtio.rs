//! The virtio devices of a virtual machine: where its PC has them.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use bunshin::assembly::{self, DeviceHandles, HostResources, Resources};
use bunshin::bus::{Bus, InterruptLine, Space};
use bunshin::config::VmConfig;
use bunshin::console::Channel;
use bunshin::device::console::ConsoleSink;
use bunshin::disk::image::PAGE;
use bunshin::disk::{Page, PageSource};
use x86_backend::machine::acpi::VirtioSlot;
use x86_backend::machine::ioapic::IoApic;
use x86_backend::machine::layout;

use crate::host::console::CONSOLE;
use crate::host::memory;
use crate::ram::Ram;

/// Makes the devices of `config`, puts them on `bus` and says where they are, and which the user may look at.
///
/// # Errors
/// Why one of them cannot be.
pub(crate) fn attach(
    config: &VmConfig,
    host: &HostResources,
    ram: &Arc<Ram>,
    ioapic: &Arc<IoApic>,
    console: Channel,
    bus: &mut Bus,
) -> Result<(Vec<VirtioSlot>, DeviceHandles), String> {
    let port = CONSOLE.port(console);
    let control = config.control.then(|| CONSOLE.port(CONSOLE.add_control(&config.name)));
    let wires = |slot: u8| -> Arc<dyn InterruptLine> { Arc::new(ioapic.line(pin(slot))) };
    let monitor = control.clone().map(|port| port as Arc<dyn ConsoleSink>);
    let resources = Resources {
        memory: ram.clone(),
        pages: ram.clone(),
        wires: &wires,
        console: port.clone(),
        monitor,
        host,
    };
    let assembly = assembly::assemble(config, &resources).map_err(|error| error.to_string())?;
    port.connect(assembly.console);
    if let (Some(port), Some(monitor)) = (control, assembly.monitor) {
        port.connect(monitor);
    }
    let count = assembly.devices.len();
    if count > usize::from(layout::VIRTIO_SLOTS) {
        return Err(format!(
            "{count} virtio devices, but this machine has places for {}",
            layout::VIRTIO_SLOTS
        ));
    }
    let mut slots = Vec::new();
    for (slot, device) in (0u8..).zip(assembly.devices) {
        let address = layout::VIRTIO + layout::VIRTIO_SIZE * u64::from(slot);
        bus.attach(Space::Memory, address, assembly::WINDOW, device)
            .map_err(|error| error.to_string())?;
        slots.push(VirtioSlot {
            address: address as u32,
            size: assembly::WINDOW as u32,
            interrupt: pin(slot).into(),
        });
    }
    Ok((slots, assembly.handles))
}

/// Pin of the IOAPIC for a slot.
fn pin(slot: u8) -> u8 {
    layout::VIRTIO_FIRST_IRQ.saturating_add(slot)
}

/// Pages for disk images, out of the memory for guests.
pub(crate) struct PoolPages;

/// [`PAGE`] bytes of memory that this value owns.
struct PoolPage {
    base: u64,
}

impl PageSource for PoolPages {
    fn take(&self) -> Option<Box<dyn Page>> {
        let mut page = PoolPage { base: memory::allocate(PAGE as u64)? };
        // What another guest left there must not be seen, whatever the disk does with the page.
        page.bytes_mut().fill(0);
        Some(Box::new(page))
    }
}

impl Page for PoolPage {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the memory was allocated for this value alone, is mapped at its physical address,
        // holds initialised bytes, and is freed only when the value is dropped.
        unsafe { core::slice::from_raw_parts(self.base as *const u8, PAGE) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and the borrow of `self` is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.base as *mut u8, PAGE) }
    }
}

impl Drop for PoolPage {
    fn drop(&mut self) {
        memory::free(self.base, PAGE as u64);
    }
}
