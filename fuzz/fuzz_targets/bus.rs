//! See `fuzz_harness::bus`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_harness::bus(data));
