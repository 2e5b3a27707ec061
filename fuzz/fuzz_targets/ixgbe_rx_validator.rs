//! Feeds `ixgbe_rx_validator`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parakernel_fuzz::feed("ixgbe_rx_validator", input));
