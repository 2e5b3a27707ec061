//! The data half: one queue pair, as its user sees it.
//!
//! It knows the formats of commands and completions and nothing else: two rings, a table of what is in flight, and two
//! doorbells. In `Direct` the rings are the controller's and the doorbells are registers. In `Checked` the submission
//! ring is a shadow that the kernel copies from, the completion ring a read-only view of what the controller writes,
//! and the doorbells are words on the lease's submission page. The code is the same.
#![expect(
    unsafe_code,
    reason = "turns words of the command table back into buffers"
)]

use core::sync::atomic::{Ordering, fence};

use parakernel_core::{
    memory::{BlockArena, BlockBuffer, SharedMemory},
    queue::{BlockCompletion, BlockOperation, BlockQueue, BlockRequest, Doorbell},
    ring::{Position, RingSize},
};

use crate::{
    command::{FUA, SubmissionEntry, opcode},
    completion::{CompletionEntry, State},
    controller::QueueId,
    error::{CompletionError, QueueError, RequestError},
    identify::NamespaceData,
    namespace::NamespaceId,
    prp::{ChainedTables, ListTables},
    status::Status,
};

mod shape;

use shape::{Ranges, Shape};

/// How commands say where their data is, when it lies on more than two pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataPointer {
    /// They cannot: two pages are the most.
    TwoPages,
    /// By lists from tables of the arena's page addresses, which the controller reads; page 0 is the arena's first.
    Lists(ListTables),
    /// The kernel puts the list in, where it checks the command (`Checked`).
    ByKernel,
    /// By an SGL descriptor with address and length, for controllers with
    /// [`SglSupport`](crate::identify::SglSupport) and arenas that are contiguous for the controller.
    Sgl,
}

/// Memory for the ranges of deallocations: 16 bytes for each entry of the ring, which the controller reads.
#[derive(Clone, Copy, Debug)]
pub struct RangeMemory<'m> {
    /// The memory.
    pub memory: SharedMemory<'m>,
    /// Where the controller finds it; a multiple of 16.
    pub address: u64,
}

/// What a queue works on.
#[derive(Clone, Copy, Debug)]
pub struct QueueConfig<'m> {
    /// The pair's id.
    pub queue: QueueId,
    /// The namespace that all commands go to.
    pub namespace: NamespaceId,
    /// Its blocks.
    pub blocks: NamespaceData,
    /// The longest transfer in bytes that the controller takes; `None` where there is no limit.
    pub max_transfer: Option<u64>,
    /// How commands say where their data is.
    pub pointer: DataPointer,
    /// Memory for deallocations; without it there are none.
    pub ranges: Option<RangeMemory<'m>>,
}

/// The two rings of a pair.
#[derive(Debug)]
pub struct Rings<'m, const N: usize> {
    submissions: &'m [SubmissionEntry; N],
    completions: &'m [CompletionEntry; N],
}

impl<'m, const N: usize> Rings<'m, N> {
    /// The rings in `submission` and `completion`, both zeroed; `None` where they have no room for `N` entries.
    #[must_use]
    pub fn new(submission: SharedMemory<'m>, completion: SharedMemory<'m>) -> Option<Self> {
        Some(Self {
            submissions: submission.view(0)?,
            completions: completion.view(0)?,
        })
    }
}

/// What a queue knows of its commands in flight, by id.
#[derive(Debug)]
pub struct CommandTable<const N: usize> {
    users: [u64; N],
    /// The word of the command's buffer, or one of the two below.
    buffers: [u32; N],
    /// The id that will be given after this one, while both are free.
    next: [u16; N],
}

/// In flight, without a buffer.
const NO_BUFFER: u32 = u32::MAX - 1;
/// Not in flight.
const FREE: u32 = u32::MAX;

impl<const N: usize> CommandTable<N> {
    /// A table with nothing in flight.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            users: [0; N],
            buffers: [FREE; N],
            next: [0; N],
        }
    }

    /// Links all ids, in order.
    fn clear(&mut self) {
        self.buffers.fill(FREE);
        // The last link is made when the first id comes free; at 65,536 entries the count ends there.
        for (next, link) in (1..=u16::MAX).zip(&mut self.next) {
            *link = next;
        }
    }
}

impl<const N: usize> Default for CommandTable<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// One queue pair with `N` entries in each ring, a power of two from 2 to 65,536.
///
/// It holds up to `N - 1` commands in flight, each under an id of its own. An id is given again only after all other
/// free ones, so that a completion which comes twice is found out.
#[derive(Debug)]
pub struct Queue<'m, D, const N: usize> {
    rings: Rings<'m, N>,
    commands: &'m mut CommandTable<N>,
    shape: Shape,
    ranges: Option<Ranges<'m>>,
    /// Most blocks of a transfer by a chained list.
    max_chained: u32,
    tail: Position,
    head: Position,
    /// The id to give next.
    first_free: usize,
    /// The id that came free last.
    last_free: usize,
    tail_doorbell: D,
    head_doorbell: D,
}

