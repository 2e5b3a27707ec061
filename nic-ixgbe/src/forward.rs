//! The fixed way: one process has both queues of a flow, and each frame leaves from the buffer that it came into.
//!
//! For who only looks at frames, changes bytes of them, or drops them: a switch, a filter, a counter. There is no list and no
//! pool on the way, so it takes less than half of what [`Receiver`](crate::rx::Receiver) and [`Sender`](crate::tx::Sender) do;
//! in exchange a frame goes out or is dropped at once, in one piece. The rings, and who stands between them and the device, are
//! the same.
#![expect(unsafe_code, reason = "reaches buffers that stay in their slots")]

use core::{
    array,
    hint::assert_unchecked,
    sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, fence},
};

use parakernel_core::{
    memory::{Arena, Pool, Segment, SharedMemory},
    queue::Doorbell,
    ring::Position,
};

use crate::{
    descriptor::{Command, RxDescriptor, TxDescriptor},
    error::RingError,
    line::{LINE, base_and_stride},
    rx::buffer_size,
    slot,
    tx::{MIN_LEN, REPORT_EVERY},
};

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is sent, as long as it came.
    Send,
    /// It is dropped.
    Drop,
}

/// What has become of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Forwarded {
    /// Number of frames that were given to the device to be sent.
    pub sent: usize,
    /// Number of frames that were dropped, as they were to be, or for they are damaged, shorter than what the device
    /// sends, or in several buffers.
    pub dropped: usize,
}

/// The memory of a pair's rings.
#[derive(Clone, Copy, Debug)]
pub struct Rings<'a> {
    /// Where receive buffers are armed.
    pub submissions: SharedMemory<'a>,
    /// Where the device's answers are read: the same memory, or the device's ring, read-only.
    pub completions: SharedMemory<'a>,
    /// Where descriptors to be sent are written.
    pub transmit: SharedMemory<'a>,
    /// The word that the device writes its head to.
    pub head: SharedMemory<'a>,
}

/// A receive and a transmit queue of `N` entries each, with a buffer in each slot of the receive ring for good.
///
/// # Invariants
///
/// `offsets` are those of buffers of `arena` whose segments exist nowhere else. The device may write into those of positions
/// `next..armed` and read those of `armed - N..next`.
#[derive(Debug)]
pub struct Forwarder<'a, R, T, const N: usize> {
    submissions: &'a [RxDescriptor; N],
    completions: &'a [RxDescriptor; N],
    transmit: &'a [TxDescriptor; N],
    head: &'a AtomicU32,
    receive_bell: R,
    transmit_bell: T,
    arena: Arena<'a>,
    /// How far each slot's buffer lies behind the first one.
    offsets: [u32; N],
    /// For each descriptor that is being sent, the receive position behind its frame.
    ends: [u32; N],
    /// First receive position whose completion was not taken yet, and the first that was not armed; the device is told of all
    /// before that but one.
    next: Position,
    armed: Position,
    /// Where the next descriptor to be sent is written, and the first that the device may still have.
    written: Position,
    freed: Position,
    posted: u32,
    /// Bytes of the longest frame that is taken and can be sent.
    longest: u32,
    /// Whether what comes goes on with a frame that is being dropped.
    in_frame: bool,
}

impl<'a, R: Doorbell, T: Doorbell, const N: usize> Forwarder<'a, R, T, N> {
    #[expect(clippy::cast_possible_truncation, reason = "rings are that short")]
    const ENTRIES: u32 = {
        assert!(
            N.is_power_of_two() && N >= crate::MIN_RING as usize && N <= crate::MAX_RING as usize
        );
        N as u32
    };

    /// Both queues, with `N` buffers of `pool`. The device is not told of them before [`arm`](Self::arm).
    ///
    /// `None`, and the buffers still the pool's, where there are fewer, a ring is too short or not aligned, or a buffer has
    /// less than 1 KiB for a frame.
    #[must_use]
    pub fn new(
        rings: Rings<'a>,
        (receive_bell, transmit_bell): (R, T),
        pool: &mut Pool<'a>,
    ) -> Option<Self> {
        let arena = pool.arena().again();
        let posted = buffer_size(arena.layout().capacity())?;
        let mut forwarder = Self {
            submissions: rings.submissions.view(0)?,
            completions: rings.completions.view(0)?,
            transmit: rings.transmit.view(0)?,
            head: rings.head.view(0)?,
            receive_bell,
            transmit_bell,
            posted,
            longest: posted.min(Command::MAX_LEN),
            arena,
            offsets: [0; N],
            ends: [0; N],
            next: Position::START,
            armed: Position::START,
            written: Position::START,
            freed: Position::START,
            in_frame: false,
        };
        if pool.free() < N {
            return None;
        }
        let stride = forwarder.arena.layout().stride;
        for offset in &mut forwarder.offsets {
            *offset = u32::from(pool.take()?.index()) * stride;
        }
        forwarder.fill(Position::new(Self::ENTRIES));
        Some(forwarder)
    }

