#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
#![expect(non_ascii_idents, reason = "zerocopy's derives name their helpers so")]

pub mod admin;
pub mod checked;
pub mod command;
pub mod completion;
pub mod controller;
pub mod doorbell;
pub mod error;
pub mod identify;
pub mod log;
pub mod namespace;
pub mod prp;
pub mod queue;
pub mod quirk;
pub mod regs;
pub mod status;
pub mod validate;
