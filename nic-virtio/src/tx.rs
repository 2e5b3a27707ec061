//! Sending: the data half of a transmit queue, the same for every layout and access mode.

use parakernel_core::{
    memory::{Arena, Pool, Segment, SegmentList},
    queue::{Doorbell, TxQueue},
    ring::Position,
};

use crate::{
    error::RingError,
    header::Header,
    slots::Slots,
    virtqueue::{DescriptorFlags, Entry, Order, TransmitFormat, Used, slot},
};

/// Who writes the header before a frame that is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum HeaderSource {
    /// The queue: all zero, as nothing is left to the device.
    Queue,
    /// The application, in [`Arena::header_mut`] of the first segment, for each frame: with `CSUM`.
    Application,
}

/// A transmit queue of `N` entries.
///
/// Descriptors are used in the order of the ring; a frame takes one for each of its segments, the first of which
/// begins with the header.
#[derive(Debug)]
pub struct Sender<'a, F, D, const N: usize> {
    format: F,
    doorbell: D,
    arena: Arena<'a>,
    in_flight: Slots<N>,
    /// Where the next descriptor will be written.
    head: Position,
    /// Descriptors before this are free again.
    freed: Position,
    /// Frames published so far.
    chains: Position,
    /// Frames returned so far.
    returned: Position,
    /// Where the next completion will be.
    used: Position,
    order: Order,
    header: HeaderSource,
    sent: u64,
}

impl<'a, F: TransmitFormat, D: Doorbell, const N: usize> Sender<'a, F, D, N> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rings have at most 32768 entries"
    )]
    const ENTRIES: u32 = N as u32;

    /// An empty queue for segments of `arena`.
    ///
    /// `None` where the arena has no room for the header before a frame, or the ring does not have `N` entries.
    #[must_use]
    pub fn new(
        format: F,
        doorbell: D,
        arena: Arena<'a>,
        (order, header): (Order, HeaderSource),
    ) -> Option<Self> {
        if F::ENTRIES != N || arena.layout().header as usize != Header::LEN {
            return None;
        }
        Some(Self {
            format,
            doorbell,
            arena,
            in_flight: Slots::new(),
            head: Position::START,
            freed: Position::START,
            chains: Position::START,
            returned: Position::START,
            used: Position::START,
            order,
            header,
            sent: 0,
        })
    }

    /// Number of frames that the device has returned.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Number of frames that the device has.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.chains.since(self.returned)
    }

    /// Number of segments that fit.
    #[must_use]
    pub const fn room(&self) -> u32 {
        Self::ENTRIES - self.head.since(self.freed)
    }

    /// The position of the next completion: what to ask an interrupt for.
    #[must_use]
    pub const fn next(&self) -> Position {
        self.used
    }

    /// The ring.
    #[must_use]
    pub const fn format(&self) -> &F {
        &self.format
    }

    /// Gives the buffers of a queue that was stopped back to `pool`, and returns the doorbell.
    ///
    /// Only after the device has confirmed that the queue is reset: until then it may read the buffers.
    pub fn dismantle(mut self, pool: &mut Pool<'_>) -> D {
        for index in 0..N {
            let segment = self.in_flight.take(index);
            if let Some(segment) = segment.or_else(|| self.in_flight.take_further(index)) {
                pool.put(segment);
            }
        }
        self.doorbell
    }

    /// Writes the descriptor of a frame's first segment, or of its only one.
    #[inline]
    fn write_first(&mut self, at: Position, mut segment: Segment) {
        if self.header == HeaderSource::Queue
            && let Some(header) = self.arena.header_mut(&mut segment).first_chunk_mut()
        {
            *header = [0_u8; Header::LEN];
        }
        let entry = Entry {
            address: self.arena.iova(&segment).as_u64() - Header::LEN as u64,
            len: segment_len(&segment) + HEADER,
            flags: flags(&segment),
        };
        let index = slot(at, N);
        self.in_flight.put(index, segment);
        self.format.write(at, id(index), entry);
        self.format.offer(self.chains, id(index));
        self.chains = self.chains.after();
    }

    /// Writes a frame of several segments, `count` in all; the first descriptor last, as packed rings need it.
    fn write_chain(&mut self, frames: &mut SegmentList<'_>, count: usize) {
        let start = self.head;
        let first = frames.pop();
        let mut at = start;
        for _ in 1..count {
            at = at.after();
            let Some(segment) = frames.pop() else { break };
            let entry = Entry {
                address: self.arena.iova(&segment).as_u64(),
                len: segment_len(&segment),
                flags: flags(&segment),
            };
            self.in_flight.put_further(slot(at, N), segment);
            self.format.write(at, id(slot(start, N)), entry);
        }
        if let Some(first) = first {
            self.write_first(start, first);
            self.head = at.after();
        }
    }

    /// Writes the first of `frames`; `false` where there is none, or no room for it.
    #[inline]
    fn submit_one(&mut self, frames: &mut SegmentList<'_>) -> Result<bool, RingError> {
        let Some(first) = frames.segments().first() else {
            return Ok(false);
        };
        if first.has_more() {
            return self.submit_chain(frames);
        }
        if first.is_empty() || first.is_early() {
            return Err(RingError::Frame { segments: 1 });
        }
        if self.head.since(self.freed) == Self::ENTRIES {
            return Ok(false);
        }
        if let Some(segment) = frames.pop() {
            self.write_first(self.head, segment);
            self.head = self.head.after();
        }
        Ok(true)
    }

    /// The same for a frame of several segments.
    #[cold]
    fn submit_chain(&mut self, frames: &mut SegmentList<'_>) -> Result<bool, RingError> {
        let count = frames.first_frame();
        let segments = frames.segments().get(..count).unwrap_or_default();
        let begins_early = segments.first().is_some_and(Segment::is_early);
        // A device may stop at an empty buffer: QEMU's does, and takes all other queues with it.
        if count > N || begins_early || segments.iter().any(Segment::is_empty) {
            return Err(RingError::Frame { segments: count });
        }
        if count == 0 || count > self.room() as usize {
            return Ok(false);
        }
        self.write_chain(frames, count);
        Ok(true)
    }

    /// Takes the frame whose first segment is at `index` back, and returns its number of segments.
    #[inline]
    fn free(&mut self, index: usize, pool: &mut Pool<'_>) -> Option<u32> {
        let first = self.in_flight.take(index)?;
        let mut more = first.has_more();
        let mut count = 1;
        pool.put(first);
        while more {
            let segment = self.in_flight.take_further(index + count as usize)?;
            more = segment.has_more();
            pool.put(segment);
            count += 1;
        }
        self.returned = self.returned.after();
        self.used = self.used.advanced(F::used_step(count));
        Some(count)
    }

    /// Takes back what the completion `used` is about, and returns the number of segments.
    #[inline]
    fn free_used(&mut self, used: Used, ahead: u32, pool: &mut Pool<'_>) -> Result<u32, RingError> {
        let index = used.id as usize;
        let oldest = slot(self.freed, N);
        if index == oldest || self.order == Order::Any {
            let count = self.free(index, pool).ok_or(RingError::Id(used.id))?;
            if index == oldest {
                self.freed = self.freed.advanced(count);
            }
            return Ok(count);
        }
        self.free_until(used, ahead, pool)
    }

    /// With `IN_ORDER`, one completion may stand for all frames up to the one it names (§2.7.9).
    #[cold]
    fn free_until(
        &mut self,
        used: Used,
        ahead: u32,
        pool: &mut Pool<'_>,
    ) -> Result<u32, RingError> {
        let mut total = 0;
        for _ in 0..ahead.min(self.in_flight()) {
            let index = slot(self.freed, N);
            let count = self.free(index, pool).ok_or(RingError::Id(used.id))?;
            self.freed = self.freed.advanced(count);
            total += count;
            if index == used.id as usize {
                return Ok(total);
            }
        }
        Err(RingError::Id(used.id))
    }

    /// Passes over descriptors that were returned out of order.
    #[inline]
    fn pass_freed(&mut self) {
        while self.freed != self.head && self.in_flight.is_free(slot(self.freed, N)) {
            self.freed = self.freed.after();
        }
    }
}

