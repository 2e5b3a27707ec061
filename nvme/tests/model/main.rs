//! The driver against the NVMe model of `mock-hw`, which was written from the specification and shares nothing with it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod checked;
mod controller;
mod io;
mod life;
mod lying;
mod rig;
