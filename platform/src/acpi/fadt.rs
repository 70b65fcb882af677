//! Fixed ACPI description table: how the machine is reset and switched off (ACPI 6.5, 5.2.9).

use super::table::{Table, field_u32, field_u64};
use super::{AcpiError, PhysicalMemory};
use crate::PhysicalAddress;

pub(super) const SIGNATURE: &[u8; 4] = b"FACP";
const DSDT: usize = 40;
const PM1A_CONTROL: usize = 64;
const PM1B_CONTROL: usize = 68;
const PM_TIMER: usize = 76;
const FLAGS: usize = 112;
const RESET_REGISTER: usize = 116;
const RESET_VALUE: usize = 128;
const EXTENDED_DSDT: usize = 140;
const EXTENDED_PM1A_CONTROL: usize = 172;
const EXTENDED_PM1B_CONTROL: usize = 184;
const EXTENDED_PM_TIMER: usize = 208;
const SLEEP_CONTROL: usize = 244;
const SLEEP_STATUS: usize = 256;
/// Length of version 1, in bytes.
const V1_BYTES: usize = 116;

const RESET_SUPPORTED: u32 = 1 << 10;
const HARDWARE_REDUCED: u32 = 1 << 20;

const PM1_CONTROL_BITS: u8 = 16;
const PM_TIMER_BITS: u8 = 32;

/// Where a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressSpace {
    /// Physical memory.
    Memory,
    /// I/O ports.
    Io,
    /// Configuration space of PCI segment 0, bus 0.
    PciConfiguration,
    /// Another space, by its number.
    Other(u8),
}

/// A register anywhere (ACPI 6.5, 5.2.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenericAddress {
    /// Where the register is.
    pub space: AddressSpace,
    /// Its width in bits.
    pub width: u8,
    /// Its address in that space.
    pub address: u64,
}

impl GenericAddress {
    /// Reads the structure at `offset`; `None` if it is absent or says that there is no register.
    fn at(bytes: &[u8], offset: usize) -> Option<Self> {
        let address = field_u64(bytes, offset.checked_add(4)?).filter(|address| *address != 0)?;
        let space = match *bytes.get(offset)? {
            0 => AddressSpace::Memory,
            1 => AddressSpace::Io,
            2 => AddressSpace::PciConfiguration,
            other => AddressSpace::Other(other),
        };
        Some(Self { space, width: *bytes.get(offset.checked_add(1)?)?, address })
    }

    /// A port that an old field names.
    fn port(bytes: &[u8], offset: usize, width: u8) -> Option<Self> {
        let address = u64::from(field_u32(bytes, offset)?);
        (address != 0).then_some(Self { space: AddressSpace::Io, width, address })
    }
}

/// What resets the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetRegister {
    /// Where to write.
    pub register: GenericAddress,
    /// What to write.
    pub value: u8,
}

/// What to write to `SLP_TYP` for a sleep state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepType {
    /// For PM1a, or for the sleep control register.
    pub a: u8,
    /// For PM1b.
    pub b: u8,
}

/// How the machine is reset and switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fadt {
    /// There are no PM1 registers; sleep control and status stand in for them.
    pub hardware_reduced: bool,
    /// What resets the machine.
    pub reset: Option<ResetRegister>,
    /// `PM1a_CNT`.
    pub pm1a_control: Option<GenericAddress>,
    /// `PM1b_CNT`.
    pub pm1b_control: Option<GenericAddress>,
    /// Sleep control, on hardware-reduced machines.
    pub sleep_control: Option<GenericAddress>,
    /// Sleep status, on hardware-reduced machines.
    pub sleep_status: Option<GenericAddress>,
    /// A counter of 3.579545 MHz.
    pub pm_timer: Option<GenericAddress>,
    /// The table with the AML of the machine.
    pub dsdt: Option<PhysicalAddress>,
    /// What switches the machine off (S5), if the DSDT says so in plain form.
    pub power_off: Option<SleepType>,
}

