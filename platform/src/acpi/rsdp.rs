//! The root pointer (ACPI 6.5, 5.2.5) and the list of tables that it points to (5.2.7, 5.2.8).

use super::table::{Table, checksum_is_right, field_u32, field_u64, text};
use super::{AcpiError, MAX_TABLES, PhysicalMemory};
use crate::PhysicalAddress;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

const SIGNATURE: &[u8; 8] = b"RSD PTR ";
const NAME: &str = "RSDP";
/// Length of version 1, which the first checksum covers.
const V1_BYTES: usize = 20;
/// Length of version 2.
const V2_BYTES: usize = 36;
/// No version has more.
const MAX_BYTES: usize = 128;
const REVISION: usize = 15;
const RSDT_ADDRESS: usize = 16;
const LENGTH: usize = 20;
const XSDT_ADDRESS: usize = 24;

/// Where a BIOS keeps the segment of its extended data area.
const EBDA_SEGMENT: PhysicalAddress = PhysicalAddress::new(0x40e);
/// How much of that area may hold the root pointer, in bytes.
const EBDA_BYTES: u64 = 1024;
/// The read-only memory of a BIOS.
const BIOS_ROM: (u64, u64) = (0xe_0000, 0x2_0000);
/// The root pointer stands at a multiple of this.
const ALIGNMENT: usize = 16;

/// Where the list of tables is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rsdp {
    /// A list of 32-bit addresses, from ACPI 1.0 firmware.
    Rsdt(PhysicalAddress),
    /// A list of 64-bit addresses.
    Xsdt(PhysicalAddress),
}

impl Rsdp {
    /// Reads and checks the root pointer.
    ///
    /// # Errors
    /// An [`AcpiError`] if it isn't one or its checksum is wrong.
    pub fn read(memory: &impl PhysicalMemory, address: PhysicalAddress) -> Result<Self, AcpiError> {
        let table = || NAME.to_string();
        let unreadable = || AcpiError::Unreadable { table: table(), address };
        let checksum = || AcpiError::Checksum { table: table(), address };
        let mut v1 = [0; V1_BYTES];
        memory.read(address, &mut v1).ok_or_else(unreadable)?;
        if !v1.starts_with(SIGNATURE) {
            let found: String = text(v1.first_chunk::<8>().unwrap_or(&[0; 8]));
            return Err(AcpiError::Signature { table: table(), address, found });
        }
        if !checksum_is_right(&v1) {
            return Err(checksum());
        }
        let rsdt = u64::from(field_u32(&v1, RSDT_ADDRESS).ok_or_else(unreadable)?);
        if v1.get(REVISION).is_none_or(|revision| *revision < 2) {
            return Ok(Self::Rsdt(PhysicalAddress::new(rsdt)));
        }
        let mut v2 = [0; V2_BYTES];
        memory.read(address, &mut v2).ok_or_else(unreadable)?;
        let length = field_u32(&v2, LENGTH).ok_or_else(unreadable)?;
        let mut all = [0; MAX_BYTES];
        let all = (V2_BYTES..=MAX_BYTES)
            .contains(&(length as usize))
            .then(|| all.get_mut(..length as usize))
            .flatten()
            .ok_or_else(|| AcpiError::Length { table: table(), address, length })?;
        memory.read(address, all).ok_or_else(unreadable)?;
        if !checksum_is_right(all) {
            return Err(checksum());
        }
        Ok(match field_u64(&v2, XSDT_ADDRESS).ok_or_else(unreadable)? {
            0 => Self::Rsdt(PhysicalAddress::new(rsdt)),
            xsdt => Self::Xsdt(PhysicalAddress::new(xsdt)),
        })
    }

    /// The addresses in the list. Empty entries are left out.
    pub(super) fn tables(
        self,
        memory: &impl PhysicalMemory,
    ) -> Result<Vec<PhysicalAddress>, AcpiError> {
        let (table, entry_bytes) = match self {
            Self::Rsdt(address) => (Table::read(memory, address, b"RSDT")?, 4),
            Self::Xsdt(address) => (Table::read(memory, address, b"XSDT")?, 8),
        };
        let entries = table.body().chunks_exact(entry_bytes);
        if entries.len() > MAX_TABLES {
            return Err(AcpiError::TooManyTables { count: entries.len() });
        }
        let address = |entry: &[u8]| match self {
            Self::Rsdt(_) => field_u32(entry, 0).map(u64::from),
            Self::Xsdt(_) => field_u64(entry, 0),
        };
        Ok(entries
            .filter_map(address)
            .filter(|address| *address != 0)
            .map(PhysicalAddress::new)
            .collect())
    }
}

/// Looks for the root pointer where a BIOS keeps it: in the first KiB of the extended data area, and below 1 MiB
/// (ACPI 6.5, 5.2.5.1). UEFI and boot loaders pass its address instead.
#[must_use]
pub fn find_rsdp(memory: &impl PhysicalMemory) -> Option<PhysicalAddress> {
    let mut segment = [0; 2];
    let ebda = memory
        .read(EBDA_SEGMENT, &mut segment)
        .map(|()| u64::from(u16::from_le_bytes(segment)).saturating_mul(16))
        .filter(|base| *base != 0);
    let areas = [ebda.map(|base| (base, EBDA_BYTES)), Some(BIOS_ROM)];
    areas.into_iter().flatten().find_map(|(base, size)| {
        let end = base.checked_add(size)?;
        let mut places = (base..end).step_by(ALIGNMENT).map(PhysicalAddress::new);
        places.find(|address| Rsdp::read(memory, *address).is_ok())
    })
}
