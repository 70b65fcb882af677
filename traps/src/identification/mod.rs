//! The identification registers that a guest reads.
//!
//! `HCR_EL2.TID3` traps the whole space `op0` = 3, `op1` = 0, `CRn` = 0, `CRm` = 1 to 7. What the guest reads there
//! is computed once per virtual machine from what the host has and what the hypervisor virtualises: [`sanitise`].
//! **Default-deny**: a field that is not listed reads as zero, so an extension that is newer than this table stays
//! hidden until somebody decides about it.

mod aarch32;
mod fields;

use crate::system_register::Encoding;

/// How many registers the table holds: `CRm` 0 to 7, `op2` 0 to 7.
const COUNT: usize = 64;

/// The identification registers of a host or of a guest.
///
/// Registers that do not exist read as zero, as the architecture has it for the reserved part of the space.
#[derive(Clone, PartialEq, Eq)]
pub struct IdRegisters([u64; COUNT]);

impl IdRegisters {
    /// All registers zero.
    pub const ZERO: Self = Self([0; COUNT]);

    /// Reads every register of the space (`CRm` 1 to 7) with `read`.
    #[must_use]
    pub fn from_fn(mut read: impl FnMut(Encoding) -> u64) -> Self {
        let mut registers = Self::ZERO;
        for crm in 1..8 {
            for op2 in 0..8 {
                let encoding = Encoding::new(3, 0, 0, crm, op2);
                registers.set(encoding, read(encoding));
            }
        }
        registers
    }

    /// The register at `index`, as [`Encoding::identification_index`] gives it; zero beyond the table.
    #[inline]
    #[must_use]
    pub fn get(&self, index: u8) -> u64 {
        self.0.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// The register with `encoding`; zero if it is not in the space.
    #[must_use]
    pub fn read(&self, encoding: Encoding) -> u64 {
        encoding.identification_index().map_or(0, |index| self.get(index))
    }

    /// Sets the register with `encoding`; does nothing if it is not in the space.
    pub fn set(&mut self, encoding: Encoding, value: u64) {
        let slot =
            encoding.identification_index().and_then(|index| self.0.get_mut(usize::from(index)));
        if let Some(slot) = slot {
            *slot = value;
        }
    }

    /// The four-bit field at bit `shift` (0 to 60) of the register with `encoding`.
    #[must_use]
    pub fn field(&self, encoding: Encoding, shift: u32) -> u8 {
        (self.read(encoding).wrapping_shr(shift) & 0xf) as u8
    }
}

impl core::fmt::Debug for IdRegisters {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut map = f.debug_map();
        for (index, value) in (0_u8..).zip(&self.0).filter(|&(_, &value)| value != 0) {
            map.entry(
                &Encoding::new(3, 0, 0, index >> 3, index & 7),
                &format_args!("{value:#018x}"),
            );
        }
        map.finish()
    }
}

/// What a virtual machine is given beyond the host's own choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The size of the guest's physical address space in bits. `PARange` is the smallest that covers it, or the
    /// host's if that is less.
    pub physical_address_bits: u8,
    /// The guest has the system registers of a GICv3, whatever the host says of its own.
    pub interrupt_controller: bool,
    /// The guest has the performance monitors of the host.
    pub performance_monitors: bool,
    /// The guest has pointer authentication; its keys are switched.
    pub pointer_authentication: bool,
    /// The guest may run AArch32 at EL0, if the host can.
    pub aarch32: bool,
    /// The guest has `CPY*` and `SET*`; needs `HCRX_EL2.MSCEn`.
    pub memory_copy: bool,
    /// The guest has `WFIT` and `WFET`; their traps honour the deadline, or they are not trapped.
    pub timed_wait: bool,
    /// The guest has `SCXTNUM_EL0` and `SCXTNUM_EL1`; they are switched. Needs `HCR_EL2.EnSCXT`.
    pub software_context_numbers: bool,
}

impl Policy {
    /// What is safe on every host, and what a hypervisor that switches the pointer authentication keys gives.
    #[must_use]
    pub const fn new(
        physical_address_bits: u8,
        interrupt_controller: bool,
        performance_monitors: bool,
    ) -> Self {
        Self {
            physical_address_bits,
            interrupt_controller,
            performance_monitors,
            pointer_authentication: true,
            aarch32: true,
            memory_copy: false,
            timed_wait: false,
            software_context_numbers: false,
        }
    }
}

/// The identification registers of a guest with `policy` on a processor that has `host`.
#[must_use]
pub fn sanitise(host: &IdRegisters, policy: &Policy) -> IdRegisters {
    let mut guest = IdRegisters::ZERO;
    for field in fields::FIELDS {
        let value = field.value(host.field(field.register, field.shift), policy);
        let bits = u64::from(value & 0xf).wrapping_shl(field.shift);
        guest.set(field.register, guest.read(field.register) | bits);
    }
    if policy.aarch32 && fields::has_aarch32(host) {
        aarch32::sanitise(host, policy, &mut guest);
    }
    guest
}

/// What two processors both have, field by field, of registers that are [`sanitise`]d already: for a virtual CPU that
/// may move between them.
#[must_use]
pub fn common(a: &IdRegisters, b: &IdRegisters) -> IdRegisters {
    /// "Not implemented" in a signed field: less than any other value.
    const NOT_IMPLEMENTED: u8 = 0b1111;
    IdRegisters::from_fn(|encoding| {
        (0..u64::BITS).step_by(4).fold(0, |value, shift| {
            let pair = (a.field(encoding, shift), b.field(encoding, shift));
            let field = match pair {
                (NOT_IMPLEMENTED, _) | (_, NOT_IMPLEMENTED)
                    if fields::is_signed(encoding, shift) =>
                {
                    NOT_IMPLEMENTED
                }
                (a, b) => a.min(b),
            };
            value | u64::from(field).wrapping_shl(shift)
        })
    })
}

/// The size in bits of the physical address space that a `PARange` stands for; 48 for a value that is not known.
#[must_use]
pub const fn physical_address_bits(range: u8) -> u8 {
    match range {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        6 => 52,
        7 => 56,
        _ => 48,
    }
}

#[cfg(test)]
mod tests;
