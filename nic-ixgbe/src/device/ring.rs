//! The memory of rings, as the port is told of it.

use parakernel_core::{address::BusAddress, memory::DmaBlock, ring::RingSize};

use crate::{MAX_RING, MIN_RING};

/// Alignment of rings, and the unit of their lengths in bytes (§8.2.3.8.1, §8.2.3.8.3).
const RING_ALIGNMENT: u64 = 128;

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR: usize = 16;

/// Alignment of the head's word. INTERPRETATION(contradiction): the datasheet says 4 bytes in one place and 8 in another;
/// the authors of `TinyNF` found that only 16 works. Listed in `ASSUMPTIONS.md`.
const HEAD_ALIGNMENT: u64 = 16;

/// Memory of a receive ring, zeroed, that its queue may use until it was released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiveRing {
    pub(super) bus: BusAddress,
    pub(super) size: RingSize,
    pub(super) size_kib: u8,
    pub(super) tags: Tags,
}

/// What happens to the VLAN tags of received frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Tags {
    /// They stay where they are.
    Kept,
    /// They are taken out of the frame, and told beside it: [`Completion::vlan`](crate::descriptor::Completion::vlan).
    Stripped,
}

impl ReceiveRing {
    /// The ring that fills `block`, for buffers of `posted` bytes: [`Receiver::posted`](crate::rx::Receiver::posted).
    ///
    /// `None` where the block is no ring's, or the buffers none that a queue can have.
    #[must_use]
    pub fn new(block: &DmaBlock<'_>, posted: u32) -> Option<Self> {
        let size_kib = u8::try_from(posted / 1024).ok()?;
        let is_right = posted.is_multiple_of(1024) && (1..=16).contains(&size_kib);
        Some(Self {
            bus: block.bus_address(),
            size: ring_size(block).filter(|_| is_right)?,
            size_kib,
            tags: Tags::Kept,
        })
    }

    /// The same ring, for a queue that does this to tags. They are kept otherwise.
    #[must_use]
    pub const fn with_tags(self, tags: Tags) -> Self {
        Self { tags, ..self }
    }

    /// Its entries.
    #[must_use]
    pub const fn size(&self) -> RingSize {
        self.size
    }
}

/// Memory of a transmit ring, and the word that its head is written to; both zeroed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransmitRing {
    pub(super) bus: BusAddress,
    pub(super) size: RingSize,
    pub(super) head: BusAddress,
}

impl TransmitRing {
    /// The ring that fills `block`, whose head is written to the beginning of `head`.
    ///
    /// `None` where the blocks are not fit for that.
    #[must_use]
    pub fn new(block: &DmaBlock<'_>, head: &DmaBlock<'_>) -> Option<Self> {
        let bus = head.bus_address();
        let is_right = bus.is_aligned(HEAD_ALIGNMENT) && head.len() >= size_of::<u32>();
        Some(Self {
            bus: block.bus_address(),
            size: ring_size(block).filter(|_| is_right)?,
            head: bus,
        })
    }

    /// Its entries.
    #[must_use]
    pub const fn size(&self) -> RingSize {
        self.size
    }
}

fn ring_size(block: &DmaBlock<'_>) -> Option<RingSize> {
    let entries = u32::try_from(block.len() / DESCRIPTOR).ok()?;
    let is_right = block.bus_address().is_aligned(RING_ALIGNMENT)
        && block.len().is_multiple_of(DESCRIPTOR)
        && (MIN_RING..=MAX_RING).contains(&entries);
    RingSize::new(entries).filter(|_| is_right)
}
