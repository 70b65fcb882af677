//! Bit arithmetic that cannot overflow, for bitmaps of 32 interrupts.

/// The mask of bit `n` of a 32-bit word; `n` is taken modulo 32.
#[inline(always)]
pub(crate) const fn bit(n: usize) -> u32 {
    1u32.wrapping_shl((n & 31) as u32)
}

/// The positions of the set bits of a word, lowest first.
#[derive(Clone, Copy)]
pub(crate) struct Ones(pub(crate) u32);

impl Iterator for Ones {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let position = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        Some(position)
    }
}

/// A mask of the lowest `n` bits; all 32 when `n` is 32 or more.
pub(crate) const fn low(n: usize) -> u32 {
    if n >= 32 { u32::MAX } else { bit(n).wrapping_sub(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_visits_each_set_bit_once_from_the_lowest() {
        assert_eq!(Ones(0x8000_0005).collect::<Vec<_>>(), [0, 2, 31]);
        assert_eq!(Ones(0).count(), 0);
    }

    #[test]
    fn low_masks_saturate_at_a_whole_word() {
        assert_eq!(
            [low(0), low(1), low(16), low(31), low(32), low(99)],
            [0, 1, 0xffff, 0x7fff_ffff, !0, !0]
        );
    }
}
