//! The two layouts of a virtqueue, behind one trait, and the rule that decides on notifications.
#![expect(
    unsafe_code,
    reason = "says that a descriptor consists of atomics only"
)]

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use bitflags::bitflags;
use parakernel_core::{memory::Shared, ring::Position};

use crate::error::RingError;

pub mod packed;
pub mod split;

bitflags! {
    /// Flags of a descriptor, §2.7.5 and §2.8.1.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct DescriptorFlags: u16 {
        /// The chain goes on.
        const NEXT = 1;
        /// The device writes the buffer; else it reads it.
        const WRITE = 2;
        /// The buffer is a table of descriptors.
        const INDIRECT = 4;
        /// Packed rings: the driver's wrap counter when the descriptor was made available.
        const AVAIL = 1 << 7;
        /// Packed rings: the device's wrap counter when it was used; the opposite of `AVAIL` until then.
        const USED = 1 << 15;
    }
}

/// What a descriptor says: so many bytes at an address, and which way they go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// First byte: an [`Iova`](parakernel_core::address::Iova) in a process's ring, a
    /// [`BusAddress`](parakernel_core::address::BusAddress) in a device's.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// `NEXT`, `WRITE` and `INDIRECT`; a ring adds what else it needs.
    pub flags: DescriptorFlags,
}

/// An entry of a descriptor table, an indirect table or a packed ring: 16 bytes, whose second half each layout has in
/// its own way.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct Descriptor {
    address: AtomicU64,
    rest: AtomicU64,
}

const _: () = assert!(size_of::<Descriptor>() == 16);

// SAFETY: two atomics of 8 bytes each, aligned to 16: no padding.
unsafe impl Shared for Descriptor {}

impl Descriptor {
    /// Writes both halves. Whoever sees `rest` by an acquiring load sees all that was written before.
    #[inline]
    fn store(&self, address: u64, rest: u64) {
        self.address.store(address.to_le(), Relaxed);
        self.rest.store(rest.to_le(), Release);
    }

    /// Writes the address alone.
    #[inline]
    pub(crate) fn store_address(&self, address: u64) {
        self.address.store(address.to_le(), Relaxed);
    }

    /// Reads the second half, in one load.
    #[inline]
    fn rest(&self) -> u64 {
        u64::from_le(self.rest.load(Acquire))
    }

    /// Reads the address, in one load.
    #[inline]
    #[must_use]
    pub fn address(&self) -> u64 {
        u64::from_le(self.address.load(Relaxed))
    }
}

/// What the device says of a buffer that it is done with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// The id of the buffer, unchecked.
    pub id: u32,
    /// Bytes that the device wrote, unchecked.
    pub len: u32,
}

/// A ring as data halves and validators use it: some shared references, copied freely.
///
/// Entries are addressed by free-running positions; only these traits know how positions become indices, wrap bits and
/// flags. None of the functions panics on bad memory contents, and none keeps state.
pub trait Format: Copy {
    /// Number of entries.
    const ENTRIES: usize;

    /// How many completions there may be from `next` on, where the device had `outstanding` buffers.
    ///
    /// # Errors
    ///
    /// [`RingError::IndexJump`] where the device claims to have used more than it had.
    fn ready(&self, next: Position, outstanding: u32) -> Result<u32, RingError>;

    /// What the device said at `at`, which is less than [`ready`](Self::ready) entries away, or `None` where it has not
    /// come so far.
    fn used(&self, at: Position) -> Option<Used>;

    /// How many completions from `at` on, `limit` at most, are each of the buffer whose id is the slot that the completion
    /// is in: what a device that keeps order does where each buffer has one descriptor.
    #[inline]
    fn in_step(&self, at: Position, limit: u32) -> u32 {
        let mut count = 0;
        while count < limit
            && let Some(Used { id, .. }) = self.used(at.advanced(count))
            && id as usize == slot(at.advanced(count), Self::ENTRIES)
        {
            count += 1;
        }
        count
    }

    /// Publishes all that was offered or armed before `tail`.
    fn publish(&self, tail: Position);

    /// Whether the device wants to be notified of what was published from `old` on and before `new`.
    ///
    /// Orders the publication before the look: one full barrier, which both layouts need (§2.7.13.4.1, §2.8.21.3).
    fn wants_notification(&self, events: Events, old: Position, new: Position) -> bool;

    /// Asks the device for an interrupt when it uses the entry at `used`, or for none.
    ///
    /// Orders the request before the next look at the ring: look once more before you sleep.
    fn ask_for_interrupt(&self, events: Events, used: Option<Position>);

    /// The value of a notification with `NOTIFICATION_DATA` (§2.9): bits 16 to 31.
    fn notification_data(tail: Position) -> u16;
}

/// A ring that frames are received through: each buffer is a chain of one descriptor.
pub trait ReceiveFormat: Format {
    /// Whether a buffer's id is the slot that it is armed in, so that the next one can take its place.
    const IN_PLACE: bool;

    /// The descriptors from `slot` to the ring's end, where all that arming has to write is their addresses; `None` where
    /// there is more to write.
    fn places(&self, _slot: usize) -> Option<&[Descriptor]> {
        None
    }

    /// Whether each of `count` buffers can be armed.
    fn fits(&self, count: u16) -> bool;

