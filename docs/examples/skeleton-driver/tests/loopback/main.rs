//! The driver and a model of its device.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a model rejects a driver that breaks a rule; helpers may panic as their test"
)]

mod checked;
mod direct;
mod model;
mod validate;
