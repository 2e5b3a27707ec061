//! The doorbell of a queue that the device reads itself.

use parakernel_core::{mmio::Registers, queue::Doorbell, ring::Position};

use crate::{
    transport::NotifyAddress,
    virtqueue::{Events, Format},
};

/// The notification register of one queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotifyRegister {
    /// Index of the queue.
    pub queue: u16,
    /// Where the register lies, and how wide it is.
    pub address: NotifyAddress,
    /// What is written to it.
    pub data: Data,
}

/// What a notification carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Data {
    /// The queue's index.
    Index,
    /// The same, and how far the ring was filled; `NOTIFICATION_DATA`.
    IndexAndTail,
}

impl NotifyRegister {
    /// Notifies the device; `tail` is how far the ring was filled, as
    /// [`notification_data`](Format::notification_data) tells it.
    #[inline]
    pub fn notify(&self, registers: &impl Registers, tail: u16) {
        let index = u32::from(self.queue);
        let offset = self.address.offset;
        match self.data {
            Data::IndexAndTail => registers.write32(offset, u32::from(tail) << 16 | index),
            Data::Index if self.address.wide => registers.write32(offset, index),
            Data::Index => registers.write16(offset, self.queue),
        }
    }
}

/// Rings the device itself: writes its notification register, unless the device does not want to be told.
///
/// Whether it wants to is read from the ring, so notifier and queue share one. Nobody stands between ring and device,
/// so what was rung was accepted.
#[derive(Debug)]
pub struct Notifier<F, R> {
    format: F,
    registers: R,
    register: NotifyRegister,
    events: Events,
    /// The tail at the last look.
    rung: Position,
}

impl<F: Format, R: Registers> Notifier<F, R> {
    /// The doorbell of the queue whose ring is `format` and whose register is `register` of `registers`.
    #[must_use]
    pub const fn new(format: F, registers: R, register: NotifyRegister, events: Events) -> Self {
        Self {
            format,
            registers,
            register,
            events,
            rung: Position::START,
        }
    }
}

impl<F: Format, R: Registers> Doorbell for Notifier<F, R> {
    #[inline]
    fn ring(&mut self, tail: Position) {
        if self.format.wants_notification(self.events, self.rung, tail) {
            self.register
                .notify(&self.registers, F::notification_data(tail));
        }
        self.rung = tail;
    }

    #[inline]
    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}
