//! The True Random Number Generator firmware interface (DEN0098).

use arm_psci::ErrorCode;

use crate::call::{Call, NOT_SUPPORTED, result, value};
use crate::dispatch::Response;

/// `TRNG_VERSION`.
pub(crate) const VERSION: u32 = 0x8400_0050;
/// `TRNG_FEATURES`.
pub(crate) const FEATURES: u32 = 0x8400_0051;
/// `TRNG_GET_UUID`.
pub(crate) const GET_UUID: u32 = 0x8400_0052;
/// `TRNG_RND`, 32-bit convention.
pub(crate) const RND32: u32 = 0x8400_0053;
/// `TRNG_RND`, 64-bit convention.
pub(crate) const RND64: u32 = 0xc400_0053;

/// Version 1.0.
pub(crate) const VERSION_1_0: u64 = 0x1_0000;

/// The back end, in the words that `TRNG_GET_UUID` returns (`5b9c1d0e-7d0b-4b0b-8a52-3f0e8d4b6e21`).
pub(crate) const UUID: [u64; 4] = [0x0e1d_9c5b, 0x0b4b_0b7d, 0x0e3f_528a, 0x216e_4b8d];

/// `NO_ENTROPY` has the number that PSCI gives to `DENIED`.
const NO_ENTROPY: ErrorCode = ErrorCode::Denied;

/// A guest's request for entropy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntropyRequest {
    /// How many bits: 1 to 96, or 1 to 192 in the 64-bit convention.
    bits: u8,
    /// Made in the 64-bit convention.
    wide: bool,
}

impl EntropyRequest {
    /// How many bits are wanted, 1 to 192.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        self.bits as u32
    }

    /// Decodes `TRNG_RND`.
    const fn decode(call: &Call) -> Option<Self> {
        let wide = call.is_wide();
        let [bits, ..] = call.arguments();
        let most = if wide { 192 } else { 96 };
        if bits == 0 || bits > most { None } else { Some(Self { bits: bits as u8, wide }) }
    }

    /// X0 to X3 with the wanted number of bits of `entropy`, lowest first; more than that is not handed out. `None`
    /// is answered with `NO_ENTROPY`, after which guests try again.
    #[must_use]
    pub fn answer(&self, entropy: Option<[u64; 3]>) -> [u64; 4] {
        let Some([low, middle, high]) = entropy else {
            return result(Err(NO_ENTROPY));
        };
        // The lowest bits go to the last register.
        if self.wide {
            [
                0,
                keep(high, self.bits(), 128),
                keep(middle, self.bits(), 64),
                keep(low, self.bits(), 0),
            ]
        } else {
            let words = [middle & WORD, low >> 32, low & WORD];
            let [high, middle, low] = words;
            [
                0,
                keep(high, self.bits(), 64),
                keep(middle, self.bits(), 32),
                keep(low, self.bits(), 0),
            ]
        }
    }
}

/// The lower half of a register.
const WORD: u64 = 0xffff_ffff;

/// Of `value`, which holds entropy from bit `first` on, what belongs to the lowest `bits`.
const fn keep(value: u64, bits: u32, first: u32) -> u64 {
    match bits.saturating_sub(first) {
        0 => 0,
        count if count >= u64::BITS => value,
        count => value & 1_u64.wrapping_shl(count).wrapping_sub(1),
    }
}

/// Answers `TRNG_FEATURES`.
pub(crate) const fn features(call: &Call) -> Response {
    let known = matches!(call.first_word(), VERSION | FEATURES | GET_UUID | RND32 | RND64);
    Response::Return(value(if known { 0 } else { NOT_SUPPORTED }))
}

/// Answers `TRNG_RND`.
pub(crate) const fn random(call: &Call) -> Response {
    match EntropyRequest::decode(call) {
        Some(request) => Response::Entropy(request),
        None => Response::Return(result(Err(ErrorCode::InvalidParameters))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONES: Option<[u64; 3]> = Some([u64::MAX; 3]);

    fn request(function: u32, bits: u64) -> Option<EntropyRequest> {
        EntropyRequest::decode(&Call::new([function.into(), bits, 0, 0]))
    }

    #[test]
    fn sizes_are_limited_by_the_convention() {
        for (function, most) in [(RND32, 96), (RND64, 192)] {
            assert_eq!(request(function, 0), None);
            assert!(request(function, 1).is_some());
            assert!(request(function, most).is_some());
            assert_eq!(request(function, most + 1), None);
        }
        assert_eq!(
            request(RND64, 1 << 32 | 1),
            None,
            "the 64-bit convention has a 64-bit argument"
        );
        assert!(request(RND32, 1 << 32 | 1).is_some(), "the 32-bit convention has not");
    }

    #[test]
    fn exactly_the_wanted_bits_are_handed_out() {
        for (function, most) in [(RND32, 96), (RND64, 192)] {
            for bits in 1..=most {
                let [status, rest @ ..] = request(function, bits).unwrap().answer(ONES);
                assert_eq!(status, 0);
                let count: u32 = rest.iter().map(|word| word.count_ones()).sum();
                assert_eq!(u64::from(count), bits);
                if function == RND32 {
                    assert!(rest.iter().all(|&word| word <= WORD));
                }
            }
        }
    }

    #[test]
    fn the_lowest_bits_are_in_the_last_register() {
        let entropy = Some([0x1111_1111_2222_2222, 0x3333_3333_4444_4444, 0x5555_5555_6666_6666]);
        assert_eq!(
            request(RND32, 96).unwrap().answer(entropy),
            [0, 0x4444_4444, 0x1111_1111, 0x2222_2222]
        );
        let wide = request(RND64, 192).unwrap().answer(entropy);
        assert_eq!(wide, [0, 0x5555_5555_6666_6666, 0x3333_3333_4444_4444, 0x1111_1111_2222_2222]);
        assert_eq!(request(RND64, 68).unwrap().answer(entropy), [0, 0, 4, 0x1111_1111_2222_2222]);
    }

    #[test]
    fn an_empty_pool_is_said_so() {
        assert_eq!(request(RND64, 64).unwrap().answer(None), [-3_i64 as u64, 0, 0, 0]);
    }
}
