//! The doorbell of a queue that the device reads itself: its tail register.

use core::sync::atomic::{Ordering::Release, fence};

use parakernel_core::{
    mmio::{MappedRegister, Registers},
    queue::Doorbell,
    ring::{Position, RingSize},
};

/// Rings the device itself: writes the queue's tail register.
///
/// Nobody stands between ring and device, so what was rung was accepted. Only for the kernel, or who has the whole
/// function: the register's page holds the addresses of 64 rings too.
#[derive(Debug)]
pub struct Tail<R> {
    registers: R,
    offset: usize,
    size: RingSize,
}

impl<R: Registers> Tail<R> {
    /// The tail register at byte `offset` of `registers`, of a ring of `size` entries.
    #[must_use]
    pub const fn new(registers: R, offset: usize, size: RingSize) -> Self {
        Self {
            registers,
            offset,
            size,
        }
    }
}

impl<R: Registers> Doorbell for Tail<R> {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a slot is below 2³²")]
    fn ring(&mut self, tail: Position) {
        // Descriptors are in memory before the device is told of them.
        fence(Release);
        let slot = self.size.slot(tail).index();
        self.registers.write32(self.offset, slot as u32);
    }

    #[inline]
    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}

/// The same for a register in a mapped BAR, which was found once: nothing is left to check when it is rung.
#[derive(Debug)]
pub struct MappedTail {
    register: MappedRegister,
    /// The ring's entries less one.
    mask: u32,
}

impl MappedTail {
    /// The tail register `register` of a ring of `size` entries.
    #[must_use]
    pub const fn new(register: MappedRegister, size: RingSize) -> Self {
        Self {
            register,
            mask: size.entries() - 1,
        }
    }
}

impl Doorbell for MappedTail {
    #[inline]
    fn ring(&mut self, tail: Position) {
        // As above.
        fence(Release);
        self.register.write(tail.as_u32() & self.mask);
    }

    #[inline]
    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}
