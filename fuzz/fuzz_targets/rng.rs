//! See `fuzz_harness::rng`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_harness::rng(data));
