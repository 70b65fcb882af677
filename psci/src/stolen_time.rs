//! Paravirtualised time (DEN0057): how long a virtual CPU could have run, and did not.

use crate::call::{Call, NOT_SUPPORTED, value};
use crate::dispatch::{Features, Response};

/// `PV_TIME_FEATURES`.
pub(crate) const FEATURES: u32 = 0xc500_0020;
/// `PV_TIME_ST`.
pub(crate) const STOLEN: u32 = 0xc500_0021;

/// The structure that one virtual CPU shares with the hypervisor, which alone writes it.
///
/// It lies in normal memory of the guest, at an address that is a multiple of 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StolenTime {
    nanoseconds: u64,
}

impl StolenTime {
    /// The size of the structure in bytes, and its alignment.
    pub const SIZE: usize = 64;
    /// The offset of the counter in the structure. It is eight bytes wide and must be written in one access.
    pub const COUNTER_OFFSET: usize = 8;

    /// Nothing stolen yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { nanoseconds: 0 }
    }

    /// Adds the time that the virtual CPU was runnable without running.
    pub const fn add(&mut self, nanoseconds: u64) {
        self.nanoseconds = self.nanoseconds.wrapping_add(nanoseconds);
    }

    /// The counter, as the guest reads it: little-endian at [`Self::COUNTER_OFFSET`].
    #[must_use]
    pub const fn nanoseconds(&self) -> u64 {
        self.nanoseconds
    }

    /// The whole structure: revision 0, no attributes, the counter, and padding.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (slot, byte) in
            bytes.iter_mut().skip(Self::COUNTER_OFFSET).zip(self.nanoseconds.to_le_bytes())
        {
            *slot = byte;
        }
        bytes
    }
}

/// Answers `PV_TIME_FEATURES`.
pub(crate) const fn features(call: &Call, features: &Features) -> Response {
    let known = matches!(call.first_word(), FEATURES | STOLEN) && features.stolen_time.is_some();
    Response::Return(value(if known { 0 } else { NOT_SUPPORTED }))
}

/// Answers `PV_TIME_ST`.
pub(crate) const fn address(features: &Features) -> Response {
    Response::Return(value(match features.stolen_time {
        Some(address) => address,
        None => NOT_SUPPORTED,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_layout_of_the_specification() {
        let mut stolen = StolenTime::new();
        stolen.add(0x1122_3344);
        stolen.add(0x5566_0000_0000_0000);
        let bytes = stolen.to_bytes();
        assert_eq!(bytes[..8], [0; 8], "revision and attributes");
        assert_eq!(bytes[8..16], 0x5566_0000_1122_3344_u64.to_le_bytes());
        assert_eq!(bytes[16..], [0; 48]);
        assert_eq!(stolen.nanoseconds(), 0x5566_0000_1122_3344);
    }

    #[test]
    fn the_counter_wraps_instead_of_stopping() {
        let mut stolen = StolenTime::new();
        stolen.add(u64::MAX);
        stolen.add(2);
        assert_eq!(stolen.nanoseconds(), 1);
    }
}
