use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::{RegionTable, RegionWindow},
    ring::Position,
    validate::{DescriptorValidator, Validated, Violation},
};

use super::{Seal, Tracking, busy, id};
use crate::{
    error::RingError,
    header::Header,
    virtqueue::{DescriptorFlags, Entry, Format, Used, slot},
};

/// The most segments that a process's frame may have. A jumbo frame of 9,000 bytes takes five buffers of 2 KiB.
pub const MAX_SEGMENTS: u32 = 16;

/// A part of a frame to be sent, its header stripped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FramePart {
    /// Its first byte, on the bus.
    pub address: BusAddress,
    /// Length in bytes, not 0.
    pub len: u32,
    /// Slot of the frame's first descriptor: the id of the frame.
    pub frame: u16,
    /// Whether the frame ends here; only then may anything of it be posted.
    pub is_last: bool,
}

impl FramePart {
    /// A whole frame that takes `len` bytes with its header, at most 2³².
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "checked before")]
    const fn whole(address: BusAddress, len: u64, frame: u16) -> Self {
        Self {
            address,
            len: (len - Header::LEN as u64) as u32,
            frame,
            is_last: true,
        }
    }
}

/// How much of a frame was accepted so far.
#[derive(Clone, Copy, Debug, Default)]
struct Begun {
    parts: u32,
    bytes: u32,
}

/// An Ethernet header: shorter frames are none.
const MIN_FRAME: u32 = 14;

/// Checks the entries of a transmit ring, one part of a frame after the other.
///
/// A frame's entries follow each other in the ring, and the frame ends at the first that does not say `NEXT`. Nothing
/// else is taken from an entry's flags, nor anything from the header before the frame, which the kernel replaces.
#[derive(Debug)]
pub struct TransmitValidator<const N: usize> {
    /// Where the next entry is read.
    next: Position,
    /// The oldest entry that the device may have.
    oldest: Position,
    begun: Begun,
    /// The longest frame, in bytes.
    max_frame: u32,
    tracking: Tracking,
    /// For each slot from `oldest` to `next`: the number of parts of the frame that begins there, or
    /// [`FURTHER`](Self::FURTHER), or 0 where it was returned.
    parts: [u8; N],
}

