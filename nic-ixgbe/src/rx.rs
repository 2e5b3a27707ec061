//! Receiving: the data half of a receive queue, the same in every access mode.
#![expect(
    unsafe_code,
    reason = "moves segments between pool, ring and list as words"
)]

use core::sync::atomic::{Ordering::Acquire, fence};

use parakernel_core::{
    memory::{Arena, ArenaLayout, Pool, Segment, SegmentList, SharedMemory},
    queue::{Doorbell, RxQueue},
    ring::Position,
};

use crate::{
    LINE,
    descriptor::{Completion, RxDescriptor},
    error::RingError,
    offload::{HEADER_LEN, Metadata, Received},
    slot,
};

/// Bytes that the device may write into a buffer of `capacity`: whole KiB, 1 to 16 (§8.2.3.8.7). `None` below one.
#[must_use]
pub const fn buffer_size(capacity: usize) -> Option<u32> {
    let size_kib = capacity / 1024;
    #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
    match size_kib {
        0 => None,
        1..16 => Some(size_kib as u32 * 1024),
        _ => Some(16 * 1024),
    }
}

/// What does not change from frame to frame.
struct Swap {
    posted: u32,
    base: u64,
    stride: u64,
}

impl Swap {
    #[inline]
    fn new(posted: u32, arena: &Arena<'_>) -> Self {
        Self {
            posted,
            base: arena.buffer_iova(0).as_u64(),
            stride: arena.layout().stride.into(),
        }
    }

    /// Takes the frame of a slot, armed word and both descriptors, into `place` and arms `fresh`; `false` where that is
    /// no whole good frame of one buffer.
    #[inline]
    fn one(
        &self,
        (armed, done, ring): (&mut u32, &RxDescriptor, &RxDescriptor),
        fresh: u32,
        place: &mut u32,
    ) -> bool {
        let Some(len) = done.completion().whole_frame(self.posted) else {
            return false;
        };
        *place = *armed | len << 16;
        *armed = fresh & 0xFFFF;
        ring.arm(self.base + u64::from(fresh & 0xFFFF) * self.stride);
        true
    }
}

/// A receive queue of `N` entries.
///
/// Buffers are armed in the order of the ring, and come back in it. The device is never told of more than `N - 1`, for a
/// tail that equals the head says that there are none (§7.1.9); the one more that lies ready is told of as soon as a
/// frame was taken.
///
/// # Invariants
///
/// The slots of positions `next..filled` hold words of segments that exist nowhere else.
#[derive(Debug)]
pub struct Receiver<'a, D, const N: usize> {
    /// Where buffers are armed.
    submissions: &'a [RxDescriptor; N],
    /// Where the device's answers are read: the same memory, or the device's ring, read-only.
    completions: &'a [RxDescriptor; N],
    doorbell: D,
    armed: [u32; N],
    /// First position whose completion was not taken yet.
    next: Position,
    /// Where the next buffer will be armed.
    filled: Position,
    /// Bytes that the device may write into a buffer.
    posted: u32,
    metadata: Metadata,
    received: u64,
    damaged: u64,
}

impl<'a, D: Doorbell, const N: usize> Receiver<'a, D, N> {
    #[expect(clippy::cast_possible_truncation, reason = "rings are that short")]
    const ENTRIES: u32 = {
        assert!(
            N.is_power_of_two() && N >= crate::MIN_RING as usize && N <= crate::MAX_RING as usize
        );
        N as u32
    };

