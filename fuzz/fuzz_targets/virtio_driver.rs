//! Feeds `virtio_driver`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parakernel_fuzz::feed("virtio_driver", input));
