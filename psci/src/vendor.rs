//! Vendor-specific hypervisor calls (SMCCC 6.2).

use crate::call::Call;

/// The first function identifier of the range in the 32-bit convention. The 64-bit one differs in bit 30.
const FIRST: u32 = 0x8600_0000;
/// Bits that are the same in the whole range, in both conventions.
const RANGE: u32 = 0xbfff_0000;
/// `CALL_UID`.
pub(crate) const CALL_UID: u32 = 0x8600_ff01;
/// `REVISION`.
pub(crate) const REVISION: u32 = 0x8600_ff03;

/// By this, guests know the hypervisor: a UUID in the four words that `CALL_UID` returns, first byte lowest
/// (`8f1dd8c2-6a0b-5b5e-9d5f-2f1c62756e73`).
pub const HYPERVISOR_UID: [u32; 4] = [0xc2d8_1d8f, 0x5e5b_0b6a, 0x1c2f_5f9d, 0x736e_7562];

/// The version of the hypervisor's own calls: major and minor number.
pub(crate) const REVISION_NUMBERS: [u64; 4] = [1, 0, 0, 0];

/// One of the hypervisor's own calls; X1 and up are in the guest's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VendorCall {
    /// The number of the function, below `0xff00`.
    pub function: u16,
    /// Made in the 64-bit convention.
    pub wide: bool,
}

impl VendorCall {
    /// The call, if it is in the range and not one of the general queries at its end.
    pub(crate) const fn decode(call: &Call) -> Option<Self> {
        /// General service queries.
        const QUERIES: u16 = 0xff00;
        let function = call.function as u16;
        if call.function & RANGE == FIRST && function < QUERIES {
            Some(Self { function, wide: call.is_wide() })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_range_of_the_vendor_is_the_vendors() {
        let of = |function: u64| VendorCall::decode(&Call::new([function, 0, 0, 0]));
        assert_eq!(of(0x8600_0001), Some(VendorCall { function: 1, wide: false }));
        assert_eq!(of(0xc600_0001), Some(VendorCall { function: 1, wide: true }));
        for other in [0x0600_0001, 0x8500_0001, 0x8700_0001, 0x8601_0000, 0x8600_ff00, 0x8600_ffff]
        {
            assert_eq!(of(other), None, "{other:#x}");
        }
    }
}
