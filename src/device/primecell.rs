//! What all Arm PrimeCell peripherals share: registers in words, each in the
//! low bits of its word, and identification registers at the end of the page.

use crate::bus::{BusFault, Width};

/// Offset of `PeriphID0`, the first of eight identification registers.
const ID_BASE: u64 = 0xfe0;
/// Length of a PrimeCell's window in bytes.
const WINDOW: u64 = 0x1000;
/// `PCellID0` to `PCellID3`.
const PCELL_ID: u32 = 0xb105_f00d;

/// One access to a word register, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lane {
    /// Offset of the word register.
    pub(super) register: u64,
    /// Bit position of the access in its register: 0, 8, 16 or 24.
    shift: u32,
    mask: u32,
}

impl Lane {
    /// Finds the register of an access.
    ///
    /// # Errors
    /// [`BusFault`] unless the access lies inside one word of the window: the
    /// peripheral bus has no wider transfer.
    #[inline(always)]
    pub(super) fn of(offset: u64, width: Width) -> Result<Self, BusFault> {
        // What drivers do.
        if width == Width::Word && offset & 3 == 0 && offset < WINDOW {
            return Ok(Lane { register: offset, shift: 0, mask: u32::MAX });
        }
        Self::part(offset, width)
    }

    /// The register of an access that is no whole word.
    #[cold]
    fn part(offset: u64, width: Width) -> Result<Self, BusFault> {
        let mask = u32::try_from(width.mask()).map_err(|_| BusFault)?;
        let byte = offset & 3;
        if offset >= WINDOW || byte.saturating_add(width.bytes()) > 4 {
            return Err(BusFault);
        }
        let shift = u32::try_from(byte.saturating_mul(8)).map_err(|_| BusFault)?;
        Ok(Lane { register: offset & !3, shift, mask })
    }

    /// The part of a register's value that the access sees.
    pub(super) const fn extract(self, register: u32) -> u64 {
        ((register >> self.shift) & self.mask) as u64
    }

    /// The word that a write puts on the bus: lanes not written carry zeros,
    /// because the peripheral bus has no byte strobes.
    pub(super) const fn word(self, value: u64) -> u32 {
        ((value as u32) & self.mask) << self.shift
    }
}

/// The identification register at `offset`, if there is one; `peripheral` is
/// `PeriphID3..PeriphID0` as one number.
pub(super) fn identification(peripheral: u32, offset: u64) -> Option<u32> {
    let index = offset.checked_sub(ID_BASE)?.checked_div(4)?;
    let both = u64::from(peripheral) | u64::from(PCELL_ID) << 32;
    both.to_le_bytes().get(usize::try_from(index).ok()?).map(|&byte| u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_that_leave_their_word_or_the_window_are_refused() {
        for (offset, width, expected) in [
            (0, Width::Byte, Some(0)),
            (3, Width::Byte, Some(0)),
            (2, Width::Half, Some(0)),
            (3, Width::Half, None),
            (4, Width::Word, Some(4)),
            (5, Width::Word, None),
            (0, Width::Double, None),
            (0xffc, Width::Word, Some(0xffc)),
            (0x1000, Width::Byte, None),
            (u64::MAX, Width::Byte, None),
        ] {
            let register = Lane::of(offset, width).ok().map(|lane| lane.register);
            assert_eq!(register, expected, "{offset:#x} {width:?}");
        }
    }

    #[test]
    fn narrow_accesses_see_their_lanes() {
        let lane = Lane::of(1, Width::Byte).unwrap();
        assert_eq!(lane.extract(0x1234_5678), 0x56);
        assert_eq!(lane.word(0xabcd), 0xcd00);
    }

    #[test]
    fn identification_is_eight_bytes_in_eight_words() {
        let found: [Option<u32>; 10] =
            core::array::from_fn(|i| identification(0x0034_1011, 0xfdc + 4 * i as u64));
        let bytes = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1].map(Some);
        assert_eq!(found[0], None);
        assert_eq!(found[1..9], bytes);
        assert_eq!(found[9], None);
    }
}