    /// A queue with nothing armed, for buffers of `layout`.
    ///
    /// `None` where the buffers have less than 1 KiB for a frame, where the layout's header does not fit `metadata`, or
    /// where a ring is too short or not aligned.
    #[must_use]
    pub fn new(
        submissions: SharedMemory<'a>,
        completions: SharedMemory<'a>,
        doorbell: D,
        layout: &ArenaLayout,
        metadata: Metadata,
    ) -> Option<Self> {
        let has_header = match metadata {
            Metadata::None => true,
            Metadata::Header => layout.header as usize == HEADER_LEN,
        };
        if !layout.is_valid() || !has_header {
            return None;
        }
        Some(Self {
            submissions: submissions.view(0)?,
            completions: completions.view(0)?,
            doorbell,
            armed: [0; N],
            next: Position::START,
            filled: Position::START,
            posted: buffer_size(layout.capacity())?,
            metadata,
            received: 0,
            damaged: 0,
        })
    }

    /// Number of frames received so far.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Number of frames that the device called damaged; they were dropped.
    #[must_use]
    pub const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Number of buffers in the ring.
    #[must_use]
    pub const fn armed(&self) -> u32 {
        self.filled.since(self.next)
    }

    /// Bytes that the device may write into a buffer: what the queue is to be set up with.
    #[must_use]
    pub const fn posted(&self) -> u32 {
        self.posted
    }

    /// Gives the buffers of a queue that was stopped back to `pool`, and returns the doorbell.
    ///
    /// Only after the device has confirmed that the queue is off, and its grace time: until then it may write to them.
    pub fn dismantle(mut self, pool: &mut Pool<'_>) -> D {
        while self.next != self.filled {
            let segment = self.take_next();
            pool.put(segment);
        }
        self.doorbell
    }

    /// How far the device was, or is to be, told of buffers: all but the last of a full ring.
    #[inline]
    fn tail(&self) -> Position {
        let end = self.next.advanced(Self::ENTRIES - 1);
        if self.armed() == Self::ENTRIES {
            end
        } else {
            self.filled
        }
    }

    /// Whether the device has let go of the buffer at `position`.
    #[inline]
    fn is_done(&self, position: Position) -> bool {
        self.completions[slot(position, N)].completion().is_done()
    }

