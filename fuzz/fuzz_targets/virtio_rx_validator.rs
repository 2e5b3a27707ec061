//! Feeds `virtio_rx_validator`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parakernel_fuzz::feed("virtio_rx_validator", input));