impl<const N: usize> TransmitValidator<N> {
    /// A slot that is busy with a further part of a frame.
    const FURTHER: u8 = u8::MAX;
    #[expect(clippy::cast_possible_truncation, reason = "12")]
    const HEADER: u32 = Header::LEN as u32;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rings have at most 32768 entries"
    )]
    const ENTRIES: u32 = N as u32;

    /// A validator for frames of up to `max_frame` bytes, at least 14.
    #[must_use]
    pub const fn new(max_frame: u32) -> Self {
        Self {
            next: Position::START,
            oldest: Position::START,
            begun: Begun { parts: 0, bytes: 0 },
            max_frame,
            tracking: Tracking::Single,
            parts: [0; N],
        }
    }

    /// Where the next entry is read.
    #[inline]
    #[must_use]
    pub const fn next(&self) -> Position {
        self.next
    }

    /// Takes note of up to `ready` completions of frames of one part that come in order, from `at` on in the ring `used`;
    /// how many that were.
    #[inline]
    pub(crate) fn take_run(&mut self, used: &impl Format, at: Position, ready: u32) -> u32 {
        let start = self.oldest;
        let ready = ready.min(self.next.since(start));
        let count = match self.tracking {
            Tracking::Single if at == start => used.in_step(at, ready),
            Tracking::Single | Tracking::InOrder => {
                let mut count = 0;
                while count < ready
                    && let Some(Used { id, .. }) = used.used(at.advanced(count))
                    && id as usize == slot(start.advanced(count), N)
                    && (self.tracking == Tracking::Single || self.parts[id as usize & (N - 1)] == 1)
                {
                    count += 1;
                }
                count
            }
            Tracking::Marked => 0,
        };
        self.oldest = start.advanced(count);
        if self.oldest == self.next {
            self.tracking = Tracking::Single;
        }
        count
    }

    /// Takes note that the device returned frame `id`; its number of parts.
    ///
    /// # Errors
    ///
    /// Where that is none that the device had.
    #[cold]
    pub fn take_back(&mut self, id: u32) -> Result<u32, RingError> {
        self.mark();
        let index = id as usize;
        let is_device = index < N && self.is_outstanding(index);
        let parts = self
            .parts
            .get(index)
            .copied()
            .filter(|_| is_device)
            .unwrap_or(0);
        if parts == 0 || parts == Self::FURTHER {
            return Err(RingError::Id(id));
        }
        for part in 0..usize::from(parts) {
            self.parts[(index + part) & (N - 1)] = 0;
        }
        // Until the oldest frame is back, the slots behind it go by their marks.
        self.tracking = Tracking::Marked;
        while self.oldest != self.next && self.parts[slot(self.oldest, N)] == 0 {
            self.oldest = self.oldest.after();
        }
        if self.oldest == self.next {
            self.tracking = Tracking::Single;
        } else if self.has_no_gap() {
            self.tracking = Tracking::InOrder;
        }
        Ok(parts.into())
    }

    /// Writes down how many parts frames have, where all have one so far.
    fn mark(&mut self) {
        if self.tracking == Tracking::Single {
            self.tracking = Tracking::InOrder;
            for ahead in 0..self.next.since(self.oldest) {
                self.parts[slot(self.oldest.advanced(ahead), N)] = 1;
            }
        }
    }

    /// Whether `index` lies between the oldest entry and the next.
    fn is_outstanding(&self, index: usize) -> bool {
        let ahead = index.wrapping_sub(slot(self.oldest, N)) & (N - 1);
        ahead < self.next.since(self.oldest) as usize
    }

    fn has_no_gap(&self) -> bool {
        let count = self.next.since(self.oldest);
        (0..count).all(|ahead| self.parts[slot(self.oldest.advanced(ahead), N)] != 0)
    }

    /// Checks entries that are a whole frame each, which `copy` reads by their slot as an address and a length that is
    /// too large where the entry is something else, and hands them to `write`; up to `limit` or the first that is
    /// something else, does not lie well inside `window`, or whose slot is not free.
    #[inline]
    pub(crate) fn check_run(
        &mut self,
        limit: u32,
        window: &RegionWindow,
        copy: impl Fn(usize) -> (u64, u64),
        mut write: impl FnMut(Validated<Self>),
    ) -> u32 {
        const SHORTEST: u64 = (Header::LEN + MIN_FRAME as usize) as u64;
        let window = window.narrowed(self.max_frame.into());
        let span = u64::from(self.max_frame - MIN_FRAME);
        let is_single = self.tracking == Tracking::Single;
        let start = self.next;
        let mut at = start;
        let end = at.advanced(limit.min(self.free()));
        while at != end {
            let index = slot(at, N);
            let (address, len) = copy(index);
            // A length below that of the shortest frame and its header wraps to a huge one.
            if len.wrapping_sub(SHORTEST) > span {
                break;
            }
            let Some(address) = window.translate(behind_header(address), 1) else {
                break;
            };
            if !is_single {
                self.parts[index] = 1;
            }
            let part = FramePart::whole(address, len, id(index));
            write(Validated::new(part, Seal(())));
            at = at.after();
        }
        self.next = at;
        at.since(start)
    }

    /// Entries that can be accepted before one is met that the device may still have.
    #[inline]
    const fn free(&self) -> u32 {
        Self::ENTRIES - self.next.since(self.oldest)
    }

    /// Checks the next entry.
    #[cold]
    pub(crate) fn check(
        &mut self,
        entry: Entry,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        let Begun { parts, .. } = self.begun;
        let index = slot(self.next, N);
        let head = index.wrapping_sub(parts as usize) & (N - 1);
        let is_last = !entry.flags.contains(DescriptorFlags::NEXT);
        self.check_place(&entry, index, head)?;
        let len = self.check_len(&entry, is_last)?;
        let address = if parts == 0 {
            behind_header(entry.address)
        } else {
            Iova::new(entry.address)
        };
        let address = regions.translate(address, len.into(), Direction::ToDevice)?;
        self.mark();
        self.parts[index] = Self::FURTHER;
        self.next = self.next.after();
        self.begun.parts = parts + 1;
        self.begun.bytes += len;
        if is_last {
            self.finish(head);
        }
        let part = FramePart {
            address,
            len,
            frame: id(head),
            is_last,
        };
        Ok(Validated::new(part, Seal(())))
    }

    /// Whether the entry says nothing but that its frame goes on, its slot is free, and its frame is not too long.
    fn check_place(&self, entry: &Entry, index: usize, head: usize) -> Result<(), Violation> {
        let goes_on = entry.flags.contains(DescriptorFlags::NEXT);
        let parts = self.begun.parts + 1 + u32::from(goes_on);
        if !(entry.flags - DescriptorFlags::NEXT).is_empty() {
            return Err(Violation::Forbidden {
                field: entry.flags.bits().into(),
            });
        }
        if self.free() == 0 {
            return Err(busy(index));
        }
        if parts > MAX_SEGMENTS {
            return Err(Violation::Chain {
                head: id(head).into(),
            });
        }
        Ok(())
    }

    /// The part's bytes, the header not counted, where that is at least one and the frame has a length it may have.
    fn check_len(&self, entry: &Entry, is_last: bool) -> Result<u32, Violation> {
        let Begun { parts, bytes } = self.begun;
        let header = if parts == 0 { Self::HEADER } else { 0 };
        let len = entry.len.checked_sub(header).filter(|&len| len > 0);
        let frame = len.and_then(|len| bytes.checked_add(len));
        let min = if is_last { MIN_FRAME } else { 0 };
        match (len, frame) {
            (Some(len), Some(frame)) if (min..=self.max_frame).contains(&frame) => Ok(len),
            _ => Err(Violation::Length {
                len: entry.len.into(),
            }),
        }
    }

    /// Marks the frame that begins at `head` as complete.
    fn finish(&mut self, head: usize) {
        let parts = core::mem::take(&mut self.begun).parts;
        // At most `MAX_SEGMENTS`.
        self.parts[head & (N - 1)] = u8::try_from(parts).unwrap_or(Self::FURTHER - 1);
    }
}

