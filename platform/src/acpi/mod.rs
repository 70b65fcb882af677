//! The tables in which PC firmware describes the machine (ACPI 6.5, chapter 5).
//!
//! [`Acpi::read`] follows the root pointer to the tables that a hypervisor needs: MADT for CPUs and I/O APICs, FADT for
//! reset and power-off, MCFG for PCI Express. All are checked (place, length, checksum) before their fields are
//! believed, and limits bound memory and time. AML isn't executed.

mod fadt;
mod madt;
mod mcfg;
mod rsdp;
mod table;
#[cfg(test)]
mod tests;

pub use fadt::{AddressSpace, Fadt, GenericAddress, ResetRegister, SleepType};
pub use madt::{CpuState, InterruptOverride, IoApic, LocalApic, Madt, Polarity, SignalMode};
pub use mcfg::PciSegment;
pub use rsdp::{Rsdp, find_rsdp};

use crate::PhysicalAddress;
use alloc::string::String;
use alloc::vec::Vec;
use table::Table;

/// Access to the memory where firmware has left its tables.
pub trait PhysicalMemory {
    /// Fills `buffer` from `address` on; `None` if any of it can't be read.
    fn read(&self, address: PhysicalAddress, buffer: &mut [u8]) -> Option<()>;
}

/// More tables than any firmware has.
const MAX_TABLES: usize = 256;

/// Why the tables can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcpiError {
    /// A pointer to memory that can't be read.
    #[error("ACPI: {table} at {address}: this memory can't be read")]
    Unreadable {
        /// Which table.
        table: String,
        /// Where it should be.
        address: PhysicalAddress,
    },
    /// Other data than the pointer promises.
    #[error("ACPI: {table} at {address}: the signature is {found:?}")]
    Signature {
        /// Which table.
        table: String,
        /// Where it should be.
        address: PhysicalAddress,
        /// What is there.
        found: String,
    },
    /// The bytes don't add up to 0.
    #[error("ACPI: {table} at {address}: the checksum is wrong; the firmware's tables are damaged")]
    Checksum {
        /// Which table.
        table: String,
        /// Where it is.
        address: PhysicalAddress,
    },
    /// Too short for its fields, or longer than is believable.
    #[error("ACPI: {table} at {address}: a length of {length} bytes can't be")]
    Length {
        /// Which table.
        table: String,
        /// Where it is.
        address: PhysicalAddress,
        /// What it says.
        length: u32,
    },
    /// A table that can't be done without.
    #[error("ACPI: the firmware has no {table} table; the hypervisor can't find the CPUs without")]
    Missing {
        /// Which table.
        table: &'static str,
    },
    /// More tables than any firmware has.
    #[error("ACPI: the list of tables has {count} entries; {MAX_TABLES} are accepted")]
    TooManyTables {
        /// How many there are.
        count: usize,
    },
    /// The heap can't hold a table.
    #[error("ACPI: no memory for a table of {bytes} bytes")]
    OutOfMemory {
        /// Its size.
        bytes: usize,
    },
}

/// What the tables say about a PC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acpi {
    /// CPUs and interrupt controllers.
    pub madt: Madt,
    /// Reset and power-off; absent on firmware that leaves them to other means.
    pub fadt: Option<Fadt>,
    /// Where the configuration space of PCI Express is mapped.
    pub pci_segments: Vec<PciSegment>,
}

impl Acpi {
    /// Reads the tables that the root pointer at `rsdp` leads to.
    ///
    /// # Errors
    /// An [`AcpiError`] if the root pointer, the list of tables or a needed table is damaged, or there is no MADT.
    pub fn read(memory: &impl PhysicalMemory, rsdp: PhysicalAddress) -> Result<Self, AcpiError> {
        let mut found = Found::default();
        for address in Rsdp::read(memory, rsdp)?.tables(memory)? {
            // An entry that points nowhere is a fault of the firmware, but not in what is needed here.
            let Some(signature) = table::signature(memory, address) else { continue };
            let slot = match &signature {
                madt::SIGNATURE => &mut found.madt,
                fadt::SIGNATURE => &mut found.fadt,
                mcfg::SIGNATURE => &mut found.mcfg,
                _ => continue,
            };
            if slot.is_none() {
                *slot = Some(Table::read(memory, address, &signature)?);
            }
        }
        let madt = found.madt.ok_or(AcpiError::Missing { table: "APIC" })?;
        Ok(Self {
            madt: Madt::parse(&madt)?,
            fadt: found.fadt.map(|fadt| Fadt::parse(&fadt, memory)).transpose()?,
            pci_segments: found.mcfg.map(|mcfg| mcfg::parse(&mcfg)).unwrap_or_default(),
        })
    }
}

#[derive(Default)]
struct Found {
    madt: Option<Table>,
    fadt: Option<Table>,
    mcfg: Option<Table>,
}
