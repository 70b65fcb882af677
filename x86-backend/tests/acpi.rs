//! An independent parser reads the firmware tables that guests get.

use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use std::ptr::NonNull;
use x86_backend::machine::acpi::{Tables, VirtioSlot, build};

/// Maps guest-physical addresses to the built bytes.
#[derive(Clone)]
struct Handler<'a>(&'a Tables);

impl AcpiHandler for Handler<'_> {
    unsafe fn map_physical_region<T>(
        &self,
        address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        let offset = address - self.0.address.0 as usize;
        let bytes = &self.0.bytes[offset..][..size];
        let pointer = NonNull::new(bytes.as_ptr().cast_mut().cast()).unwrap();
        // SAFETY: the bytes outlive the handler, and the parser only reads them.
        unsafe { PhysicalMapping::new(address, pointer, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

#[test]
fn the_parser_finds_sleep_registers_processors_and_the_ioapic() {
    let slot = VirtioSlot { address: 0xc000_1000, size: 0x1000, interrupt: 5 };
    let tables = build(3, &[slot]).unwrap();
    // SAFETY: the address is that of a valid RSDP.
    let parsed =
        unsafe { AcpiTables::from_rsdp(Handler(&tables), tables.address.0 as usize) }.unwrap();
    let fadt = parsed.find_table::<Fadt>().unwrap();
    fadt.validate().unwrap();
    assert!(fadt.sleep_control_register().unwrap().is_some());
    assert_eq!(fadt.reset_register().unwrap().address, 0x601);
    let madt = parsed.find_table::<Madt>().unwrap();
    let (mut processors, mut ioapics) = (Vec::new(), Vec::new());
    for entry in madt.get().entries() {
        match entry {
            MadtEntry::LocalApic(apic) => processors.push(apic.apic_id),
            MadtEntry::IoApic(ioapic) => {
                let (address, base) = (ioapic.io_apic_address, ioapic.global_system_interrupt_base);
                ioapics.push((address, base));
            }
            _ => panic!("an entry that the machine does not have"),
        }
    }
    assert_eq!(processors, [0, 1, 2]);
    assert_eq!(ioapics, [(0xfec0_0000, 0)]);
}
