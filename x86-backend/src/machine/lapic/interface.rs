//! The two ways to the registers: MSRs in x2APIC mode (SDM 11.12.1), a window
//! in memory in xAPIC mode (SDM 11.4.1).

use super::mailbox::Mode;
use super::register::{ESR_ILLEGAL_REGISTER, Register};
use super::{Effect, LocalApic, X2APIC_FIRST};
use crate::machine::GeneralProtection;
use bunshin::bus::Width;

impl LocalApic {
    /// Reads x2APIC register `msr` at time-stamp `now`.
    ///
    /// # Errors
    /// [`GeneralProtection`] outside x2APIC mode, and for a register that is
    /// reserved or write-only there.
    pub fn read_msr(&mut self, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        let register = self.x2apic_register(msr)?;
        if !register.x2apic_readable() {
            return Err(GeneralProtection);
        }
        Ok(self.read_register(register, now))
    }

    /// Writes x2APIC register `msr` at time-stamp `now`.
    ///
    /// # Errors
    /// [`GeneralProtection`] outside x2APIC mode, for a register that is
    /// reserved or read-only, and for reserved bits.
    pub fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        now: u64,
    ) -> Result<Effect, GeneralProtection> {
        let register = self.x2apic_register(msr)?;
        match register.x2apic_writable() {
            Some(writable) if value & !writable == 0 => {
                Ok(self.write_register(register, value, now))
            }
            _ => Err(GeneralProtection),
        }
    }

    fn x2apic_register(&self, msr: u32) -> Result<Register, GeneralProtection> {
        if self.base.mode != Mode::X2Apic {
            return Err(GeneralProtection);
        }
        msr.checked_sub(X2APIC_FIRST)
            .and_then(|number| Register::from_number(number.into()))
            .ok_or(GeneralProtection)
    }

    /// The register at `offset` of the window and the byte inside its 16.
    fn xapic_register(&mut self, offset: u64) -> Option<(Register, u64)> {
        let register =
            Register::from_number(offset >> 4).filter(|register| *register != Register::SelfIpi);
        if register.is_none() {
            self.report_error(ESR_ILLEGAL_REGISTER);
        }
        Some((register?, offset & 0xf))
    }

    /// Reads `width` at `offset` of the xAPIC window. What is not a register
    /// reads as zero.
    pub fn read_window(&mut self, offset: u64, width: Width, now: u64) -> u64 {
        match self.xapic_register(offset) {
            Some((register, byte @ 0..4)) => {
                self.read_register(register, now).wrapping_shr((byte as u32) << 3) & width.mask()
            }
            _ => 0,
        }
    }

    /// Writes `value` at `offset` of the xAPIC window. Only accesses of four
    /// bytes or more at the start of a register have an effect.
    pub fn write_window(&mut self, offset: u64, width: Width, value: u64, now: u64) -> Effect {
        match self.xapic_register(offset) {
            Some((register, 0)) if width >= Width::Word => {
                self.write_register(register, value & Width::Word.mask(), now)
            }
            _ => Effect::None,
        }
    }
}
