//! One way through a volume: what is asked of each of its blocks, in what pieces and order.

use core::{cell::Cell, fmt, iter, time::Duration};

use parakernel_core::{
    error::{Error as _, ErrorKind},
    queue::{BlockCompletion, BlockOperation, BlockQueue, BlockRequest, Lba},
};

use super::{Ground, Job, Lane, Load, Statistics, Volume, order::Order};
use crate::{
    executor::{Agenda, next_turn},
    pattern::{Stamp, mix},
};

/// How long the device may take without completing anything.
const LIMIT: Duration = Duration::from_secs(60);

/// What is asked of each piece of the volume.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action<'c> {
    /// Write stamps of a generation.
    Write(u64),
    /// Read, and look for the stamps of a generation.
    Check(u64),
    /// Read, and lower and raise the two cells to the generations found.
    Survey(&'c Cell<u64>, &'c Cell<u64>),
    /// Put all writes on the medium.
    Flush,
    /// Make everything zero.
    WriteZeroes,
    /// Read, and look for zeroes.
    CheckZeroes,
    /// Say that the contents are of no more use.
    Deallocate,
}

impl Action<'_> {
    const fn operation(self, pass: Pass) -> BlockOperation {
        match self {
            Self::Write(_) if pass.through => BlockOperation::WriteThrough,
            Self::Write(_) => BlockOperation::Write,
            Self::Check(_) | Self::Survey(..) | Self::CheckZeroes => BlockOperation::Read,
            Self::Flush => BlockOperation::Flush,
            Self::WriteZeroes => BlockOperation::WriteZeroes,
            Self::Deallocate => BlockOperation::Deallocate,
        }
    }

    const fn moves_data(self) -> bool {
        matches!(
            self,
            Self::Write(_) | Self::Check(_) | Self::Survey(..) | Self::CheckZeroes
        )
    }
}

/// In what pieces and order a volume is gone through, and how many pieces at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pass {
    /// Blocks of a piece.
    size: u32,
    /// Requests in flight on each queue pair.
    depth: usize,
    /// Where a shuffled order starts; `None` for one after the other.
    seed: Option<u64>,
    /// Whether writes are to be on the medium when they complete.
    through: bool,
    /// Whether there is but one request for the whole volume.
    alone: bool,
}

impl Pass {
    /// A pass that follows from `number`: its size and depth are the load's, or that halved again and again.
    ///
    /// Over many numbers every combination comes about.
    pub(super) fn of(load: &Load, number: u64) -> Self {
        let [size, depth, order, through, ..] = mix(number).to_le_bytes();
        Self {
            size: load.transfer >> (u32::from(size) % (load.transfer.ilog2() + 1)),
            depth: load.depth >> (u32::from(depth) % (load.depth.ilog2() + 1)),
            seed: (order % 2 == 0).then_some(number),
            through: through % 2 == 0,
            alone: false,
        }
    }

    /// As fast as it goes.
    pub(super) const fn largest(load: &Load) -> Self {
        Self {
            size: load.transfer,
            depth: load.depth,
            seed: None,
            through: false,
            alone: false,
        }
    }

    /// One request for all.
    pub(super) const fn alone(self) -> Self {
        Self {
            alone: true,
            ..self
        }
    }

    /// Number of requests for a volume of `blocks`.
    pub(super) fn requests(&self, blocks: u64) -> u64 {
        if self.alone {
            1
        } else {
            blocks.div_ceil(self.size.into())
        }
    }

    fn order(&self, blocks: u64) -> Order {
        let count = self.requests(blocks);
        self.seed.map_or(Order::sequential(count), |seed| {
            Order::shuffled(count, seed)
        })
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = if self.seed.is_some() {
            "shuffled"
        } else {
            "in order"
        };
        write!(f, "{order} by {} (depth {})", self.size, self.depth)
    }
}

impl<Q: BlockQueue> Job<'_, Q> {
    /// Goes through the volume once.
    ///
    /// Returns with nothing in flight, unless a queue failed.
    pub(super) async fn run(
        &mut self,
        action: Action<'_>,
        pass: Pass,
        agenda: &Agenda,
        statistics: &Statistics,
    ) -> Result<(), ErrorKind> {
        let mut walk = Walk {
            action,
            pass,
            order: pass.order(self.ground.volume.blocks).peekable(),
        };
        let mut limit = agenda.now().saturating_add(LIMIT);
        loop {
            let completed = self.turn(&mut walk, statistics)?;
            let in_flight = self.lanes.iter().any(|lane| lane.in_flight > 0);
            if !in_flight && walk.order.peek().is_none() {
                return Ok(());
            }
            if completed > 0 {
                agenda.note_work();
                limit = agenda.now().saturating_add(LIMIT);
            } else if agenda.now() >= limit {
                return Err(ErrorKind::Timeout);
            }
            agenda.wake_at(limit);
            next_turn().await;
        }
    }

    /// Takes completions and submits what there is room for, on each queue pair; returns the number of completions.
    fn turn(&mut self, walk: &mut Walk<'_>, statistics: &Statistics) -> Result<usize, ErrorKind> {
        let mut completed = 0;
        for lane in self.lanes.iter_mut() {
            completed += lane.poll(walk, &mut self.ground, statistics)?;
            lane.submit(walk, &mut self.ground, statistics)?;
        }
        Ok(completed)
    }
}