    /// Tells the device of the buffers that it may fill: to be called once the pair is claimed, for a claim begins with a
    /// queue that has none, whatever was rung before. Until then nothing is received.
    #[inline]
    pub fn arm(&mut self) {
        self.receive_bell.ring(self.armed.advanced(u32::MAX));
    }

    /// Bytes that the device may write into a buffer: what the queue is to be set up with.
    #[must_use]
    pub const fn posted(&self) -> u32 {
        self.posted
    }

    /// Number of descriptors that the device may still have to send.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.written.since(self.freed)
    }

    /// Gives the buffers of queues that were stopped back to `pool`, and returns the doorbells.
    ///
    /// # Safety
    ///
    /// The device must have let go of the buffers: the pair was never claimed, its release or a reset of the port has ended
    /// without an error, or the device cannot reach this memory any more. Until then it may read and write them, while whoever
    /// takes them from the pool does.
    ///
    /// ```compile_fail,E0133
    /// # use parakernel_core::{memory::Pool, queue::Doorbell};
    /// # use parakernel_nic_ixgbe::forward::Forwarder;
    /// fn give_back<D: Doorbell>(queue: Forwarder<'_, D, D, 64>, pool: &mut Pool<'_>) {
    ///     queue.dismantle(pool);
    /// }
    /// ```
    pub unsafe fn dismantle(self, pool: &mut Pool<'_>) -> (R, T) {
        let stride = self.arena.layout().stride;
        for offset in self.offsets {
            // SAFETY: by the invariant the index is that of a segment that exists nowhere else, and now no more here.
            pool.put(unsafe { Segment::from_word(offset / stride) });
        }
        (self.receive_bell, self.transmit_bell)
    }

    /// Shows up to `budget` received frames to `look`, sends those that it says, and arms the buffers of those that were
    /// sent.
    ///
    /// # Errors
    ///
    /// Where the device breaks the rings' rules. The queues are of no more use then.
    #[inline]
    pub fn forward(
        &mut self,
        budget: usize,
        mut look: impl FnMut(&mut [u8]) -> Verdict,
    ) -> Result<Forwarded, RingError> {
        self.reclaim()?;
        let start = self.written;
        let forwarded = self.take(budget, &mut look)?;
        if self.written != start {
            self.transmit_bell.ring(self.written);
        }
        Ok(forwarded)
    }

    /// Takes note of what the device has sent, and arms the buffers again.
    #[inline]
    fn reclaim(&mut self) -> Result<(), RingError> {
        let outstanding = self.in_flight();
        let head = u32::from_le(self.head.load(Relaxed));
        let done = head.wrapping_sub(self.freed.as_u32()) & (Self::ENTRIES - 1);
        let given = self.transmit_bell.accepted(self.written).since(self.freed);
        if head >= Self::ENTRIES || done > given.min(outstanding) {
            return Err(RingError::Head { head, outstanding });
        }
        self.freed = self.freed.advanced(done);
        // All that was taken is free where nothing is being sent; else all up to the last frame that was sent.
        let free = if done == outstanding {
            self.next
        } else if done > 0 {
            let last = self.freed.advanced(u32::MAX);
            Position::new(self.ends[slot(last, N)])
        } else {
            return Ok(());
        };
        let end = free.advanced(Self::ENTRIES);
        if end != self.armed {
            fence(Acquire);
            self.fill(end);
            self.arm();
        }
        Ok(())
    }

    /// Arms the slots up to `end`, whose buffers are free; the device is to be told of all but the last.
    #[inline]
    fn fill(&mut self, end: Position) {
        let count = end.since(self.armed) as usize;
        // Up to the ring's end, so that there is no wrap inside.
        let run = count.min(N - slot(self.armed, N));
        self.arm_run(run);
        if run < count {
            self.arm_rest(count - run);
        }
    }

    #[cold]
    #[inline(never)]
    fn arm_rest(&mut self, run: usize) {
        self.arm_run(run);
    }

    #[inline]
    fn arm_run(&mut self, run: usize) {
        let start = slot(self.armed, N);
        let (base, _) = base_and_stride(&self.arena);
        let ring = self.submissions[start..][..run].as_chunks::<LINE>();
        let offsets = self.offsets[start..][..run].as_chunks::<LINE>();
        for (ring, offsets) in ring.0.iter().zip(offsets.0) {
            for (ring, offset) in ring.iter().zip(offsets) {
                ring.arm(base + u64::from(*offset));
            }
        }
        for (ring, offset) in ring.1.iter().zip(offsets.1) {
            ring.arm(base + u64::from(*offset));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most the ring's entries"
        )]
        let count = run as u32;
        self.armed = self.armed.advanced(count);
    }

    /// Takes up to `budget` frames.
    #[inline]
    fn take(
        &mut self,
        budget: usize,
        look: &mut impl FnMut(&mut [u8]) -> Verdict,
    ) -> Result<Forwarded, RingError> {
        let told = self.armed.advanced(u32::MAX);
        let ready = self.receive_bell.accepted(told).since(self.next);
        let ready = ready.min(told.since(self.next));
        let (limit, end) = (budget.min(ready as usize), self.next.advanced(ready));
        let mut forwarded = Forwarded::default();
        if limit >= LINE {
            forwarded = self.take_lines(limit, look);
            if forwarded.sent == limit {
                return Ok(forwarded);
            }
        }
        self.take_each(budget, end, forwarded, look)
    }

    /// Takes up to `limit` whole frames, a cache line of descriptors at a time, up to either ring's end, the next report, or
    /// the first that is dropped.
    #[inline]
    fn take_lines(
        &mut self,
        limit: usize,
        look: &mut impl FnMut(&mut [u8]) -> Verdict,
    ) -> Forwarded {
        let (from, to) = (slot(self.next, N), slot(self.written, N));
        let run = limit.min(N - from).min(N - to).min(REPORT_EVERY as usize);
        let mut over = [[0; LINE]; REPORT_EVERY as usize / LINE];
        let over = self.whole_lines(run, &mut over);
        let (base, _) = base_and_stride(&self.arena);
        let slots = over
            .iter()
            .zip(self.offsets[from..][..run].as_chunks::<LINE>().0);
        let ring = self.transmit[to..][..run].as_chunks::<LINE>().0.iter();
        let places = ring.zip(self.ends[to..][..run].as_chunks_mut::<LINE>().0);
        let (arena, mut at) = (&self.arena, self.next);
        let mut verdicts = [Verdict::Send; LINE];
        for ((over, offsets), (ring, ends)) in slots.zip(places) {
            // SAFETY: the device has let go of the buffer, which is nobody else's, and the frame is not too long for it.
            let bytes = |lane: usize| unsafe { bytes_at(arena, offsets[lane], over[lane]) };
            verdicts = array::from_fn(|lane| look(bytes(lane)));
            if verdicts != [Verdict::Send; LINE] {
                break;
            }
            for end in ends {
                at = at.after();
                *end = at.as_u32();
            }
            for lane in 0..LINE {
                let address = base + u64::from(offsets[lane]);
                ring[lane].write(address, SHORTEST.lengthened(over[lane]));
            }
        }
        let count = at.since(self.next);
        self.next = at;
        let line = count as usize / LINE;
        if let Some([.., over]) = over.get(line.wrapping_sub(1)) {
            self.report(count, *over);
        }
        let sent = count as usize;
        let mut forwarded = Forwarded { sent, dropped: 0 };
        if let Some(over) = over.get(line) {
            self.take_mixed(over, verdicts, &mut forwarded);
        }
        forwarded
    }

    /// Sends some of a line of frames, and drops others.
    #[cold]
    #[inline(never)]
    fn take_mixed(
        &mut self,
        over: &[u32; LINE],
        verdicts: [Verdict; LINE],
        forwarded: &mut Forwarded,
    ) {
        for (&over, verdict) in over.iter().zip(verdicts) {
            let index = slot(self.next, N);
            self.next = self.next.after();
            match verdict {
                Verdict::Send => {
                    self.send(index, over);
                    forwarded.sent += 1;
                }
                Verdict::Drop => forwarded.dropped += 1,
            }
        }
    }

    /// What the frames in the next `run` slots have more than the least, a cache line of descriptors at a time, as far as they
    /// are whole.
    #[inline]
    fn whole_lines<'l>(
        &self,
        run: usize,
        over: &'l mut [[u32; LINE]; REPORT_EVERY as usize / LINE],
    ) -> &'l [[u32; LINE]] {
        let done = &self.completions[slot(self.next, N)..][..run];
        let mut lines = 0;
        if !self.in_frame {
            for (over, done) in over.iter_mut().zip(done.as_chunks().0) {
                if !whole_frames(done, over, self.longest) {
                    break;
                }
                lines += 1;
            }
        }
        // What is read of the frames is read later.
        fence(Acquire);
        over.get(..lines).unwrap_or_default()
    }

    /// Takes note of `count` descriptors that were written, and asks for a report of the last, of a frame with `over` bytes
    /// more than the least.
    #[inline]
    fn report(&mut self, count: u32, over: u32) {
        self.written = self.written.advanced(count);
        let last = slot(self.written.advanced(u32::MAX), N);
        self.transmit[last].write_command(SHORTEST.lengthened(over).with_report());
    }

    /// Takes what is left before `end`, so that there are up to `budget` frames.
    #[cold]
    #[inline(never)]
    fn take_each(
        &mut self,
        budget: usize,
        end: Position,
        mut all: Forwarded,
        look: &mut impl FnMut(&mut [u8]) -> Verdict,
    ) -> Result<Forwarded, RingError> {
        loop {
            let limit = (budget - all.sent - all.dropped).min(end.since(self.next) as usize);
            let mut lines = Forwarded::default();
            if limit >= LINE {
                lines = self.take_lines(limit, look);
                all.sent += lines.sent;
                all.dropped += lines.dropped;
            }
            let has_lines = lines != Forwarded::default();
            if limit == 0 || (!has_lines && !self.take_one(&mut all, look)?) {
                return Ok(all);
            }
        }
    }

    /// Takes one buffer; `false` where the device has not filled it.
    #[inline]
    fn take_one(
        &mut self,
        all: &mut Forwarded,
        look: &mut impl FnMut(&mut [u8]) -> Verdict,
    ) -> Result<bool, RingError> {
        let index = slot(self.next, N);
        let done = self.completions[index].completion();
        if !done.is_done() {
            return Ok(false);
        }
        let (len, posted) = (done.len(), self.posted);
        if len == 0 || len > posted {
            return Err(RingError::Length { len, posted });
        }
        fence(Acquire);
        let is_part = core::mem::replace(&mut self.in_frame, !done.is_last());
        self.next = self.next.after();
        if !done.is_last() {
            return Ok(true);
        }
        let over = done.whole_frame_over::<MIN_LEN>(self.longest);
        if let Some(over) = over.filter(|_| !is_part)
            // SAFETY: as in `take_lines`.
            && look(unsafe { bytes_at(&self.arena, self.offsets[index], over) }) == Verdict::Send
        {
            self.send(index, over);
            all.sent += 1;
        } else {
            all.dropped += 1;
        }
        Ok(true)
    }

    /// Writes the descriptor of the frame in the buffer of slot `index`, the last that was taken.
    fn send(&mut self, index: usize, over: u32) {
        let (base, _) = base_and_stride(&self.arena);
        let place = slot(self.written, N);
        self.ends[place] = self.next.as_u32();
        let address = base + u64::from(self.offsets[index]);
        self.transmit[place].write(address, SHORTEST.lengthened(over));
        self.report(1, over);
    }
}

