//! Receiving: the data half of a receive queue, the same for every layout and access mode.
#![expect(
    unsafe_code,
    reason = "moves segments between pool, ring and list as words"
)]

use parakernel_core::{
    memory::{Arena, ArenaLayout, Pool, Segment, SegmentList},
    queue::{Doorbell, RxQueue},
    ring::Position,
};

use crate::{
    error::RingError,
    header::Header,
    slots::Slots,
    virtqueue::{Order, ReceiveFormat, Used, slot},
};

/// How many buffers a frame may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Spread {
    /// One: `MRG_RXBUF` was not agreed on.
    Single,
    /// As many as it needs: `MRG_RXBUF`.
    Merged,
}

/// A receive queue of `N` entries.
///
/// Buffers are armed in the order of the ring; each is one descriptor, from the header before the frame to the end of
/// the buffer. Whatever the device returns is checked before it is used.
#[derive(Debug)]
pub struct Receiver<F, D, const N: usize> {
    format: F,
    doorbell: D,
    armed: Slots<N>,
    /// First position whose completion was not taken yet.
    next: Position,
    /// Where the next buffer will be armed.
    tail: Position,
    /// Bytes of a buffer, header included.
    posted: u32,
    order: Order,
    spread: Spread,
    /// Completions that the device left unsaid, with the one that it said.
    unsaid: Unsaid,
    received: u64,
}

/// A run of buffers that one completion stands for, with `IN_ORDER`.
#[derive(Debug, Clone, Copy)]
struct Unsaid {
    /// Buffers of the run that were not taken yet.
    left: u32,
    /// Bytes in the last of them; the others are full.
    len: u32,
}

