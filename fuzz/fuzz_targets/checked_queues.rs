//! Feeds `checked_queues`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parakernel_fuzz::feed("checked_queues", input));
