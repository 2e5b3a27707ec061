//! Feeds `vfio_user`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parakernel_fuzz::feed("vfio_user", input));
