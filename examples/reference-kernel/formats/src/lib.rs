//! Parsers of what the reference kernel is given and does not trust.
//!
//! Nothing here touches hardware or uses `unsafe`, so all of it is tested and fuzzed on the host.

#![no_std]
#![forbid(unsafe_code)]

pub mod archive;
pub mod command;
pub mod command_line;
pub mod executable;
pub mod json;
pub mod manifest;
