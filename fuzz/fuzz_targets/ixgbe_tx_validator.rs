//! Feeds `ixgbe_tx_validator`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parakernel_fuzz::feed("ixgbe_tx_validator", input));
