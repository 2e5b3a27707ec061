//! The data half, alone and behind the kernel's check, against a device of a few lines: literal bits and offsets, none of
//! the driver's constants.
#![expect(
    unsafe_code,
    reason = "lends memory to rings and arenas, and plays a device that writes to it"
)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::items_after_statements,
    reason = "plays a device: what does not fit is a failed test"
)]

mod card;
mod checked;
mod direct;
mod forward;
mod rig;
