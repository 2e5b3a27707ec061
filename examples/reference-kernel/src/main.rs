//! A bare-metal x86-64 parakernel: it partitions a machine between processes and then stays out of their way.
//!
//! Core 0 runs the kernel's event loop ([`housekeeping`]), every other core at most one process ([`runner`]).
//! Interrupts are on only in ring 3 and while a core sleeps, so kernel code runs to completion and needs no locks but
//! the serial ports'. Frames, address spaces and devices belong to core 0; a core and core 0 talk through two
//! single-producer queues.

#![no_std]
#![no_main]
#![expect(
    clippy::panic,
    reason = "a kernel that cannot go on stops the machine and says why"
)]

// Defines what the compiler expects of a C library.
use freestanding as _;

mod acpi;
mod address_space;
mod arch;
mod attack;
mod boot;
mod capacity;
mod console;
mod control;
mod cores;
mod device;
mod devices;
mod gate;
mod housekeeping;
mod interrupts;
mod log;
mod machine;
mod mailbox;
mod memory;
mod once;
mod panic;
mod pci;
mod poison;
mod process;
mod queues;
mod ranges;
mod report;
mod runner;
mod sabotage;
mod seats;
mod selftest;
mod serial;
mod slow_path;
mod start_info;
mod supervisor;
mod syscall;
mod time;
mod user_memory;
mod vectors;
