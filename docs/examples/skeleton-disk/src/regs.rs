//! Registers, §1.

use core::sync::atomic::{Ordering, fence};

use parakernel_core::{
    mmio::{Register, Registers, Window},
    queue::Doorbell,
    registers,
    ring::Position,
};

/// What ID holds.
pub const ID: u64 = 0x4648_4c53;
/// Where the doorbell's page begins, in bytes.
pub const DOORBELL: usize = 0x1000;
/// Length of the register file, in bytes.
pub const LEN: usize = 0x2000;

/// The first page.
#[derive(Debug)]
pub struct Control;

registers! {
    in Control;

    /// Identity.
    pub Id: u32 @ 0x00, read_only {}

    /// Control.
    pub Ctrl: u32 @ 0x04, read_write {
        /// Fetches commands while set.
        RUN: bit 0,
        /// Makes transfers while set.
        MASTER: bit 1,
    }

    /// Status.
    pub Status: u32 @ 0x08, read_only {
        /// May fetch commands, or make transfers for those that it has.
        RUNNING: bit 0,
        /// Published commands are not answered.
        BUSY: bit 1,
        /// Was given a tail or a command against the specification.
        FAILED: bit 2,
    }

    /// Number of blocks, of 512 bytes.
    pub Blocks: u64 @ 0x10, read_only {}

    /// Bus address of the commands; a multiple of 64.
    pub Commands: u64 @ 0x18, address {}

    /// Bus address of the answers; a multiple of 64.
    pub Answers: u64 @ 0x20, address {}

    /// Entries of either ring; a power of two, 2 to 256.
    pub Size: u32 @ 0x28, read_write {}
}

/// The second page.
#[derive(Debug)]
pub struct DoorbellPage;

registers! {
    in DoorbellPage;

    /// Commands before it are published; free-running.
    pub Tail: u32 @ 0x00, write_only {}
}

/// The doorbell as a register of the device.
#[derive(Debug)]
pub struct TailDoorbell<R>(Window<R, DoorbellPage>);

impl<R: Registers> TailDoorbell<R> {
    /// The doorbell in the device's whole register file.
    pub const fn new(registers: R) -> Self {
        Self(Window::new(registers, DOORBELL))
    }
}

impl<R: Registers> Doorbell for TailDoorbell<R> {
    fn ring(&mut self, tail: Position) {
        // Commands are written before the device is told of them.
        fence(Ordering::Release);
        self.0.write(Tail::from_bits(tail.as_u32().into()));
    }

    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}
