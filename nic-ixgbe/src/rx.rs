//! Receiving: the data half of a receive queue, the same in every access mode.
#![expect(
    unsafe_code,
    reason = "moves segments between pool, ring and list as words"
)]

use core::{
    array,
    sync::atomic::{Ordering::Acquire, fence},
};

use parakernel_core::{
    memory::{ArenaLayout, Pool, Segment, SegmentList, SharedMemory},
    queue::{Doorbell, RxQueue},
    ring::Position,
};

use crate::{
    descriptor::{Completion, RxDescriptor},
    error::RingError,
    line::{LINE, arm, base_and_stride, take_frames},
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

/// A receive queue of `N` entries.
///
/// Buffers are armed in the order of the ring, and come back in it. The device is never told of more than `N - 1`, for a
/// tail that equals the head says that there are none (§7.1.9); the one more that lies ready is told of as soon as a
/// frame was taken.
///
/// A frame waits, and all behind it, until the pool has a free buffer for each that it is in. So the pool needs more than the
/// ring takes: as many again as the longest frame that the port lets in.
///
/// # Invariants
///
/// All slots but the `vacant` ones before `next` hold indices of segments that exist nowhere else.
#[derive(Debug)]
pub struct Receiver<'a, D, const N: usize> {
    /// Where buffers are armed.
    submissions: &'a [RxDescriptor; N],
    /// Where the device's answers are read: the same memory, or the device's ring, read-only.
    completions: &'a [RxDescriptor; N],
    doorbell: D,
    /// Indices of the buffers: all that is left of a cleared segment's word.
    armed: [u16; N],
    /// First position whose completion was not taken yet.
    next: Position,
    /// Slots without a buffer, the last ones before `next`.
    vacant: u32,
    /// Bytes that the device may write into a buffer.
    posted: u32,
    /// The longest frame that is taken without ado: `posted`, or 0 where all need more, because a slot is vacant or a
    /// header is to be written.
    usual: u32,
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
            vacant: Self::ENTRIES,
            posted: buffer_size(layout.capacity())?,
            usual: 0,
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
        Self::ENTRIES - self.vacant
    }

    /// Bytes that the device may write into a buffer: what the queue is to be set up with.
    #[must_use]
    pub const fn posted(&self) -> u32 {
        self.posted
    }

    /// Gives the buffers of a queue that was stopped back to `pool`, and returns the doorbell.
    ///
    /// # Safety
    ///
    /// The device must have let go of the buffers: the queue was never claimed, its release or a reset of the port has ended
    /// without an error, or the device cannot reach this memory any more. Until then it may write to them, while whoever takes
    /// them from the pool reads them.
    ///
    /// ```compile_fail,E0133
    /// # use parakernel_core::{memory::Pool, queue::Doorbell};
    /// # use parakernel_nic_ixgbe::rx::Receiver;
    /// fn give_back<D: Doorbell>(queue: Receiver<'_, D, 64>, pool: &mut Pool<'_>) {
    ///     queue.dismantle(pool);
    /// }
    /// ```
    pub unsafe fn dismantle(mut self, pool: &mut Pool<'_>) -> D {
        while self.armed() > 0 {
            let segment = self.take_next();
            pool.put(segment);
        }
        self.doorbell
    }

    /// How far the device was, or is to be, told of buffers: all but the last of a full ring.
    #[inline]
    fn tail(&self) -> Position {
        self.next.advanced(self.told())
    }

    /// Of the `told` buffers from `start` on, where a call began, how many whoever stands between queue and device has taken
    /// over.
    #[inline]
    fn ready(&self, start: Position, told: u32) -> u32 {
        let end = self.doorbell.accepted(start.advanced(told));
        end.since(start).min(told)
    }

    /// The same for a full ring.
    #[inline]
    fn ready_full(&self) -> u32 {
        self.ready(self.next, Self::ENTRIES - 1)
    }

    /// Number of buffers that the device was, or is to be, told of: all but the last of a full ring.
    #[inline]
    fn told(&self) -> u32 {
        self.armed().min(Self::ENTRIES - 1)
    }

    /// Whether the device has let go of the buffer at `position`.
    #[inline]
    fn is_done(&self, position: Position) -> bool {
        self.completions[slot(position, N)].completion().is_done()
    }

    /// Takes up to `limit` frames of one buffer each, fewer than the ring has, one by one where there is no cache line of
    /// them; the number of frames.
    #[inline(never)]
    fn take_each(
        &mut self,
        limit: usize,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
    ) -> usize {
        let mut taken = 0;
        while taken < limit && self.take_one(pool, frames) {
            taken += 1;
            if slot(self.next, N) == 0 {
                // Behind the ring's end.
                taken += self.take_lines(limit - taken, pool, frames);
            }
        }
        taken
    }

    /// Takes up to `limit` frames of one buffer each, for which `pool` has fresh ones, a cache line of descriptors at a time
    /// and up to the ring's end, so that there is no wrap inside; the number of frames.
    ///
    /// Expanded where it is used, for a call costs as much as a line.
    #[inline(always)]
    fn take_lines(
        &mut self,
        limit: usize,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
    ) -> usize {
        let start = slot(self.next, N);
        let run = limit.min(N - start);
        let Some(places) = frames.vacant_words().get_mut(..run) else {
            return 0;
        };
        let armed = self.armed[start..][..run].as_chunks_mut::<LINE>().0;
        let done = self.completions[start..][..run].as_chunks::<LINE>().0;
        let ring = self.submissions[start..][..run].as_chunks::<LINE>().0;
        let usual = self.usual;
        let mut lines = 0;
        for ((done, armed), places) in done.iter().zip(&*armed).zip(places.as_chunks_mut().0) {
            if !take_frames(done, armed, places, usual) {
                break;
            }
            lines += 1;
        }
        let taken = lines * LINE;
        let place = base_and_stride(pool.arena());
        // SAFETY: all of the words are moved into `armed`.
        let fresh = unsafe { pool.take_words(taken) };
        debug_assert_eq!(fresh.len(), taken, "the limit is what the pool has");
        for ((ring, armed), fresh) in ring.iter().zip(armed).zip(fresh.as_chunks().0) {
            arm(ring, armed, fresh, place);
        }
        // SAFETY: so many words of segments were moved out of `armed`, with a length that fits.
        unsafe { frames.add(taken) };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most the ring's entries"
        )]
        let count = taken as u32;
        self.next = self.next.advanced(count);
        taken
    }

    /// Takes one frame of one buffer; `false` where the next is none, or pool or list cannot do with it.
    #[inline]
    fn take_one(&mut self, pool: &mut Pool<'_>, frames: &mut SegmentList<'_>) -> bool {
        let index = slot(self.next, N);
        let armed = array::from_mut(&mut self.armed[index]);
        let done = array::from_ref(&self.completions[index]);
        let ring = array::from_ref(&self.submissions[index]);
        let Some(place) = frames.vacant_words().first_chunk_mut() else {
            return false;
        };
        if pool.free() == 0 || !take_frames::<1>(done, armed, place, self.usual) {
            return false;
        }
        let place = base_and_stride(pool.arena());
        // SAFETY: the word is moved into `armed`.
        let fresh = unsafe { pool.take_words(1) };
        if let Some(fresh) = fresh.first_chunk() {
            arm::<1>(ring, armed, fresh, place);
        }
        // SAFETY: the word of a segment was moved out of `armed`, with a length that fits.
        unsafe { frames.add(1) };
        self.next = self.next.after();
        true
    }

    /// Takes up to `budget` frames in whatever form, of a full ring.
    #[inline(never)]
    fn poll_many(
        &mut self,
        budget: usize,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
    ) -> Result<usize, RingError> {
        let start = self.next;
        let limit = budget.min(frames.room()).min(pool.free());
        let limit = limit.min(self.ready_full() as usize);
        let mut taken = self.take_lines(limit, pool, frames);
        if taken < limit {
            taken += self.take_each(limit - taken, pool, frames);
        }
        if taken < budget && self.is_done(self.next) {
            return self.poll_rest(start, budget, pool, frames);
        }
        if taken > 0 {
            self.received += taken as u64;
            self.publish_full(self.next);
        }
        Ok(taken)
    }

    /// Tells the device of all buffers that a full ring may have from `next` on.
    #[inline]
    fn publish_full(&mut self, next: Position) {
        fence(Acquire);
        self.doorbell.ring(next.advanced(Self::ENTRIES - 1));
    }

    /// Takes what is not in the usual form, so that there are up to `budget` frames since `start`, where the call began;
    /// those that were taken already included.
    #[cold]
    #[inline(never)]
    fn poll_rest(
        &mut self,
        start: Position,
        budget: usize,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
    ) -> Result<usize, RingError> {
        // Before this, each frame was one buffer, and a fresh one took its place.
        let before = self.next.since(start) as usize;
        let end = start.advanced(self.ready(start, self.told()));
        let taken = before + self.poll_general(end, pool, frames, budget.saturating_sub(before))?;
        self.received += taken as u64;
        if self.next != start {
            fence(Acquire);
            self.doorbell.ring(self.tail());
        }
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
        let word = u32::from(self.armed[slot(self.next, N)]);
        self.next = self.next.after();
        self.vacant += 1;
        self.usual = 0;
        // SAFETY: by the invariant the word is a segment that exists nowhere else, and the position is passed now.
        unsafe { Segment::from_word(word) }
    }

    /// Arms buffers in free slots and returns their number; nothing is published yet.
    fn arm_free(&mut self, pool: &mut Pool<'_>) -> u32 {
        let before = self.vacant;
        while self.vacant > 0 {
            let Some(fresh) = pool.take() else { break };
            let index = slot(self.next.advanced(self.armed()), N);
            self.submissions[index].arm(pool.arena().buffer_iova(fresh.index()).as_u64());
            self.armed[index] = fresh.index();
            self.vacant -= 1;
        }
        if self.vacant == 0 && self.metadata == Metadata::None {
            self.usual = self.posted;
        }
        before - self.vacant
    }
}

impl<D: Doorbell, const N: usize> RxQueue for Receiver<'_, D, N> {
    type Error = RingError;

    #[inline(always)]
    fn poll(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, RingError> {
        let start = self.next;
        if budget > 1 && self.is_done(start.after()) {
            return self.poll_many(budget, pool, frames);
        }
        if budget > 0 && self.ready_full() > 0 && self.take_one(pool, frames) {
            self.received += 1;
            self.publish_full(start.after());
            return Ok(1);
        }
        if self.is_done(start) {
            return self.poll_rest(start, budget, pool, frames);
        }
        Ok(0)
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
