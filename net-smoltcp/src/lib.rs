#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]

mod device;
mod error;
mod link;
mod reserve;

pub use device::{Counters, Device, Memory, RxToken, TxToken, instant};
pub use error::{JoinedError, PairError};
pub use link::{Joined, Link, QueuePair, is_discovery};
pub use reserve::Reserving;
