//! Sending: the data half of a transmit queue, the same for every layout and access mode.
#![expect(
    unsafe_code,
    reason = "moves segments between list, ring and pool as words"
)]

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
    /// No frame has had several segments yet, so that what was prepared still holds.
    only_single: bool,
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
        format.prepare_single();
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
            only_single: true,
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

    /// Writes frames that are one segment each, as many from the front of `frames` as there are and fit.
    #[inline]
    fn submit_whole(&mut self, frames: &mut SegmentList<'_>) {
        match (self.header, self.only_single) {
            (HeaderSource::Queue, true) => self.submit_run::<true, false>(frames),
            (HeaderSource::Queue, false) => self.submit_run::<true, true>(frames),
            (HeaderSource::Application, _) => self.submit_run::<false, true>(frames),
        }
    }

    /// The same, with what does not change in the loop decided outside: whether to `CLEAR` the header, and to `OFFER` each
    /// frame where what was prepared no longer holds.
    #[inline]
    fn submit_run<const CLEAR: bool, const OFFER: bool>(&mut self, frames: &mut SegmentList<'_>) {
        let (format, arena) = (self.format, self.arena.again());
        let (start, mut head) = (self.head, self.head);
        let behind = self.chains.since(start);
        let count = frames.len().min(self.room() as usize);
        for segment in frames.segments_mut().get_mut(..count).unwrap_or_default() {
            if !segment.is_whole_frame() {
                break;
            }
            let (index, buffer) = (slot(head, N), segment.index());
            let entry = Entry {
                address: arena.buffer_iova(buffer).as_u64() - Header::LEN as u64,
                len: segment_len(segment) + HEADER,
                flags: DescriptorFlags::empty(),
            };
            if CLEAR {
                *arena.whole_header_mut(segment) = [0_u8; Header::LEN];
            }
            // SAFETY: the segment is removed from the list below, and the free place's word is no segment.
            unsafe { self.in_flight.exchange(index, buffer.into()) };
            format.write(head, id(index), entry);
            if OFFER {
                format.offer(head.advanced(behind), id(index));
            }
            head = head.after();
        }
        self.head = head;
        self.chains = self.chains.advanced(head.since(start));
        // SAFETY: so many segments were moved into `in_flight`.
        unsafe { frames.remove(head.since(start) as usize) };
    }

    /// Writes the descriptor of the first segment of a frame that has several.
    fn write_first(&mut self, at: Position, mut segment: Segment) {
        if self.header == HeaderSource::Queue
            && let Some(header) = self.arena.header_array_mut(&mut segment)
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
        self.only_single = false;
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

    /// Writes frames of several segments, and of one between them, as long as there is room.
    #[cold]
    fn submit_general(&mut self, frames: &mut SegmentList<'_>) -> Result<(), RingError> {
        while self.submit_chain(frames)? {
            self.submit_whole(frames);
        }
        Ok(())
    }

    /// Writes the first of `frames`, which is not a frame of one segment; `false` where there is none, or no room for it.
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

    /// Takes back frames of one segment each while the device returns them in order, which it does as a rule; at most
    /// `limit`. Returns their number.
    ///
    /// `SAME` where the next completion is at the position of the oldest descriptor.
    #[inline]
    fn free_in_step<const SAME: bool>(&mut self, limit: u32, pool: &mut Pool<'_>) -> u32 {
        let (format, start) = (self.format, self.freed);
        let behind = if SAME { 0 } else { self.used.since(start) };
        let mut freed = start;
        let vacant = pool.vacant_words();
        let count = vacant.len().min(limit as usize);
        for place in vacant.get_mut(..count).unwrap_or_default() {
            let index = slot(freed, N);
            let Some(Used { id, .. }) = format.used(freed.advanced(behind)) else {
                break;
            };
            if id as usize != index || !self.in_flight.is_single(index) {
                break;
            }
            // SAFETY: the segment is given to the pool below.
            *place = unsafe { self.in_flight.take_word(index) };
            freed = freed.after();
        }
        let count = freed.since(start);
        self.freed = freed;
        self.used = self.used.advanced(count);
        self.returned = self.returned.advanced(count);
        // SAFETY: so many words of segments were moved out of `in_flight`, and they are cleared: single ones have no flag.
        unsafe { pool.add(count as usize) };
        count
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

    /// Takes back frames before `end` in whatever order and number of segments; the number of segments.
    #[cold]
    fn free_general(&mut self, end: Position, pool: &mut Pool<'_>) -> Result<u32, RingError> {
        let mut total = 0;
        while self.returned != end
            && let Some(used) = self.format.used(self.used)
        {
            total += self.free_used(used, end, pool)?;
        }
        self.pass_freed();
        Ok(total)
    }

    /// Takes back what the completion `used` is about, at most the frames before `end`; the number of segments.
    #[inline]
    fn free_used(
        &mut self,
        used: Used,
        end: Position,
        pool: &mut Pool<'_>,
    ) -> Result<u32, RingError> {
        let index = used.id as usize;
        let oldest = slot(self.freed, N);
        if index == oldest || self.order == Order::Any {
            let count = self.free(index, pool).ok_or(RingError::Id(used.id))?;
            if index == oldest {
                self.freed = self.freed.advanced(count);
            }
            return Ok(count);
        }
        self.free_until(used, end, pool)
    }

    /// With `IN_ORDER`, one completion may stand for all frames up to the one it names (§2.7.9).
    #[cold]
    fn free_until(
        &mut self,
        used: Used,
        end: Position,
        pool: &mut Pool<'_>,
    ) -> Result<u32, RingError> {
        let mut total = 0;
        while self.returned != end {
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
        self.submit_whole(frames);
        let result = if frames.is_empty() {
            Ok(())
        } else {
            self.submit_general(frames)
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
        let start = self.returned;
        let ready = self.format.ready(self.used, self.in_flight())?;
        let end = start.advanced(ready);
        let mut total = if self.used == self.freed {
            self.free_in_step::<true>(ready, pool)
        } else {
            self.free_in_step::<false>(ready, pool)
        };
        if self.returned != end {
            total += self.free_general(end, pool)?;
        }
        self.sent += u64::from(self.returned.since(start));
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
