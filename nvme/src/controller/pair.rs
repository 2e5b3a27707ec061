//! I/O queue pairs: created and deleted one admin command after the other (NVMe 1.4 §5.3 to §5.6, §7.6.1, §7.4.3).

use core::{num::NonZeroU16, task::Poll};

use parakernel_core::{
    memory::{DmaBlock, PAGE_SIZE},
    mmio::Registers,
    ring::RingSize,
    time::Instant,
};

use super::Controller;
use crate::{
    admin::Ticket,
    command::{self, Command},
    completion::CompletionEntry,
    doorbell::{RegisterDoorbell, Shadow},
    error::AdminError,
    regs::DOORBELLS,
};

/// The id of an I/O queue pair: of its submission and of its completion queue. 1 to 65,535.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct QueueId(NonZeroU16);

impl QueueId {
    /// The pair with this number; `None` for 0, the admin queue.
    #[must_use]
    pub const fn new(id: u16) -> Option<Self> {
        match NonZeroU16::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number.
    #[inline]
    #[must_use]
    pub const fn as_u16(self) -> u16 {
        self.0.get()
    }

    const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// What a queue pair is made of.
#[derive(Debug)]
pub struct PairMemory<'m> {
    /// The ring that the controller reads: 64 bytes an entry, aligned to a page.
    pub submission: DmaBlock<'m>,
    /// The ring that the controller writes: 16 bytes an entry, aligned to a page.
    pub completion: DmaBlock<'m>,
    /// Entries of each ring.
    pub size: RingSize,
    /// The MSI-X vector that completions raise; `None` for a queue that is polled.
    pub vector: Option<u16>,
}

/// A queue pair in service.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'m> {
    /// Its id.
    pub queue: QueueId,
    /// Entries of each ring.
    pub size: RingSize,
    offsets: [usize; 2],
    shadows: [Option<Shadow<'m>>; 2],
}

impl<'m> Pair<'m> {
    /// The tail doorbell of the submission queue, in the controller's registers.
    pub const fn tail_doorbell<R>(&self, registers: R) -> RegisterDoorbell<'m, R> {
        RegisterDoorbell::new(registers, self.offsets[0], self.size, self.shadows[0])
    }

    /// The head doorbell of the completion queue, in the controller's registers.
    pub const fn head_doorbell<R>(&self, registers: R) -> RegisterDoorbell<'m, R> {
        RegisterDoorbell::new(registers, self.offsets[1], self.size, self.shadows[1])
    }
}

/// Where a queue pair is, once nothing is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PairState {
    /// In service: [`Controller::pair`] gives its doorbells.
    Live,
    /// The controller has no such queue: its memory can be taken back. With the reason, unless it was asked for.
    Gone(Option<AdminError>),
    /// A reset took the queue: its memory can be taken back, or the pair be revived.
    Lost,
    /// It cannot be told what the controller does with the queue. Its memory stays out of use until a reset.
    Quarantined(AdminError),
}

/// Room for one queue pair in the caller's table.
#[derive(Debug, Default)]
pub struct PairSlot<'m> {
    state: State,
    memory: Option<PairMemory<'m>>,
}

impl PairSlot<'_> {
    /// A slot without a pair, to fill the table with.
    pub const EMPTY: Self = Self {
        state: State::Absent,
        memory: None,
    };
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Without memory.
    #[default]
    Absent,
    Working {
        step: Step,
        /// `None` until the command is given.
        ticket: Option<Ticket>,
        /// Why the pair is being taken down.
        cause: Option<AdminError>,
    },
    Live,
    Gone(Option<AdminError>),
    Lost,
    Quarantined(AdminError),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    CreateCompletion,
    CreateSubmission,
    DeleteSubmission,
    DeleteCompletion,
}

impl State {
    const fn begin(step: Step, cause: Option<AdminError>) -> Self {
        Self::Working {
            step,
            ticket: None,
            cause,
        }
    }

    /// What follows a step. A refusal tells what the controller has; silence does not.
    fn after(step: Step, cause: Option<AdminError>, outcome: Result<u32, AdminError>) -> Self {
        match (step, outcome) {
            (Step::CreateCompletion, Ok(_)) => Self::begin(Step::CreateSubmission, None),
            (Step::CreateSubmission, Ok(_)) => Self::Live,
            (Step::DeleteSubmission, Ok(_)) => Self::begin(Step::DeleteCompletion, cause),
            (Step::DeleteCompletion, Ok(_)) => Self::Gone(cause),
            (_, Err(AdminError::Reset)) => Self::Lost,
            (Step::CreateCompletion, Err(error @ AdminError::Status(_))) => Self::Gone(Some(error)),
            (Step::CreateSubmission, Err(error @ AdminError::Status(_))) => {
                Self::begin(Step::DeleteCompletion, Some(error))
            }
            (_, Err(error)) => Self::Quarantined(error),
        }
    }
}

