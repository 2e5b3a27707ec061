//! Feeds `ixgbe_driver`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parakernel_fuzz::feed("ixgbe_driver", input));
