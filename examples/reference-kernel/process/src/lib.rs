#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]

// Defines what the compiler expects of a C library. Tests have one.
#[cfg(not(test))]
use freestanding as _;

mod arguments;
mod block;
mod entry;
mod lease;
mod memory;
mod network;
mod place;
mod process;
mod report;
pub mod system_call;

pub use arguments::Arguments;
pub use block::{BLOCK_ENTRIES, BlockMemory, BlockPair, block_pair};
pub use lease::Lease;
pub use network::{
    FRAME_LAYOUT, Leased, LeasedError, LeasedLink, NETWORK_ENTRIES, Network, NetworkError,
    NetworkLink, NetworkMemory, Pair, QueueError, Receive, Transmit,
};
pub use place::Place;
pub use process::{AskError, Process};
pub use report::WithStrays;

#[doc(hidden)]
pub use entry::start;
#[doc(hidden)]
pub use parakernel_core::abi::ProcessInfo;
