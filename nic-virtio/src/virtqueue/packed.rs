//! The packed layout, §2.8: one ring of descriptors that both sides write.
#![expect(unsafe_code, reason = "says which types consist of atomics only")]

use core::sync::atomic::{
    AtomicU16,
    Ordering::{Relaxed, Release, SeqCst},
    fence,
};

use parakernel_core::{
    memory::{DmaBlock, PAGE_SIZE, Shared, SharedMemory},
    ring::Position,
};

use super::{
    CheckedFormat, Descriptor, DescriptorFlags, Entry, Events, Format, Post, ReceiveFormat,
    TransmitFormat, Used, need_event, slot,
};
use crate::{error::RingError, transport::RingAddresses};

/// The second half of a descriptor, §2.8.13: length in bits 0 to 31, id in 32 to 47, flags in 48 to 63. It is published
/// in one store and read in one load.
#[inline]
fn encode(entry: Entry, id: u16) -> u64 {
    u64::from(entry.len) | u64::from(id) << 32 | u64::from(entry.flags.bits()) << 48
}

/// What one side says about when it wants to be notified, §2.8.14.
#[derive(Debug)]
#[repr(C, align(4))]
pub struct EventSuppression {
    /// Position of a descriptor in bits 0 to 14, its round in bit 15.
    position: AtomicU16,
    /// One of [`ENABLE`], [`DISABLE`] and [`AT_POSITION`].
    flags: AtomicU16,
}

// SAFETY: two atomics of 2 bytes each, aligned to 4.
unsafe impl Shared for EventSuppression {}

/// `RING_EVENT_FLAGS_ENABLE`, `_DISABLE` and `_DESC`, §2.8.10.
const ENABLE: u16 = 0;
const DISABLE: u16 = 1;
const AT_POSITION: u16 = 2;

/// The two flags that mark a descriptor as used, in its second half.
const MARKS: u64 =
    (DescriptorFlags::AVAIL.bits() as u64 | DescriptorFlags::USED.bits() as u64) << 48;

/// A packed ring of `N` entries.
#[derive(Debug)]
pub struct Packed<'a, const N: usize> {
    ring: &'a [Descriptor; N],
    /// Where the device reads what was made available: this ring, or that of the kernel behind it.
    completions: &'a [Descriptor; N],
    driver: &'a EventSuppression,
    device: &'a EventSuppression,
}

impl<const N: usize> Clone for Packed<'_, N> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<const N: usize> Copy for Packed<'_, N> {}

impl<'a, const N: usize> Packed<'a, N> {
    /// Offset of the driver's event suppression in a block that holds the whole ring: on a page behind the ring.
    pub const DRIVER: usize = (16 * N).next_multiple_of(PAGE_SIZE);
    /// Offset of the device's event suppression: on a cache line of its own.
    pub const DEVICE: usize = Self::DRIVER + 64;
    /// Bytes of a block that holds the whole ring.
    pub const BYTES: usize = Self::DRIVER + PAGE_SIZE;

    const SIZE_IS_ALLOWED: () = assert!(
        N.is_power_of_two() && N <= 32768,
        "a packed ring has at most 32768 entries (§2.8); ours have a power of two"
    );

    /// The ring in its parts, each from its first byte on; `None` where one is too small or not aligned.
    ///
    /// What is made available is written to `ring`, what was used is read from `completions`: the same memory, or, for
    /// a process whose ring is checked, its shadow and a view of the device's own. `events` holds the driver's event
    /// suppression at byte 0 and the device's at byte 64.
    #[must_use]
    pub fn new(
        ring: SharedMemory<'a>,
        completions: SharedMemory<'a>,
        events: SharedMemory<'a>,
    ) -> Option<Self> {
        const { Self::SIZE_IS_ALLOWED };
        Some(Self {
            ring: ring.view(0)?,
            completions: completions.view(0)?,
            driver: events.view(0)?,
            device: events.view(Self::DEVICE - Self::DRIVER)?,
        })
    }

    /// The ring in one block of [`BYTES`](Self::BYTES) bytes, aligned to a page.
    #[must_use]
    pub fn in_block(block: SharedMemory<'a>) -> Option<Self> {
        let events = block.part(Self::DRIVER, PAGE_SIZE)?;
        Self::new(block, block, events)
    }