impl<F: ReceiveFormat, D: Doorbell, const N: usize> Receiver<F, D, N> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "rings have at most 32768 entries"
    )]
    const ENTRIES: u32 = N as u32;

    /// A queue with nothing armed, for buffers of `layout`.
    ///
    /// `None` where the layout has no room for the header before a frame, or more buffers than can be armed, or where
    /// the ring does not have `N` entries.
    #[must_use]
    pub fn new(
        format: F,
        doorbell: D,
        layout: &ArenaLayout,
        (order, spread): (Order, Spread),
    ) -> Option<Self> {
        let has_room = layout.header as usize == Header::LEN && layout.is_valid();
        if F::ENTRIES != N || !has_room || !format.fits(layout.count) {
            return None;
        }
        let posted = u32::try_from(Header::LEN + layout.capacity()).ok()?;
        format.prepare(posted);
        Some(Self {
            format,
            doorbell,
            armed: Slots::new(),
            next: Position::START,
            tail: Position::START,
            posted,
            order,
            spread,
            unsaid: Unsaid { left: 0, len: 0 },
            received: 0,
        })
    }

    /// Number of frames received so far.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Number of buffers that the device has.
    #[must_use]
    pub const fn armed(&self) -> u32 {
        self.tail.since(self.next)
    }

    /// The position whose completion comes next: what to ask an interrupt for.
    #[must_use]
    pub const fn next(&self) -> Position {
        self.next
    }

    /// The ring.
    #[must_use]
    pub const fn format(&self) -> &F {
        &self.format
    }

    /// Gives the buffers of a queue that was stopped back to `pool`, and returns the doorbell.
    ///
    /// Only after the device has confirmed that the queue is reset: until then it may write to the buffers.
    pub fn dismantle(mut self, pool: &mut Pool<'_>) -> D {
        for index in 0..N {
            if let Some(segment) = self.armed.take(index) {
                pool.put(segment);
            }
        }
        self.doorbell
    }

    /// Takes frames of one buffer each, while the device returns the buffers of a full ring in order, which it does as
    /// a rule; at most `limit`. Each is replaced in its place. Returns the number of frames.
    #[inline]
    fn poll_in_step(
        &mut self,
        limit: usize,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
    ) -> u32 {
        let fresh = pool.next_words(limit).unwrap_or_default();
        let places = frames.vacant_words().get_mut(..fresh.len());
        let run = (fresh, places.unwrap_or_default());
        let taken = match self.spread {
            // SAFETY: the words move below.
            Spread::Single => unsafe { self.swap_run::<false>(run, pool.arena()) },
            // SAFETY: the words move below.
            Spread::Merged => unsafe { self.swap_run::<true>(run, pool.arena()) },
        };
        self.next = self.next.advanced(taken);
        self.tail = self.tail.advanced(taken);
        // SAFETY: the words of so many segments were moved into `armed`.
        unsafe { pool.remove(limit, taken as usize) };
        // SAFETY: so many words of segments were moved out of `armed`, with a length that fits.
        unsafe { frames.add(taken as usize) };
        taken
    }

    /// Arms the buffers `fresh` in the places of those that were filled, whose frames go into `places`; as many as were
    /// returned in step. A function of its own, so that the loop has the registers to itself.
    ///
    /// # Safety
    ///
    /// As many of the first words of `fresh` as the result says must be used no more; as many of `places` then are
    /// segments.
    #[inline(never)]
    unsafe fn swap_run<const MERGED: bool>(
        &mut self,
        (fresh, places): (&[u32], &mut [u32]),
        arena: &Arena<'_>,
    ) -> u32 {
        let (format, posted, arena) = (self.format, self.posted, arena.again());
        let mut next = self.next;
        for (&word, place) in fresh.iter().zip(places) {
            let index = slot(next, N);
            let Some(used) = format.used(next) else { break };
            if used.id as usize != index || (MERGED && self.buffers(index, &arena) != Some(1)) {
                break;
            }
            // What is wrong with it, and what to do then, is for the general case to say.
            let Ok(len) = frame_len(used, posted) else {
                break;
            };
            // SAFETY: by the contract of this function.
            let done = unsafe { self.armed.exchange(index, word) };
            *place = done | len << 16;
            let address = address(&arena, (word & 0xFFFF) as u16);
            format.arm(next.advanced(Self::ENTRIES), id(index), address, posted);
            next = next.after();
        }
        next.since(self.next)
    }

    /// Takes up to `budget` frames, of those before `end`, in whatever order and buffers they are, and arms what is free.
    #[cold]
    fn poll_general(
        &mut self,
        end: Position,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, RingError> {
        let mut taken = 0;
        while taken < budget && self.poll_one(end, pool, frames)? {
            taken += 1;
        }
        if taken > 0 {
            self.arm_free(pool);
        }
        Ok(taken)
    }

    /// Takes one frame in whatever buffers it is; `false` where there is none, or no room, or no fresh buffers for it.
    fn poll_one(
        &mut self,
        end: Position,
        pool: &Pool<'_>,
        frames: &mut SegmentList<'_>,
    ) -> Result<bool, RingError> {
        let Some(used) = self.completion(end)? else {
            return Ok(false);
        };
        let count = self.buffer_count(used, pool)?;
        // A sealed buffer is armed again itself, once the application has returned it: no other can take its place.
        let fresh = if F::IN_PLACE { pool.free() } else { usize::MAX };
        if usize::from(count) > frames.room().min(fresh) {
            return Ok(false);
        }
        for number in 1..=count {
            // All buffers of a frame come at once (§5.1.6.4.2).
            let used = self.completion(end)?;
            let used = used.ok_or(RingError::BufferCount(count))?;
            let segment = self.take(used, number == 1)?.with_more(number < count);
            let pushed = frames.push(segment);
            debug_assert!(pushed.is_ok(), "room was checked above");
        }
        Ok(true)
    }

    /// What the device said of the next buffer, or left unsaid: with `IN_ORDER` one completion may stand for all
    /// buffers up to the one it names, and those before that were filled (§2.7.9).
    fn completion(&mut self, end: Position) -> Result<Option<Used>, RingError> {
        let id = u32::from(id(slot(self.next, N)));
        if self.unsaid.left == 0 {
            if self.next == end {
                return Ok(None);
            }
            let Some(used) = self.format.used(self.next) else {
                return Ok(None);
            };
            if self.order == Order::Any || used.id == id {
                return Ok(Some(used));
            }
            let skipped = used.id.wrapping_sub(id) & (Self::ENTRIES - 1);
            if used.id >= Self::ENTRIES || skipped >= end.since(self.next) {
                return Err(RingError::Id(used.id));
            }
            self.unsaid = Unsaid {
                left: skipped + 1,
                len: used.len,
            };
        }
        let is_last = self.unsaid.left == 1;
        let len = if is_last {
            self.unsaid.len
        } else {
            self.posted
        };
        Ok(Some(Used { id, len }))
    }

    /// In how many buffers the frame is whose first buffer is `used`.
    fn buffer_count(&self, used: Used, pool: &Pool<'_>) -> Result<u16, RingError> {
        if self.spread == Spread::Single {
            return Ok(1);
        }
        let count = self.buffers(used.id as usize, pool.arena());
        let count = count.ok_or(RingError::Id(used.id))?;
        if count == 0 || usize::from(count) > N {
            return Err(RingError::BufferCount(count));
        }
        Ok(count)
    }

    /// What the header in the buffer at `index` says; `None` where there is no buffer.
    #[inline]
    fn buffers(&self, index: usize, arena: &Arena<'_>) -> Option<u16> {
        let buffers = |segment: &Segment| {
            let header = arena.header(segment).first_chunk::<{ Header::LEN }>()?;
            let [.., low, high] = *header;
            Some(u16::from_le_bytes([low, high]))
        };
        self.armed.peek(index, buffers).flatten()
    }

    /// Takes the buffer that `used` is about.
    fn take(&mut self, used: Used, is_first: bool) -> Result<Segment, RingError> {
        let len = if is_first {
            frame_len(used, self.posted)?
        } else if used.len > self.posted {
            return Err(length_error(used, self.posted));
        } else {
            used.len
        };
        let segment = self.armed.take(used.id as usize);
        let segment = segment.ok_or(RingError::Id(used.id))?;
        self.next = self.next.after();
        self.unsaid.left = self.unsaid.left.saturating_sub(1);
        // Further buffers of a frame begin where the header of the first one does.
        Ok(segment.with_len(len as usize).with_early(!is_first))
    }

    /// Arms buffers in free slots and returns their number; nothing is published yet.
    fn arm_free(&mut self, pool: &mut Pool<'_>) -> u32 {
        let start = self.tail;
        while self.armed() < Self::ENTRIES {
            let Some(fresh) = pool.take() else { break };
            let id = self.format.id(self.tail, fresh.index());
            if !self.armed.is_free(id.into()) {
                // The device returns buffers out of order, and still has the one whose turn it is.
                pool.put(fresh);
                break;
            }
            let address = address(pool.arena(), fresh.index());
            self.armed.put(id.into(), fresh.cleared());
            self.format.arm(self.tail, id, address, self.posted);
            self.tail = self.tail.after();
        }
        self.tail.since(start)
    }

    fn publish(&mut self) {
        self.format.publish(self.tail);
        self.doorbell.ring(self.tail);
    }
}

