//! The virtio devices of a virtual machine: where its PC has them.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use bunshin::assembly::{self, HostResources, Resources};
use bunshin::bus::{Bus, InterruptLine, Space};
use bunshin::config::VmConfig;
use bunshin::console::Channel;
use bunshin::device::console::ConsoleSink;
use bunshin::disk::image::PAGE;
use bunshin::disk::{Page, PageSource};
use spin::mutex::TicketMutex;
use x86_backend::boot_info::Range;
use x86_backend::machine::acpi::VirtioSlot;
use x86_backend::machine::ioapic::IoApic;
use x86_backend::machine::layout;

use crate::host::console::CONSOLE;
use crate::host::memory;
use crate::ram::Ram;

/// Makes the devices of `config`, puts them on `bus` and says where they are.
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
) -> Result<Vec<VirtioSlot>, String> {
    let port = CONSOLE.port(console);
    let control = config.control.then(|| CONSOLE.port(CONSOLE.add_control(&config.name)));
    let wires = |slot: u8| -> Arc<dyn InterruptLine> { Arc::new(ioapic.line(pin(slot))) };
    let monitor = control.clone().map(|port| port as Arc<dyn ConsoleSink>);
    let resources =
        Resources { memory: ram.clone(), wires: &wires, console: port.clone(), monitor, host };
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
    Ok(slots)
}

/// Pin of the IOAPIC for a slot.
fn pin(slot: u8) -> u8 {
    layout::VIRTIO_FIRST_IRQ.saturating_add(slot)
}

/// Pages for disk images, cut out of guests' memory.
pub(crate) struct PoolPages;

/// Pages that nobody has.
static FREE: TicketMutex<Vec<PoolPage>> = TicketMutex::new(Vec::new());

/// [`PAGE`] bytes of memory that this value owns.
struct PoolPage {
    base: u64,
}

/// A page that goes back when it is dropped.
struct Lent(Option<PoolPage>);

impl PageSource for PoolPages {
    fn take(&self) -> Option<Box<dyn Page>> {
        let mut free = FREE.lock();
        if free.is_empty() {
            for Range { start, size } in memory::take(memory::CHUNK)? {
                let pages = (0..size).step_by(PAGE).map(|offset| PoolPage { base: start + offset });
                free.extend(pages);
            }
        }
        let mut page = free.pop()?;
        drop(free);
        // What another guest left there must not be seen, whatever the disk does with the page.
        page.bytes_mut().fill(0);
        Some(Box::new(Lent(Some(page))))
    }
}

impl PoolPage {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the pool gave the memory away for good, it was cut into pages that do not
        // overlap, and each is in one `PoolPage`. It is mapped at its physical address.
        unsafe { core::slice::from_raw_parts(self.base as *const u8, PAGE) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and the borrow of `self` is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.base as *mut u8, PAGE) }
    }
}

impl Page for Lent {
    fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], PoolPage::bytes)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut().map_or(&mut [], PoolPage::bytes_mut)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(page) = self.0.take() {
            FREE.lock().push(page);
        }
    }
}
