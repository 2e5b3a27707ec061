//! The registers, in the specification's order and spelling.

use core::sync::atomic::{Ordering, fence};

use parakernel_core::{
    mmio::{Register, Registers, Window},
    queue::Doorbell,
    registers,
    ring::Position,
};

/// The control page.
#[derive(Debug)]
pub struct Control;

registers! {
    in Control;

    /// Identity, §1.
    pub Id: u32 @ 0x00, read_only {}

    /// Control, §1.
    pub Ctrl: u32 @ 0x04, read_write {
        /// Takes entries while set.
        ENABLE: bit 0,
    }

    /// Status, §1.
    pub Status: u32 @ 0x08, read_only {
        /// Enabled, or transfers are under way.
        ACTIVE: bit 0,
        /// Published entries are not done.
        BUSY: bit 1,
    }

    /// Bus address of the ring, §1; a multiple of 16.
    pub Ring: u64 @ 0x10, address {}

    /// Entries of the ring, §1; a power of two, 2 to 256.
    pub Size: u32 @ 0x18, read_write {}
}

/// The doorbell's page, which holds nothing else.
#[derive(Debug)]
pub struct DoorbellPage;

registers! {
    in DoorbellPage;

    /// Entries before it are published, §1; free-running.
    pub Tail: u32 @ 0x00, write_only {}
}

/// Offset of the control page.
pub const CONTROL_PAGE: usize = 0;
/// Offset of the doorbell's page.
pub const DOORBELL_PAGE: usize = 0x1000;
/// Length of the register file in bytes.
pub const LEN: usize = 0x2000;

/// Rings the device itself. Nobody stands between ring and device, so what was rung was accepted.
#[derive(Debug)]
pub struct TailRegister<R>(Window<R, DoorbellPage>);

impl<R: Registers> TailRegister<R> {
    /// The doorbell in the register file `bar`.
    pub const fn new(bar: R) -> Self {
        Self(Window::new(bar, DOORBELL_PAGE))
    }
}

impl<R: Registers> Doorbell for TailRegister<R> {
    #[inline]
    fn ring(&mut self, tail: Position) {
        // Entries are written before the device is told of them.
        fence(Ordering::Release);
        self.0.write(Tail::from_bits(tail.as_u32().into()));
    }

    #[inline]
    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}