impl<F: TransmitFormat, D: Doorbell, const N: usize> TxQueue for Sender<'_, F, D, N> {
    type Error = RingError;

    fn submit(&mut self, frames: &mut SegmentList<'_>) -> Result<usize, RingError> {
        let start = self.chains;
        let result = loop {
            match self.submit_one(frames) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let count = self.chains.since(start);
        if count > 0 {
            let tail = F::tail(self.head, self.chains);
            self.format.publish(tail);
            self.doorbell.ring(tail);
        }
        result.map(|()| count as usize)
    }

    fn reclaim(&mut self, pool: &mut Pool<'_>) -> Result<usize, RingError> {
        let progress = self.format.progress(self.used, self.in_flight())?;
        let mut total = 0;
        while let Some(used) = self.format.used(progress, self.used) {
            let before = self.returned;
            let ahead = F::ahead(progress, self.used);
            total += self.free_used(used, ahead, pool)?;
            self.sent += u64::from(self.returned.since(before));
        }
        self.pass_freed();
        Ok(total as usize)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "12")]
const HEADER: u32 = Header::LEN as u32;

#[inline]
fn flags(segment: &Segment) -> DescriptorFlags {
    if segment.has_more() {
        DescriptorFlags::NEXT
    } else {
        DescriptorFlags::empty()
    }
}

#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a segment has at most 16383 bytes"
)]
fn segment_len(segment: &Segment) -> u32 {
    segment.len() as u32
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "slots are below 32768")]
const fn id(index: usize) -> u16 {
    index as u16
}
