//! The data half, alone and behind the kernel's check, against a device of a few lines: literal bits and offsets, none of
//! the driver's constants.
#![expect(
    unsafe_code,
    reason = "lends memory to rings and arenas, and plays a device that writes to it"
)]
#![expect(
    clippy::panic,
    reason = "a device rejects a driver that breaks its rules"
)]

mod card;
mod checked;
mod direct;
mod rig;
