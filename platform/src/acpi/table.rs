//! A system description table: a header with a checksum over all of it (ACPI 6.5, 5.2.6).

use super::{AcpiError, PhysicalMemory};
use crate::PhysicalAddress;
use alloc::string::String;
use alloc::vec::Vec;

/// Name of a table.
pub(super) type Signature = [u8; 4];

/// Length of the header, in bytes.
pub(super) const HEADER_BYTES: usize = 36;
/// The largest tables, with AML, have half of that.
const MAX_TABLE_BYTES: u32 = 1 << 20;
const LENGTH: usize = 4;

/// A table with a right checksum.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) address: PhysicalAddress,
    bytes: Vec<u8>,
}

/// The name of the table at `address`; `None` if it can't be read.
pub(super) fn signature(
    memory: &impl PhysicalMemory,
    address: PhysicalAddress,
) -> Option<Signature> {
    let mut signature = Signature::default();
    memory.read(address, &mut signature)?;
    Some(signature)
}

/// Bytes of a name as text for people.
pub(super) fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' }).collect()
}

/// Whether bytes add up to 0, as they must.
pub(super) fn checksum_is_right(bytes: &[u8]) -> bool {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

impl Table {
    /// Reads and checks the table at `address`.
    pub(super) fn read(
        memory: &impl PhysicalMemory,
        address: PhysicalAddress,
        signature: &Signature,
    ) -> Result<Self, AcpiError> {
        let name = || text(signature);
        let unreadable = || AcpiError::Unreadable { table: name(), address };
        let mut header = [0; HEADER_BYTES];
        memory.read(address, &mut header).ok_or_else(unreadable)?;
        if !header.starts_with(signature) {
            let found = text(header.first_chunk::<4>().unwrap_or(&[0; 4]));
            return Err(AcpiError::Signature { table: name(), address, found });
        }
        let length = field_u32(&header, LENGTH).unwrap_or(0);
        if (length as usize) < HEADER_BYTES || length > MAX_TABLE_BYTES {
            return Err(AcpiError::Length { table: name(), address, length });
        }
        let length = length as usize;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| AcpiError::OutOfMemory { bytes: length })?;
        bytes.resize(length, 0);
        memory.read(address, &mut bytes).ok_or_else(unreadable)?;
        if !checksum_is_right(&bytes) {
            return Err(AcpiError::Checksum { table: name(), address });
        }
        Ok(Self { address, bytes })
    }

    /// All of it with the header.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What follows the header.
    pub(super) fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// An error about the length.
    pub(super) fn too_short(&self) -> AcpiError {
        AcpiError::Length {
            table: text(self.bytes.get(..4).unwrap_or_default()),
            address: self.address,
            length: u32::try_from(self.bytes.len()).unwrap_or(u32::MAX),
        }
    }
}

/// A little-endian field of two bytes; `None` beyond the end.
pub(super) fn field_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..offset.checked_add(2)?)?.try_into().ok()?))
}

/// A little-endian field of four bytes; `None` beyond the end.
pub(super) fn field_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

/// A little-endian field of eight bytes; `None` beyond the end.
pub(super) fn field_u64(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}