    /// Where the device finds the ring in `block`.
    #[must_use]
    pub const fn addresses(block: &DmaBlock<'_>) -> RingAddresses {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 32768, checked in `new`"
        )]
        let entries = N as u16;
        RingAddresses::in_block(block, entries, [0, Self::DRIVER, Self::DEVICE])
    }

    /// Whether the wrap counter is 1 at `at`: it starts with 1 (§2.8.1).
    #[inline]
    const fn wrap(at: Position) -> bool {
        at.as_u32() as usize & N == 0
    }

    /// The flags that make a descriptor at `at` available, besides those of its entry (§2.8.1).
    #[inline]
    #[must_use]
    pub const fn available(at: Position) -> DescriptorFlags {
        if Self::wrap(at) {
            DescriptorFlags::AVAIL
        } else {
            DescriptorFlags::USED
        }
    }

    /// A position as event suppression and notifications hold it: the slot, and the wrap counter in bit 15.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "slots are below 32768")]
    const fn encode(at: Position) -> u16 {
        slot(at, N) as u16 | (Self::wrap(at) as u16) << 15
    }
}

impl<const N: usize> Format for Packed<'_, N> {
    const ENTRIES: usize = N;

    /// Each descriptor says by itself whether it was used.
    #[inline]
    fn ready(&self, _next: Position, outstanding: u32) -> Result<u32, RingError> {
        Ok(outstanding)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "takes the fields apart")]
    fn used(&self, at: Position) -> Option<Used> {
        let rest = self.completions[slot(at, N)].rest();
        let wanted = if Self::wrap(at) { MARKS } else { 0 };
        // Of a descriptor without `WRITE` the length is reserved (§2.8.6): only receive rings look at it.
        (rest & MARKS == wanted).then_some(Used {
            id: (rest >> 32) as u32 & 0xFFFF,
            len: rest as u32,
        })
    }

    #[inline]
    fn publish(&self, _tail: Position) {}

    #[inline]
    fn wants_notification(&self, _events: Events, old: Position, new: Position) -> bool {
        fence(SeqCst);
        match u16::from_le(self.device.flags.load(Relaxed)) & 3 {
            DISABLE => false,
            AT_POSITION => {
                let position = u16::from_le(self.device.position.load(Relaxed));
                need_event_packed::<N>(position, old, new)
            }
            _ => true,
        }
    }

    fn ask_for_interrupt(&self, events: Events, used: Option<Position>) {
        let flags = match (events, used) {
            (_, None) => DISABLE,
            (Events::Flags, Some(_)) => ENABLE,
            (Events::Index, Some(at)) => {
                self.driver
                    .position
                    .store(Self::encode(at).to_le(), Relaxed);
                AT_POSITION
            }
        };
        self.driver.flags.store(flags.to_le(), Release);
        fence(SeqCst);
    }

    fn notification_data(tail: Position) -> u16 {
        Self::encode(tail)
    }
}

/// [`need_event`] for a position with its round in bit 15.
///
/// The position named is taken for the one of that slot and round that lies less than a ring before `new`; one of the
/// other round is not among those just published (§2.8.21.3.1, and `vring_packed_need_event`'s like in the field).
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "compares modulo 2¹⁶, as `need_event` does"
)]
fn need_event_packed<const N: usize>(position: u16, old: Position, new: Position) -> bool {
    let slot = u32::from(position & 0x7FFF);
    let round_matches = (position >> 15 != 0) == Packed::<N>::wrap(new);
    // The first position of the round that `new` is in, or of the one before.
    let start = new.as_u32() & !(N as u32 - 1);
    let start = if round_matches {
        start
    } else {
        start.wrapping_sub(N as u32)
    };
    let event = start.wrapping_add(slot);
    need_event(event as u16, new.as_u32() as u16, old.as_u32() as u16)
}

