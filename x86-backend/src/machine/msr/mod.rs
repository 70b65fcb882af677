//! Model-specific registers as guests see them: a row a register. What has no
//! row raises a general-protection exception.
//!
//! A row says where the value lives ([`Place`]) and which values a guest may
//! write. Validated values go to the backend ([`Write`]); registers that exist
//! only in software are kept here ([`Bank`]).

mod rule;
mod table;
#[cfg(test)]
mod tests;

pub use rule::{Efer, write_efer};

use super::GeneralProtection;
use super::cpuid::Vendor;
use rule::Rule;
use table::ROWS;

/// A register that the processor or its guest-state area holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// Extended features (EFER).
    Efer,
    /// SYSCALL targets (STAR).
    Star,
    /// SYSCALL entry in 64-bit mode (LSTAR).
    Lstar,
    /// SYSCALL entry in compatibility mode (CSTAR).
    Cstar,
    /// SYSCALL flag mask (SFMASK).
    SyscallMask,
    /// Base of FS.
    FsBase,
    /// Base of GS.
    GsBase,
    /// The base that SWAPGS exchanges.
    KernelGsBase,
    /// What RDTSCP and RDPID give.
    TscAux,
    /// SYSENTER code segment.
    SysenterCs,
    /// SYSENTER stack pointer.
    SysenterEsp,
    /// SYSENTER entry.
    SysenterEip,
    /// Page-attribute table.
    Pat,
}

/// Where a register's value lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the processor.
    Processor(Register),
    /// IA32_APIC_BASE, of the local APIC.
    ApicBase,
    /// One of the local APIC's registers in x2APIC mode.
    X2Apic,
    /// IA32_TSC_DEADLINE, of the local APIC.
    TscDeadline,
    /// The time-stamp counter.
    Tsc,
    /// Guest-physical address of the wall clock that the hypervisor writes once.
    KvmWallClock,
    /// Guest-physical address of this virtual CPU's clock page, and enable bit.
    KvmSystemTime,
    /// Nowhere: it always reads as this.
    Constant(u64),
    /// Here, in the [`Bank`], with this value after reset.
    Stored(u64),
}

/// A row of the table.
#[derive(Debug)]
pub struct Row {
    first: u32,
    last: u32,
    vendor: Option<Vendor>,
    place: Place,
    rule: Rule,
    /// Position in the bank of the first register, for [`Place::Stored`].
    slot: usize,
}

impl Row {
    /// Where the value lives.
    pub fn place(&self) -> Place {
        self.place
    }
}

/// The row of register `index` on a processor of `vendor`; `None` is a
/// general-protection exception.
pub fn find(index: u32, vendor: Vendor) -> Option<&'static Row> {
    let place = ROWS.partition_point(|row| row.first <= index);
    let row = ROWS.get(place.checked_sub(1)?)?;
    let exists = index <= row.last && row.vendor.is_none_or(|only| only == vendor);
    exists.then_some(row)
}

/// Registers that a guest may read and write without an exit: the processor
/// itself refuses bad values, and no other state depends on them.
pub fn direct() -> impl Iterator<Item = (u32, Register)> {
    ROWS.iter().filter_map(|row| match row.place {
        Place::Processor(Register::Efer | Register::Pat | Register::TscAux) => None,
        Place::Processor(register) => Some((row.first, register)),
        _ => None,
    })
}

/// Answer to RDMSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// The value.
    Value(u64),
    /// The owner of this place knows it.
    From(Place),
}

/// Answer to WRMSR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Done, or ignored as on hardware.
    Done,
    /// Give this valid value to the owner of the place, who may still refuse
    /// it ([`Place::ApicBase`], [`Place::X2Apic`], [`Register::Efer`]).
    To(Place, u64),
}

/// The registers of one virtual CPU that live in software only.
#[derive(Debug, Clone)]
pub struct Bank {
    vendor: Vendor,
    address_bits: u32,
    values: [u64; table::SLOTS],
}

impl Bank {
    /// Registers after reset, for guest-physical addresses of `address_bits`.
    pub fn new(vendor: Vendor, address_bits: u32) -> Self {
        let mut bank = Bank { vendor, address_bits, values: [0; table::SLOTS] };
        bank.reset();
        bank
    }

    /// Back to the values after reset.
    pub fn reset(&mut self) {
        for row in &ROWS {
            let Place::Stored(value) = row.place else { continue };
            for index in row.first..=row.last {
                if let Some(slot) = self.slot(row, index) {
                    *slot = value;
                }
            }
        }
    }

    fn slot(&mut self, row: &Row, index: u32) -> Option<&mut u64> {
        let inside = usize::try_from(index.checked_sub(row.first)?).ok()?;
        self.values.get_mut(row.slot.checked_add(inside)?)
    }

    /// RDMSR.
    ///
    /// # Errors
    /// [`GeneralProtection`] if there is no such register.
    pub fn read(&mut self, index: u32) -> Result<Read, GeneralProtection> {
        let row = find(index, self.vendor).ok_or(GeneralProtection)?;
        Ok(match row.place {
            Place::Constant(value) => Read::Value(value),
            Place::Stored(_) => Read::Value(self.slot(row, index).copied().unwrap_or(0)),
            place => Read::From(place),
        })
    }

    /// WRMSR.
    ///
    /// # Errors
    /// [`GeneralProtection`] if there is no such register, if it is read-only,
    /// and for a value that hardware would refuse.
    pub fn write(&mut self, index: u32, value: u64) -> Result<Write, GeneralProtection> {
        let row = find(index, self.vendor).ok_or(GeneralProtection)?;
        let value = row.rule.check(value, index, self.address_bits)?;
        match row.place {
            Place::Constant(_) => {}
            Place::Stored(_) => {
                if let Some(slot) = self.slot(row, index) {
                    *slot = value;
                }
            }
            place => return Ok(Write::To(place, value)),
        }
        Ok(Write::Done)
    }
}