/// The bytes of a frame with `over` more than the least, in the buffer `offset` bytes behind the first of `arena`.
///
/// # Safety
///
/// As for [`Arena::bytes_at`], and `over` must be what `whole_frame_over` found.
#[inline]
#[expect(clippy::mut_from_ref, reason = "whoever holds a segment has its bytes")]
unsafe fn bytes_at<'s>(arena: &'s Arena<'_>, offset: u32, over: u32) -> &'s mut [u8] {
    // SAFETY: a length has 16 bits. So it is known that there are the first bytes, and who looks at them need not ask.
    unsafe { assert_unchecked(over <= 0xFFFF) };
    // SAFETY: by the contract.
    unsafe { arena.bytes_at(offset, MIN_LEN + over) }
}

/// The command of the shortest frame.
const SHORTEST: Command = Command::whole(MIN_LEN);

/// Takes down what each of a line of frames has more than the least; `false` where one is none that is whole, good, of at most
/// `longest` bytes, and can be sent as it is.
#[inline]
fn whole_frames(done: &[RxDescriptor; LINE], over: &mut [u32; LINE], longest: u32) -> bool {
    for (over, done) in over.iter_mut().zip(done) {
        let Some(whole) = done.completion().whole_frame_over::<MIN_LEN>(longest) else {
            return false;
        };
        *over = whole;
    }
    true
}