impl<F: ReceiveFormat, D: Doorbell, const N: usize> RxQueue for Receiver<F, D, N> {
    type Error = RingError;

    fn poll(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, RingError> {
        let start = self.next;
        let outstanding = self.armed();
        let ready = self.format.ready(start, outstanding)?;
        let end = start.advanced(ready);
        let mut taken = 0;
        if F::IN_PLACE && outstanding == Self::ENTRIES && self.unsaid.left == 0 {
            let limit = budget.min(frames.room()).min(pool.free());
            let limit = limit.min(ready as usize);
            let run = self.poll_in_step(limit, pool, frames);
            taken = run as usize;
        }
        if taken < budget && self.next != end {
            taken += self.poll_general(end, pool, frames, budget - taken)?;
        }
        if self.next != start {
            self.publish();
        }
        self.received += taken as u64;
        Ok(taken)
    }

    fn arm(&mut self, pool: &mut Pool<'_>) -> usize {
        let armed = self.arm_free(pool);
        if armed > 0 {
            self.publish();
        }
        armed as usize
    }
}

/// Where the device finds the header before the frame in a fresh buffer.
#[inline]
fn address(arena: &Arena<'_>, buffer: u16) -> u64 {
    arena.buffer_iova(buffer).as_u64() - Header::LEN as u64
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "slots are below 32768")]
const fn id(index: usize) -> u16 {
    index as u16
}

/// Bytes of a frame, or of its first part: what the device wrote less the header, at least one byte.
#[inline]
fn frame_len(used: Used, posted: u32) -> Result<u32, RingError> {
    #[expect(clippy::cast_possible_truncation, reason = "12")]
    const HEADER: u32 = Header::LEN as u32;
    let len = used.len.wrapping_sub(HEADER);
    // One compare for both ends: a length below the header's wraps to a huge one, and so does an empty frame.
    if len.wrapping_sub(1) >= posted - HEADER {
        return Err(length_error(used, posted));
    }
    Ok(len)
}

#[cold]
const fn length_error(used: Used, posted: u32) -> RingError {
    RingError::Length {
        len: used.len,
        posted,
    }
}
