//! The identification registers of AArch32, for guests that run it at EL0.
//!
//! AArch32 no longer grows, so most of these registers are passed whole; the rows say what is taken out of the others.

use super::fields::{interrupt_controller, performance_monitors};
use super::{IdRegisters, Policy};
use crate::system_register::Encoding;

/// The registers that are passed as they are.
static WHOLE: &[Encoding] = &[
    Encoding::ID_MMFR0_EL1,
    Encoding::ID_MMFR1_EL1,
    Encoding::ID_MMFR2_EL1,
    Encoding::ID_MMFR3_EL1,
    Encoding::ID_ISAR0_EL1,
    Encoding::ID_ISAR1_EL1,
    Encoding::ID_ISAR2_EL1,
    Encoding::ID_ISAR3_EL1,
    Encoding::ID_ISAR4_EL1,
    Encoding::ID_ISAR5_EL1,
    Encoding::ID_ISAR6_EL1,
    Encoding::MVFR0_EL1,
    Encoding::MVFR1_EL1,
    Encoding::MVFR2_EL1,
    Encoding::ID_MMFR5_EL1,
];

/// The four bits at `shift`.
const fn nibble(shift: u32) -> u64 {
    0xf_u64.wrapping_shl(shift)
}

/// `ID_PFR0_EL1`: `State0`, `State1`, `State2`, `CSV2` and `DIT`; not `State3`, `AMU` and `RAS`.
const PFR0: u64 = nibble(0) | nibble(4) | nibble(8) | nibble(16) | nibble(24);
/// `ID_PFR1_EL1`: `ProgMod`, `Security`, `GenTimer` and `Sec_frac`; not `MProgMod`, `Virtualization`, `Virt_frac` and
/// the host's `GIC`.
const PFR1: u64 = nibble(0) | nibble(4) | nibble(16) | nibble(20);
/// `ID_PFR1_EL1.GIC`.
const PFR1_GIC_SHIFT: u32 = 28;
/// `ID_DFR0_EL1`: `CopDbg`; not secure debug, memory-mapped debug, trace, and the host's `PerfMon`.
const DFR0: u64 = nibble(0);
/// `ID_DFR0_EL1.PerfMon`.
const DFR0_PERFMON_SHIFT: u32 = 24;
/// `ID_MMFR4_EL1`: `SpecSEI`, `AC2`, `CnP`, `HPDS`, `LSM` and `CCIDX`; not `XNX` and `EVT`, which belong to EL2.
const MMFR4: u64 = nibble(0) | nibble(4) | nibble(12) | nibble(16) | nibble(20) | nibble(24);
/// `ID_PFR2_EL1`: `CSV3` and `SSBS`; not `RAS_frac`.
const PFR2: u64 = nibble(0) | nibble(4);

/// Fills in the AArch32 registers of `guest`.
pub(super) fn sanitise(host: &IdRegisters, policy: &Policy, guest: &mut IdRegisters) {
    /// The upper half of every one of these registers is RES0.
    const LOW_HALF: u64 = 0xffff_ffff;
    for &encoding in WHOLE {
        guest.set(encoding, host.read(encoding) & LOW_HALF);
    }
    let masked = [
        (Encoding::ID_PFR0_EL1, PFR0),
        (Encoding::ID_PFR1_EL1, PFR1),
        (Encoding::ID_DFR0_EL1, DFR0),
        (Encoding::ID_MMFR4_EL1, MMFR4),
        (Encoding::ID_PFR2_EL1, PFR2),
    ];
    for (encoding, mask) in masked {
        guest.set(encoding, host.read(encoding) & mask);
    }
    let mut add = |encoding, shift, rule: fn(u8, &Policy) -> u8| {
        let value = u64::from(rule(host.field(encoding, shift), policy));
        guest.set(encoding, guest.read(encoding) | value.wrapping_shl(shift));
    };
    add(Encoding::ID_PFR1_EL1, PFR1_GIC_SHIFT, interrupt_controller);
    add(Encoding::ID_DFR0_EL1, DFR0_PERFMON_SHIFT, performance_monitors);
}
