//! See `fuzz_harness::vm_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_harness::vm_file(data));
