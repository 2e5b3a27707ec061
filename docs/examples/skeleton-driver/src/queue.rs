//! The data half: one ring, its buffers, one doorbell. It is the same code in every access mode.

use core::sync::atomic::{Ordering, fence};

use parakernel_core::{
    memory::{Arena, Pool, Segment, SegmentList, SharedMemory},
    queue::{Doorbell, RxQueue, TxQueue},
    ring::Position,
};

use crate::{error::QueueError, ring::Descriptor};

/// Bytes that a frame may have, §2.
pub const FRAME: core::ops::RangeInclusive<usize> = 14..=1514;

/// A queue of `N` entries. A frame that is sent comes back in the same buffer, so it is a receive queue as well.
#[derive(Debug)]
pub struct Queue<'a, D, const N: usize> {
    /// What this half writes: the device's ring, or a shadow of it.
    submissions: &'a [Descriptor; N],
    /// What it reads: the device's ring, writable or not.
    completions: &'a [Descriptor; N],
    doorbell: D,
    arena: Arena<'a>,
    /// The buffer of each entry that is with the device.
    armed: [Option<Segment>; N],
    /// The next entry to come back.
    next: Position,
    /// The next entry to be written.
    tail: Position,
}

impl<'a, D: Doorbell, const N: usize> Queue<'a, D, N> {
    #[expect(clippy::cast_possible_truncation, reason = "at most 256")]
    const ENTRIES: u32 = {
        assert!(N.is_power_of_two() && N <= 256, "§1");
        N as u32
    };

    /// A queue with nothing in it, for frames in the buffers of `arena`; `None` where the memory is too short for a
    /// ring, or not aligned.
    ///
    /// Both views may be the same memory.
    #[must_use]
    pub fn new(
        submissions: SharedMemory<'a>,
        completions: SharedMemory<'a>,
        doorbell: D,
        arena: &Arena<'a>,
    ) -> Option<Self> {
        Some(Self {
            submissions: submissions.view(0)?,
            completions: completions.view(0)?,
            doorbell,
            arena: arena.again(),
            armed: [const { None }; N],
            next: Position::START,
            tail: Position::START,
        })
    }

    /// Writes entries for frames from the front of `frames`, until one does not fit or cannot be sent.
    fn arm_all(&mut self, frames: &mut SegmentList<'_>) -> Result<(), QueueError> {
        while self.tail.since(self.next) < Self::ENTRIES
            && let Some(first) = frames.segments().first()
        {
            let len = first.len();
            if !first.is_whole_frame() || !FRAME.contains(&len) {
                return Err(QueueError::Frame { len });
            }
            let (address, index) = (self.arena.iova(first), slot::<N>(self.tail));
            #[expect(clippy::cast_possible_truncation, reason = "at most 1514")]
            self.submissions[index].arm(address.as_u64(), len as u16);
            self.armed[index] = frames.pop();
            self.tail = self.tail.after();
        }
        Ok(())
    }

    /// Takes the next frame that came back. What the device says is checked before it is used.
    fn take(&mut self) -> Result<Option<Segment>, QueueError> {
        let index = slot::<N>(self.next);
        let Some(returned) = self.completions[index].completed() else {
            return Ok(None);
        };
        let segment = self.armed[index].take().ok_or(QueueError::NotArmed)?;
        let given = segment.len();
        if usize::from(returned) > given {
            return Err(QueueError::Length { returned, given });
        }
        self.next = self.next.after();
        Ok(Some(segment.with_len(returned.into())))
    }
}

impl<D: Doorbell, const N: usize> TxQueue for Queue<'_, D, N> {
    type Error = QueueError;

    fn submit(&mut self, frames: &mut SegmentList<'_>) -> Result<usize, QueueError> {
        let start = self.tail;
        let result = self.arm_all(frames);
        let count = self.tail.since(start);
        if count > 0 {
            self.doorbell.ring(self.tail);
        }
        result.map(|()| count as usize)
    }

    /// Nothing: the buffers come back as received frames.
    fn reclaim(&mut self, _pool: &mut Pool<'_>) -> Result<usize, QueueError> {
        Ok(0)
    }
}

impl<D: Doorbell, const N: usize> RxQueue for Queue<'_, D, N> {
    type Error = QueueError;

    fn poll(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, QueueError> {
        // Beyond what was accepted an entry may still say "done" from the round before.
        let accepted = self.doorbell.accepted(self.tail);
        let mut count = 0;
        while count < budget && frames.room() > 0 && self.next != accepted {
            let Some(segment) = self.take()? else { break };
            if let Err(segment) = frames.push(segment) {
                pool.put(segment);
            }
            count += 1;
        }
        // What the device wrote before it said "done" is seen by what reads the frames.
        fence(Ordering::Acquire);
        Ok(count)
    }

    /// None: what is to be received was sent.
    fn arm(&mut self, _pool: &mut Pool<'_>) -> usize {
        0
    }
}

/// The index of the entry at `position` in a ring of `N`, a power of two.
#[inline]
pub(crate) const fn slot<const N: usize>(position: Position) -> usize {
    position.as_u32() as usize & (N - 1)
}
