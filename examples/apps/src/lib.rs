//! Processes for a parakernel, generic over the queue traits.
#![cfg_attr(not(test), no_std)]

pub mod nonce;
pub mod pattern;
