//! The symbols that compiled code expects where there is no C library.
//!
//! For the host target the compiler's own copies are left out, because a C library has them; for bare-metal targets
//! they are there, and this crate is empty. `no_builtins` keeps the compiler from turning these functions' own loops
//! into calls of themselves.

#![no_std]
#![no_builtins]
#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "defines C's memory functions")
)]

#[cfg(target_os = "linux")]
mod memory;
