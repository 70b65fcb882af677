//! A set of interrupt vectors.

/// A 256-bit set, one bit a vector, as ISR, TMR and IRR are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct VectorSet([u64; 4]);

impl VectorSet {
    pub(super) fn insert(&mut self, vector: u8) {
        if let Some(word) = self.0.get_mut(usize::from(vector >> 6)) {
            *word |= bit(vector);
        }
    }

    pub(super) fn remove(&mut self, vector: u8) {
        if let Some(word) = self.0.get_mut(usize::from(vector >> 6)) {
            *word &= !bit(vector);
        }
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        self.0.get(usize::from(vector >> 6)).is_some_and(|word| word & bit(vector) != 0)
    }

    /// The highest vector, which has the highest priority.
    pub(super) fn highest(&self) -> Option<u8> {
        let (place, word) = self.0.iter().enumerate().rev().find(|(_, word)| **word != 0)?;
        let in_word = 63u32.wrapping_sub(word.leading_zeros());
        u8::try_from((place << 6) | usize::try_from(in_word).ok()?).ok()
    }

    /// Vectors `index * 32 ..= index * 32 + 31` as a register shows them.
    pub(super) fn register(&self, index: usize) -> u32 {
        let word = self.0.get(index >> 1).copied().unwrap_or(0);
        let half = if index & 1 == 0 { word } else { word >> 32 };
        (half & 0xffff_ffff) as u32
    }

    /// The 64 vectors from `index * 64` on.
    pub(super) fn word_mut(&mut self, index: usize) -> Option<&mut u64> {
        self.0.get_mut(index)
    }
}

/// The bit of `vector` in its 64-bit word.
pub(super) const fn bit(vector: u8) -> u64 {
    1u64.wrapping_shl(vector as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn the_set_behaves_as_a_sorted_set(steps in proptest::collection::vec(any::<(u8, bool)>(), 0..200)) {
            let (mut set, mut model) = (VectorSet::default(), BTreeSet::new());
            for (vector, member) in steps {
                if member { set.insert(vector) } else { set.remove(vector) }
                if member { model.insert(vector); } else { model.remove(&vector); }
                prop_assert_eq!(set.highest(), model.last().copied());
                prop_assert_eq!(set.contains(vector), member);
                let register = set.register(usize::from(vector / 32));
                prop_assert_eq!(register >> (vector % 32) & 1 == 1, member);
            }
        }
    }
}