    /// Takes frames of one buffer each, and arms a fresh one in the place of each; at most `limit`, as long as they are
    /// that and good. Returns the number of frames.
    #[inline(never)]
    fn poll_whole(
        &mut self,
        limit: usize,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
    ) -> usize {
        let mut total = 0;
        while total < limit {
            // Up to the ring's end, so that there is no wrap inside.
            let run = (limit - total).min(N - slot(self.next, N));
            let Some(fresh) = pool.next_words(run) else {
                break;
            };
            // SAFETY: the words move below.
            let taken = unsafe { self.swap_run(fresh, frames.vacant_words(), pool.arena()) };
            #[expect(
                clippy::cast_possible_truncation,
                reason = "at most the ring's entries"
            )]
            let count = taken as u32;
            self.next = self.next.advanced(count);
            self.filled = self.filled.advanced(count);
            // SAFETY: the words of so many segments were moved into `armed`.
            unsafe { pool.remove(run, taken) };
            // SAFETY: so many words of segments were moved out of `armed`, with a length that fits.
            unsafe { frames.add(taken) };
            total += taken;
            if taken < run {
                break;
            }
        }
        total
    }

    /// Takes the frames in the slots from the next on into `places`, and arms `fresh` there, a cache line of descriptors
    /// at a time.
    ///
    /// # Safety
    ///
    /// As many of the first words of `fresh` as the result says must be used no more; as many of `places` then are
    /// segments.
    #[inline]
    unsafe fn swap_run(&mut self, fresh: &[u32], places: &mut [u32], arena: &Arena<'_>) -> usize {
        let swap = Swap::new(self.posted, arena);
        let start = slot(self.next, N);
        let end = start + fresh.len();
        // All of one length, so that one count does for all.
        let (Some(armed), Some(done), Some(ring), Some(places)) = (
            self.armed.get_mut(start..end),
            self.completions.get(start..end),
            self.submissions.get(start..end),
            places.get_mut(..fresh.len()),
        ) else {
            return 0;
        };
        let (armed, armed_rest) = armed.as_chunks_mut::<LINE>();
        let (done, done_rest) = done.as_chunks::<LINE>();
        let (ring, ring_rest) = ring.as_chunks::<LINE>();
        let (fresh, fresh_rest) = fresh.as_chunks::<LINE>();
        let (places, places_rest) = places.as_chunks_mut::<LINE>();
        let mut taken = 0;
        let slots = armed.iter_mut().zip(done).zip(ring);
        for (((armed, done), ring), (fresh, places)) in slots.zip(fresh.iter().zip(places)) {
            for lane in 0..LINE {
                let slot = (&mut armed[lane], &done[lane], &ring[lane]);
                if !swap.one(slot, fresh[lane], &mut places[lane]) {
                    return taken + lane;
                }
            }
            taken += LINE;
        }
        let slots = armed_rest.iter_mut().zip(done_rest).zip(ring_rest);
        let words = fresh_rest.iter().zip(places_rest);
        for (((armed, done), ring), (&fresh, place)) in slots.zip(words) {
            if !swap.one((armed, done, ring), fresh, place) {
                break;
            }
            taken += 1;
        }
        taken
    }

    /// Takes one frame of one buffer, as when no more has come: what [`poll_whole`](Self::poll_whole) does, without what
    /// only pays for many. Returns the number of frames.
    #[inline]
    fn poll_single(&mut self, pool: &mut Pool<'_>, frames: &mut SegmentList<'_>) -> usize {
        let index = slot(self.next, N);
        let Some(len) = self.completions[index]
            .completion()
            .whole_frame(self.posted)
        else {
            return 0;
        };
        let Some(fresh) = pool.take() else { return 0 };
        self.submissions[index].arm(pool.arena().buffer_iova(fresh.index()).as_u64());
        let word = core::mem::replace(&mut self.armed[index], fresh.cleared().into_word());
        // SAFETY: by the invariant the word is a segment that exists nowhere else, and its place is taken now.
        let segment = unsafe { Segment::from_word(word | len << 16) };
        let pushed = frames.push(segment);
        debug_assert!(pushed.is_ok(), "room was checked before");
        self.next = self.next.after();
        self.filled = self.filled.after();
        1
    }

    /// Tells the device of buffers that took the place of those from `start` on.
    #[inline]
    fn publish(&mut self, start: Position) {
        if self.next != start {
            fence(Acquire);
            self.doorbell.ring(self.tail());
        }
    }

    /// Takes what was not in the usual form: frames in up to `ready` buffers, at most `budget` of them. `start` is where the
    /// call began, of whose frames there are some already.
    #[cold]
    #[inline(never)]
    fn poll_rest(
        &mut self,
        start: Position,
        (ready, budget): (usize, usize),
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
    ) -> Result<usize, RingError> {
        // Before this, each frame was one buffer.
        let before = self.next.since(start) as usize;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most the ring's entries"
        )]
        let end = self.next.advanced(ready as u32);
        let taken = before + self.poll_general(end, pool, frames, budget)?;
        self.publish(start);
        self.received += taken as u64;
        Ok(taken)
    }

    /// Takes up to `budget` frames before `end`, of whatever number of buffers, and arms what is free.
    #[cold]
    fn poll_general(
        &mut self,
        end: Position,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, RingError> {
        let mut taken = 0;
        while taken < budget
            && let Some((count, last)) = self.next_frame(end)?
        {
            if last.is_damaged() {
                self.drop_frame(count, pool);
            } else if count as usize > frames.room() || count as usize > pool.free() {
                break;
            } else {
                self.take_frame(count, last, pool, frames);
                taken += 1;
            }
            self.arm_free(pool);
        }
        Ok(taken)
    }

    /// The number of buffers of the next frame, and what the device says of it; `None` where it is not complete.
    fn next_frame(&self, end: Position) -> Result<Option<(u32, Completion)>, RingError> {
        let posted = self.posted;
        let mut count = 0;
        let mut at = self.next;
        while at != end {
            let done = self.completions[slot(at, N)].completion();
            if !done.is_done() {
                return Ok(None);
            }
            let len = done.len();
            if len == 0 || len > posted {
                return Err(RingError::Length { len, posted });
            }
            at = at.after();
            count += 1;
            if done.is_last() {
                return Ok(Some((count, done)));
            }
        }
        if count == Self::ENTRIES - 1 {
            return Err(RingError::Endless);
        }
        Ok(None)
    }

    /// Moves a frame of `count` buffers into the list, which has room for them.
    fn take_frame(
        &mut self,
        count: u32,
        last: Completion,
        pool: &Pool<'_>,
        frames: &mut SegmentList<'_>,
    ) {
        // What was read before the data is read now.
        fence(Acquire);
        let classification = self.completions[slot(self.next, N)].classification();
        for number in 1..=count {
            let len = self.completions[slot(self.next, N)]
                .completion()
                .len()
                .min(self.posted);
            let mut segment = self
                .take_next()
                .with_len(len as usize)
                .with_more(number < count);
            if number == 1 && self.metadata == Metadata::Header {
                let received = Received {
                    classification,
                    completion: last,
                };
                if let Some(header) = pool.arena().header_array_mut(&mut segment) {
                    *header = received.to_bytes();
                }
            }
            let pushed = frames.push(segment);
            debug_assert!(pushed.is_ok(), "room was checked before");
        }
    }

    #[cold]
    fn drop_frame(&mut self, count: u32, pool: &mut Pool<'_>) {
        for _ in 0..count {
            let segment = self.take_next();
            pool.put(segment);
        }
        self.damaged += 1;
    }

    /// Takes the buffer at `next`, which is before `filled`.
    fn take_next(&mut self) -> Segment {
        let word = self.armed[slot(self.next, N)];
        self.next = self.next.after();
        // SAFETY: by the invariant the word is a segment that exists nowhere else, and the position is passed now.
        unsafe { Segment::from_word(word) }
    }

    /// Arms buffers in free slots and returns their number; nothing is published yet.
    fn arm_free(&mut self, pool: &mut Pool<'_>) -> u32 {
        let start = self.filled;
        while self.armed() < Self::ENTRIES {
            let Some(fresh) = pool.take() else { break };
            let index = slot(self.filled, N);
            self.submissions[index].arm(pool.arena().buffer_iova(fresh.index()).as_u64());
            self.armed[index] = fresh.cleared().into_word();
            self.filled = self.filled.after();
        }
        self.filled.since(start)
    }
}

