//! Control and data half against a model of the device, over PCI and MMIO, with both layouts.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    reason = "plays kernel and processes: what does not work is a failed test"
)]

mod bring_up;
mod checked;
mod disorder;
mod faults;
mod rig;
mod rules;
mod traffic;