/// The table of queue pairs, by id.
#[derive(Debug)]
pub(super) struct Pairs<'m> {
    slots: &'m mut [PairSlot<'m>],
    limit: u16,
    /// The highest id that was ever in use.
    highest: u16,
}

impl<'m> Pairs<'m> {
    pub(super) fn new(slots: &'m mut [PairSlot<'m>]) -> Self {
        Self {
            limit: u16::try_from(slots.len()).unwrap_or(u16::MAX),
            slots,
            highest: 0,
        }
    }

    pub(super) const fn capacity(&self) -> u16 {
        self.limit
    }

    fn slot(&mut self, queue: QueueId) -> Option<&mut PairSlot<'m>> {
        self.slots.get_mut(queue.index())
    }

    fn state(&self, queue: QueueId) -> Option<&State> {
        self.slots.get(queue.index()).map(|slot| &slot.state)
    }

    pub(super) fn is_live(&self, queue: QueueId) -> bool {
        matches!(self.state(queue), Some(State::Live))
    }

    /// The controller forgot all queues.
    pub(super) fn lose_all(&mut self) {
        let highest = usize::from(self.highest);
        for slot in self.slots.iter_mut().take(highest) {
            slot.state = match slot.state {
                State::Live => State::Lost,
                State::Working {
                    step: Step::CreateCompletion | Step::CreateSubmission,
                    ..
                } => State::Lost,
                State::Working { cause, .. } => State::Gone(cause),
                State::Quarantined(error) => State::Gone(Some(error)),
                state @ (State::Absent | State::Gone(_) | State::Lost) => state,
            };
        }
    }
}

impl<'m, R: Registers> Controller<'m, R> {
    /// Begins to create pair `queue`; [`poll_pair`](Self::poll_pair) tells when it is there.
    ///
    /// # Errors
    ///
    /// [`AdminError::Argument`] where the memory does not fit its size, or the size or id the controller's
    /// [limits](Self::limits), [`AdminError::Pair`] where there is such a pair; with the memory.
    pub fn begin_create(
        &mut self,
        queue: QueueId,
        memory: PairMemory<'m>,
        now: Instant,
    ) -> Result<(), (AdminError, PairMemory<'m>)> {
        if self.reset.is_running() {
            return Err((AdminError::Reset, memory));
        }
        if !self.fits(&memory) || queue.as_u16() > self.limits.pairs {
            return Err((AdminError::Argument, memory));
        }
        let slot = self
            .pairs
            .slot(queue)
            .filter(|slot| matches!(slot.state, State::Absent));
        let Some(slot) = slot else {
            return Err((AdminError::Pair, memory));
        };
        slot.memory = Some(memory);
        slot.state = State::begin(Step::CreateCompletion, None);
        self.pairs.highest = self.pairs.highest.max(queue.as_u16());
        // Gives the first command, if there is room for it.
        let _ = self.poll_pair(queue, now);
        Ok(())
    }

