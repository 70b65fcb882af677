//! Which VT-x controls may and must be set (SDM appendix A.3 to A.5): pure
//! arithmetic on the capability MSRs.

/// A capability MSR: bits that must be one in its low half, bits that may be
/// one in its high half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability(pub u64);

impl Capability {
    /// Bits that may be one.
    pub const fn allowed(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Bits that must be one.
    pub const fn forced(self) -> u32 {
        self.0 as u32
    }

    /// A control word with all of `required`, and what there is of `optional`.
    ///
    /// # Errors
    /// The lowest bit of `required` that the processor does not have.
    pub const fn choose(self, required: u32, optional: u32) -> Result<u32, u32> {
        let missing = required & !self.allowed();
        if missing != 0 {
            return Err(missing.trailing_zeros());
        }
        Ok(self.forced() | required | (optional & self.allowed()))
    }
}

/// The bits of CR0 or CR4 that VMX operation fixes (SDM A.7, A.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedBits {
    /// Bits that are one here must be one.
    pub ones: u64,
    /// Bits that are zero here must be zero.
    pub zeros: u64,
}

impl FixedBits {
    /// `value` with the fixed bits as they must be.
    pub const fn apply(self, value: u64) -> u64 {
        (value | self.ones) & self.zeros
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_missing_control_is_named_and_an_optional_one_left_out() {
        // IA32_VMX_TRUE_PROCBASED_CTLS of a Skylake as an emulator shows it.
        let capability = Capability(0xf7f9_fffe_0400_6172);
        assert_eq!(capability.choose(1 << 7 | 1 << 28, 0), Ok(0x1400_61f2));
        assert_eq!(capability.choose(1 << 27 | 1 << 28, 0), Err(27));
        assert_eq!(capability.choose(1 << 28, 1 << 27), Ok(0x1400_6172));
    }

    proptest! {
        #[test]
        fn a_control_word_is_one_that_the_processor_accepts(
            forced in any::<u32>(), also in any::<u32>(), required in any::<u32>(), optional in any::<u32>(),
        ) {
            let allowed = forced | also;
            let capability = Capability(u64::from(allowed) << 32 | u64::from(forced));
            match capability.choose(required, optional) {
                Ok(word) => {
                    prop_assert_eq!(word & !allowed, 0);
                    prop_assert_eq!(word & forced, forced);
                    prop_assert_eq!(word & required, required);
                }
                Err(bit) => prop_assert!(required >> bit & 1 == 1 && allowed >> bit & 1 == 0),
            }
        }

        #[test]
        fn fixed_bits_are_fixed(ones in any::<u64>(), more in any::<u64>(), value in any::<u64>()) {
            let fixed = FixedBits { ones, zeros: ones | more };
            let applied = fixed.apply(value);
            prop_assert_eq!(applied & ones, ones);
            prop_assert_eq!(applied & !fixed.zeros, 0);
            prop_assert_eq!((applied ^ value) & !ones & fixed.zeros, 0);
        }
    }
}
