#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![expect(non_ascii_idents, reason = "zerocopy's derives name their helpers so")]

pub mod checked;
pub mod control;
pub mod device;
pub mod error;
pub mod features;
pub mod header;
pub mod link;
pub mod notify;
pub mod regs;
pub mod rx;
pub mod steering;
pub mod transport;
pub mod tx;
pub mod validate;
pub mod virtqueue;

mod slots;
