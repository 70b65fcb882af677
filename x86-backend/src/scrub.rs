//! Filling memory with zeros.

/// Words of 4 KiB, the unit in which memory is looked at.
const PAGE: usize = 512;

/// Makes all of `words` zero and writes only to pages that are not.
///
/// Most of a new guest's memory is zero already. Where it stays unwritten, nothing has to leave a
/// cache, and an emulator or an outer hypervisor need not back it.
pub fn scrub(words: &mut [u64]) {
    for page in words.chunks_mut(PAGE) {
        // Without a branch for each word: almost every page is read to its end.
        if page.iter().fold(0, |all, word| all | word) != 0 {
            page.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_anywhere_is_found() {
        let words = 3 * PAGE + 7;
        for place in [0, 1, PAGE - 1, PAGE, 2 * PAGE + 100, 3 * PAGE, words - 1] {
            for bit in [0, 31, 32, 63] {
                let mut memory = vec![0; words];
                memory[place] = 1 << bit;
                scrub(&mut memory);
                assert!(memory.iter().all(|word| *word == 0), "{place} {bit}");
            }
        }
    }

    #[test]
    fn dirty_memory_of_any_length_is_zero_afterwards() {
        for words in [0, 1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE] {
            let mut memory = vec![u64::MAX; words];
            scrub(&mut memory);
            assert_eq!(memory, vec![0; words], "{words}");
        }
    }
}