/// The first byte of the frame. The header before it is read by nobody; where the sum wraps, the wrapped address is
/// what is checked and used.
#[inline]
const fn behind_header(address: u64) -> Iova {
    Iova::new(address.wrapping_add(Header::LEN as u64))
}

impl<const N: usize> DescriptorValidator for TransmitValidator<N> {
    /// The next entry of the ring. Only what belongs to a whole frame may be posted: see [`FramePart::is_last`].
    type Submission = Entry;
    type Accepted = FramePart;
    type Seal = Seal;

    fn validate(
        &mut self,
        entry: Entry,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        self.check(entry, regions)
    }
}

#[cfg(test)]
mod tests {
    use parakernel_core::{
        address::NodeId,
        handle::{ProcessId, Slot},
        memory::{Extent, ExtentSlot, PAGE_SIZE, PageSlot, Region, RegionStorage},
    };

    use super::*;

    /// One page that devices may read, and behind it one that they may only write.
    const READABLE: u64 = 0x10_0000;
    const WRITABLE: u64 = READABLE + PAGE_SIZE as u64;

    /// Whether a frame of these parts, each of 40 bytes at an address, is accepted.
    fn accept(parts: &[u64]) -> Result<(), Violation> {
        let (mut regions, mut extents) = ([const { Slot::EMPTY }; 2], [ExtentSlot::EMPTY; 2]);
        let storage = RegionStorage {
            regions: &mut regions,
            extents: &mut extents,
            pages: &mut [PageSlot::EMPTY; 2],
        };
        let owner = ProcessId::new(0, 0);
        let mut table = RegionTable::new(owner, Iova::new(READABLE), storage, &[]).unwrap();
        let directions = [Direction::ToDevice, Direction::FromDevice];
        for (iova, direction) in [READABLE, WRITABLE].into_iter().zip(directions) {
            let (iova, len, node) = (Iova::new(iova), PAGE_SIZE as u64, NodeId::new(0));
            let bus = BusAddress::new(iova.as_u64());
            let region = Region {
                iova,
                len,
                direction,
                node,
            };
            table.insert(region, &[Extent { bus, len }]).unwrap();
        }
        let mut validator = TransmitValidator::<32>::new(1514);
        for (index, &address) in parts.iter().enumerate() {
            let mut flags = DescriptorFlags::NEXT;
            flags.set(DescriptorFlags::NEXT, index + 1 < parts.len());
            let entry = Entry {
                address,
                len: 40,
                flags,
            };
            validator.check(entry, &table)?;
        }
        Ok(())
    }

    #[test]
    fn a_frame_has_as_many_parts_as_a_table_has_entries_for() {
        const MOST: usize = MAX_SEGMENTS as usize;
        assert_eq!(accept(&[READABLE; MOST]), Ok(()));
        let refused = accept(&[READABLE; MOST + 1]);
        assert!(
            matches!(refused, Err(Violation::Chain { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn every_part_is_memory_that_devices_may_read() {
        assert_eq!(accept(&[READABLE, READABLE]), Ok(()));
        for parts in [[READABLE, WRITABLE], [WRITABLE, READABLE]] {
            let refused = accept(&parts);
            assert!(
                matches!(refused, Err(Violation::Direction { .. })),
                "{refused:?}"
            );
        }
    }
}
