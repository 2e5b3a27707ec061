//! A QEMU without a guest, for tests: this process plays the CPU through the `qtest` protocol, and shares the machine's
//! memory.
//!
//! So a driver meets devices that nobody here wrote, from an ordinary test. The tests are in `tests/`, behind the feature
//! `qemu`: `cargo xtask test --full` fetches a QEMU that can do it and runs them.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    reason = "helps tests: what does not work is a failed test"
)]

mod machine;
mod memory;

pub use machine::{ConfigSpace, Machine, Part};
pub use memory::Memory;