impl<'m, D: Doorbell, const N: usize> Queue<'m, D, N> {
    const SIZE: RingSize = {
        assert!(N >= 2 && N <= 1 << 16, "2 to 65,536 entries");
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        RingSize::new(N as u32).expect("a power of two")
    };

    /// A queue that moves data in and out of `arena`'s buffers; `None` where a block is larger than a buffer, or the
    /// range memory too small.
    ///
    /// `doorbells` are those of submission tail and completion head. The requests' buffers must be of `arena`.
    #[must_use]
    pub fn new(
        config: QueueConfig<'m>,
        rings: Rings<'m, N>,
        commands: &'m mut CommandTable<N>,
        arena: &BlockArena<'_>,
        doorbells: [D; 2],
    ) -> Option<Self> {
        let shape = Shape::new(&config, arena)?;
        let ranges = match config.ranges {
            None => None,
            Some(RangeMemory { memory, address }) => Some(Ranges {
                ranges: memory.slice(0, N)?,
                address,
            }),
        };
        commands.clear();
        let [tail_doorbell, head_doorbell] = doorbells;
        Some(Self {
            rings,
            commands,
            shape,
            ranges,
            max_chained: shape::max_blocks(&config, arena, u64::MAX)?,
            tail: Position::START,
            head: Position::START,
            first_free: 0,
            last_free: N - 1,
            tail_doorbell,
            head_doorbell,
        })
    }

    /// How many more requests fit.
    #[must_use]
    pub fn room(&self) -> usize {
        N - 1 - self.tail.since(self.head) as usize
    }

    /// Submits one transfer, of any length that controller and buffer allow, by a chained list from `tables`, whose page 0
    /// is the arena's first.
    ///
    /// For transfers of more than [`MAX_TRANSFER`](crate::prp::MAX_TRANSFER) bytes;
    /// [`submit`](BlockQueue::submit) has a shorter way for the others.
    ///
    /// # Errors
    ///
    /// As [`submit`](BlockQueue::submit); [`RequestError::Room`] where the queue is full.
    pub fn submit_chained(
        &mut self,
        request: BlockRequest,
        tables: &ChainedTables,
    ) -> Result<(), QueueError> {
        let words = match self.room() {
            0 => Err(RequestError::Room),
            _ => self.shape.chained(&request, self.max_chained, tables),
        };
        let mut words = match words {
            Ok(words) => words,
            Err(reason) => {
                return Err(QueueError::Request {
                    request,
                    reason,
                    submitted: 0,
                });
            }
        };
        let id = self.first_free % N;
        words.head |= (id as u64) << 16;
        self.first_free = self.commands.next[id].into();
        self.commands.users[id] = request.user;
        self.commands.buffers[id] = request.buffer.map_or(NO_BUFFER, BlockBuffer::into_word);
        self.rings.submissions[self.tail.as_u32() as usize % N].write_io(&words);
        self.tail = self.tail.after();
        self.tail_doorbell.ring(self.tail);
        Ok(())
    }

    /// Ids and user words of the commands in flight, to name one that takes too long to
    /// [`begin_abort`](crate::controller::Controller::begin_abort).
    pub fn in_flight(&self) -> impl Iterator<Item = (u16, u64)> {
        let ids = (0_u16..=u16::MAX).zip(self.commands.users.iter().zip(&self.commands.buffers));
        ids.filter(|(_, (_, word))| **word != FREE)
            .map(|(id, (user, _))| (id, *user))
    }

    /// Gives up: hands the user word and buffer of every command in flight to `lost`. The queue is of no more use.
    ///
    /// # Safety
    ///
    /// The controller must have deleted the queue pair, or have been reset: it moves no more data of these commands.
    pub unsafe fn abandon(self, mut lost: impl FnMut(u64, Option<BlockBuffer>)) {
        let CommandTable { users, buffers, .. } = self.commands;
        for (user, word) in users.iter().zip(buffers).filter(|(_, word)| **word != FREE) {
            let word = core::mem::replace(word, FREE);
            // SAFETY: as in `poll_plain`.
            let buffer = (word < NO_BUFFER).then(|| unsafe { BlockBuffer::from_word(word) });
            lost(*user, buffer);
        }
    }
}

