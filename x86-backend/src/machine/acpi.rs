//! The ACPI tables of the machine (ACPI 6.5): hardware-reduced, so that a guest
//! needs neither PIC, PIT nor CMOS clock, and finds COM1 and its virtio devices
//! in the DSDT.

use super::ioapic;
use super::lapic;
use super::layout::{FIRMWARE_TABLES, FIRMWARE_TABLES_SIZE};
use super::power::{RESET_PORT, RESET_VALUE, SLEEP_PORT, SLEEP_TYPE_OFF};
use super::uart16550::{COM1_IRQ, COM1_PORT, WINDOW_SIZE as COM1_SIZE};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use alloc::format;
use alloc::vec::Vec;
use bunshin::address::GuestAddress;

const OEM_ID: [u8; 6] = *b"BUNSHN";
const OEM_TABLE_ID: [u8; 8] = *b"BUNSHNPC";
const OEM_REVISION: u32 = 1;
/// Tables start at multiples of this.
const TABLE_ALIGNMENT: usize = 64;
const DSDT_REVISION: u8 = 2;
const SDT_HEADER_SIZE: u32 = 36;
/// Highest APIC identifier of a type-0 entry of the MADT.
const LAST_APIC_ID: u32 = 254;

/// IAPC_BOOT_ARCH: there is no VGA, no message-signalled interrupts on PCI, no
/// CMOS clock that software would have to probe.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 3 | 1 << 5;

/// A virtio-mmio window for the DSDT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioSlot {
    /// Guest-physical address, below 4 GiB.
    pub address: u32,
    /// Length in bytes.
    pub size: u32,
    /// Pin of the IOAPIC, level-triggered and active high.
    pub interrupt: u32,
}

/// Tables cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcpiError {
    /// Too many virtual CPUs.
    #[error(
        "{0} virtual CPUs are more than the 255 that the interrupt tables can name; give fewer"
    )]
    Vcpus(u32),
    /// The tables are longer than the area for them.
    #[error("{0} bytes of firmware tables do not fit into 128 KiB; give fewer devices")]
    Size(usize),
}

/// The tables and where they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Address of the first byte, which is the RSDP.
    pub address: GuestAddress,
    /// All tables with the space between them.
    pub bytes: Vec<u8>,
}

/// Builds the tables for a machine with `vcpus` virtual CPUs, whose APIC
/// identifiers count from 0, and with `virtio` windows.
///
/// # Errors
/// [`AcpiError`] for a machine that is too large.
pub fn build(vcpus: u32, virtio: &[VirtioSlot]) -> Result<Tables, AcpiError> {
    if vcpus == 0 || vcpus > LAST_APIC_ID.saturating_add(1) {
        return Err(AcpiError::Vcpus(vcpus));
    }
    let mut area = Area { bytes: Vec::new() };
    // The RSDP comes first and is known last.
    area.append(&alloc::vec![0; Rsdp::len()]);
    let dsdt = area.append(dsdt(virtio).as_slice());
    let fadt = area.append(&serialised(&fadt(dsdt)));
    let madt = area.append(&serialised(&madt(vcpus)));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = area.append(&serialised(&xsdt));
    let rsdp = serialised(&Rsdp::new(OEM_ID, xsdt));
    if let Some(place) = area.bytes.get_mut(..rsdp.len()) {
        place.copy_from_slice(&rsdp);
    }
    if area.bytes.len() as u64 > FIRMWARE_TABLES_SIZE {
        return Err(AcpiError::Size(area.bytes.len()));
    }
    Ok(Tables { address: FIRMWARE_TABLES, bytes: area.bytes })
}

struct Area {
    bytes: Vec<u8>,
}

impl Area {
    /// Appends a table at an aligned place; gives its guest-physical address.
    fn append(&mut self, table: &[u8]) -> u64 {
        let offset = self.bytes.len().next_multiple_of(TABLE_ALIGNMENT);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(table);
        FIRMWARE_TABLES.0.saturating_add(offset as u64)
    }
}

fn serialised(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(address: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, address.into())
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::HwReducedAcpi);
    // Kernels that read only ACPI 1.0 fields find the DSDT here.
    fadt.dsdt = ((dsdt & 0xffff_ffff) as u32).into();
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = port(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(SLEEP_PORT);
    fadt.sleep_status_reg = port(SLEEP_PORT);
    fadt.finalize()
}

fn madt(vcpus: u32) -> MADT {
    let address = (lapic::DEFAULT_ADDRESS & 0xffff_ffff) as u32;
    let local = LocalInterruptController::Address(address);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, local);
    for id in (0..vcpus).filter_map(|id| u8::try_from(id).ok()) {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, (ioapic::ADDRESS & 0xffff_ffff) as u32, 0));
    madt
}

