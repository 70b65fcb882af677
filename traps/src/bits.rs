//! Extraction and insertion of bit fields.

/// The bits `SHIFT + WIDTH - 1 ..= SHIFT` of `value`, at the bottom of the result.
#[inline]
#[must_use]
#[allow(
    clippy::arithmetic_side_effects,
    reason = "both operands are constants, checked at compile time"
)]
pub(crate) const fn field<const SHIFT: u32, const WIDTH: u32>(value: u64) -> u64 {
    const { assert!(WIDTH > 0 && SHIFT + WIDTH <= 64) };
    (value >> SHIFT) & (u64::MAX >> (64 - WIDTH))
}

/// Whether bit `SHIFT` of `value` is set.
#[inline]
#[must_use]
pub(crate) const fn flag<const SHIFT: u32>(value: u64) -> bool {
    const { assert!(SHIFT < 64) };
    (value >> SHIFT) & 1 != 0
}

/// `WIDTH` bits of `value` from bit `SHIFT`, as a number in two's complement.
#[inline]
#[must_use]
#[allow(
    clippy::arithmetic_side_effects,
    reason = "both operands are constants, checked at compile time"
)]
pub(crate) const fn signed_field<const SHIFT: u32, const WIDTH: u32>(value: u64) -> i64 {
    const { assert!(WIDTH > 0 && SHIFT + WIDTH <= 64) };
    ((value << (64 - SHIFT - WIDTH)) as i64) >> (64 - WIDTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_cut_out_and_moved_to_bit_zero() {
        assert_eq!(field::<0, 64>(u64::MAX), u64::MAX);
        assert_eq!(field::<26, 6>(0x5600_0000), 0x15);
        assert_eq!(field::<63, 1>(1 << 63), 1);
    }

    #[test]
    fn a_signed_field_extends_its_top_bit() {
        assert_eq!(signed_field::<12, 9>(0x1ff << 12), -1);
        assert_eq!(signed_field::<12, 9>(0x0ff << 12), 255);
        assert_eq!(signed_field::<0, 64>(u64::MAX), -1);
    }

    #[test]
    fn a_flag_is_one_bit() {
        assert!(flag::<31>(1 << 31));
        assert!(!flag::<31>(!(1 << 31)));
    }
}
