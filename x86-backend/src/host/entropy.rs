//! Random numbers of the processor (SDM volume 1, 7.3.17).

use core::arch::x86_64::{__cpuid, _rdrand64_step};

use bunshin::virtio::rng::Entropy;

/// CPUID 1 ECX: RDRAND.
const CPUID_RDRAND: u32 = 1 << 30;
/// Tries before the generator counts as broken (SDM volume 1, 7.3.17.1).
const TRIES: usize = 10;

/// Random numbers for guests, where the processor has some.
pub(crate) struct GuestEntropy;

impl Entropy for GuestEntropy {
    fn fill(&self, bytes: &mut [u8]) -> bool {
        if __cpuid(1).ecx & CPUID_RDRAND == 0 {
            return false;
        }
        bytes.chunks_mut(size_of::<u64>()).all(|chunk| {
            let Some(number) = random() else { return false };
            chunk.iter_mut().zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
            true
        })
    }
}

fn random() -> Option<u64> {
    let mut number = 0;
    // SAFETY: the processor has the instruction.
    (0..TRIES).any(|_| unsafe { step(&mut number) }).then_some(number)
}

/// One try.
///
/// # Safety
/// The processor has RDRAND.
#[target_feature(enable = "rdrand")]
unsafe fn step(number: &mut u64) -> bool {
    _rdrand64_step(number) == 1
}