    fn fits(&self, memory: &PairMemory<'_>) -> bool {
        let entries = memory.size.entries();
        let holds = |block: &DmaBlock<'_>, entry: usize| {
            block.bus_address().is_aligned(PAGE_SIZE as u64)
                && block.len() / entry >= entries as usize
        };
        (2..=self.limits.entries).contains(&entries)
            && holds(&memory.submission, 64)
            && holds(&memory.completion, 16)
    }

    /// Begins to delete a pair that is live. Commands in flight end, or are dropped, before it is gone.
    ///
    /// # Errors
    ///
    /// [`AdminError::Pair`] where the pair is not live.
    pub fn begin_delete(&mut self, queue: QueueId, now: Instant) -> Result<(), AdminError> {
        self.restart(queue, State::Live, Step::DeleteSubmission, now)
    }

    /// Begins to create a pair again that a reset took, in the same memory.
    ///
    /// The completion ring is cleared; whoever uses the pair must start over too.
    ///
    /// # Errors
    ///
    /// [`AdminError::Pair`] where the pair is not lost.
    pub fn begin_revive(&mut self, queue: QueueId, now: Instant) -> Result<(), AdminError> {
        self.restart(queue, State::Lost, Step::CreateCompletion, now)
    }

    fn restart(
        &mut self,
        queue: QueueId,
        from: State,
        step: Step,
        now: Instant,
    ) -> Result<(), AdminError> {
        if self.reset.is_running() {
            return Err(AdminError::Reset);
        }
        let slot = self.pairs.slot(queue).ok_or(AdminError::Pair)?;
        if core::mem::discriminant(&slot.state) != core::mem::discriminant(&from) {
            return Err(AdminError::Pair);
        }
        slot.state = State::begin(step, None);
        let _ = self.poll_pair(queue, now);
        Ok(())
    }

    /// Goes on with creating or deleting a pair; ready when nothing is under way.
    ///
    /// A pair that does not exist is gone.
    pub fn poll_pair(&mut self, queue: QueueId, now: Instant) -> Poll<PairState> {
        self.reap();
        // A command that was given here has not been answered yet, so this ends after three steps.
        loop {
            let next = match self.pairs.state(queue).copied().unwrap_or_default() {
                State::Absent => return Poll::Ready(PairState::Gone(None)),
                State::Gone(cause) => return Poll::Ready(PairState::Gone(cause)),
                State::Lost => return Poll::Ready(PairState::Lost),
                State::Quarantined(error) => return Poll::Ready(PairState::Quarantined(error)),
                State::Live => return Poll::Ready(PairState::Live),
                State::Working {
                    step,
                    ticket: None,
                    cause,
                } => match self.give_step(queue, step, now) {
                    Ok(ticket) => State::Working {
                        step,
                        ticket: Some(ticket),
                        cause,
                    },
                    // A slot will be free again; a reset will say what becomes of the pair.
                    Err(AdminError::Busy | AdminError::Reset) => return Poll::Pending,
                    Err(error) => State::Quarantined(error),
                },
                State::Working {
                    step,
                    ticket: Some(ticket),
                    cause,
                } => match self.outcome(ticket, now) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(outcome) => State::after(step, cause, outcome),
                },
            };
            if let Some(slot) = self.pairs.slot(queue) {
                slot.state = next;
            }
        }
    }

    /// Gives the command of a step.
    fn give_step(
        &mut self,
        queue: QueueId,
        step: Step,
        now: Instant,
    ) -> Result<Ticket, AdminError> {
        if step == Step::CreateCompletion {
            self.shadows(queue).iter().flatten().for_each(Shadow::clear);
        }
        let memory = self.pairs.slot(queue).and_then(|slot| slot.memory.as_ref());
        let command = step_command(queue, step, memory.ok_or(AdminError::Pair)?)
            .ok_or(AdminError::Argument)?;
        self.begin(command, now)
    }

    /// A pair in service; `None` where it is not.
    #[must_use]
    pub fn pair(&self, queue: QueueId) -> Option<Pair<'m>> {
        if !self.pairs.is_live(queue) {
            return None;
        }
        Some(Pair {
            queue,
            size: self.pairs.slots.get(queue.index())?.memory.as_ref()?.size,
            offsets: self.doorbells(queue),
            shadows: self.shadows(queue),
        })
    }

    /// Byte offsets of a pair's tail and head doorbell.
    fn doorbells(&self, queue: QueueId) -> [usize; 2] {
        [
            self.cap.tail_doorbell(queue.as_u16()),
            self.cap.head_doorbell(queue.as_u16()),
        ]
    }

    /// The shadows of a pair's doorbells, where the controller looks at them.
    fn shadows(&self, queue: QueueId) -> [Option<Shadow<'m>>; 2] {
        let shadow = self.shadow.as_ref().filter(|_| self.has_shadows());
        self.doorbells(queue)
            .map(|offset| shadow?.shadow(offset - DOORBELLS))
    }

    /// Takes back the memory of a pair that is gone or lost; its id may be used again.
    ///
    /// # Errors
    ///
    /// [`AdminError::Pair`] while the controller may still use the memory.
    pub fn take_back(&mut self, queue: QueueId) -> Result<PairMemory<'m>, AdminError> {
        let slot = self.pairs.slot(queue).ok_or(AdminError::Pair)?;
        if !matches!(slot.state, State::Gone(_) | State::Lost) {
            return Err(AdminError::Pair);
        }
        let memory = slot.memory.take().ok_or(AdminError::Pair)?;
        slot.state = State::Absent;
        Ok(memory)
    }
}

/// The command of a step; `None` where the completion ring is too short to be cleared.
fn step_command(queue: QueueId, step: Step, memory: &PairMemory<'_>) -> Option<Command> {
    let (id, entries) = (queue.as_u16(), memory.size.entries());
    Some(match step {
        Step::CreateCompletion => {
            // What an earlier queue left there would look like completions of this one.
            let completions = memory
                .completion
                .memory()
                .slice::<CompletionEntry>(0, entries as usize)?;
            completions.iter().for_each(CompletionEntry::clear);
            command::create_completion_queue(
                id,
                memory.completion.bus_address(),
                entries,
                memory.vector,
            )
        }
        Step::CreateSubmission => {
            command::create_submission_queue(id, memory.submission.bus_address(), entries)
        }
        Step::DeleteSubmission => command::delete_submission_queue(id),
        Step::DeleteCompletion => command::delete_completion_queue(id),
    })
}