fn dsdt(virtio: &[VirtioSlot]) -> Sdt {
    let mut dsdt =
        Sdt::new(*b"DSDT", SDT_HEADER_SIZE, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let off = aml::Package::new(alloc::vec![&SLEEP_TYPE_OFF, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
    dsdt.append_slice(&serialised(&aml::Name::new("\\_S5_".into(), &off)));
    let mut devices = serial();
    for (number, slot) in virtio.iter().enumerate() {
        devices.extend(virtio_device(number, *slot));
    }
    dsdt.append_slice(&aml::Scope::raw("\\_SB_".into(), devices));
    dsdt
}

fn interrupt(edge: bool, number: u32) -> aml::Interrupt {
    let (consumer, active_low, shared) = (true, false, false);
    aml::Interrupt::new(consumer, edge, active_low, shared, number)
}

fn serial() -> Vec<u8> {
    let ports = aml::IO::new(COM1_PORT as u16, COM1_PORT as u16, 1, COM1_SIZE as u8);
    let interrupt = interrupt(true, COM1_IRQ.into());
    let resources = aml::ResourceTemplate::new(alloc::vec![&interrupt, &ports]);
    let hid = aml::EISAName::new("PNP0501");
    serialised(&aml::Device::new(
        "COM1".into(),
        alloc::vec![
            &aml::Name::new("_HID".into(), &hid),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new("_CRS".into(), &resources),
        ],
    ))
}

fn virtio_device(number: usize, slot: VirtioSlot) -> Vec<u8> {
    let window = aml::Memory32Fixed::new(true, slot.address, slot.size);
    let interrupt = interrupt(false, slot.interrupt);
    let resources = aml::ResourceTemplate::new(alloc::vec![&window, &interrupt]);
    // Names have four characters; the area for tables bounds the number.
    let name = format!("V{:03X}", number & 0xfff);
    serialised(&aml::Device::new(
        name.as_str().into(),
        alloc::vec![
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &number),
            &aml::Name::new("_CCA".into(), &aml::ONE),
            &aml::Name::new("_CRS".into(), &resources),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: [VirtioSlot; 2] = [
        VirtioSlot { address: 0xc000_1000, size: 0x1000, interrupt: 5 },
        VirtioSlot { address: 0xc000_2000, size: 0x1000, interrupt: 6 },
    ];

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    fn word(bytes: &[u8], offset: usize) -> u64 {
        u32::from_le_bytes(bytes[offset..][..4].try_into().unwrap()).into()
    }

    /// The table at guest-physical `address`.
    fn table(tables: &Tables, address: u64) -> &[u8] {
        let bytes = &tables.bytes[(address - tables.address.0) as usize..];
        &bytes[..word(bytes, 4) as usize]
    }

    /// Addresses in the XSDT.
    fn entries(tables: &Tables) -> Vec<u64> {
        let xsdt = u64::from_le_bytes(tables.bytes[24..32].try_into().unwrap());
        let xsdt = table(tables, xsdt);
        xsdt[36..].chunks(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap())).collect()
    }

    #[test]
    fn every_table_has_its_signature_and_a_checksum_of_zero() {
        let tables = build(2, &SLOTS).unwrap();
        assert_eq!(tables.address, GuestAddress(0xe_0000));
        assert_eq!(&tables.bytes[..8], b"RSD PTR ");
        assert_eq!(sum(&tables.bytes[..20]), 0);
        assert_eq!(sum(&tables.bytes[..36]), 0);
        let entries = entries(&tables);
        let [fadt, madt] = [table(&tables, entries[0]), table(&tables, entries[1])];
        let dsdt = table(&tables, word(fadt, 40));
        for (table, signature) in [(fadt, b"FACP"), (madt, b"APIC"), (dsdt, b"DSDT")] {
            assert_eq!(&table[..4], signature);
            assert_eq!(sum(table), 0);
        }
        assert!(tables.bytes.len() < 1024, "{}", tables.bytes.len());
    }

    #[test]
    fn the_fadt_says_hardware_reduced_and_how_to_sleep_and_reset() {
        let tables = build(1, &[]).unwrap();
        let fadt = table(&tables, entries(&tables)[0]);
        assert_eq!((fadt.len(), fadt[8]), (276, 6));
        assert_eq!(word(fadt, 40), u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
        assert_eq!(&fadt[109..111], &[0x2c, 0]);
        assert_eq!(word(fadt, 112), 1 << 4 | 1 << 5 | 1 << 10 | 1 << 20);
        assert_eq!(fadt[116..129], [1, 8, 0, 1, 0x01, 0x06, 0, 0, 0, 0, 0, 0, 1]);
        let sleep = [1, 8, 0, 1, 0x00, 0x06, 0, 0, 0, 0, 0, 0];
        assert_eq!(fadt[244..256], sleep);
        assert_eq!(fadt[256..268], sleep);
    }

    #[test]
    fn the_dsdt_names_every_device_and_the_sleep_type() {
        let tables = build(1, &SLOTS).unwrap();
        let fadt = table(&tables, entries(&tables)[0]);
        let dsdt = table(&tables, word(fadt, 40));
        let find = |what: &[u8]| dsdt.windows(what.len()).filter(|w| *w == what).count();
        // Name (_S5, Package () {5, 0, 0, 0})
        assert_eq!(find(&[0x08, b'\\', b'_', b'S', b'5', b'_', 0x12, 7, 4, 0x0a, 5, 0, 0, 0]), 1);
        assert_eq!(find(b"COM1\x08_HID\x0c\x41\xd0\x05\x01"), 1, "PNP0501");
        // IO (Decode16, 0x3f8, 0x3f8, 1, 8)
        assert_eq!(find(&[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]), 1);
        // Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) {4}
        assert_eq!(find(&[0x89, 6, 0, 0b0011, 1, 4, 0, 0, 0]), 1);
        assert_eq!(find(b"\x0dLNRO0005\0"), 2);
        // Memory32Fixed (ReadWrite, 0xc0002000, 0x1000), Interrupt (.. Level ..) {6}
        assert_eq!(find(&[0x86, 9, 0, 1, 0, 0x20, 0, 0xc0, 0, 0x10, 0, 0]), 1);
        assert_eq!(find(&[0x89, 6, 0, 0b0001, 1, 6, 0, 0, 0]), 1);
    }

    #[test]
    fn too_large_a_machine_is_refused() {
        assert_eq!(build(0, &[]), Err(AcpiError::Vcpus(0)));
        assert_eq!(build(256, &[]), Err(AcpiError::Vcpus(256)));
        assert!(build(255, &[]).is_ok());
        let many = vec![SLOTS[0]; 4000];
        assert!(matches!(build(1, &many), Err(AcpiError::Size(_))));
    }
}