impl<D: Doorbell, const N: usize> RxQueue for Receiver<'_, D, N> {
    type Error = RingError;

    fn poll(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, RingError> {
        let (start, told) = (self.next, self.tail());
        let end = self.doorbell.accepted(told);
        let ready = end.since(start).min(told.since(start)) as usize;
        if ready == 0 || !self.is_done(start) {
            return Ok(0);
        }
        let mut taken = 0;
        if self.armed() == Self::ENTRIES && self.metadata == Metadata::None {
            let limit = budget.min(frames.room()).min(pool.free()).min(ready);
            taken = if limit > 1 && self.is_done(start.after()) {
                self.poll_whole(limit, pool, frames)
            } else if limit > 0 {
                self.poll_single(pool, frames)
            } else {
                0
            };
        }
        if taken < budget && taken < ready && self.is_done(self.next) {
            let rest = (ready - taken, budget - taken);
            return self.poll_rest(start, rest, pool, frames);
        }
        self.publish(start);
        self.received += taken as u64;
        Ok(taken)
    }

    fn arm(&mut self, pool: &mut Pool<'_>) -> usize {
        let told = self.tail();
        let armed = self.arm_free(pool);
        if self.tail() != told {
            self.doorbell.ring(self.tail());
        }
        armed as usize
    }
}