    /// Fills in what never changes where all buffers take `len` bytes.
    fn prepare(&self, len: u32);

    /// The id of the buffer to be armed at `at`, the one with index `buffer` in its arena.
    fn id(&self, at: Position, buffer: u16) -> u16;

    /// Arms a buffer of `len` bytes at `at`.
    fn arm(&self, at: Position, id: u16, address: u64, len: u32);
}

/// A ring that frames are sent through.
///
/// Descriptors are used in the order of the ring, as `IN_ORDER` demands and packed rings want anyway; so the id of a
/// chain is the slot of its first descriptor.
pub trait TransmitFormat: Format {
    /// Writes the descriptor at `at` of the chain `id`. Of several, the chain's first is to be written last.
    fn write(&self, at: Position, id: u16, entry: Entry);

    /// Fills in what never changes as long as each chain is one descriptor, so that none need be offered.
    fn prepare_single(&self);

    /// Makes the chain that starts at slot `head` the one at `chain` among all chains.
    fn offer(&self, chain: Position, head: u16);

    /// Whether tails and completions count descriptors; else they count chains.
    const COUNTS_DESCRIPTORS: bool;

    /// The tail to publish after `chains` chains in `descriptors` descriptors.
    #[inline]
    #[must_use]
    fn tail(descriptors: Position, chains: Position) -> Position {
        if Self::COUNTS_DESCRIPTORS {
            descriptors
        } else {
            chains
        }
    }

    /// How far the ring of completions moves on by a chain of `descriptors` descriptors.
    #[inline]
    #[must_use]
    fn used_step(descriptors: u32) -> u32 {
        if Self::COUNTS_DESCRIPTORS {
            descriptors
        } else {
            1
        }
    }
}

/// A ring that the kernel fills with what it checked of a process's ring of the same layout.
///
/// Frames to be sent are posted as tables of the kernel's, one descriptor each.
pub trait CheckedFormat: ReceiveFormat + TransmitFormat {
    /// Whether the process reads copies of completions: a chain takes as many entries of its ring as it has descriptors,
    /// and one of the kernel's.
    const COPIES_COMPLETIONS: bool;

    /// What the process wrote into the descriptor `from` of its own ring; each half is read once.
    fn copy(from: &Descriptor) -> Entry;

    /// The same for an entry that is expected to have no flags: its address, and its length, which is above 32 bits
    /// where it has flags after all.
    fn copy_plain(from: &Descriptor) -> (u64, u64);

    /// Writes entry `index` of a table, `next` of which follows it where `entry.flags` say so.
    fn write_table(to: &Descriptor, entry: Entry, next: u16);

    /// Writes what never changes of a buffer with `id` whose table is `table`.
    fn prepare_table(&self, id: u16, table: Entry);

    /// Tells the process, in the copy of the completion at `at`, that chain `id` of its ring was used; or, where that is
    /// `None`, nothing, in no round.
    fn tell(to: &Descriptor, at: Position, id: Option<u32>);

    /// Posts the table of `id` as chain number `chain`.
    fn post_table(&self, chain: Position, id: u16, table: Entry, post: Post);
}

/// How much of a posting is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Post {
    /// The table is the one prepared, and the chain's number is, and was for all chains before, that of its slot.
    InStep,
    /// The table is the one prepared.
    Prepared,
    /// The table is another.
    Changed,
}

/// How notifications are suppressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Events {
    /// By a flag: all or none.
    Flags,
    /// By the index of one entry; `EVENT_IDX`.
    Index,
}

/// In which order the device returns buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Order {
    /// In any order, each on its own.
    Any,
    /// In the order in which they were made available, and possibly several at once; `IN_ORDER`.
    InOrder,
}

/// Whether a queue that advanced from `old` to `new` must notify the other side, which asked to be told when entry
/// `event` is published.
///
/// Positions are free-running and wrap at 2¹⁶. The rule of §2.7.7.1 and §2.7.10; `vring_need_event` in the
/// specification's header file.
#[inline]
#[must_use]
pub const fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// The slot of `at` in a ring of `entries`, a power of two.
#[inline]
pub(crate) const fn slot(at: Position, entries: usize) -> usize {
    at.as_u32() as usize & (entries - 1)
}

/// The low 16 bits of a position: an index as rings hold it.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "indices are 16 bits wide, §2.7.6"
)]
pub(crate) const fn low16(at: Position) -> u16 {
    at.as_u32() as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// "Notify exactly when one of the entries just published is the one asked for."
        #[test]
        fn need_event_agrees_with_counting(old: u16, added in 0..=1024_u16, event: u16) {
            let published = |n| old.wrapping_add(n);
            let asked_for = (0..added).any(|n| published(n) == event);
            prop_assert_eq!(need_event(event, published(added), old), asked_for);
        }

        #[test]
        fn need_event_holds_near_the_wrap(back in 0..64_u16, added in 0..=128_u16, off in 0..200_u16) {
            let old = 0_u16.wrapping_sub(back);
            let event = old.wrapping_add(off).wrapping_sub(20);
            let asked_for = (0..added).any(|n| old.wrapping_add(n) == event);
            prop_assert_eq!(need_event(event, old.wrapping_add(added), old), asked_for);
        }
    }
}
