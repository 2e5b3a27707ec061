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
    memory::{BlockArena, BlockBuffer, PAGE_SIZE, SharedMemory},
    queue::{BlockCompletion, BlockOperation, BlockQueue, BlockRequest, Doorbell},
    ring::{Position, RingSize},
};

use crate::{
    command::{DEALLOCATE, DatasetRange, FUA, IoWords, PSDT_SGL, SubmissionEntry, opcode},
    completion::{CompletionEntry, State},
    controller::QueueId,
    error::{CompletionError, QueueError, RequestError},
    identify::NamespaceData,
    namespace::NamespaceId,
    prp::{ListTables, MAX_TRANSFER},
    status::Status,
};

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

/// Room for what a queue knows of one command in flight.
#[derive(Clone, Copy, Debug)]
pub struct CommandSlot {
    user: u64,
    /// The word of the command's buffer, or one of the two below.
    buffer: u32,
    /// The id that will be given after this one, while both are free.
    next: u32,
}

/// In flight, without a buffer.
const NO_BUFFER: u32 = u32::MAX - 1;
/// Not in flight.
const FREE: u32 = u32::MAX;

impl CommandSlot {
    /// An unused slot, to fill a queue's table with.
    pub const EMPTY: Self = Self {
        user: 0,
        buffer: FREE,
        next: 0,
    };
}

/// One queue pair with `N` entries in each ring, a power of two from 2 to 65,536.
///
/// It holds up to `N - 1` commands in flight, each under an id of its own. An id is given again only after all other
/// free ones, so that a completion which comes twice is found out.
#[derive(Debug)]
pub struct Queue<'m, D, const N: usize> {
    rings: Rings<'m, N>,
    commands: &'m mut [CommandSlot; N],
    shape: Shape,
    ranges: Option<Ranges<'m>>,
    tail: Position,
    head: Position,
    /// The id to give next.
    first_free: u32,
    /// The id that came free last.
    last_free: u32,
    tail_doorbell: D,
    head_doorbell: D,
}

/// What stays the same from command to command.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// First word of every command, apart from opcode and id.
    head: u64,
    queue: u16,
    block_shift: u8,
    /// Most blocks of one transfer.
    max_blocks: u32,
    /// Bytes up to which PRP 2 is not needed.
    one_page: u64,
    base: u64,
    buffer_len: u64,
    buffers: u32,
    pointer: DataPointer,
}

#[derive(Clone, Copy, Debug)]
struct Ranges<'m> {
    ranges: &'m [DatasetRange],
    address: u64,
}

