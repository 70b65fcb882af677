//! See `fuzz_harness::balloon`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_harness::balloon(data));
