//! The data half.

use core::sync::atomic::{Ordering, fence};

use parakernel_core::{
    address::Iova,
    memory::{BlockArena, BlockBuffer},
    queue::{BlockCompletion, BlockOperation, BlockQueue, BlockRequest, Doorbell, Lba},
    ring::Position,
};

use crate::{
    error::{QueueError, Status},
    ring::{Answer, BLOCK, Command, MAX_BLOCKS, Opcode, Words},
};

/// The index of the entry at `position` in a ring of `N`.
pub(crate) const fn slot<const N: usize>(position: Position) -> usize {
    const { assert!(N.is_power_of_two() && N >= 2 && N <= 256, "§1") };
    position.as_u32() as usize % N
}

/// A command in flight.
#[derive(Debug)]
struct Pending {
    user: u64,
    buffer: Option<BlockBuffer>,
}

/// The queue pair, as its user has it.
#[derive(Debug)]
pub struct Queue<'a, D, const N: usize> {
    commands: &'a [Command; N],
    answers: &'a [Answer; N],
    doorbell: D,
    /// Where the arena's first buffer is.
    base: Iova,
    buffer_len: u64,
    /// The first `room` are free ids.
    free: [u16; N],
    room: usize,
    pending: [Option<Pending>; N],
    tail: Position,
    next: Position,
}

impl<'a, D: Doorbell, const N: usize> Queue<'a, D, N> {
    /// A queue that writes `commands` and reads `answers`, and moves data in and out of `arena`'s buffers.
    ///
    /// The requests' buffers must be of `arena`.
    pub fn new(
        commands: &'a [Command; N],
        answers: &'a [Answer; N],
        arena: &BlockArena<'_>,
        doorbell: D,
    ) -> Self {
        Self {
            commands,
            answers,
            doorbell,
            base: arena.iova_base(),
            buffer_len: arena.buffer_len() as u64,
            #[expect(clippy::cast_possible_truncation, reason = "below 256")]
            free: core::array::from_fn(|id| id as u16),
            room: N,
            pending: [const { None }; N],
            tail: Position::START,
            next: Position::START,
        }
    }

    /// The command for `request`, under `id`; `None` where there is none.
    fn command(&self, request: &BlockRequest, id: u16) -> Option<Words> {
        let opcode = match request.operation {
            BlockOperation::Read => Opcode::Read,
            // On the medium only once it was flushed, §6: so there is no `WriteThrough`.
            BlockOperation::Write => Opcode::Write,
            BlockOperation::Flush if request.buffer.is_none() => {
                return Some(Words::new(Opcode::Flush, id, Lba::new(0), 0, 0));
            }
            BlockOperation::Flush | _ => return None,
        };
        let buffer = request.buffer.as_ref()?;
        let blocks = u8::try_from(request.blocks).ok()?;
        let is_long = u64::from(blocks) * BLOCK > self.buffer_len;
        if !(1..=MAX_BLOCKS).contains(&blocks) || is_long {
            return None;
        }
        let offset = u64::from(buffer.index()) * self.buffer_len;
        let address = self.base.checked_add(offset)?.as_u64();
        Some(Words::new(opcode, id, request.lba, blocks, address))
    }

    /// Writes the command for `request`; there is room for it.
    fn put(&mut self, request: BlockRequest) -> Result<(), QueueError> {
        let id = self.free[self.room - 1];
        let Some(words) = self.command(&request, id) else {
            return Err(QueueError::Request(request));
        };
        self.commands[slot::<N>(self.tail)].put(words);
        let BlockRequest { user, buffer, .. } = request;
        self.pending[usize::from(id)] = Some(Pending { user, buffer });
        self.room -= 1;
        self.tail = self.tail.after();
        Ok(())
    }
}

impl<D: Doorbell, const N: usize> BlockQueue for Queue<'_, D, N> {
    type Error = QueueError;
    type Status = Status;

    fn submit(
        &mut self,
        requests: impl IntoIterator<Item = BlockRequest>,
    ) -> Result<usize, QueueError> {
        let before = self.tail;
        let mut requests = requests.into_iter();
        let mut result = Ok(());
        while self.room > 0 && result.is_ok() {
            let Some(request) = requests.next() else {
                break;
            };
            result = self.put(request);
        }
        let count = self.tail.since(before);
        if count > 0 {
            self.doorbell.ring(self.tail);
        }
        result.map(|()| count as usize)
    }

    fn poll(
        &mut self,
        budget: usize,
        mut done: impl FnMut(BlockCompletion<Status>),
    ) -> Result<usize, QueueError> {
        // There are never more answers than commands that were taken over.
        let accepted = self.doorbell.accepted(self.tail);
        let mut count = 0;
        while count < budget && self.next != accepted {
            let Some(ended) = self.answers[slot::<N>(self.next)].at(self.next) else {
                break;
            };
            // What the device wrote before its answer is seen by what `done` does with the buffer.
            fence(Ordering::Acquire);
            let pending = self
                .pending
                .get_mut(usize::from(ended.id))
                .and_then(Option::take);
            let Pending { user, buffer } = pending.ok_or(QueueError::NotInFlight(ended.id))?;
            self.free[self.room] = ended.id;
            self.room += 1;
            self.next = self.next.after();
            count += 1;
            done(BlockCompletion {
                user,
                status: Status::check(ended.status),
                buffer,
            });
        }
        Ok(count)
    }
}