impl Fadt {
    /// Reads the fields that the table's version has.
    pub(super) fn parse(table: &Table, memory: &impl PhysicalMemory) -> Result<Self, AcpiError> {
        let bytes = table.bytes();
        if bytes.len() < V1_BYTES {
            return Err(table.too_short());
        }
        let flags = field_u32(bytes, FLAGS).ok_or_else(|| table.too_short())?;
        // The extended fields win where they are filled in.
        let register = |extended, old, width| {
            GenericAddress::at(bytes, extended).or_else(|| GenericAddress::port(bytes, old, width))
        };
        let dsdt = field_u64(bytes, EXTENDED_DSDT)
            .filter(|address| *address != 0)
            .or_else(|| field_u32(bytes, DSDT).map(u64::from))
            .filter(|address| *address != 0)
            .map(PhysicalAddress::new);
        let reset = GenericAddress::at(bytes, RESET_REGISTER)
            .zip(bytes.get(RESET_VALUE))
            .filter(|_| flags & RESET_SUPPORTED != 0);
        Ok(Self {
            hardware_reduced: flags & HARDWARE_REDUCED != 0,
            reset: reset.map(|(register, &value)| ResetRegister { register, value }),
            pm1a_control: register(EXTENDED_PM1A_CONTROL, PM1A_CONTROL, PM1_CONTROL_BITS),
            pm1b_control: register(EXTENDED_PM1B_CONTROL, PM1B_CONTROL, PM1_CONTROL_BITS),
            sleep_control: GenericAddress::at(bytes, SLEEP_CONTROL),
            sleep_status: GenericAddress::at(bytes, SLEEP_STATUS),
            pm_timer: register(EXTENDED_PM_TIMER, PM_TIMER, PM_TIMER_BITS),
            dsdt,
            // A damaged DSDT costs only the power switch.
            power_off: dsdt
                .and_then(|dsdt| Table::read(memory, dsdt, b"DSDT").ok())
                .and_then(|dsdt| find_power_off(dsdt.body())),
        })
    }
}

const NAME_OP: u8 = 0x08;
const PACKAGE_OP: u8 = 0x12;
const ZERO_OP: u8 = 0x00;
const ONE_OP: u8 = 0x01;
const BYTE_PREFIX: u8 = 0x0a;
const ROOT_CHAR: u8 = b'\\';
const S5: &[u8; 4] = b"_S5_";
/// `SLP_TYP` has three bits.
const MAX_SLEEP_TYPE: u8 = 7;

/// Finds `Name (\_S5, Package { a, b, ... })` in AML (ACPI 6.5, 7.4.2 and 20.2). Nearly all firmware has it in this form,
/// which can be read without an interpreter.
fn find_power_off(aml: &[u8]) -> Option<SleepType> {
    aml.windows(S5.len()).enumerate().filter(|(_, window)| window == S5).find_map(|(offset, _)| {
        let before = aml.get(..offset)?;
        if !matches!(before, [.., NAME_OP] | [.., NAME_OP, ROOT_CHAR]) {
            return None;
        }
        let mut rest = aml.get(offset.checked_add(S5.len())?..)?.iter().copied();
        if rest.next()? != PACKAGE_OP {
            return None;
        }
        // The two high bits of a package's length say how many more bytes it has; then comes the number of elements.
        let more = rest.next()? >> 6;
        let mut rest = rest.skip(more.into());
        let elements = rest.next()?;
        let mut element = || match rest.next()? {
            number @ (ZERO_OP | ONE_OP) => Some(number),
            BYTE_PREFIX => rest.next().filter(|number| *number <= MAX_SLEEP_TYPE),
            _ => None,
        };
        let a = element().filter(|_| elements >= 1)?;
        let b = if elements >= 2 { element()? } else { 0 };
        Some(SleepType { a, b })
    })
}
