//! Every developer and user command of the project: `cargo xtask …`.
//!
//! A command that fails says what was the matter and what to do next; a tool that is missing is installed where that is
//! allowed, else the command to type is printed.
#![expect(
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    reason = "a program for the host has the standard library; the libraries do not"
)]

mod apt;
mod attacks;
mod bench;
mod boots;
mod capture;
mod cast;
mod cli;
mod console;
mod cpio;
mod disk;
mod fuzz;
mod kernel;
mod linux;
mod loc;
mod log;
mod mutant;
mod mutants;
mod net;
mod observed;
mod process;
mod publish;
mod qemu;
mod report;
mod serve;
mod session;
mod store;
mod test;
mod tools;
mod traffic;
mod workspace;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(error) = process::end_children_on_interrupt() {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
