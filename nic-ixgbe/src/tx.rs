//! Sending: the data half of a transmit queue, the same in every access mode.
#![expect(
    unsafe_code,
    reason = "moves segments between list, ring and pool as words"
)]

use core::{
    array,
    sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, fence},
};

use parakernel_core::{
    memory::{Arena, Pool, Segment, SegmentList, SharedMemory},
    queue::{Doorbell, TxQueue},
    ring::Position,
};

use crate::{
    descriptor::{Command, Context, Offloads, Place, TxDescriptor},
    error::RingError,
    line::{LINE, base_and_stride, report, write},
    offload::{HEADER_LEN, Metadata, Request},
    slot,
};

/// After how many descriptors a report is asked for, at the latest: the device keeps up to 40 of a queue on its chip
/// (§7.2.3.5), and what is not reported is not reclaimed.
pub(crate) const REPORT_EVERY: u32 = 32;

/// The most descriptors of a packet, a context included: the chip keeps 40 of a queue (§7.2.3.5), and the kernel may add
/// one.
pub const MAX_DESCRIPTORS: usize = 39;

/// The shortest packet, in bytes: what is shorter the device may choke on, padded or not (§7.2.1.1).
pub const MIN_LEN: u32 = 17;

/// The longest packet, or payload with segmentation, in bytes: a field of 18 bits (§7.2.3.2.4).
const MAX_PAYLOAD: u32 = 0x3_FFFF;

/// A transmit queue of `N` entries, of which the device has at most `N - 1`: a tail that equals the head says that there
/// are none (§7.2.3.3).
///
/// The device tells how far it came by writing its head to a word in memory (§7.2.3.5.2), so descriptors are only written.
///
/// # Invariants
///
/// The slots of positions `freed..head` hold words of segments that exist nowhere else, or `NONE`.
#[derive(Debug)]
pub struct Sender<'a, D, const N: usize> {
    submissions: &'a [TxDescriptor; N],
    /// How far the device came.
    completion: &'a AtomicU32,
    doorbell: D,
    arena: Arena<'a>,
    in_flight: [u32; N],
    /// Where the next descriptor will be written.
    head: Position,
    /// Descriptors before this are free again.
    freed: Position,
    /// The last position that was not a whole frame of its own: from behind it on, words are only copied.
    special: Option<Position>,
    /// What the device's context 0 was set to last.
    context: Option<Context>,
    metadata: Metadata,
    sent: u64,
}

impl<'a, D: Doorbell, const N: usize> Sender<'a, D, N> {
    /// A slot with a context, which has no buffer. No segment is this word: whole frames have no flag, others are kept
    /// without their length.
    const NONE: u32 = u32::MAX;
    /// What of a segment's word names its buffer.
    const INDEX: u32 = 0xFFFF;
    #[expect(clippy::cast_possible_truncation, reason = "rings are that short")]
    const ENTRIES: u32 = {
        assert!(
            N.is_power_of_two() && N >= crate::MIN_RING as usize && N <= crate::MAX_RING as usize
        );
        N as u32
    };

    /// An empty queue for segments of `arena`, whose device writes its head to the word at the start of `completion`.
    ///
    /// `None` where the arena's header does not fit `metadata`, or the memory is too small or not aligned.
    #[must_use]
    pub fn new(
        submissions: SharedMemory<'a>,
        completion: SharedMemory<'a>,
        doorbell: D,
        arena: Arena<'a>,
        metadata: Metadata,
    ) -> Option<Self> {
        if metadata == Metadata::Header && arena.layout().header as usize != HEADER_LEN {
            return None;
        }
        Some(Self {
            submissions: submissions.view(0)?,
            completion: completion.view(0)?,
            doorbell,
            arena,
            in_flight: [Self::NONE; N],
            head: Position::START,
            freed: Position::START,
            special: None,
            context: None,
            metadata,
            sent: 0,
        })
    }

