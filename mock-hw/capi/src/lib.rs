#![doc = include_str!("../README.md")]

extern crate alloc;

mod call;
mod code;
mod device;
mod exports;
mod fault;
mod host;
mod pointer;
mod registry;
mod world;

pub use code::Code;
pub use exports::*;
pub use host::{Config, Host};
