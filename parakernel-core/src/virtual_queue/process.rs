//! The process side.

use super::{Slots, VirtualLayout, VirtualQueueError};
use crate::{
    memory::{Arena, Pool, SegmentList, SharedMemory},
    queue::{Doorbell, RxQueue, TxQueue},
    ring::{Position, RingSize, Slot},
};

/// The receive queue of a virtual pair.
#[derive(Debug)]
pub struct VirtualReceiver<'a, D> {
    slots: Slots<'a>,
    size: RingSize,
    doorbell: D,
    /// The next frame.
    next: Position,
    /// Up to where slots were offered.
    offered: Position,
}

impl<'a, D: Doorbell> VirtualReceiver<'a, D> {
    /// The queue in `memory`, which may be mapped read-only; `None` where the layout does not fit.
    #[must_use]
    pub fn new(memory: SharedMemory<'a>, layout: VirtualLayout, doorbell: D) -> Option<Self> {
        Some(Self {
            slots: layout.slots(memory)?,
            size: layout.entries,
            doorbell,
            next: Position::START,
            offered: Position::START,
        })
    }

    /// Offers every slot whose frame was taken, and returns how many that are.
    fn offer(&mut self) -> usize {
        let offer = self.next.advanced(self.size.entries());
        let count = offer.since(self.offered);
        if count > 0 {
            self.offered = offer;
            self.doorbell.ring(offer);
        }
        count as usize
    }

    /// Copies the next frame into buffers of `pool`; `false` where these, or the list, do not suffice.
    fn take(
        &self,
        slot: Slot,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
    ) -> Result<bool, VirtualQueueError> {
        let mut left = self
            .slots
            .len(slot)
            .map_err(|_| VirtualQueueError::Protocol)?;
        let capacity = pool.arena().layout().capacity();
        let count = left.div_ceil(capacity).max(1);
        if count > pool.free() || count > frames.room() {
            return Ok(false);
        }
        let mut reader = self.slots.reader(slot);
        for _ in 0..count {
            let Some(segment) = pool.take() else { break };
            let len = left.min(capacity);
            left -= len;
            let mut segment = segment.with_len(len).with_more(left > 0);
            reader.read(pool.arena().bytes_mut(&mut segment));
            if let Err(segment) = frames.push(segment) {
                pool.put(segment);
            }
        }
        Ok(true)
    }
}

impl<D: Doorbell> RxQueue for VirtualReceiver<'_, D> {
    type Error = VirtualQueueError;

    fn poll(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, VirtualQueueError> {
        let filled = self.doorbell.accepted(self.offered);
        if filled.since(self.next) > self.offered.since(self.next) {
            return Err(VirtualQueueError::Protocol);
        }
        let mut count = 0;
        while count < budget && self.next != filled {
            if !self.take(self.size.slot(self.next), pool, frames)? {
                break;
            }
            self.next = self.next.after();
            count += 1;
        }
        self.offer();
        Ok(count)
    }

    /// Offers the slots. No buffer of the pool is needed before a frame is there.
    fn arm(&mut self, _pool: &mut Pool<'_>) -> usize {
        self.offer()
    }
}

/// The transmit queue of a virtual pair.
///
/// A frame is copied when it is submitted, so its buffers come back with the next reclaim.
#[derive(Debug)]
pub struct VirtualSender<'a, D> {
    slots: Slots<'a>,
    size: RingSize,
    doorbell: D,
    arena: Arena<'a>,
    next: Position,
    /// Buffers of frames that were copied.
    sent: SegmentList<'a>,
}

impl<'a, D: Doorbell> VirtualSender<'a, D> {
    /// The queue in `memory`, for frames in buffers of `arena`; `None` where the layout does not fit.
    ///
    /// `sent` keeps buffers between submission and reclaim: one word for each.
    #[must_use]
    pub fn new(
        memory: SharedMemory<'a>,
        layout: VirtualLayout,
        doorbell: D,
        arena: Arena<'a>,
        sent: &'a mut [u32],
    ) -> Option<Self> {
        Some(Self {
            slots: layout.slots(memory)?,
            size: layout.entries,
            doorbell,
            arena,
            next: Position::START,
            sent: SegmentList::new(sent),
        })
    }

    /// Copies the first frame, of `count` segments, into the next slot.
    fn copy(&self, frames: &SegmentList<'_>, count: usize) -> Result<(), VirtualQueueError> {
        let segments = || frames.iter().take(count);
        let len = segments().map(crate::memory::Segment::len).sum();
        if len == 0 || len > self.slots.capacity() {
            return Err(VirtualQueueError::Length { len });
        }
        let slot = self.size.slot(self.next);
        let mut writer = self.slots.writer(slot);
        for segment in segments() {
            writer.write(self.arena.bytes(segment));
        }
        writer.finish();
        self.slots.set_len(slot, len);
        Ok(())
    }

    /// Copies frames until they, the slots or the room for their buffers end. Returns how many, and what ended it.
    fn copy_all(&mut self, frames: &mut SegmentList<'_>) -> (usize, Result<(), VirtualQueueError>) {
        let emptied = self.doorbell.accepted(self.next);
        if self.next.since(emptied) > self.size.entries() {
            return (0, Err(VirtualQueueError::Protocol));
        }
        self.sent.compact();
        for sent in 0.. {
            let count = frames.first_frame();
            let is_full = self.next.since(emptied) == self.size.entries();
            if count == 0 || is_full || count > self.sent.room() {
                return (sent, Ok(()));
            }
            if let Err(error) = self.copy(frames, count) {
                return (sent, Err(error));
            }
            for segment in core::iter::from_fn(|| frames.pop()).take(count) {
                // There is room, as was seen above.
                let pushed = self.sent.push(segment);
                debug_assert!(pushed.is_ok(), "no room for a buffer");
            }
            self.next = self.next.after();
        }
        (0, Ok(()))
    }
}

impl<D: Doorbell> TxQueue for VirtualSender<'_, D> {
    type Error = VirtualQueueError;

    fn submit(&mut self, frames: &mut SegmentList<'_>) -> Result<usize, VirtualQueueError> {
        let (sent, end) = self.copy_all(frames);
        if sent > 0 {
            self.doorbell.ring(self.next);
        }
        end.map(|()| sent)
    }

    fn reclaim(&mut self, pool: &mut Pool<'_>) -> Result<usize, VirtualQueueError> {
        let count = self.sent.len();
        self.sent.clear_into(pool);
        Ok(count)
    }
}
