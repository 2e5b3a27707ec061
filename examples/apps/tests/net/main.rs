//! Network processes at one end of a wire in memory.
#![cfg(feature = "net")]
#![expect(clippy::unwrap_used, reason = "tests")]

mod echo;
mod fwd;
mod kv;
mod peer;
#[path = "../../../../net-smoltcp/tests/wire/mod.rs"]
mod wire;
