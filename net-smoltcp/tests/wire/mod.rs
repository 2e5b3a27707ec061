//! A wire in memory, and the queues at its two ends: enough of a NIC to test what is above the queue traits.
//!
//! As with a real device nothing is sent before its buffer is reclaimed, receive slots must be armed, and what finds
//! none is lost.
#![expect(unsafe_code, reason = "makes arenas")]
#![expect(clippy::unwrap_used, reason = "for tests")]

extern crate alloc;

use alloc::{collections::VecDeque, rc::Rc};
use core::{cell::RefCell, ptr::NonNull};

use parakernel_core::{
    address::Iova,
    error::ErrorKind,
    memory::{Arena, ArenaLayout, Pool, Segment, SegmentList},
    queue::{RxQueue, TxQueue},
};

/// How a wire behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    /// Slots of each ring.
    pub(crate) ring: usize,
    /// Most bytes that a receive queue puts into one buffer.
    pub(crate) chunk: usize,
    /// Of 256 frames, this many are lost.
    pub(crate) loss: u8,
    /// Start of the random numbers that choose them.
    pub(crate) seed: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            ring: 64,
            chunk: usize::MAX,
            loss: 0,
            seed: 1,
        }
    }
}

/// One direction of a wire.
#[derive(Debug)]
pub(crate) struct Direction {
    behaviour: Behaviour,
    random: u64,
    flying: VecDeque<Vec<u8>>,
    /// Every frame that was put on the wire, lost or not.
    pub(crate) seen: Vec<Vec<u8>>,
    /// Frames lost on the wire, or because no buffer was armed.
    pub(crate) lost: usize,
    /// What the queues at both ends fail with.
    pub(crate) failure: Option<ErrorKind>,
}

/// Shared with both ends, and with the test.
pub(crate) type Shared = Rc<RefCell<Direction>>;

/// A wire: the two directions, each between a transmit queue and a receive queue.
pub(crate) fn direction(behaviour: Behaviour) -> (Tx, Rx, Shared) {
    let shared = Rc::new(RefCell::new(Direction {
        behaviour,
        random: behaviour.seed,
        flying: VecDeque::new(),
        seen: Vec::new(),
        lost: 0,
        failure: None,
    }));
    let tx = Tx {
        wire: Rc::clone(&shared),
        in_flight: VecDeque::new(),
    };
    let rx = Rx {
        wire: Rc::clone(&shared),
        armed: VecDeque::new(),
    };
    (tx, rx, shared)
}

/// A pool of `count` buffers of 2 KiB with a header's room, in memory that is never freed.
pub(crate) fn pool(count: u16) -> Pool<'static> {
    let layout = ArenaLayout {
        stride: 2112,
        headroom: 64,
        header: 12,
        count,
    };
    let memory = Box::leak(vec![0_u8; layout.bytes()].into_boxed_slice());
    // SAFETY: the memory is leaked, and there is no other arena.
    let arena = unsafe { Arena::new(NonNull::from(memory).cast(), Iova::new(0x1000), layout) };
    Pool::new(arena.unwrap(), words(count.into()))
}

/// Memory for a list of `count` segments, never freed.
pub(crate) fn words(count: usize) -> &'static mut [u32] {
    vec![0; count].leak()
}

impl Direction {
    /// Puts a frame on the wire.
    pub(crate) fn put(&mut self, frame: Vec<u8>) {
        self.seen.push(frame.clone());
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if self.random.to_le_bytes()[7] < self.behaviour.loss {
            self.lost += 1;
        } else {
            self.flying.push_back(frame);
        }
    }
}

/// The transmit queue at one end.
#[derive(Debug)]
pub(crate) struct Tx {
    wire: Shared,
    in_flight: VecDeque<Segment>,
}

impl TxQueue for Tx {
    type Error = ErrorKind;

    fn submit(&mut self, frames: &mut SegmentList<'_>) -> Result<usize, ErrorKind> {
        let wire = self.wire.borrow();
        wire.failure.map_or(Ok(()), Err)?;
        let mut count = 0;
        loop {
            let parts = frames.first_frame();
            if parts == 0 || self.in_flight.len() + parts > wire.behaviour.ring {
                return Ok(count);
            }
            self.in_flight
                .extend((0..parts).filter_map(|_| frames.pop()));
            count += 1;
        }
    }

    fn reclaim(&mut self, pool: &mut Pool<'_>) -> Result<usize, ErrorKind> {
        let mut wire = self.wire.borrow_mut();
        wire.failure.map_or(Ok(()), Err)?;
        let count = self.in_flight.len();
        let mut frame = Vec::new();
        for segment in self.in_flight.drain(..) {
            frame.extend_from_slice(pool.arena().bytes(&segment));
            if !segment.has_more() {
                wire.put(core::mem::take(&mut frame));
            }
            pool.put(segment);
        }
        Ok(count)
    }
}

/// The receive queue at the other end.
#[derive(Debug)]
pub(crate) struct Rx {
    wire: Shared,
    armed: VecDeque<Segment>,
}

impl RxQueue for Rx {
    type Error = ErrorKind;

    fn poll(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, ErrorKind> {
        let wire = Rc::clone(&self.wire);
        let mut wire = wire.borrow_mut();
        wire.failure.map_or(Ok(()), Err)?;
        let capacity = wire.behaviour.chunk.min(pool.arena().layout().capacity());
        let mut count = 0;
        while count < budget {
            let Some(len) = wire.flying.front().map(Vec::len) else {
                break;
            };
            let parts = len.div_ceil(capacity);
            if parts > frames.room() || parts > pool.free() {
                break;
            }
            let frame = wire.flying.pop_front().unwrap_or_default();
            if parts > self.armed.len() {
                wire.lost += 1;
                continue;
            }
            for (index, bytes) in frame.chunks(capacity).enumerate() {
                let segment = self.armed.pop_front().unwrap().with_len(bytes.len());
                let mut segment = segment.with_more(index + 1 < parts);
                pool.arena().bytes_mut(&mut segment).copy_from_slice(bytes);
                frames.push(segment).unwrap();
                self.armed.extend(pool.take());
            }
            count += 1;
        }
        Ok(count)
    }

    fn arm(&mut self, pool: &mut Pool<'_>) -> usize {
        let free = self.wire.borrow().behaviour.ring - self.armed.len();
        let before = self.armed.len();
        self.armed.extend((0..free).map_while(|_| pool.take()));
        self.armed.len() - before
    }
}
