#![doc = include_str!("../README.md")]

extern crate alloc;

pub mod fault;
pub mod interrupt;
pub mod memory;
pub mod nvme;
pub mod pci;
pub mod random;
pub mod trace;
pub mod virtio_net;
pub mod wire;
pub mod world;

mod bytes;
mod sync;

pub use memory::Memory;
pub use world::World;
