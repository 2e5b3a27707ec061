//! Feeds `virtual_queue`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parakernel_fuzz::feed("virtual_queue", input));
