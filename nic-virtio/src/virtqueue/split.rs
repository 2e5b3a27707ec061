//! The split layout, §2.7: a table of descriptors, a ring of what is available and a ring of what was used.
#![expect(unsafe_code, reason = "says which types consist of atomics only")]

use core::sync::atomic::{
    AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};

use parakernel_core::{
    memory::{DmaBlock, PAGE_SIZE, Shared, SharedMemory},
    ring::Position,
};

use super::{
    CheckedFormat, Descriptor, DescriptorFlags, Entry, Events, Format, Post, ReceiveFormat,
    TransmitFormat, Used, low16, need_event, slot,
};
use crate::{error::RingError, transport::RingAddresses};

/// The second half of a descriptor, §2.7.5: length in bits 0 to 31, flags in 32 to 47, next in 48 to 63.
#[inline]
fn encode(entry: Entry, next: u16) -> u64 {
    u64::from(entry.len) | u64::from(entry.flags.bits()) << 32 | u64::from(next) << 48
}

/// The available ring, §2.7.6: written by the driver.
#[derive(Debug)]
#[repr(C)]
pub struct Available<const N: usize> {
    flags: AtomicU16,
    index: AtomicU16,
    ring: [AtomicU16; N],
    used_event: AtomicU16,
}

// SAFETY: atomics of 2 bytes, so no padding.
unsafe impl<const N: usize> Shared for Available<N> {}

/// The used ring, §2.7.8: written by the device.
///
/// It is placed 4 bytes behind a multiple of 8, where the specification asks for a multiple of 4 only: so each element
/// is aligned, read in one load, and never spans two cache lines.
#[derive(Debug)]
#[repr(C)]
pub struct UsedArea<const N: usize> {
    before: AtomicU32,
    flags: AtomicU16,
    index: AtomicU16,
    /// Id in bits 0 to 31, length in 32 to 63.
    ring: [AtomicU64; N],
    avail_event: AtomicU16,
    behind: [AtomicU16; 3],
}

const _: () = assert!(size_of::<UsedArea<2>>() == 32);

/// Where the used ring proper begins in a [`UsedArea`]: at its flags.
pub(crate) const USED_OFFSET: usize = 4;

// SAFETY: 4 + 2 + 2 + 8 N + 2 + 6 bytes of atomics, aligned to 8: no padding.
unsafe impl<const N: usize> Shared for UsedArea<N> {}

/// "If set, the other side does not want to be notified": `VIRTQ_AVAIL_F_NO_INTERRUPT`, `VIRTQ_USED_F_NO_NOTIFY`.
const NO_NOTIFICATION: u16 = 1;

/// The available and the used ring, without descriptors.
#[derive(Debug)]
pub struct Rings<'a, const N: usize> {
    available: &'a Available<N>,
    used: &'a UsedArea<N>,
}

impl<const N: usize> Clone for Rings<'_, N> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<const N: usize> Copy for Rings<'_, N> {}

impl<const N: usize> Rings<'_, N> {
    #[inline]
    fn ready(&self, next: Position, outstanding: u32) -> Result<u32, RingError> {
        let index = u16::from_le(self.used.index.load(Acquire));
        let claimed = next.next_with_low16(index).since(next);
        if claimed > outstanding {
            return Err(RingError::IndexJump {
                claimed,
                outstanding,
            });
        }
        Ok(claimed)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "takes the fields apart")]
    fn used(&self, at: Position) -> Used {
        let element = u64::from_le(self.used.ring[slot(at, N)].load(Relaxed));
        Used {
            id: element as u32,
            len: (element >> 32) as u32,
        }
    }

    /// Goes through the ring in runs that do not wrap, which takes fewer instructions.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "slots and counts are below 65536, ids have 32 bits"
    )]
    fn in_step(&self, at: Position, limit: u32) -> u32 {
        let start = slot(at, N);
        let end = start + limit as usize;
        let id = self.in_step_until(start, N.min(end));
        let run = id - start;
        if id < N || id == end {
            return run as u32;
        }
        (run + self.in_step_until(0, end - N)) as u32
    }

    /// The first slot from `start` to `end` whose completion is not of the buffer in that slot, or `end`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "ids have 32 bits")]
    fn in_step_until(&self, start: usize, end: usize) -> usize {
        let ring = self.used.ring.get(..end).unwrap_or_default();
        let mut id = start;
        while id < ring.len() && u64::from_le(ring[id].load(Relaxed)) as u32 == id as u32 {
            id += 1;
        }
        id
    }

    #[inline]
    fn offer(&self, at: Position, head: u16) {
        self.available.ring[slot(at, N)].store(head.to_le(), Relaxed);
    }

    #[inline]
    fn publish(&self, tail: Position) {
        self.available.index.store(low16(tail).to_le(), Release);
    }

    #[inline]
    fn wants_notification(&self, events: Events, old: Position, new: Position) -> bool {
        fence(SeqCst);
        match events {
            Events::Flags => u16::from_le(self.used.flags.load(Relaxed)) & NO_NOTIFICATION == 0,
            Events::Index => {
                let event = u16::from_le(self.used.avail_event.load(Relaxed));
                need_event(event, low16(new), low16(old))
            }
        }
    }

    fn ask_for_interrupt(&self, events: Events, used: Option<Position>) {
        match events {
            Events::Flags => {
                let flags = if used.is_some() { 0 } else { NO_NOTIFICATION };
                self.available.flags.store(flags.to_le(), Relaxed);
            }
            Events::Index => {
                // The flag must stay 0 here (§2.7.7.1); an index that was just passed is as good as none.
                let passed = u16::from_le(self.used.index.load(Relaxed)).wrapping_sub(1);
                let at = used.map_or(passed, low16);
                self.available.used_event.store(at.to_le(), Relaxed);
            }
        }
        fence(SeqCst);
    }
}

