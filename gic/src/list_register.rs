//! List registers: the hardware's short list of interrupts for the guest, and how GICv2 and GICv3 encode an entry.

use crate::IntId;

/// The state of the interrupt in a list register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct State {
    /// The guest has yet to acknowledge it.
    pub pending: bool,
    /// The guest has acknowledged it and has not deactivated it.
    pub active: bool,
}

impl State {
    /// Neither pending nor active: the list register is free.
    pub const INVALID: Self = Self { pending: false, active: false };

    #[inline(always)]
    const fn from_bits(bits: u64) -> Self {
        Self { pending: bits & 1 != 0, active: bits & 2 != 0 }
    }

    #[inline(always)]
    const fn bits(self) -> u64 {
        self.pending as u64 | (self.active as u64) << 1
    }

    /// Whether the entry holds no interrupt.
    #[inline(always)]
    #[must_use]
    pub const fn is_invalid(self) -> bool {
        !self.pending && !self.active
    }
}

/// One list register, independent of the GIC's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListRegister {
    /// The interrupt that the guest sees.
    pub intid: IntId,
    /// Pending, active, both, or neither.
    pub state: State,
    /// The physical interrupt that the guest's deactivation deactivates (the HW bit).
    pub physical: Option<u32>,
    /// Priority; 0 is the highest. Bits that the hardware doesn't have are dropped.
    pub priority: u8,
    /// Group 1 rather than group 0.
    pub group1: bool,
    /// Ask for a maintenance interrupt when the guest ends the interrupt. Ignored with `physical`.
    pub eoi_maintenance: bool,
    /// GICv2: the vCPU that sent the SGI, 0 to 7.
    pub source: u8,
}

impl ListRegister {
    /// A free list register.
    pub const INVALID: Self = Self {
        intid: IntId::new(0),
        state: State::INVALID,
        physical: None,
        priority: 0,
        group1: false,
        eoi_maintenance: false,
        source: 0,
    };

    /// Encodes for `ICH_LRn_EL2` (IHI 0069 12.4.6).
    #[inline(always)]
    #[must_use]
    pub const fn encode_ich(&self) -> u64 {
        use ich::{EOI, GROUP1, HW, PINTID, PRIORITY, STATE};
        let mut value = self.intid.get() as u64
            | (self.priority as u64) << PRIORITY.shift
            | self.state.bits() << STATE.shift;
        if self.group1 {
            value |= GROUP1;
        }
        match self.physical {
            Some(physical) => value |= HW | PINTID.place(physical as u64),
            None if self.eoi_maintenance => value |= EOI,
            None => {}
        }
        value
    }

    /// Decodes a value of `ICH_LRn_EL2`.
    #[inline(always)]
    #[must_use]
    pub const fn decode_ich(value: u64) -> Self {
        use ich::{EOI, GROUP1, HW, PINTID, PRIORITY, STATE, VINTID};
        let hardware = value & HW != 0;
        Self {
            intid: IntId::new(VINTID.get(value) as u32),
            state: State::from_bits(STATE.get(value)),
            physical: if hardware { Some(PINTID.get(value) as u32) } else { None },
            priority: PRIORITY.get(value) as u8,
            group1: value & GROUP1 != 0,
            eoi_maintenance: !hardware && value & EOI != 0,
            source: 0,
        }
    }

    /// Encodes for `GICH_LRn` (IHI 0048 5.3.9). It has 5 bits of priority.
    #[inline(always)]
    #[must_use]
    pub const fn encode_gich(&self) -> u32 {
        use gich::{CPUID, EOI, GROUP1, HW, PHYSICAL_ID, PRIORITY, STATE, VIRTUAL_ID};
        let mut value = VIRTUAL_ID.place(self.intid.get() as u64)
            | PRIORITY.place((self.priority >> 3) as u64)
            | STATE.place(self.state.bits());
        if self.group1 {
            value |= GROUP1;
        }
        match self.physical {
            Some(physical) => value |= HW | PHYSICAL_ID.place(physical as u64),
            None => {
                value |= CPUID.place(self.source as u64);
                if self.eoi_maintenance {
                    value |= EOI;
                }
            }
        }
        value as u32
    }

    /// Decodes a value of `GICH_LRn`.
    #[inline(always)]
    #[must_use]
    pub const fn decode_gich(value: u32) -> Self {
        use gich::{CPUID, EOI, GROUP1, HW, PHYSICAL_ID, PRIORITY, STATE, VIRTUAL_ID};
        let value = value as u64;
        let hardware = value & HW != 0;
        Self {
            intid: IntId::new(VIRTUAL_ID.get(value) as u32),
            state: State::from_bits(STATE.get(value)),
            physical: if hardware { Some(PHYSICAL_ID.get(value) as u32) } else { None },
            priority: (PRIORITY.get(value) << 3) as u8,
            group1: value & GROUP1 != 0,
            eoi_maintenance: !hardware && value & EOI != 0,
            source: if hardware { 0 } else { CPUID.get(value) as u8 },
        }
    }
}

/// A field of a register.
struct Field {
    shift: u32,
    mask: u64,
}

impl Field {
    #[inline(always)]
    const fn get(&self, value: u64) -> u64 {
        (value >> self.shift) & self.mask
    }

    #[inline(always)]
    const fn place(&self, value: u64) -> u64 {
        (value & self.mask) << self.shift
    }
}

/// `ICH_LRn_EL2`.
mod ich {
    use super::Field;