    /// Number of frames that were sent and reclaimed.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Number of descriptors that the device has.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.head.since(self.freed)
    }

    /// Number of descriptors that fit.
    #[must_use]
    pub const fn room(&self) -> u32 {
        Self::ENTRIES - 1 - self.in_flight()
    }

    /// Gives the buffers of a queue that was stopped back to `pool`, and returns the doorbell.
    ///
    /// # Safety
    ///
    /// The device must have let go of the buffers: the queue was never claimed, its release or a reset of the port has ended
    /// without an error, or the device cannot reach this memory any more. Until then it may read them, while whoever takes
    /// them from the pool writes them.
    ///
    /// ```compile_fail,E0133
    /// # use parakernel_core::{memory::Pool, queue::Doorbell};
    /// # use parakernel_nic_ixgbe::tx::Sender;
    /// fn give_back<D: Doorbell>(queue: Sender<'_, D, 64>, pool: &mut Pool<'_>) {
    ///     queue.dismantle(pool);
    /// }
    /// ```
    pub unsafe fn dismantle(mut self, pool: &mut Pool<'_>) -> D {
        self.free_each(self.in_flight(), pool);
        self.doorbell
    }

    /// Writes frames that are one segment each, as many from the front of `frames` as there are and fit; how many.
    #[inline(never)]
    fn submit_whole(&mut self, frames: &mut SegmentList<'_>) -> usize {
        let count = self.submit_run(frames);
        if count == 0 || frames.is_empty() {
            return count;
        }
        count + self.submit_runs(frames)
    }

    /// The same after a first run.
    #[inline(never)]
    fn submit_runs(&mut self, frames: &mut SegmentList<'_>) -> usize {
        let mut total = 0;
        while let count @ 1.. = self.submit_run(frames) {
            total += count;
        }
        total
    }

    /// The same up to the ring's end, so that there is no wrap inside, or the next report. Expanded where it is used, for a
    /// call costs as much as a line.
    #[inline(always)]
    fn submit_run(&mut self, frames: &mut SegmentList<'_>) -> usize {
        let start = slot(self.head, N);
        let place = base_and_stride(&self.arena);
        let segments = frames.segments();
        let limit = (self.room() as usize).min(segments.len());
        let limit = limit.min(N - start).min(REPORT_EVERY as usize);
        let segments = &segments[..limit];
        let ring = &self.submissions[start..][..limit];
        let kept = &mut self.in_flight[start..][..limit];
        let lines = segments.as_chunks::<LINE>().0.iter();
        let lines = lines.zip(ring.as_chunks().0);
        let mut written = 0;
        for ((segments, ring), kept) in lines.zip(kept.as_chunks_mut().0) {
            if !write(segments, ring, kept, place, Command::whole) {
                break;
            }
            written += LINE;
        }
        while written < limit
            && write::<1>(
                array::from_ref(&segments[written]),
                array::from_ref(&ring[written]),
                array::from_mut(&mut kept[written]),
                place,
                Command::whole,
            )
        {
            written += 1;
        }
        // Before the first there is none.
        let last = written.wrapping_sub(1);
        if let (Some(ring), Some(segment)) = (ring.get(last), segments.get(last)) {
            report(ring, segment);
        }
        // SAFETY: so many segments were moved into `in_flight`.
        unsafe { frames.remove(written) };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most the ring's entries"
        )]
        let count = written as u32;
        self.head = self.head.advanced(count);
        written
    }

    /// Writes the only frame in the list: what [`submit_whole`](Self::submit_whole) does, without what only pays for many.
    /// `false` where it is not the only one, no whole frame, or there is no room.
    #[inline]
    fn submit_single(&mut self, frames: &mut SegmentList<'_>) -> bool {
        let [segment] = frames.segments() else {
            return false;
        };
        let index = slot(self.head, N);
        let place = base_and_stride(&self.arena);
        let ring = array::from_ref(&self.submissions[index]);
        let kept = array::from_mut(&mut self.in_flight[index]);
        let command = |len| Command::whole(len).with_report();
        if self.head.since(self.freed) == Self::ENTRIES - 1
            || !write::<1>(array::from_ref(segment), ring, kept, place, command)
        {
            return false;
        }
        self.head = self.head.after();
        // SAFETY: the only segment was moved into `in_flight`.
        unsafe { frames.remove_all() };
        true
    }

    /// Writes what is not in the usual form, after `count` frames that were, and publishes all of them.
    #[cold]
    #[inline(never)]
    fn submit_rest(
        &mut self,
        count: usize,
        frames: &mut SegmentList<'_>,
    ) -> Result<usize, RingError> {
        let start = self.head;
        let result = self.submit_general(frames);
        if count > 0 || self.head != start {
            self.doorbell.ring(self.head);
        }
        result.map(|more| count + more)
    }

    /// Writes frames one by one, with what their headers ask for, as long as there is room.
    #[cold]
    fn submit_general(&mut self, frames: &mut SegmentList<'_>) -> Result<usize, RingError> {
        let mut count = 0;
        while self.submit_frame(frames)? {
            count += 1;
            if self.metadata == Metadata::None {
                count += self.submit_whole(frames);
            }
        }
        Ok(count)
    }

    /// Writes the first of `frames`; `false` where there is none, or no room for it.
    fn submit_frame(&mut self, frames: &mut SegmentList<'_>) -> Result<bool, RingError> {
        let count = frames.first_frame();
        let segments = frames.segments().get(..count).unwrap_or_default();
        let Some(first) = segments.first() else {
            return Ok(false);
        };
        let request = self.request(first);
        let bytes: usize = segments.iter().map(Segment::len).sum();
        let error = RingError::Frame { segments: count };
        let bytes = u32::try_from(bytes).map_err(|_| error)?;
        let payload = payload(request, bytes).ok_or(error)?;
        let is_odd =
            |segment: &Segment| segment.is_empty() || segment.len() > Command::MAX_LEN as usize;
        // One more for a context.
        let descriptors = count + 1;
        if segments.iter().any(is_odd) || descriptors > MAX_DESCRIPTORS.min(N - 1) {
            return Err(error);
        }
        if descriptors > self.room() as usize {
            return Ok(false);
        }
        self.set_context(request);
        let offloads = request.map_or(Offloads::NONE, |request| request.offloads);
        for _ in 0..count {
            let Some(segment) = frames.pop() else { break };
            self.write_part(segment, payload, offloads);
        }
        self.special = Some(self.head);
        Ok(true)
    }

    /// What the header before a frame asks for.
    fn request(&self, first: &Segment) -> Option<Request> {
        if self.metadata == Metadata::None {
            return None;
        }
        let header = self.arena.header(first).first_chunk::<HEADER_LEN>()?;
        Request::from_bytes(header)
    }

    /// Sets the device's context 0, unless that is what is asked for.
    fn set_context(&mut self, request: Option<Request>) {
        let Some(Request { context, .. }) = request else {
            return;
        };
        if self.context == Some(context) {
            return;
        }
        self.context = Some(context);
        let index = slot(self.head, N);
        self.submissions[index].write_context(context);
        self.in_flight[index] = Self::NONE;
        self.head = self.head.after();
    }

    fn write_part(&mut self, segment: Segment, payload: u32, offloads: Offloads) {
        let index = slot(self.head, N);
        #[expect(clippy::cast_possible_truncation, reason = "checked before")]
        let len = segment.len() as u32;
        let command = if segment.has_more() {
            Command::part(len, payload, Place::Further)
        } else {
            Command::part(len, payload, Place::Last).with_report()
        };
        let address = self.arena.iova(&segment).as_u64();
        self.submissions[index].write(address, command.with_offloads(offloads));
        let more = segment.has_more();
        self.in_flight[index] = segment.cleared().with_more(more).into_word();
        self.head = self.head.after();
    }

    /// Takes back `done` descriptors, not all of which are whole frames; the number of segments.
    #[cold]
    #[inline(never)]
    fn free_mixed(&mut self, done: u32, pool: &mut Pool<'_>) -> usize {
        let freed = self.free_each(done, pool);
        // One that was passed lies "ahead" by more than the device has.
        let in_flight = self.in_flight();
        self.special = self
            .special
            .filter(|at| (1..=in_flight).contains(&at.since(self.freed)));
        freed as usize
    }

    /// How many descriptors the device is done with.
    #[inline]
    fn done(&self) -> Result<u32, RingError> {
        let outstanding = self.in_flight();
        let head = self.completion.load(Relaxed);
        let head = u32::from_le(head);
        let done = head.wrapping_sub(self.freed.as_u32()) & (Self::ENTRIES - 1);
        let given = self
            .doorbell
            .accepted(self.head)
            .since(self.freed)
            .min(outstanding);
        if head >= Self::ENTRIES || done > given {
            return Err(RingError::Head { head, outstanding });
        }
        Ok(done)
    }

    /// Takes back one frame of one segment, if `pool` has room; how many that were.
    #[inline]
    fn free_single(&mut self, pool: &mut Pool<'_>) -> usize {
        let word = self.in_flight[slot(self.freed, N)];
        let Some(vacant) = pool.vacant_words().first_mut() else {
            return 0;
        };
        *vacant = word & Self::INDEX;
        // SAFETY: the word of a segment was moved out of `in_flight`, whose position is passed now.
        unsafe { pool.add(1) };
        self.freed = self.freed.after();
        self.sent += 1;
        1
    }

    /// Takes back `count` frames of one segment each, as far as `pool` has room; how many that were.
    #[inline(never)]
    fn free_run(&mut self, count: u32, pool: &mut Pool<'_>) -> usize {
        // Up to the ring's end, so that there is no wrap inside.
        let start = slot(self.freed, N);
        let vacant = pool.vacant_words();
        let run = (count as usize).min(N - start).min(vacant.len());
        let kept = &self.in_flight[start..][..run];
        for (vacant, kept) in vacant.iter_mut().zip(kept) {
            *vacant = kept & Self::INDEX;
        }
        // SAFETY: so many words of segments were moved out of `in_flight`, whose positions are passed now.
        unsafe { pool.add(run) };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most the ring's entries"
        )]
        let passed = run as u32;
        self.freed = self.freed.advanced(passed);
        self.sent += run as u64;
        if passed < count && start + run == N {
            return run + self.free_behind_end(count - passed, pool);
        }
        run
    }

    /// The rest behind the ring's end: at most once, as the device has fewer than the ring. A call, so that the run before
    /// it is no loop.
    #[cold]
    #[inline(never)]
    fn free_behind_end(&mut self, count: u32, pool: &mut Pool<'_>) -> usize {
        self.free_run(count, pool)
    }

    /// Takes back `count` descriptors one by one; the number of segments.
    #[inline]
    fn free_each(&mut self, count: u32, pool: &mut Pool<'_>) -> u32 {
        let mut segments = 0;
        for _ in 0..count {
            let word = self.in_flight[slot(self.freed, N)];
            self.freed = self.freed.after();
            if word == Self::NONE {
                continue;
            }
            // SAFETY: by the invariant the word is a segment that exists nowhere else, and the position is passed now.
            let segment = unsafe { Segment::from_word(word) };
            self.sent += u64::from(!segment.has_more());
            pool.put(segment);
            segments += 1;
        }
        segments
    }
}

