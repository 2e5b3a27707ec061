#![doc = include_str!("../README.md")]

extern crate alloc;

pub mod memory;
pub mod random;
pub mod trace;
pub mod world;

mod sync;

pub use memory::Memory;
pub use world::World;
