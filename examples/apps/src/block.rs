//! The block benchmark: writes volumes in passes, reads them back, and knows what must be there.
//!
//! Pass after pass a [`Job`] stamps every block of its [`Volume`] with owner, place and generation (see
//! [`pattern`](crate::pattern)), flushes, and reads everything back in another order. Transfers have one block up to
//! what the device takes at once, and up to the job's depth of them are in flight on each of its queue pairs. A pass
//! has one generation, so two generations at most lie on a volume at any time; a process that starts anew goes on
//! where the one before it ended.

use core::{cell::Cell, pin::pin};

use parakernel_core::{
    error::ErrorKind,
    memory::{BlockArena, BlockBuffer},
    queue::BlockQueue,
};

use crate::{
    executor::{self, Agenda, Flag, each},
    pattern::HEADER_LEN,
    runtime::Runtime,
};

mod buffers;
mod order;
mod pass;
mod statistics;

use buffers::Buffers;
use pass::{Action, Pass};
pub use statistics::Statistics;
use statistics::Summary;

/// A part of a namespace, and who owns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Volume {
    /// Identity of the owner.
    pub owner: u64,
    /// The namespace, from 1.
    pub namespace: u32,
    /// First block, counted in the namespace.
    pub first: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Bytes of a block.
    pub block_len: usize,
}

/// How hard a job works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Most requests in flight on each queue pair, 1 and up.
    pub depth: usize,
    /// Most blocks of one transfer, 1 and up; a buffer must hold them.
    pub transfer: u32,
    /// Passes after which the job is done; `None` for never.
    pub passes: Option<u64>,
    /// Whether each pass ends with zeroing and deallocating the volume, which leaves it without stamps until the next
    /// pass has written it.
    pub discard: bool,
}

/// A volume and what is needed to work on it.
#[derive(Debug)]
pub struct Job<'a, Q> {
    lanes: &'a mut [Lane<Q>],
    ground: Ground<'a>,
    load: Load,
}

/// Where a job's data is: on the volume, and in buffers.
#[derive(Debug)]
struct Ground<'a> {
    volume: Volume,
    arena: &'a BlockArena<'a>,
    buffers: Buffers<'a>,
}

/// A queue pair and what is under way on it.
#[derive(Debug)]
pub struct Lane<Q> {
    queue: Q,
    in_flight: usize,
}

impl<Q> Lane<Q> {
    /// A queue pair with nothing under way.
    #[must_use]
    pub const fn new(queue: Q) -> Self {
        Self {
            queue,
            in_flight: 0,
        }
    }

    /// The queue pair.
    #[must_use]
    pub fn into_queue(self) -> Q {
        self.queue
    }
}

impl<'a, Q: BlockQueue> Job<'a, Q> {
    /// A job on `volume` over the queue pairs of `lanes`; `None` where there is no lane, no buffer, an empty volume, a
    /// block that cannot be [stamped](crate::pattern::Stamp::write), or a buffer does not hold a transfer.
    ///
    /// `buffers` are some of `arena`'s; one for each request in flight is enough.
    #[must_use]
    pub fn new(
        lanes: &'a mut [Lane<Q>],
        arena: &'a BlockArena<'a>,
        buffers: &'a mut [Option<BlockBuffer>],
        volume: Volume,
        load: Load,
    ) -> Option<Self> {
        let transfer = usize::try_from(load.transfer).ok()?;
        let bytes = transfer.checked_mul(volume.block_len)?;
        let buffers = Buffers::new(buffers);
        let stamped = volume.block_len >= HEADER_LEN && volume.block_len.is_multiple_of(8);
        let fits = bytes > 0 && bytes <= arena.buffer_len() && load.depth > 0;
        let any = !lanes.is_empty() && !buffers.is_empty() && volume.blocks > 0;
        volume.first.checked_add(volume.blocks)?;
        let ground = Ground {
            volume,
            arena,
            buffers,
        };
        (stamped && fits && any).then_some(Self {
            lanes,
            ground,
            load,
        })
    }

    /// Works until all passes are done.
    async fn work(&mut self, agenda: &Agenda, statistics: &Statistics) -> Result<(), ErrorKind> {
        let (oldest, newest) = self.generations(agenda, statistics).await?;
        // A pass that was cut short is made whole first, so that never three generations lie side by side.
        let first = newest + u64::from(oldest == newest);
        let last = self.load.passes.map(|passes| newest + passes);
        for generation in first.. {
            if last.is_some_and(|last| generation > last) {
                break;
            }
            let begun = agenda.now();
            let write = Pass::of(&self.load, 2 * generation);
            self.run(Action::Write(generation), write, agenda, statistics)
                .await?;
            self.run(Action::Flush, write.alone(), agenda, statistics)
                .await?;
            let read = Pass::of(&self.load, 2 * generation + 1);
            self.run(Action::Check(generation), read, agenda, statistics)
                .await?;
            statistics.finish(Summary {
                generation,
                blocks: self.ground.volume.blocks,
                write,
                read,
                nanoseconds: agenda.now().as_nanos() - begun.as_nanos(),
            });
            if self.load.discard {
                self.discard(read, agenda, statistics).await?;
            }
        }
        Ok(())
    }

    /// Reads the whole volume for the oldest and the newest generation of its owner on it, 0 for blocks without.
    async fn generations(
        &mut self,
        agenda: &Agenda,
        statistics: &Statistics,
    ) -> Result<(u64, u64), ErrorKind> {
        let (oldest, newest) = (Cell::new(u64::MAX), Cell::new(0));
        let pass = Pass::largest(&self.load);
        self.run(Action::Survey(&oldest, &newest), pass, agenda, statistics)
            .await?;
        Ok((oldest.get().min(newest.get()), newest.get()))
    }

    /// Zeroes the volume and reads the zeroes back, then deallocates it.
    async fn discard(
        &mut self,
        pass: Pass,
        agenda: &Agenda,
        statistics: &Statistics,
    ) -> Result<(), ErrorKind> {
        for action in [Action::WriteZeroes, Action::CheckZeroes, Action::Deallocate] {
            self.run(action, pass, agenda, statistics).await?;
        }
        Ok(())
    }
}

/// Works on all jobs until they are done, or until one fails: then the failure is returned.
///
/// `flags` belongs to this run alone while it lasts.
///
/// # Errors
///
/// How a queue failed.
///
/// # Panics
///
/// If there are fewer flags than jobs.
pub fn run<Q: BlockQueue, const JOBS: usize>(
    runtime: &mut impl Runtime,
    jobs: &mut [Job<'_, Q>; JOBS],
    statistics: &Statistics,
    flags: &'static [Flag; JOBS],
) -> Result<(), ErrorKind> {
    let (agenda, failure) = (Agenda::new(), Cell::new(Ok(())));
    let mut tasks = pin!(jobs.each_mut().map(async |job| {
        if let Err(kind) = job.work(&agenda, statistics).await {
            failure.set(Err(kind));
            agenda.stop();
        }
    }));
    executor::run(
        runtime,
        &agenda,
        flags,
        &mut [&mut each(tasks.as_mut())],
        |runtime| statistics.report(runtime),
    );
    failure.get()
}