impl<D: Doorbell, const N: usize> TxQueue for Sender<'_, D, N> {
    type Error = RingError;

    #[inline(always)]
    fn submit(&mut self, frames: &mut SegmentList<'_>) -> Result<usize, RingError> {
        if self.metadata != Metadata::None {
            return self.submit_rest(0, frames);
        }
        if self.submit_single(frames) {
            self.doorbell.ring(self.head);
            return Ok(1);
        }
        let count = self.submit_whole(frames);
        if !frames.is_empty() {
            return self.submit_rest(count, frames);
        }
        if count > 0 {
            self.doorbell.ring(self.head);
        }
        Ok(count)
    }

    #[inline(always)]
    fn reclaim(&mut self, pool: &mut Pool<'_>) -> Result<usize, RingError> {
        let done = self.done()?;
        if done == 0 {
            return Ok(0);
        }
        fence(Acquire);
        if self.special.is_some() {
            return Ok(self.free_mixed(done, pool));
        }
        if done == 1 {
            return Ok(self.free_single(pool));
        }
        Ok(self.free_run(done, pool))
    }
}

/// What the descriptors of a packet of `bytes` say of its length: all of it, or with segmentation what its headers leave
/// (§7.2.3.2.4). `None` where that is nothing, too little or too much.
fn payload(request: Option<Request>, bytes: u32) -> Option<u32> {
    let segments = request.filter(|request| request.offloads.contains(Offloads::SEGMENT));
    let headers = segments.map_or(0, |request| request.context.headers().len());
    let payload = bytes.checked_sub(headers)?;
    (bytes >= MIN_LEN && (1..=MAX_PAYLOAD).contains(&payload)).then_some(payload)
}
