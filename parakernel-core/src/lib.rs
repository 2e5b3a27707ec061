#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]

#[cfg(test)]
extern crate alloc;

pub mod abi;
pub mod access;
pub mod address;
pub mod control;
pub mod device;
pub mod error;
pub mod handle;
pub mod lease;
pub mod memory;
pub mod mmio;
pub mod pci;
pub mod queue;
pub mod ring;
pub mod steering;
pub mod time;
pub mod validate;
pub mod virtual_queue;
pub mod volume;
