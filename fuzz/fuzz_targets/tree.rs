//! See `fuzz_harness::tree`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_harness::tree(data));
