//! Queues as a process sees them: batches in, batches out, no copy, nothing that waits.
//!
//! A data half implements these; it is the same code in every access mode. What differs is behind its
//! [`Doorbell`].
//!
//! ```
//! use parakernel_core::{memory::{Pool, SegmentList}, queue::{RxQueue, TxQueue}};
//!
//! /// Sends every received frame back, and returns how many there were.
//! fn echo<R, T>(rx: &mut R, tx: &mut T, pool: &mut Pool<'_>) -> Result<usize, T::Error>
//! where
//!     R: RxQueue,
//!     T: TxQueue<Error = R::Error>,
//! {
//!     let mut words = [0; 64];
//!     let mut frames = SegmentList::new(&mut words);
//!     tx.reclaim(pool)?;
//!     let received = rx.poll(pool, &mut frames, 32)?;
//!     tx.submit(&mut frames)?;
//!     frames.clear_into(pool); // what the ring had no room for
//!     Ok(received)
//! }
//! ```

use core::{fmt, future::poll_fn, task::Poll};

use crate::{
    error::Error,
    memory::{BlockBuffer, Pool, SegmentList},
    ring::Position,
};

/// What publishes a ring's new tail to whoever takes entries from it: the device, or the kernel before it.
///
/// A doorbell may be a device register, or a word on a page that the kernel reads at the process's next system call;
/// then a process that has no more to do makes that call.
pub trait Doorbell {
    /// Publishes all entries before `tail`. Everything written to the ring before is visible to who sees the tail.
    fn ring(&mut self, tail: Position);

    /// How far the other side has taken over entries, of which the last published tail was `rung`.
    ///
    /// A data half looks for completions before this position only: beyond it, a slot may still hold those of an
    /// earlier round. Where nobody stands between ring and device this is `rung` itself.
    fn accepted(&self, rung: Position) -> Position;
}

impl<D: Doorbell + ?Sized> Doorbell for &mut D {
    #[inline]
    fn ring(&mut self, tail: Position) {
        (**self).ring(tail);
    }

    #[inline]
    fn accepted(&self, rung: Position) -> Position {
        (**self).accepted(rung)
    }
}

/// A receive queue.
pub trait RxQueue {
    /// What can go wrong; the queue is of no more use after an error, until its owner makes it anew.
    type Error: Error;