/// Implements [`Format`] by the field `rings`.
macro_rules! format_by_rings {
    ($name:ident) => {
        impl<const N: usize> Format for $name<'_, N> {
            const ENTRIES: usize = N;

            #[inline]
            fn ready(&self, next: Position, outstanding: u32) -> Result<u32, RingError> {
                self.rings.ready(next, outstanding)
            }

            #[inline]
            fn used(&self, at: Position) -> Option<Used> {
                Some(self.rings.used(at))
            }

            #[inline]
            fn in_step(&self, at: Position, limit: u32) -> u32 {
                self.rings.in_step(at, limit)
            }

            #[inline]
            fn publish(&self, tail: Position) {
                self.rings.publish(tail);
            }

            #[inline]
            fn wants_notification(&self, events: Events, old: Position, new: Position) -> bool {
                self.rings.wants_notification(events, old, new)
            }

            fn ask_for_interrupt(&self, events: Events, used: Option<Position>) {
                self.rings.ask_for_interrupt(events, used);
            }

            fn notification_data(tail: Position) -> u16 {
                low16(tail)
            }
        }

        impl<const N: usize> Clone for $name<'_, N> {
            #[inline]
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<const N: usize> Copy for $name<'_, N> {}
    };
}

/// A split ring of `N` entries.
#[derive(Debug)]
pub struct Split<'a, const N: usize> {
    descriptors: &'a [Descriptor; N],
    rings: Rings<'a, N>,
}

format_by_rings!(Split);

impl<'a, const N: usize> Split<'a, N> {
    /// Offset of the available ring in a block that holds the whole ring: a page of its own.
    pub const AVAILABLE: usize = (16 * N).next_multiple_of(PAGE_SIZE);
    /// Offset of the used ring's page in a block that holds the whole ring.
    pub const USED: usize = Self::AVAILABLE + size_of::<Available<N>>().next_multiple_of(PAGE_SIZE);
    /// Bytes of a block that holds the whole ring, each area on pages of its own.
    pub const BYTES: usize = Self::USED + size_of::<UsedArea<N>>().next_multiple_of(PAGE_SIZE);

    /// The ring in the three areas, each from its first byte on; `None` where one is too small or not aligned.
    ///
    /// The areas may be of one block or of several, with different rights: a process's ring is its shadow of the
    /// first two and the device's own third.
    #[must_use]
    pub fn new(
        descriptors: SharedMemory<'a>,
        available: SharedMemory<'a>,
        used: SharedMemory<'a>,
    ) -> Option<Self> {
        Some(Self {
            descriptors: descriptors.view(0)?,
            rings: Sealed::new(available, used)?.rings,
        })
    }

    /// The ring in one block of [`BYTES`](Self::BYTES) bytes, aligned to a page.
    #[must_use]
    pub fn in_block(block: SharedMemory<'a>) -> Option<Self> {
        Self::new(
            block,
            block.part(Self::AVAILABLE, Self::USED - Self::AVAILABLE)?,
            block.part(Self::USED, Self::BYTES - Self::USED)?,
        )
    }

    /// Where the device finds the ring in `block`.
    #[must_use]
    pub const fn addresses(block: &DmaBlock<'_>) -> RingAddresses {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 32768, checked in `new`"
        )]
        let entries = N as u16;
        let device = Self::USED + USED_OFFSET;
        RingAddresses::in_block(block, entries, [0, Self::AVAILABLE, device])
    }

    /// Fills the descriptor at `index` of a receive ring that is to be sealed.
    pub(crate) fn seal(&self, index: usize, address: u64) {
        if let Some(descriptor) = self.descriptors.get(index) {
            descriptor.store_address(address);
        }
    }
}

