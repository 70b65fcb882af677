//! Random numbers for guests: a hash over a seed that the bootloader gives
//! and a counter. Without a seed there are none.

use bunshin::virtio::rng::Entropy;
use sha2::{Digest, Sha256};
use spin::mutex::TicketMutex;

use crate::el2::registers::read_register;

/// State of the generator: the key never leaves, outputs are one hash away.
struct Generator {
    key: [u8; 32],
    count: u64,
}

static GENERATOR: TicketMutex<Option<Generator>> = TicketMutex::new(None);

/// Least length of a seed in bytes.
const LEAST_SEED: usize = 16;

/// Starts from the bootloader's `rng-seed`; ignores one that is too short.
pub(crate) fn seed(seed: &[u8]) {
    if seed.len() < LEAST_SEED {
        return;
    }
    let key = Sha256::new().chain_update(seed).chain_update(counter()).finalize();
    *GENERATOR.lock() = Some(Generator { key: key.into(), count: 0 });
}

fn counter() -> [u8; 8] {
    read_register!("cntpct_el0").to_le_bytes()
}

/// Whether there are random numbers.
pub(crate) fn available() -> bool {
    GENERATOR.lock().is_some()
}

/// Fills `bytes` with random numbers; false when there are none.
pub(crate) fn fill(bytes: &mut [u8]) -> bool {
    let mut generator = GENERATOR.lock();
    let Some(generator) = generator.as_mut() else { return false };
    for chunk in bytes.chunks_mut(32) {
        generator.count = generator.count.wrapping_add(1);
        let block = Sha256::new()
            .chain_update(generator.key)
            .chain_update(b"output")
            .chain_update(generator.count.to_le_bytes())
            .chain_update(counter())
            .finalize();
        chunk.copy_from_slice(block.get(..chunk.len()).unwrap_or_default());
    }
    // What was given out must not follow from a later state.
    let next = Sha256::new().chain_update(generator.key).chain_update(b"next").finalize();
    generator.key = next.into();
    true
}

/// The same numbers for virtio devices.
pub(crate) struct GuestEntropy;

impl Entropy for GuestEntropy {
    fn fill(&self, bytes: &mut [u8]) -> bool {
        fill(bytes)
    }
}
