//! Virtual queues: a pair of rings in memory, where a device has no queue left to lend, or cannot lead the frames.
//!
//! The process side implements [`RxQueue`](crate::queue::RxQueue) and [`TxQueue`](crate::queue::TxQueue), so an
//! application does not see the difference. The kernel copies each frame in or out, and believes nothing that the
//! process writes: positions are compared with its own, a length is read once and bounded, and a frame is checked on the
//! copy.
//!
//! Each direction is one piece of memory of [`VirtualLayout::bytes`]: the lengths of the frames in its slots, then the
//! slots. The process may write the transmit direction and only read the receive direction. Positions cross through the
//! [`Doorbell`](crate::queue::Doorbell) of the ring, that is, on the lease's two pages: receiving, the process publishes up to
//! where it offers slots, and the kernel how far it filled them; sending, the process publishes up to where it filled
//! slots, and the kernel how far it emptied them.

use core::fmt;

use crate::{
    error::{Error, ErrorKind},
    memory::SharedMemory,
    ring::{RingSize, Slot},
};

mod kernel;
mod process;
mod slots;
mod turns;

pub use kernel::{Delivery, ReceivePort, TransmitPort};
pub use process::{VirtualReceiver, VirtualSender};
pub use turns::Turns;

use slots::Slots;

/// How one direction of a virtual queue lies in its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct VirtualLayout {
    /// Number of slots.
    pub entries: RingSize,
    /// Bytes of a slot: the longest frame. A multiple of 8.
    pub slot_bytes: u32,
}

impl VirtualLayout {
    /// Bytes that the memory of one direction takes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.lengths_bytes() + self.entries.entries() as usize * self.slot_bytes as usize
    }

    /// Bytes of the lengths before the slots; whole cache lines.
    const fn lengths_bytes(&self) -> usize {
        (self.entries.entries() as usize * size_of::<u32>()).next_multiple_of(64)
    }

    /// The slots in `memory`; `None` where it is too short or not aligned to 8 bytes.
    fn slots<'a>(&self, memory: SharedMemory<'a>) -> Option<Slots<'a>> {
        if !self.slot_bytes.is_multiple_of(8) || self.slot_bytes == 0 {
            return None;
        }
        let entries = self.entries.entries() as usize;
        let words = self.slot_bytes as usize / 8;
        Some(Slots {
            lengths: memory.slice(0, entries)?,
            words: memory.slice(self.lengths_bytes(), entries.checked_mul(words)?)?,
            words_per_slot: words,
        })
    }

    /// The first word of a slot.
    const fn first_word(slot: Slot, words_per_slot: usize) -> usize {
        slot.index() * words_per_slot
    }
}

/// What goes wrong on the process side of a virtual queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum VirtualQueueError {
    /// The kernel's side says what it cannot mean.
    Protocol,
    /// The first frame is longer than a slot, or has no byte, and can never be sent.
    Length {
        /// Its length in bytes.
        len: usize,
    },
}

impl fmt::Display for VirtualQueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol => f.write_str("the other side of the virtual queue makes no sense"),
            Self::Length { len } => write!(f, "a frame of {len} bytes does not fit the queue"),
        }
    }
}

impl core::error::Error for VirtualQueueError {}

impl Error for VirtualQueueError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Protocol => ErrorKind::Protocol,
            Self::Length { .. } => ErrorKind::InvalidArgument,
        }
    }
}
