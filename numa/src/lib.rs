#![doc = include_str!("../README.md")]
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![forbid(unsafe_code)]
#![expect(non_ascii_idents, reason = "zerocopy's derives name their helpers so")]

pub mod acpi;
pub mod frames;
#[cfg(feature = "std")]
pub mod linux;
pub mod placement;
pub mod topology;
