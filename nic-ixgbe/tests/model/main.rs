//! The driver on the model of mock-hw, which was written from the datasheet by others and shares no constant with it.
#![expect(
    clippy::cast_possible_truncation,
    reason = "small numbers that a test counts"
)]
#![expect(clippy::panic, reason = "a test that goes on forever is stopped")]

mod bring_up;
mod checked;
mod faults;
mod rig;
mod rules;
mod traffic;
