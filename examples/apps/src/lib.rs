//! Processes for a parakernel, generic over the queue traits.
//!
//! | module | holds |
//! |---|---|
//! | [`runtime`] | what a process needs of its kernel |
//! | [`executor`] | `async` tasks: poll under load, sleep when idle |
//! | [`pattern`], [`nonce`] | contents of blocks and datagrams that prove who wrote them |
//! | [`block`] | the block benchmark |
//! | [`fwd`] | forwards frames from queue to queue |
//! | [`kv`] | the key-value store |
//! | `net`, `echo` | a TCP/IP stack for tasks, and the echo process (feature `net`) |
//! | `watch` | counts frames that a process should not have been given (feature `net`) |
#![cfg_attr(not(test), no_std)]

pub mod block;
#[cfg(feature = "net")]
pub mod echo;
pub mod executor;
pub mod fwd;
pub mod kv;
#[cfg(feature = "net")]
pub mod net;
pub mod nonce;
pub mod pattern;
pub mod runtime;
#[cfg(feature = "net")]
pub mod watch;
