//! The split ring against a device side that nobody here wrote: `virtio-queue` of rust-vmm.
//!
//! The device only looks at a queue when it was notified, so a notification that is suppressed by mistake shows as a
//! frame that never moves.
#![expect(
    unsafe_code,
    reason = "the device's memory is a mapping that the driver shares"
)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    reason = "plays a device: what does not fit is a failed test"
)]

mod bench;
mod checked;
mod direct;
