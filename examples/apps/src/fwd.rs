//! The forwarder: sends every received frame on, without a copy. The least that a process can do with its queues.

use core::{cell::Cell, pin::pin};

use parakernel_core::{
    error::{Error, ErrorKind},
    memory::{Pool, SegmentList},
    queue::{RxQueue, TxQueue},
};

use crate::{
    executor::{self, Agenda, Flag, next_turn},
    runtime::{Metric, Runtime},
};

/// What becomes of a frame on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It leaves as it came.
    Forward,
    /// It goes back to who sent it: source and destination address change places.
    Echo,
}

/// A receive queue, a transmit queue, and the frames between them.
#[derive(Debug)]
pub struct Forwarder<'a, R, T> {
    rx: R,
    tx: T,
    pool: Pool<'a>,
    frames: SegmentList<'a>,
    mode: Mode,
    dropped: u64,
}

impl<'a, R: RxQueue, T: TxQueue> Forwarder<'a, R, T> {
    /// Forwards from `rx` to `tx`. `words` has room for the segments of one turn.
    #[must_use]
    pub fn new(mut rx: R, tx: T, mut pool: Pool<'a>, words: &'a mut [u32], mode: Mode) -> Self {
        rx.arm(&mut pool);
        Self {
            rx,
            tx,
            pool,
            frames: SegmentList::new(words),
            mode,
            dropped: 0,
        }
    }

    /// Forwards up to `budget` frames, and returns how many were received. What the transmit queue has no room for is
    /// dropped.
    ///
    /// # Errors
    ///
    /// How a queue failed.
    pub fn turn(&mut self, budget: usize) -> Result<usize, ErrorKind> {
        let Self { rx, tx, pool, .. } = self;
        tx.reclaim(pool).map_err(|error| error.kind())?;
        let received = rx
            .poll(pool, &mut self.frames, budget)
            .map_err(|error| error.kind())?;
        if received == 0 {
            // Slots that found the pool empty when their frames were taken.
            rx.arm(pool);
            return Ok(0);
        }
        if self.mode == Mode::Echo {
            swap_addresses(&mut self.frames, pool);
        }
        let sent = tx.submit(&mut self.frames).map_err(|error| error.kind())?;
        self.dropped += received.saturating_sub(sent) as u64;
        self.frames.clear_into(pool);
        Ok(received)
    }

    /// Frames dropped since the start.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Exchanges the Ethernet addresses of every frame that has them in its first segment.
fn swap_addresses(frames: &mut SegmentList<'_>, pool: &Pool<'_>) {
    let mut first = true;
    for segment in frames.segments_mut() {
        let more = segment.has_more();
        if first && let Some(addresses) = pool.arena().bytes_mut(segment).first_chunk_mut::<12>() {
            let (destination, source) = addresses.split_at_mut(6);
            destination.swap_with_slice(source);
        }
        first = !more;
    }
}

/// Forwards until a queue fails, and returns how it failed.
pub fn run<R: RxQueue, T: TxQueue>(
    runtime: &mut impl Runtime,
    forwarder: &mut Forwarder<'_, R, T>,
    budget: usize,
    flags: &'static [Flag; 1],
) -> ErrorKind {
    let (agenda, forwarded) = (Agenda::new(), Cell::new(0));
    let failure = Cell::new(ErrorKind::Other);
    let mut task = pin!(async {
        loop {
            match forwarder.turn(budget) {
                Ok(0) => {}
                Ok(count) => {
                    forwarded.set(forwarded.get() + count as u64);
                    agenda.note_work();
                }
                Err(kind) => return failure.set(kind),
            }
            next_turn().await;
        }
    });
    executor::run(
        runtime,
        &agenda,
        flags,
        &mut [&mut [task.as_mut()]],
        |runtime| runtime.report(Metric::Served, forwarded.get()),
    );
    failure.get()
}
