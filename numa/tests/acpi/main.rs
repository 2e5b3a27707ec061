//! The ACPI views against tables that were not made here, and against tables that are broken.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::std_instead_of_alloc,
    reason = "test helpers fail by panicking, and have std"
)]

mod compiled;
#[path = "../support/dump.rs"]
mod dump;
mod hostile;
mod peer;
mod properties;
mod qemu;
