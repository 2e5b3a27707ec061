//! The driver and a model of its device.
#![expect(
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::unwrap_used,
    clippy::std_instead_of_alloc,
    reason = "helpers of a test have std and may panic as the test itself"
)]

mod checked;
mod direct;
mod model;
mod validate;
