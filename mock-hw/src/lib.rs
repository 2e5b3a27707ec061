#![doc = include_str!("../README.md")]
#![cfg_attr(
    feature = "serve",
    expect(non_ascii_idents, reason = "zerocopy's derives name their helpers so")
)]

extern crate alloc;

pub mod fault;
pub mod interrupt;
pub mod ixgbe;
pub mod memory;
pub mod nvme;
pub mod pci;
#[cfg(feature = "serve")]
pub mod plug;
pub mod random;
#[cfg(feature = "proptest")]
pub mod strategy;
pub mod trace;
#[cfg(feature = "serve")]
pub mod vfio_user;
pub mod virtio_net;
pub mod wire;
pub mod world;

#[doc = include_str!("../docs/models.md")]
pub mod models {}

mod bytes;
mod frame;
mod sync;

pub use ixgbe::Ixgbe;
pub use memory::Memory;
pub use nvme::Nvme;
pub use virtio_net::VirtioNet;
pub use world::World;