/// Most blocks that a command's length field can count: 16 bits, less one.
const MAX_BLOCKS: u64 = 1 << 16;

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
        commands: &'m mut [CommandSlot; N],
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
        for (next, slot) in (1..).zip(commands.iter_mut()) {
            *slot = CommandSlot {
                next,
                ..CommandSlot::EMPTY
            };
        }
        let [tail_doorbell, head_doorbell] = doorbells;
        Some(Self {
            rings,
            commands,
            shape,
            ranges,
            tail: Position::START,
            head: Position::START,
            first_free: 0,
            last_free: Self::SIZE.entries() - 1,
            tail_doorbell,
            head_doorbell,
        })
    }

    /// How many more requests fit.
    #[must_use]
    pub fn room(&self) -> usize {
        N - 1 - self.tail.since(self.head) as usize
    }

    /// Ids and user words of the commands in flight, to name one that takes too long to
    /// [`begin_abort`](crate::controller::Controller::begin_abort).
    pub fn in_flight(&self) -> impl Iterator<Item = (u16, u64)> {
        let slots = (0_u16..=u16::MAX).zip(self.commands.iter());
        slots
            .filter(|(_, slot)| slot.buffer != FREE)
            .map(|(id, slot)| (id, slot.user))
    }

    /// Gives up: hands the user word and buffer of every command in flight to `lost`. The queue is of no more use.
    ///
    /// # Safety
    ///
    /// The controller must have deleted the queue pair, or have been reset: it moves no more data of these commands.
    pub unsafe fn abandon(self, mut lost: impl FnMut(u64, Option<BlockBuffer>)) {
        for slot in self.commands.iter_mut().filter(|slot| slot.buffer != FREE) {
            let word = core::mem::replace(&mut slot.buffer, FREE);
            lost(slot.user, buffer_of(word));
        }
    }

    /// The words of a request that moves no data.
    #[cold]
    fn without_data(&self, request: &BlockRequest) -> Result<IoWords, RequestError> {
        if request.buffer.is_some() {
            return Err(RequestError::Buffer);
        }
        let head = |opcode: u8| self.shape.head & !PSDT_SGL | u64::from(opcode);
        let blocks = u64::from(request.blocks);
        let empty = IoWords {
            head: 0,
            prp1: 0,
            prp2: 0,
            lba: 0,
            length: 0,
        };
        match request.operation {
            BlockOperation::Flush => Ok(IoWords {
                head: head(opcode::FLUSH),
                ..empty
            }),
            BlockOperation::WriteZeroes if (1..=MAX_BLOCKS).contains(&blocks) => Ok(IoWords {
                head: head(opcode::WRITE_ZEROES),
                lba: request.lba.as_u64(),
                length: blocks - 1,
                ..empty
            }),
            BlockOperation::Deallocate if blocks > 0 => {
                // One range; the number of ranges counts less one.
                let ranges = self.ranges.as_ref().ok_or(RequestError::Operation)?;
                let range = ranges
                    .ranges
                    .get(self.first_free as usize)
                    .ok_or(RequestError::Operation)?;
                range.write(request.lba, request.blocks);
                Ok(IoWords {
                    head: head(opcode::DATASET_MANAGEMENT),
                    prp1: ranges.address
                        + u64::from(self.first_free) * size_of::<DatasetRange>() as u64,
                    lba: DEALLOCATE,
                    ..empty
                })
            }
            BlockOperation::WriteZeroes | BlockOperation::Deallocate => Err(RequestError::Blocks),
            BlockOperation::Read | BlockOperation::Write | BlockOperation::WriteThrough | _ => {
                Err(RequestError::Operation)
            }
        }
    }
}

impl Shape {
    fn new(config: &QueueConfig<'_>, arena: &BlockArena<'_>) -> Option<Self> {
        let NamespaceData { block_shift, .. } = config.blocks;
        let (psdt, one_page, pointer_limit) = match config.pointer {
            DataPointer::TwoPages => (0, PAGE_SIZE as u64, 2 * PAGE_SIZE as u64),
            DataPointer::Lists(_) | DataPointer::ByKernel => (0, PAGE_SIZE as u64, MAX_TRANSFER),
            DataPointer::Sgl => (PSDT_SGL, 0, u32::MAX.into()),
        };
        let buffer_len = arena.buffer_len() as u64;
        let bytes = buffer_len
            .min(pointer_limit)
            .min(config.max_transfer.unwrap_or(u64::MAX));
        let max_blocks = (bytes >> block_shift).min(MAX_BLOCKS);
        (max_blocks > 0).then_some(Self {
            head: u64::from(config.namespace.as_u32()) << 32 | psdt,
            queue: config.queue.as_u16(),
            block_shift,
            max_blocks: u32::try_from(max_blocks).ok()?,
            one_page,
            base: arena.iova_base().as_u64(),
            buffer_len,
            buffers: arena.count(),
            pointer: config.pointer,
        })
    }

