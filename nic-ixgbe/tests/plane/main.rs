//! The 82599 under the control plane, on its model: claims, vectors, traffic of checked queues, revocation, resets.
//!
//! The audit of mock-hw sees every access of the card: it may reach the rings of a lease and the regions of its process from
//! when the queue is connected until the lease is isolated, and nothing else.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "plays kernel and processes: what does not work is a failed test"
)]

extern crate alloc;

mod bench;
mod card;
mod lives;
mod machine;
mod owners;