    pub(super) const VINTID: Field = Field { shift: 0, mask: 0xffff_ffff };
    pub(super) const PINTID: Field = Field { shift: 32, mask: 0x1fff };
    pub(super) const EOI: u64 = 1 << 41;
    pub(super) const PRIORITY: Field = Field { shift: 48, mask: 0xff };
    pub(super) const GROUP1: u64 = 1 << 60;
    pub(super) const HW: u64 = 1 << 61;
    pub(super) const STATE: Field = Field { shift: 62, mask: 0b11 };
}

/// `GICH_LRn`.
mod gich {
    use super::Field;

    pub(super) const VIRTUAL_ID: Field = Field { shift: 0, mask: 0x3ff };
    pub(super) const PHYSICAL_ID: Field = Field { shift: 10, mask: 0x3ff };
    pub(super) const CPUID: Field = Field { shift: 10, mask: 0b111 };
    pub(super) const EOI: u64 = 1 << 19;
    pub(super) const PRIORITY: Field = Field { shift: 23, mask: 0x1f };
    pub(super) const STATE: Field = Field { shift: 28, mask: 0b11 };
    pub(super) const GROUP1: u64 = 1 << 30;
    pub(super) const HW: u64 = 1 << 31;
}

/// The list registers of the CPU that the vCPU runs on.
///
/// The controller touches only the list registers that it uses; all others must be free when a vCPU is loaded.
pub trait ListRegisters {
    /// How many there are, 1 to 16.
    fn count(&self) -> usize;

    /// Reads list register `n`, below [`count`](Self::count).
    fn read(&mut self, n: usize) -> ListRegister;

    /// Writes list register `n`, below [`count`](Self::count).
    fn write(&mut self, n: usize, value: &ListRegister);

    /// Frees list register `n`.
    fn clear(&mut self, n: usize) {
        self.write(n, &ListRegister::INVALID);
    }

    /// Bit `n` is set if list register `n` is free and asks for no maintenance (`ICH_ELRSR_EL2`, `GICH_ELRSRn`).
    fn empty(&mut self) -> u32;

    /// Bit `n` is set if the guest has ended the interrupt in list register `n`, which asked for maintenance
    /// (`ICH_EISR_EL2`, `GICH_EISRn`).
    fn ended(&mut self) -> u32;

    /// Turns the maintenance interrupt on or off that tells when at most one list register is in use (`UIE`).
    fn set_underflow(&mut self, on: bool);

    /// How many interrupts the guest has ended that were in no list register (`EOIcount`), since this was last called or
    /// [`set_end_outside_maintenance`](Self::set_end_outside_maintenance) turned on.
    fn ended_outside(&mut self) -> u32;

    /// Turns the maintenance interrupt on or off that tells when the guest has ended an interrupt that is in no list
    /// register (`LRENPIE`), and makes the [count](Self::ended_outside) zero.
    fn set_end_outside_maintenance(&mut self, on: bool);

    /// Whether the guest deactivates interrupts apart from dropping their priority (`VMCR.VEOIM`), so that it may hold
    /// many active at once.
    fn splits_deactivation(&mut self) -> bool;

    /// Deactivates a physical interrupt (`ICC_DIR_EL1`, `GICC_DIR`), or unmasks it on a controller where the guest's
    /// deactivation can't reach the physical interrupt.
    fn deactivate(&mut self, physical: u32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: ListRegister = ListRegister {
        intid: IntId::new(27),
        state: State { pending: true, active: false },
        physical: Some(27),
        priority: 0xa0,
        group1: true,
        eoi_maintenance: false,
        source: 0,
    };

    #[test]
    fn a_timer_interrupt_is_encoded_as_the_manual_says() {
        assert_eq!(EXAMPLE.encode_ich(), 0x70a0_001b_0000_001b);
        assert_eq!(EXAMPLE.encode_gich(), 0xda00_6c1b);
    }

    #[test]
    fn an_sgi_keeps_its_source_and_maintenance_request() {
        let sgi = ListRegister {
            intid: IntId::new(3),
            state: State { pending: true, active: true },
            physical: None,
            priority: 0x08,
            group1: false,
            eoi_maintenance: true,
            source: 5,
        };
        assert_eq!(sgi.encode_gich(), 0x3088_1403);
        assert_eq!(ListRegister { source: 0, ..sgi }.encode_ich(), 0xc008_0200_0000_0003);
    }

    #[test]
    fn free_registers_are_zero() {
        assert_eq!(ListRegister::INVALID.encode_ich(), 0);
        assert_eq!(ListRegister::INVALID.encode_gich(), 0);
    }

    prop_compose! {
        fn any_entry()(
            intid in 0u32..1020, pending: bool, active: bool, hardware: bool, physical in 16u32..1020,
            priority in 0u8..32, group1: bool, eoi: bool, source in 0u8..8,
        ) -> ListRegister {
            ListRegister {
                intid: IntId::new(intid),
                state: State { pending, active },
                physical: hardware.then_some(physical),
                priority: priority << 3,
                group1,
                eoi_maintenance: eoi && !hardware,
                source: if hardware { 0 } else { source },
            }
        }
    }

    proptest! {
        #[test]
        fn both_encodings_keep_every_field(entry in any_entry()) {
            prop_assert_eq!(ListRegister::decode_gich(entry.encode_gich()), entry);
            let entry = ListRegister { source: 0, ..entry };
            prop_assert_eq!(ListRegister::decode_ich(entry.encode_ich()), entry);
        }

        #[test]
        fn decoding_takes_any_value(ich: u64, gich: u32) {
            let _ = ListRegister::decode_ich(ich);
            let _ = ListRegister::decode_gich(gich);
        }
    }
}