impl<D: Doorbell, const N: usize> BlockQueue for Queue<'_, D, N> {
    type Error = QueueError;
    type Status = Status;

    #[inline]
    fn submit(
        &mut self,
        requests: impl IntoIterator<Item = BlockRequest>,
    ) -> Result<usize, QueueError> {
        let mut requests = requests.into_iter();
        // Locals, because every store to a ring makes the compiler reload what is behind `self`.
        let (shape, ranges, submissions) = (self.shape, self.ranges, self.rings.submissions);
        let commands = &mut *self.commands;
        let (start, end) = (self.tail, self.head.advanced(Self::SIZE.entries() - 1));
        let (mut tail, mut id) = (start, self.first_free);
        let mut refused = None;
        while tail != end {
            let Some(request) = requests.next() else {
                break;
            };
            let words = match request.operation {
                BlockOperation::Read => shape.transfer(&request, opcode::READ, 0),
                BlockOperation::Write => shape.transfer(&request, opcode::WRITE, 0),
                BlockOperation::WriteThrough => shape.transfer(&request, opcode::WRITE, FUA),
                BlockOperation::Flush
                | BlockOperation::WriteZeroes
                | BlockOperation::Deallocate
                | _ => shape.without_data(&request, id, ranges),
            };
            let mut words = match words {
                Ok(words) => words,
                Err(reason) => {
                    refused = Some((request, reason));
                    break;
                }
            };
            words.head |= (id as u64) << 16;
            let slot = id % N;
            id = commands.next[slot].into();
            commands.users[slot] = request.user;
            commands.buffers[slot] = request.buffer.map_or(NO_BUFFER, BlockBuffer::into_word);
            submissions[tail.as_u32() as usize % N].write_io(&words);
            tail = tail.after();
        }
        self.first_free = id;
        let submitted = tail.since(start) as usize;
        if submitted > 0 {
            self.tail = tail;
            self.tail_doorbell.ring(tail);
        }
        match refused {
            None => Ok(submitted),
            Some((request, reason)) => Err(QueueError::Request {
                request,
                reason,
                submitted,
            }),
        }
    }

    #[inline]
    fn poll(
        &mut self,
        budget: usize,
        mut done: impl FnMut(BlockCompletion<Status>),
    ) -> Result<usize, QueueError> {
        let start = self.head;
        let budget = u32::try_from(budget).unwrap_or(u32::MAX);
        let mut outcome = Ok(true);
        while outcome == Ok(true) {
            self.poll_plain(budget - self.head.since(start), &mut done);
            if self.head.since(start) == budget {
                break;
            }
            outcome = self.poll_one(&mut done);
        }
        let taken = self.head.since(start) as usize;
        if taken > 0 {
            self.head_doorbell.ring(self.head);
        }
        outcome.map(|_| taken).map_err(QueueError::Completion)
    }
}

impl<D: Doorbell, const N: usize> Queue<'_, D, N> {
    /// Takes up to `budget` completions, as long as they are successes of commands with buffers and the ring does not
    /// wrap. Whatever else there is, is left to [`poll_one`](Self::poll_one).
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a ring has at most 65,536 entries"
    )]
    fn poll_plain(&mut self, budget: u32, done: &mut impl FnMut(BlockCompletion<Status>)) {
        let first = self.head.as_u32() as usize % N;
        let run = (budget as usize).min(N - first);
        let success = State::success(self.shape.queue, !Self::SIZE.is_odd_round(self.head));
        let CommandTable {
            users,
            buffers,
            next,
        } = &mut *self.commands;
        let mut last_free = self.last_free % N;
        let mut left = &self.rings.completions[first..first + run];
        while let [entry, rest @ ..] = left {
            let state = entry.state();
            let id = usize::from(state.command());
            if !state.is(success) || id >= N || buffers[id] >= NO_BUFFER {
                break;
            }
            let word = core::mem::replace(&mut buffers[id], FREE);
            next[last_free] = state.command();
            last_free = id;
            left = rest;
            // What the device wrote before the completion is read after it.
            fence(Ordering::Acquire);
            // SAFETY: `submit` put the word there, and it was just replaced: the buffer comes back once.
            let buffer = Some(unsafe { BlockBuffer::from_word(word) });
            done(BlockCompletion {
                user: users[id],
                status: Ok(()),
                buffer,
            });
        }
        self.last_free = last_free;
        self.head = self.head.advanced((run - left.len()) as u32);
    }

    /// Takes one completion of any kind; `false` where there is none.
    #[cold]
    fn poll_one(
        &mut self,
        done: &mut impl FnMut(BlockCompletion<Status>),
    ) -> Result<bool, CompletionError> {
        let success = State::success(self.shape.queue, !Self::SIZE.is_odd_round(self.head));
        let state = self.rings.completions[self.head.as_u32() as usize % N].state();
        if !state.is_new(success) {
            return Ok(false);
        }
        if !state.is_of(success) {
            return Err(CompletionError::QueueId { id: state.queue() });
        }
        let id = usize::from(state.command());
        let CommandTable {
            users,
            buffers,
            next,
        } = &mut *self.commands;
        let word = buffers
            .get_mut(id)
            .map_or(FREE, |word| core::mem::replace(word, FREE));
        if word == FREE {
            return Err(CompletionError::CommandId {
                id: state.command(),
            });
        }
        next[self.last_free % N] = state.command();
        self.last_free = id;
        self.head = self.head.after();
        fence(Ordering::Acquire);
        // SAFETY: as in `poll_plain`.
        let buffer = (word != NO_BUFFER).then(|| unsafe { BlockBuffer::from_word(word) });
        done(BlockCompletion {
            user: users[id],
            status: state.status(),
            buffer,
        });
        Ok(true)
    }
}
