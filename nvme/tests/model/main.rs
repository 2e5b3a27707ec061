//! The driver against the NVMe model of `mock-hw`, which was written from the specification and shares nothing with it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod checked;
mod controller;
mod io;
mod lying;
mod rig;