impl<Q: BlockQueue> Lane<Q> {
    /// Takes completions, and judges what they brought; returns their number.
    fn poll(
        &mut self,
        walk: &Walk<'_>,
        ground: &mut Ground<'_>,
        statistics: &Statistics,
    ) -> Result<usize, ErrorKind> {
        let Ground {
            volume,
            arena,
            buffers,
        } = ground;
        let take = |completion: BlockCompletion<Q::Status>| {
            let bytes = completion.buffer.as_ref().map(|buffer| arena.bytes(buffer));
            if completion.status.is_ok() {
                let piece = Piece::at(completion.user, walk.pass, volume);
                piece.judge(walk.action, bytes.unwrap_or_default(), volume, statistics);
            } else {
                add(&statistics.failed, 1);
            }
            completion
                .buffer
                .into_iter()
                .for_each(|buffer| buffers.put(buffer));
        };
        let completed = self.queue.poll(self.in_flight, take);
        let completed = completed.map_err(|error| error.kind())?;
        self.in_flight -= completed;
        Ok(completed)
    }

    /// Submits requests, up to the pass's depth.
    fn submit(
        &mut self,
        walk: &mut Walk<'_>,
        ground: &mut Ground<'_>,
        statistics: &Statistics,
    ) -> Result<(), ErrorKind> {
        let room = walk.pass.depth.saturating_sub(self.in_flight);
        let requests = iter::from_fn(|| walk.request(ground)).take(room);
        let submitted = self.queue.submit(requests);
        let submitted = submitted.map_err(|error| error.kind())?;
        self.in_flight += submitted;
        add(&statistics.requests, submitted as u64);
        Ok(())
    }
}

/// A pass under way.
struct Walk<'c> {
    action: Action<'c>,
    pass: Pass,
    order: iter::Peekable<Order>,
}

impl Walk<'_> {
    /// The next request, where there is a piece left and a buffer for it.
    fn request(&mut self, ground: &mut Ground<'_>) -> Option<BlockRequest> {
        let user = *self.order.peek()?;
        let piece = Piece::at(user, self.pass, &ground.volume);
        let buffer = if self.action.moves_data() {
            let mut buffer = ground.buffers.take()?;
            if let Action::Write(generation) = self.action {
                let bytes = ground.arena.bytes_mut(&mut buffer);
                piece.stamp(generation, bytes, &ground.volume);
            }
            Some(buffer)
        } else {
            None
        };
        self.order.next();
        Some(BlockRequest {
            operation: self.action.operation(self.pass),
            lba: Lba::new(piece.lba),
            blocks: piece.blocks,
            buffer,
            user,
        })
    }
}

/// Some consecutive blocks of a volume.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Counted in the namespace.
    lba: u64,
    blocks: u32,
}

impl Piece {
    /// Piece `index` of a pass.
    fn at(index: u64, pass: Pass, volume: &Volume) -> Self {
        let offset = index * u64::from(pass.size);
        let rest = volume.blocks - offset;
        Self {
            lba: volume.first + offset,
            blocks: u32::try_from(rest).map_or(pass.size, |rest| rest.min(pass.size)),
        }
    }

    /// The piece's blocks, with what must be written on them.
    fn stamps(self, generation: u64, volume: &Volume) -> impl Iterator<Item = Stamp> {
        let Volume {
            owner, namespace, ..
        } = *volume;
        let lbas = self.lba..self.lba + u64::from(self.blocks);
        lbas.map(move |lba| Stamp {
            owner,
            namespace,
            lba,
            generation,
        })
    }

    fn stamp(self, generation: u64, bytes: &mut [u8], volume: &Volume) {
        let blocks = bytes.chunks_exact_mut(volume.block_len);
        for (block, stamp) in blocks.zip(self.stamps(generation, volume)) {
            // Every block can be stamped: a job on others is refused.
            let _ = stamp.write(block);
        }
    }

    /// Counts what a request that was carried out has done.
    fn judge(self, action: Action<'_>, bytes: &[u8], volume: &Volume, statistics: &Statistics) {
        let blocks = bytes.chunks_exact(volume.block_len);
        match action {
            Action::Write(_) => add(&statistics.written, self.blocks.into()),
            Action::Check(generation) => {
                for (block, stamp) in blocks.zip(self.stamps(generation, volume)) {
                    statistics.verify(Stamp::check(block) == Ok(stamp));
                }
            }
            Action::CheckZeroes => {
                for block in blocks.take(self.blocks as usize) {
                    statistics.verify(block.iter().all(|&byte| byte == 0));
                }
            }
            Action::Survey(oldest, newest) => {
                for (block, stamp) in blocks.zip(self.stamps(0, volume)) {
                    let generation = Stamp::check(block)
                        .ok()
                        .filter(|found| found.owner == stamp.owner && found.lba == stamp.lba)
                        .map_or(0, |found| found.generation);
                    oldest.set(oldest.get().min(generation));
                    newest.set(newest.get().max(generation));
                }
            }
            Action::Flush | Action::WriteZeroes | Action::Deallocate => {}
        }
    }
}

fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get() + count);
}