    /// The words of a request that moves data.
    #[inline]
    fn transfer(
        &self,
        request: &BlockRequest,
        opcode: u8,
        flags: u64,
    ) -> Result<IoWords, RequestError> {
        let less_one = request.blocks.wrapping_sub(1);
        if less_one >= self.max_blocks {
            return Err(RequestError::Blocks);
        }
        let index = request.buffer.as_ref().map_or(u32::MAX, BlockBuffer::index);
        if index >= self.buffers {
            return Err(RequestError::Buffer);
        }
        let prp1 = self.base + u64::from(index) * self.buffer_len;
        let len = u64::from(request.blocks) << self.block_shift;
        Ok(IoWords {
            head: self.head | u64::from(opcode),
            prp1,
            prp2: if len <= self.one_page {
                0
            } else {
                self.second(prp1, len)
            },
            lba: request.lba.as_u64(),
            length: u64::from(less_one) | flags,
        })
    }

    /// What stands where PRP 2 does, for data on more than one page or an SGL. Buffers begin at a page.
    fn second(&self, prp1: u64, len: u64) -> u64 {
        const PAGE: u64 = PAGE_SIZE as u64;
        match self.pointer {
            // Length in the low half, type 0 ("data block") in the top byte.
            DataPointer::Sgl => len,
            _ if len <= 2 * PAGE => prp1 + PAGE,
            DataPointer::Lists(tables) => tables.list((prp1 - self.base) / PAGE + 1),
            DataPointer::ByKernel | DataPointer::TwoPages => 0,
        }
    }
}

/// The buffer of a word out of the command table, if it is one.
#[inline]
fn buffer_of(word: u32) -> Option<BlockBuffer> {
    if word >= NO_BUFFER {
        return None;
    }
    // SAFETY: the word was put into the table by `into_word`, and whoever takes it out marks its slot free.
    Some(unsafe { BlockBuffer::from_word(word) })
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
        let (start, end) = (self.tail, self.head.advanced(Self::SIZE.entries() - 1));
        let shape = self.shape;
        let mut tail = start;
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
                | _ => self.without_data(&request),
            };
            let mut words = match words {
                Ok(words) => words,
                Err(reason) => {
                    refused = Some((request, reason));
                    break;
                }
            };
            let id = self.first_free;
            words.head |= u64::from(id) << 16;
            let slot = &mut self.commands[id as usize % N];
            self.first_free = slot.next;
            slot.user = request.user;
            slot.buffer = request.buffer.map_or(NO_BUFFER, BlockBuffer::into_word);
            self.rings.submissions[Self::SIZE.slot(tail).index() % N].write_io(&words);
            tail = tail.after();
        }
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
        let mut head = start;
        let mut broken = Ok(());
        while (head.since(start) as usize) < budget {
            let success = State::success(self.shape.queue, !Self::SIZE.is_odd_round(head));
            let state = self.rings.completions[Self::SIZE.slot(head).index() % N].state();
            let mut status = Ok(());
            if !state.is(success) {
                match examine(state, success) {
                    None => break,
                    Some(Ok(failed)) => status = failed,
                    Some(Err(error)) => {
                        broken = Err(QueueError::Completion(error));
                        break;
                    }
                }
            }
            let id = state.command();
            let slot = self
                .commands
                .get_mut(usize::from(id))
                .filter(|slot| slot.buffer != FREE);
            let Some(slot) = slot else {
                broken = Err(QueueError::Completion(CompletionError::CommandId { id }));
                break;
            };
            let (user, word) = (slot.user, slot.buffer);
            slot.buffer = FREE;
            self.commands[self.last_free as usize % N].next = u32::from(id);
            self.last_free = u32::from(id);
            head = head.after();
            // What the device wrote before the completion is read after it.
            fence(Ordering::Acquire);
            let buffer = buffer_of(word);
            done(BlockCompletion {
                user,
                status,
                buffer,
            });
        }
        if head != start {
            self.head = head;
            self.head_doorbell.ring(head);
        }
        broken.map(|()| head.since(start) as usize)
    }
}

/// A completion that is not plainly a success: `None` where it is none yet.
#[cold]
fn examine(state: State, success: State) -> Option<Result<Result<(), Status>, CompletionError>> {
    if !state.is_new(success) {
        return None;
    }
    if !state.is_of(success) {
        return Some(Err(CompletionError::QueueId { id: state.queue() }));
    }
    Some(Ok(state.status()))
}
