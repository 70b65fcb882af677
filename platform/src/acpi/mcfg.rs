//! Where the configuration space of PCI Express is mapped (PCI Firmware Specification 3.3, 4.1.2).

use super::table::{Table, field_u16, field_u64};
use crate::{PhysicalAddress, Region};
use alloc::vec::Vec;

pub(super) const SIGNATURE: &[u8; 4] = b"MCFG";
const ENTRIES: usize = 44;
const ENTRY_BYTES: usize = 16;
/// Configuration space of a bus: 32 devices of 8 functions of 4 KiB.
const BUS_BYTES: u64 = 1 << 20;

/// A range of buses with its configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciSegment {
    /// Number of the segment.
    pub segment: u16,
    /// The first bus.
    pub first_bus: u8,
    /// The last bus.
    pub last_bus: u8,
    /// The configuration space of these buses.
    pub configuration: Region,
}

/// The entries that make sense.
pub(super) fn parse(table: &Table) -> Vec<PciSegment> {
    let entries = table.bytes().get(ENTRIES..).unwrap_or_default().chunks_exact(ENTRY_BYTES);
    entries.filter_map(segment).collect()
}

fn segment(entry: &[u8]) -> Option<PciSegment> {
    let (first_bus, last_bus) = (*entry.get(10)?, *entry.get(11)?);
    let buses = u64::from(last_bus.checked_sub(first_bus)?).checked_add(1)?;
    // The address is that of bus 0, wherever the range starts.
    let offset = u64::from(first_bus).checked_mul(BUS_BYTES)?;
    let base = PhysicalAddress::new(field_u64(entry, 0)?).checked_add(offset)?;
    let configuration = Region::new(base, buses.checked_mul(BUS_BYTES)?)?;
    Some(PciSegment { segment: field_u16(entry, 8)?, first_bus, last_bus, configuration })
}