impl<const N: usize> ReceiveFormat for Packed<'_, N> {
    const IN_PLACE: bool = true;

    fn fits(&self, _count: u16) -> bool {
        true
    }

    fn prepare(&self, _len: u32) {}

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "slots are below 32768")]
    fn id(&self, at: Position, _buffer: u16) -> u16 {
        slot(at, N) as u16
    }

    #[inline]
    fn arm(&self, at: Position, id: u16, address: u64, len: u32) {
        let flags = DescriptorFlags::WRITE;
        self.write(
            at,
            id,
            Entry {
                address,
                len,
                flags,
            },
        );
    }
}

impl<const N: usize> TransmitFormat for Packed<'_, N> {
    const COUNTS_DESCRIPTORS: bool = true;

    #[inline]
    fn write(&self, at: Position, id: u16, entry: Entry) {
        let flags = entry.flags | Self::available(at);
        let rest = encode(Entry { flags, ..entry }, id);
        self.ring[slot(at, N)].store(entry.address, rest);
    }

    fn prepare_single(&self) {}

    #[inline]
    fn offer(&self, _chain: Position, _head: u16) {}
}

impl<const N: usize> CheckedFormat for Packed<'_, N> {
    const COPIES_COMPLETIONS: bool = true;

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "takes the fields apart")]
    fn copy(from: &Descriptor) -> Entry {
        let rest = from.rest() & !MARKS;
        Entry {
            address: from.address(),
            len: rest as u32,
            flags: DescriptorFlags::from_bits_retain((rest >> 48) as u16),
        }
    }

    #[inline]
    fn copy_plain(from: &Descriptor) -> (u64, u64) {
        /// The id, which the process's data half writes and nobody reads.
        const ID: u64 = 0xFFFF << 32;
        (from.address(), from.rest() & !(MARKS | ID))
    }

    #[inline]
    fn write_table(to: &Descriptor, entry: Entry, _next: u16) {
        // All entries of a table form the chain; `WRITE` is the only flag that counts (§2.8.8).
        let flags = entry.flags & DescriptorFlags::WRITE;
        to.store(entry.address, encode(Entry { flags, ..entry }, 0));
    }

    fn prepare_table(&self, _id: u16, _table: Entry) {}

    #[expect(
        clippy::cast_possible_truncation,
        reason = "ids are slots, below 32768"
    )]
    fn tell(to: &Descriptor, at: Position, id: Option<u32>) {
        /// One mark of the two: used in neither round.
        const NEVER: u64 = (DescriptorFlags::AVAIL.bits() as u64) << 48;
        let rest = match id {
            Some(id) if Self::wrap(at) => u64::from(id as u16) << 32 | MARKS,
            Some(id) => u64::from(id as u16) << 32,
            None => NEVER,
        };
        to.store(0, rest);
    }

    #[inline]
    fn post_table(&self, chain: Position, id: u16, table: Entry, _post: Post) {
        self.write(chain, id, table);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const N: usize = 8;

    proptest! {
        #[test]
        fn packed_need_event_agrees_with_counting(start: u32, added in 0..=8_u32, ahead in 0..24_u32) {
            let old = Position::new(start);
            let new = old.advanced(added);
            // Any position from one ring before `old` on: a device asks for the next it will use, never further.
            let event = Position::new(start.wrapping_sub(8).wrapping_add(ahead.min(15)));
            let asked_for = (0..added).any(|n| old.advanced(n) == event);
            let encoded = Packed::<N>::encode(event);
            let needed = need_event_packed::<N>(encoded, old, new);
            // A position and that of two rounds later look alike; within the two rounds before `new` they do not.
            if new.since(event) <= 16 {
                prop_assert_eq!(needed, asked_for);
            }
        }
    }

    #[test]
    fn marks_follow_the_round() {
        assert_eq!(
            Packed::<N>::available(Position::new(7)),
            DescriptorFlags::AVAIL
        );
        assert_eq!(
            Packed::<N>::available(Position::new(8)),
            DescriptorFlags::USED
        );
        assert_eq!(
            Packed::<N>::available(Position::new(16)),
            DescriptorFlags::AVAIL
        );
        assert_eq!(Packed::<N>::encode(Position::new(3)), 0x8003);
        assert_eq!(Packed::<N>::encode(Position::new(11)), 3);
    }
}
