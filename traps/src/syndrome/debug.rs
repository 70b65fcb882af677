//! Debug exceptions.

use super::{FaultStatus, Syndrome};
use crate::bits::{field, flag};

/// A breakpoint or vector catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Breakpoint {
    /// Always the debug exception code, `0b100010`, on hardware.
    pub status: FaultStatus,
}

impl Breakpoint {
    /// Decodes the syndrome of a breakpoint or vector catch.
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        Self { status: FaultStatus::from_bits(field::<0, 6>(syndrome.bits()) as u8) }
    }
}

/// A software step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SoftwareStep {
    /// Whether the stepped instruction was a load-exclusive; `None` if the hardware does not say (`ISV` = 0).
    pub load_exclusive: Option<bool>,
}

impl SoftwareStep {
    /// Decodes the syndrome of a software step.
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        let bits = syndrome.bits();
        Self { load_exclusive: if flag::<24>(bits) { Some(flag::<6>(bits)) } else { None } }
    }
}

/// A watchpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Watchpoint {
    /// The number of the watchpoint, if the hardware says (`WPTV`).
    pub number: Option<u8>,
    /// `FnV` is 0: `FAR_EL2` holds an address.
    pub has_address: bool,
    /// `FnP`: that address need not be the exact one that was accessed.
    pub imprecise: bool,
    /// Caused by a cache maintenance instruction.
    pub cache_maintenance: bool,
    /// Caused by a write.
    pub is_write: bool,
}

impl Watchpoint {
    /// Decodes the syndrome of a watchpoint.
    #[must_use]
    pub const fn new(syndrome: Syndrome) -> Self {
        let bits = syndrome.bits();
        Self {
            number: if flag::<17>(bits) { Some(field::<18, 6>(bits) as u8) } else { None },
            has_address: !flag::<10>(bits),
            imprecise: flag::<15>(bits),
            cache_maintenance: flag::<8>(bits),
            is_write: flag::<6>(bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ExceptionClass;
    use super::*;

    #[test]
    fn a_step_says_whether_it_was_over_a_load_exclusive_only_when_it_knows() {
        let of =
            |iss| SoftwareStep::new(Syndrome::of(ExceptionClass::STEP_LOWER, iss)).load_exclusive;
        assert_eq!(of(0x22), None);
        assert_eq!(of(1 << 24 | 0x22), Some(false));
        assert_eq!(of(1 << 24 | 1 << 6 | 0x22), Some(true));
    }

    #[test]
    fn a_watchpoint_names_its_number_only_when_it_is_valid() {
        let of = |iss| Watchpoint::new(Syndrome::of(ExceptionClass::WATCHPOINT_LOWER, iss));
        assert_eq!(of(5 << 18).number, None);
        let hit = of(5 << 18 | 1 << 17 | 1 << 6 | 0x22);
        assert_eq!((hit.number, hit.is_write, hit.has_address), (Some(5), true, true));
    }
}
