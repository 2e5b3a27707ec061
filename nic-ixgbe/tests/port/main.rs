//! The control half against a port of a few lines that rejects a driver which breaks the datasheet's rules: literal offsets
//! and bits, none of the driver's constants.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::wildcard_enum_match_arm,
    reason = "plays a port: what does not fit is a failed test"
)]

mod bring_up;
mod director;
mod fake;
mod module;
mod pairs;
mod pause;
mod rules;
