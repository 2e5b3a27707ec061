//! The key-value store: the memcached text protocol over memory of the caller's.
//!
//! A process is one shard, on one core, with its own items; who wants more shards starts more processes. The parts are
//! pure and know neither network nor clock:
//!
//! | part | does |
//! |---|---|
//! | [`parse`](protocol::parse) | a line to a [`Command`](protocol::Command) |
//! | [`Store`](store::Store) | keeps items, evicts, expires |
//! | [`Session`](session::Session) | bytes of a client to bytes of an answer, in whatever pieces they come |
//!
//! `server::run` (feature `net`) serves clients with them, and the nonce service on top.
//!
//! Known differences from memcached: expiry is exact, not to the second; a number that gets shorter by `decr` is not
//! padded; a bad data block is skipped up to the end of its line, so that the connection stays in step; there are no
//! meta commands.

pub mod decimal;
pub mod protocol;
#[cfg(feature = "net")]
pub mod server;
pub mod session;
pub mod store;
