//! The driver on the model of mock-hw, which was written from the datasheet by others and shares no constant with it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "plays kernel and processes: what does not work is a failed test"
)]

extern crate alloc;

mod bring_up;
mod care;
mod checked;
mod director;
mod faults;
mod names;
mod outcomes;
mod packets;
mod properties;
mod rig;
mod rules;
mod steps;
mod traffic;
mod tshark;
mod vf;
mod vlan;
