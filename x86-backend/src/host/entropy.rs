//! Random numbers of the processor (SDM volume 1, 7.3.17).

use core::arch::x86_64::{__cpuid, _rdrand64_step, _rdtsc};

use bunshin::entropy::Generator;
use log::warn;

/// CPUID 1 ECX: RDRAND.
const CPUID_RDRAND: u32 = 1 << 30;
/// Tries before the generator counts as broken (SDM volume 1, 7.3.17.1).
const TRIES: usize = 10;
/// Numbers of a seed.
const SEED: usize = 4;

/// Random numbers for guests, where the processor has some for a seed.
pub(crate) fn generator() -> Option<Generator> {
    let generator = seed().and_then(|seed| Generator::new(seed.as_flattened(), time_stamp));
    if generator.is_none() {
        warn!("guests get no random numbers: the processor has no RDRAND, or it does not work");
    }
    generator
}

fn seed() -> Option<[[u8; size_of::<u64>()]; SEED]> {
    if __cpuid(1).ecx & CPUID_RDRAND == 0 {
        return None;
    }
    let mut seed = [[0; size_of::<u64>()]; SEED];
    for number in &mut seed {
        *number = random()?.to_le_bytes();
    }
    Some(seed)
}

fn time_stamp() -> u64 {
    // SAFETY: every processor in long mode has the instruction.
    unsafe { _rdtsc() }
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