impl<const N: usize> ReceiveFormat for Split<'_, N> {
    const IN_PLACE: bool = true;

    #[inline]
    fn places(&self, slot: usize) -> Option<&[Descriptor]> {
        self.descriptors.get(slot..)
    }

    fn fits(&self, _count: u16) -> bool {
        true
    }

    fn prepare(&self, len: u32) {
        let entry = Entry {
            address: 0,
            len,
            flags: DescriptorFlags::WRITE,
        };
        for descriptor in self.descriptors {
            descriptor.store(0, encode(entry, 0));
        }
        self.prepare_single();
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "slots are below 32768")]
    fn id(&self, at: Position, _buffer: u16) -> u16 {
        slot(at, N) as u16
    }

    #[inline]
    fn arm(&self, at: Position, _id: u16, address: u64, _len: u32) {
        // Length, flags and the available ring's entry are there since `prepare`.
        self.descriptors[slot(at, N)].store_address(address);
    }
}

impl<const N: usize> TransmitFormat for Split<'_, N> {
    const COUNTS_DESCRIPTORS: bool = false;

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "slots are below 32768")]
    fn write(&self, at: Position, _id: u16, entry: Entry) {
        let has_next = entry.flags.contains(DescriptorFlags::NEXT);
        let next = if has_next {
            slot(at.after(), N) as u16
        } else {
            0
        };
        self.descriptors[slot(at, N)].store(entry.address, encode(entry, next));
    }

    fn prepare_single(&self) {
        for (index, place) in (0_u16..).zip(&self.rings.available.ring) {
            place.store(index.to_le(), Relaxed);
        }
    }

    #[inline]
    fn offer(&self, chain: Position, head: u16) {
        self.rings.offer(chain, head);
    }
}

impl<const N: usize> CheckedFormat for Split<'_, N> {
    const COPIES_COMPLETIONS: bool = false;

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "takes the fields apart")]
    fn copy(from: &Descriptor) -> Entry {
        let rest = from.rest();
        Entry {
            address: from.address(),
            len: rest as u32,
            flags: DescriptorFlags::from_bits_retain((rest >> 32) as u16),
        }
    }

    #[inline]
    fn copy_plain(from: &Descriptor) -> (u64, u64) {
        // Flags and `next` lie above the length.
        (from.address(), from.rest())
    }

    #[inline]
    fn write_table(to: &Descriptor, entry: Entry, next: u16) {
        to.store(entry.address, encode(entry, next));
    }

    fn prepare_table(&self, id: u16, table: Entry) {
        if let Some(descriptor) = self.descriptors.get(usize::from(id)) {
            descriptor.store(table.address, encode(table, 0));
        }
    }

    fn tell(_to: &Descriptor, _at: Position, _id: Option<u32>) {}

    #[inline]
    fn post_table(&self, chain: Position, id: u16, table: Entry, post: Post) {
        if post == Post::Changed {
            self.prepare_table(id, table);
        }
        if post != Post::InStep {
            self.rings.offer(chain, id);
        }
    }
}

/// The receive ring of a process in `Sealed` mode: the kernel filled the descriptors, once, and nobody writes them.
///
/// Descriptor `i` is buffer `i` of the process's arena, so a buffer is armed by writing its number into the available
/// ring.
#[derive(Debug)]
pub struct Sealed<'a, const N: usize> {
    rings: Rings<'a, N>,
}

format_by_rings!(Sealed);

impl<'a, const N: usize> Sealed<'a, N> {
    const SIZE_IS_ALLOWED: () = assert!(
        N.is_power_of_two() && N <= 32768,
        "a split ring has a power of two of entries, at most 32768 (§2.7)"
    );

    /// The ring in its two areas, each from its first byte on; `None` where one is too small or not aligned.
    #[must_use]
    pub fn new(available: SharedMemory<'a>, used: SharedMemory<'a>) -> Option<Self> {
        const { Self::SIZE_IS_ALLOWED };
        let rings = Rings {
            available: available.view(0)?,
            used: used.view(0)?,
        };
        Some(Self { rings })
    }
}

impl<const N: usize> ReceiveFormat for Sealed<'_, N> {
    const IN_PLACE: bool = false;

    fn fits(&self, count: u16) -> bool {
        usize::from(count) <= N
    }

    fn prepare(&self, _len: u32) {}

    #[inline]
    fn id(&self, _at: Position, buffer: u16) -> u16 {
        buffer
    }

    #[inline]
    fn arm(&self, at: Position, id: u16, _address: u64, _len: u32) {
        self.rings.offer(at, id);
    }
}