    /// Appends up to `budget` received frames to `frames`, and arms fresh buffers from `pool` in the place of each.
    ///
    /// A frame is appended with all its segments, or stays for the next call where `frames` has no room, or `pool` no
    /// buffers, for it. Returns the number of frames.
    ///
    /// # Errors
    ///
    /// Where the device returned what it may not, or the lease has ended.
    fn poll(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, Self::Error>;

    /// Arms buffers from `pool` in all slots that are free, and returns how many that were.
    fn arm(&mut self, pool: &mut Pool<'_>) -> usize;
}

impl<Q: RxQueue + ?Sized> RxQueue for &mut Q {
    type Error = Q::Error;

    #[inline]
    fn poll(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, Self::Error> {
        (**self).poll(pool, frames, budget)
    }

    #[inline]
    fn arm(&mut self, pool: &mut Pool<'_>) -> usize {
        (**self).arm(pool)
    }
}

/// A transmit queue.
pub trait TxQueue {
    /// What can go wrong; the queue is of no more use after an error, until its owner makes it anew.
    type Error: Error;

    /// Takes whole frames from the front of `frames`, as many as the ring has room for, and publishes them.
    ///
    /// Returns the number of frames; the others stay in `frames`.
    ///
    /// # Errors
    ///
    /// Where a frame is one that the queue can never send, which then stays first in `frames`, or the lease has ended.
    fn submit(&mut self, frames: &mut SegmentList<'_>) -> Result<usize, Self::Error>;

    /// Gives the buffers of frames that were sent back to `pool`, and returns their number.
    ///
    /// # Errors
    ///
    /// Where the device returned what it may not, or the lease has ended.
    fn reclaim(&mut self, pool: &mut Pool<'_>) -> Result<usize, Self::Error>;
}

impl<Q: TxQueue + ?Sized> TxQueue for &mut Q {
    type Error = Q::Error;

    #[inline]
    fn submit(&mut self, frames: &mut SegmentList<'_>) -> Result<usize, Self::Error> {
        (**self).submit(frames)
    }

    #[inline]
    fn reclaim(&mut self, pool: &mut Pool<'_>) -> Result<usize, Self::Error> {
        (**self).reclaim(pool)
    }
}

/// A logical block address, in blocks of the namespace's size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Lba(u64);

impl Lba {
    /// The block with this number.
    #[inline]
    #[must_use]
    pub const fn new(block: u64) -> Self {
        Self(block)
    }

    /// The block's number.
    #[inline]
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The block `blocks` further on, or `None` where that would wrap.
    #[inline]
    #[must_use]
    pub const fn checked_add(self, blocks: u64) -> Option<Self> {
        match self.0.checked_add(blocks) {
            Some(block) => Some(Self(block)),
            None => None,
        }
    }
}

/// What a block request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum BlockOperation {
    /// Read blocks into the buffer.
    Read,
    /// Write blocks from the buffer.
    Write,
    /// Write blocks from the buffer, complete when they are on the medium.
    WriteThrough,
    /// Complete when all writes that completed before are on the medium. No buffer.
    Flush,
    /// Make blocks read as zeroes. No buffer.
    WriteZeroes,
    /// Tell the device that the contents of the blocks are of no more use. No buffer.
    Deallocate,
}

/// One request to a [`BlockQueue`].
#[derive(PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct BlockRequest {
    /// What to do.
    pub operation: BlockOperation,
    /// First block, counted from the start of the namespace.
    pub lba: Lba,
    /// Number of blocks, 1 and up; without meaning for a flush.
    pub blocks: u32,
    /// Where the data is or goes.
    pub buffer: Option<BlockBuffer>,
    /// Returned with the completion.
    pub user: u64,
}

/// The end of a [`BlockRequest`].
#[derive(PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct BlockCompletion<E> {
    /// The request's own number.
    pub user: u64,
    /// How it ended.
    pub status: Result<(), E>,
    /// The request's buffer.
    pub buffer: Option<BlockBuffer>,
}

/// A queue pair of a storage device.
pub trait BlockQueue {
    /// What can go wrong with the queue; it is of no more use then, until its owner makes it anew.
    type Error: Error;
    /// How a single request may fail.
    type Status: Error + fmt::Display;

    /// Takes requests until they end or the queue is full, and publishes them. Returns their number.
    ///
    /// A request is taken from the iterator only where there is room for it.
    ///
    /// # Errors
    ///
    /// Where a request is one that the queue can never carry out; the ones before it are published. The error gives the
    /// request back, for the sake of its buffer.
    fn submit(
        &mut self,
        requests: impl IntoIterator<Item = BlockRequest>,
    ) -> Result<usize, Self::Error>;

    /// Hands up to `budget` completions to `done` and returns their number.
    ///
    /// # Errors
    ///
    /// Where the device returned what it may not, or the lease has ended.
    fn poll(
        &mut self,
        budget: usize,
        done: impl FnMut(BlockCompletion<Self::Status>),
    ) -> Result<usize, Self::Error>;
}

impl<Q: BlockQueue> BlockQueue for &mut Q {
    type Error = Q::Error;
    type Status = Q::Status;

    #[inline]
    fn submit(
        &mut self,
        requests: impl IntoIterator<Item = BlockRequest>,
    ) -> Result<usize, Self::Error> {
        (**self).submit(requests)
    }

    #[inline]
    fn poll(
        &mut self,
        budget: usize,
        done: impl FnMut(BlockCompletion<Self::Status>),
    ) -> Result<usize, Self::Error> {
        (**self).poll(budget, done)
    }
}

/// Waits for received frames: [`RxQueue::poll`] as a future.
///
/// The executor decides when to look again: the future wakes itself after every look, so an executor that has nothing
/// else to run arms the queue's event, looks once more, and sleeps.
///
/// # Errors
///
/// As [`RxQueue::poll`].
pub async fn receive<Q: RxQueue>(
    queue: &mut Q,
    pool: &mut Pool<'_>,
    frames: &mut SegmentList<'_>,
    budget: usize,
) -> Result<usize, Q::Error> {
    poll_fn(|context| match queue.poll(pool, frames, budget) {
        Ok(0) => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        result => Poll::Ready(result),
    })
    .await
}

/// Waits for completions: [`BlockQueue::poll`] as a future, to be run as [`receive`] is.
///
/// # Errors
///
/// As [`BlockQueue::poll`].
pub async fn complete<Q: BlockQueue>(
    queue: &mut Q,
    budget: usize,
    mut done: impl FnMut(BlockCompletion<Q::Status>),
) -> Result<usize, Q::Error> {
    poll_fn(|context| match queue.poll(budget, &mut done) {
        Ok(0) => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        result => Poll::Ready(result),
    })
    .await
}
