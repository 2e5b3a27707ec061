#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]

pub mod checked;
pub mod device;
pub mod error;
pub mod queue;
pub mod regs;
pub mod ring;
pub mod validate;
