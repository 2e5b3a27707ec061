#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]

pub mod checked;
pub mod descriptor;
pub mod device;
pub mod director;
pub mod doorbell;
pub mod dump;
mod eeprom;
pub mod error;
pub mod filter;
pub mod forward;
pub mod functions;
pub mod hang;
pub mod id;
pub mod interrupt;
mod line;
pub mod link;
mod message;
pub mod module;
pub mod offload;
pub mod pause;
pub mod pool;
pub mod regs;
pub mod rx;
pub mod stats;
pub mod steering;
pub mod tx;
pub mod validate;
pub mod vf;

/// The shortest ring, in entries: 128 bytes (§8.2.3.8.3).
pub const MIN_RING: u32 = 8;

/// The longest ring that was validated by the maker, in entries (§8.2.3.8.3).
pub const MAX_RING: u32 = 8192;

/// Slot of the entry at `position` in a ring of `entries`, a power of two.
#[inline]
const fn slot(position: parakernel_core::ring::Position, entries: usize) -> usize {
    position.as_u32() as usize & (entries - 1)
}
