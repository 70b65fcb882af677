//! Random numbers for guests: a hash over a seed that the host has at its start, a count and the time.

use sha2::{Digest, Sha256};
use spin::mutex::TicketMutex;

use crate::virtio::rng::Entropy;

/// Least length of a seed in bytes.
pub const LEAST_SEED: usize = 16;
/// Bytes of a key, and of what one hash gives.
const BLOCK: usize = 32;

/// A generator of random numbers that never runs dry.
pub struct Generator {
    /// A counter that goes on between any two calls.
    counter: fn() -> u64,
    state: TicketMutex<State>,
}

/// The key never leaves, outputs are one hash away.
struct State {
    key: [u8; BLOCK],
    count: u64,
}

impl Generator {
    /// A generator that starts from `seed`; `None` where that is shorter than [`LEAST_SEED`].
    pub fn new(seed: &[u8], counter: fn() -> u64) -> Option<Self> {
        if seed.len() < LEAST_SEED {
            return None;
        }
        let key = Sha256::new().chain_update(seed).chain_update(counter().to_le_bytes());
        let state = State { key: key.finalize().into(), count: 0 };
        Some(Generator { counter, state: TicketMutex::new(state) })
    }
}

impl Entropy for Generator {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.state.lock();
        for chunk in bytes.chunks_mut(BLOCK) {
            state.count = state.count.wrapping_add(1);
            let block = Sha256::new()
                .chain_update(state.key)
                .chain_update(b"output")
                .chain_update(state.count.to_le_bytes())
                .chain_update((self.counter)().to_le_bytes())
                .finalize();
            chunk.copy_from_slice(block.get(..chunk.len()).unwrap_or_default());
        }
        // What was given out must not follow from a later state.
        let next = Sha256::new().chain_update(state.key).chain_update(b"next").finalize();
        state.key = next.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &[u8] = b"sixteen bytes...";

    fn some(generator: &Generator, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        generator.fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_seed_has_a_least_length() {
        assert!(Generator::new(&SEED[1..], || 0).is_none());
        assert!(Generator::new(SEED, || 0).is_some());
    }

    #[test]
    fn no_two_blocks_are_alike() {
        let generator = Generator::new(SEED, || 0).unwrap();
        let mut blocks: Vec<Vec<u8>> =
            some(&generator, 4 * BLOCK).chunks(BLOCK).map(<[u8]>::to_vec).collect();
        blocks.extend((0..4).map(|_| some(&generator, BLOCK)));
        blocks.sort();
        blocks.dedup();
        assert_eq!(blocks.len(), 8);
    }

    #[test]
    fn seed_and_time_both_matter() {
        let numbers = |seed, counter| some(&Generator::new(seed, counter).unwrap(), 40);
        let first = numbers(SEED, || 0);
        assert_eq!(numbers(SEED, || 0), first);
        assert_ne!(numbers(SEED, || 1), first);
        assert_ne!(numbers(b"Sixteen bytes...", || 0), first);
    }
}
