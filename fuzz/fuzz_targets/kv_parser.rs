//! Feeds `kv_parser`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parakernel_fuzz::feed("kv_parser", input));
