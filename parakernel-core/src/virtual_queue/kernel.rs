//! The kernel side.

use super::{Slots, VirtualLayout};
use crate::{
    memory::SharedMemory,
    ring::{Position, RingSize},
    validate::Violation,
};

/// Bytes of the shortest frame: an Ethernet header.
const MIN_FRAME: usize = 14;

/// What became of a frame that was to be delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Delivery {
    /// It is in the queue.
    Delivered,
    /// The queue is full; the frame is dropped, and nobody waits.
    Full,
    /// It is longer than the queue's slots.
    TooLong,
}

/// Where the kernel puts frames for a process.
#[derive(Debug)]
pub struct ReceivePort<'a> {
    slots: Slots<'a>,
    size: RingSize,
    filled: Position,
    offered: Position,
}

impl<'a> ReceivePort<'a> {
    /// The other end of a [`VirtualReceiver`](super::VirtualReceiver); `None` where the layout does not fit.
    #[must_use]
    pub fn new(memory: SharedMemory<'a>, layout: VirtualLayout) -> Option<Self> {
        Some(Self {
            slots: layout.slots(memory)?,
            size: layout.entries,
            filled: Position::START,
            offered: Position::START,
        })
    }

    /// Takes note that the process says to offer slots up to `claimed`.
    ///
    /// # Errors
    ///
    /// [`Violation::TailJump`] where that is behind what it offered before, or more than there is.
    pub fn offer(&mut self, claimed: Position) -> Result<(), Violation> {
        // An honest claim lies between what was offered and one ring behind what was filled.
        let most = self.filled.advanced(self.size.entries());
        if claimed.since(self.offered) > most.since(self.offered) {
            return Err(Violation::TailJump {
                claimed: claimed.as_u32(),
                accepted: self.offered.as_u32(),
            });
        }
        self.offered = claimed;
        Ok(())
    }

    /// Copies a frame into the queue. Publish [`filled`](Self::filled) after the last of a batch.
    pub fn deliver(&mut self, frame: &[u8]) -> Delivery {
        if frame.len() > self.slots.capacity() {
            return Delivery::TooLong;
        }
        if self.filled == self.offered {
            return Delivery::Full;
        }
        let slot = self.size.slot(self.filled);
        let mut writer = self.slots.writer(slot);
        writer.write(frame);
        writer.finish();
        self.slots.set_len(slot, frame.len());
        self.filled = self.filled.after();
        Delivery::Delivered
    }

    /// How far slots are filled, to publish with release ordering as what was accepted.
    #[must_use]
    pub const fn filled(&self) -> Position {
        self.filled
    }
}

/// Where the kernel takes frames from a process.
#[derive(Debug)]
pub struct TransmitPort<'a> {
    slots: Slots<'a>,
    size: RingSize,
    emptied: Position,
}

impl<'a> TransmitPort<'a> {
    /// The other end of a [`VirtualSender`](super::VirtualSender); `None` where the layout does not fit.
    #[must_use]
    pub fn new(memory: SharedMemory<'a>, layout: VirtualLayout) -> Option<Self> {
        Some(Self {
            slots: layout.slots(memory)?,
            size: layout.entries,
            emptied: Position::START,
        })
    }

    /// Copies up to `budget` frames of those that the process says to have filled up to `claimed`, and hands each copy
    /// to `each`, which stops with `false` where it has no room for it: the frame then stays for the next call.
    ///
    /// `buffer` is the kernel's own, as long as a slot. Returns the number of frames. Publish
    /// [`emptied`](Self::emptied) afterwards.
    ///
    /// # Errors
    ///
    /// [`Violation::TailJump`] where more slots are claimed than there are; [`Violation::Length`] where a frame is
    /// longer than a slot, or `buffer`, or shorter than an Ethernet header; or what `each` found.
    pub fn take(
        &mut self,
        claimed: Position,
        budget: usize,
        buffer: &mut [u8],
        mut each: impl FnMut(&[u8]) -> Result<bool, Violation>,
    ) -> Result<usize, Violation> {
        let count = claimed.since(self.emptied);
        if count > self.size.entries() {
            return Err(Violation::TailJump {
                claimed: claimed.as_u32(),
                accepted: self.emptied.as_u32(),
            });
        }
        let mut taken = 0;
        while taken < budget.min(count as usize) {
            let slot = self.size.slot(self.emptied);
            let refused = |len| Violation::Length { len };
            let len = self
                .slots
                .len(slot)
                .map_err(|len| refused(u64::from(len)))?;
            let frame = buffer
                .get_mut(..len)
                .filter(|frame| frame.len() >= MIN_FRAME);
            let frame = frame.ok_or_else(|| refused(len as u64))?;
            self.slots.reader(slot).read(frame);
            if !each(frame)? {
                break;
            }
            self.emptied = self.emptied.after();
            taken += 1;
        }
        Ok(taken)
    }

    /// How far slots are emptied, to publish as what was accepted.
    #[must_use]
    pub const fn emptied(&self) -> Position {
        self.emptied
    }
}
