//! What the firmware's ACPI tables tell: processors, and how to turn off.

use alloc::vec::Vec;

use platform::PhysicalAddress;
use platform::acpi::{Acpi, AddressSpace, CpuState, GenericAddress, PhysicalMemory, find_rsdp};
use spin::Once;
use x86_64::instructions::port::Port;
use x86_backend::boot_info::BootInfo;

/// PM1 control: sleep type, and the bit that starts sleeping (ACPI 4.8.3.2.1).
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;
/// Sleep control (ACPI 4.8.3.7).
const SLEEP_CONTROL_TYPE_SHIFT: u32 = 2;
const SLEEP_CONTROL_ENABLE: u8 = 1 << 5;

static TABLES: Once<Acpi> = Once::new();

/// Physical memory below the end of what is mapped.
struct Mapped {
    end: u64,
}

impl PhysicalMemory for Mapped {
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Option<()> {
        let start = address.get();
        let end = start.checked_add(buffer.len() as u64)?;
        if start == 0 || end > self.end {
            return None;
        }
        // SAFETY: the range is mapped at its physical address; it may change under us if firmware
        // lies, and bytes are bytes.
        unsafe {
            core::ptr::copy_nonoverlapping(start as *const u8, buffer.as_mut_ptr(), buffer.len());
        }
        Some(())
    }
}

/// Reads the tables; once.
pub(super) fn init(info: &BootInfo) {
    let memory = Mapped { end: super::paging::mapped_end(&info.memory) };
    let Some(rsdp) = info.rsdp.map(PhysicalAddress::new).or_else(|| find_rsdp(&memory)) else {
        log::warn!("no ACPI tables: one processor only");
        return;
    };
    match Acpi::read(&memory, rsdp) {
        Ok(tables) => {
            super::input::init(TABLES.call_once(|| tables));
        }
        Err(error) => log::warn!("{error}: one processor only"),
    }
}

/// Local APIC identifiers of the processors but the one that runs this.
pub(super) fn other_processors() -> Vec<u32> {
    let own = super::apic::id();
    TABLES.get().map_or_else(Vec::new, |tables| {
        let cpus = tables.madt.cpus.iter().filter(|cpu| cpu.state == CpuState::Enabled);
        cpus.map(|cpu| cpu.apic_id).filter(|id| *id != own).collect()
    })
}

/// Turns the machine off, if the tables say how; returns otherwise.
pub(super) fn power_off() {
    let Some(fadt) = TABLES.get().and_then(|tables| tables.fadt) else { return };
    let Some(sleep) = fadt.power_off else { return };
    if let Some(port) = fadt.sleep_control.and_then(io_port) {
        let value = sleep.a << SLEEP_CONTROL_TYPE_SHIFT | SLEEP_CONTROL_ENABLE;
        // SAFETY: the firmware names this port for this purpose; nothing runs after it.
        unsafe { Port::new(port).write(value) }
    }
    for (register, kind) in [(fadt.pm1a_control, sleep.a), (fadt.pm1b_control, sleep.b)] {
        if let Some(port) = register.and_then(io_port) {
            let value = u16::from(kind) << SLEEP_TYPE_SHIFT | SLEEP_ENABLE;
            // SAFETY: as above.
            unsafe { Port::new(port).write(value) }
        }
    }
}

fn io_port(register: GenericAddress) -> Option<u16> {
    match register.space {
        AddressSpace::Io => u16::try_from(register.address).ok(),
        AddressSpace::Memory | AddressSpace::PciConfiguration | AddressSpace::Other(_) => None,
    }
}
