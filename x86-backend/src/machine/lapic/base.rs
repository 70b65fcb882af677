//! IA32_APIC_BASE: where the APIC is and which interface it has.

use super::mailbox::Mode;
use crate::machine::GeneralProtection;

/// This processor boots the machine.
const BASE_BOOTSTRAP: u64 = 1 << 8;
/// x2APIC mode.
const BASE_X2APIC: u64 = 1 << 10;
/// Globally enabled.
const BASE_ENABLED: u64 = 1 << 11;
/// The address field; below the physical-address width.
const BASE_ADDRESS: u64 = 0xffff_ffff_f000;
/// Where the window is after reset.
pub const DEFAULT_ADDRESS: u64 = 0xfee0_0000;

/// The register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ApicBase {
    pub(super) mode: Mode,
    pub(super) bootstrap: bool,
    pub(super) address: u64,
}

impl ApicBase {
    pub(super) const fn new(bootstrap: bool) -> Self {
        ApicBase { mode: Mode::XApic, bootstrap, address: DEFAULT_ADDRESS }
    }

    pub(super) const fn bits(self) -> u64 {
        let mode = match self.mode {
            Mode::Disabled => 0,
            Mode::XApic => BASE_ENABLED,
            Mode::X2Apic => BASE_ENABLED | BASE_X2APIC,
        };
        let bootstrap = if self.bootstrap { BASE_BOOTSTRAP } else { 0 };
        self.address | mode | bootstrap
    }

    /// The register after a write of `value`, given the width of physical
    /// addresses (SDM 11.12.5). The bootstrap flag does not change.
    pub(super) fn write(self, value: u64, address_bits: u32) -> Result<Self, GeneralProtection> {
        let above = u64::MAX.checked_shl(address_bits).unwrap_or(0);
        let defined = BASE_BOOTSTRAP | BASE_X2APIC | BASE_ENABLED | (BASE_ADDRESS & !above);
        if value & !defined != 0 {
            return Err(GeneralProtection);
        }
        let mode = match (value & BASE_ENABLED != 0, value & BASE_X2APIC != 0) {
            (false, false) => Mode::Disabled,
            (true, false) => Mode::XApic,
            (true, true) => Mode::X2Apic,
            (false, true) => return Err(GeneralProtection),
        };
        let legal = !matches!(
            (self.mode, mode),
            (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic)
        );
        legal
            .then_some(ApicBase { mode, address: value & BASE_ADDRESS, ..self })
            .ok_or(GeneralProtection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_transitions_are_legal() {
        let (off, xapic, x2apic) = (0, 0x800, 0xc00);
        for (from, to, legal) in [
            (Mode::Disabled, off, true),
            (Mode::Disabled, xapic, true),
            (Mode::Disabled, x2apic, false),
            (Mode::XApic, off, true),
            (Mode::XApic, xapic, true),
            (Mode::XApic, x2apic, true),
            (Mode::X2Apic, off, true),
            (Mode::X2Apic, xapic, false),
            (Mode::X2Apic, x2apic, true),
            (Mode::XApic, 0x400, false),
            (Mode::X2Apic, 0x400, false),
        ] {
            let base = ApicBase { mode: from, ..ApicBase::new(true) };
            let written = base.write(0xfee0_0000 | to, 40);
            assert_eq!(written.is_ok(), legal, "{from:?} -> {to:#x}");
            if let Ok(base) = written {
                assert_eq!(base.bits(), 0xfee0_0100 | to, "the bootstrap flag stays");
            }
        }
    }

    #[test]
    fn reserved_bits_and_addresses_beyond_the_width_are_refused() {
        let base = ApicBase::new(false);
        for (value, legal) in [
            (0xfee0_0801, false),
            (0xfee0_0a00, false),
            (0xff_fee0_0800, true),
            (0x100_fee0_0800, false),
            (1 << 63 | 0xfee0_0800, false),
        ] {
            assert_eq!(base.write(value, 40).is_ok(), legal, "{value:#x}");
        }
    }
}
