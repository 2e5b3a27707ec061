//! The kernel's part of a queue pair in `Checked` mode.
//!
//! The process writes commands into a *shadow* ring. Once per call the kernel copies each new one, has the validator
//! check and translate the copy, writes it into the controller's ring and rings the doorbell. Completions the process
//! reads by itself, from the ring that the controller writes, mapped read-only; the kernel looks at the same entries to
//! know which ids are free, before it accepts any command that might use one again.

use core::{
    fmt,
    ops::Range,
    sync::atomic::{Ordering, fence},
};

use parakernel_core::{
    error::{Error, ErrorKind},
    memory::{RegionTable, SharedMemory},
    queue::Doorbell,
    ring::{Position, RingSize},
    validate::{Validated, Violation},
};

use crate::{
    command::{Command, SubmissionEntry},
    completion::{CompletionEntry, State},
    controller::QueueId,
    error::CompletionError,
    validate::{Access, BusyMark, HardwareCommand, Rules, Validator},
};

/// The memory of a pair in `Checked` mode.
#[derive(Debug)]
pub struct CheckedMemory<'m> {
    /// The shadow ring: the process writes it.
    pub shadow: SharedMemory<'m>,
    /// The ring that the controller reads; zeroed, and only this module writes it.
    pub submission: SharedMemory<'m>,
    /// The ring that the controller writes; the process maps it read-only.
    pub completion: SharedMemory<'m>,
    /// A mark for each entry of the rings: command ids are smaller than that.
    pub busy: &'m mut [BusyMark],
}

/// What a process claims on its submission page: each word read once, with acquire order, so that the commands before
/// the tail are seen as they were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// It has written the commands before this position.
    pub tail: Position,
    /// It has taken the completions before this position.
    pub head: Position,
}

/// How a call ended badly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ServiceError {
    /// The process broke a rule. Commands before the one that does are with the controller.
    Violation(Violation),
    /// The controller broke the protocol. Nothing it says about this queue can be believed any more.
    Completion(CompletionError),
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(violation) => violation.fmt(f),
            Self::Completion(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ServiceError {}

impl Error for ServiceError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Violation(violation) => violation.kind(),
            Self::Completion(error) => error.kind(),
        }
    }
}

/// The kernel's end of a queue pair in `Checked` mode.
#[derive(Debug)]
pub struct CheckedQueue<'m, D> {
    shadow: &'m [SubmissionEntry],
    submissions: &'m [SubmissionEntry],
    completions: &'m [CompletionEntry],
    validator: Validator<'m>,
    queue: u16,
    size: RingSize,
    /// Commands before this position are with the controller.
    accepted: Position,
    /// Completions before this position have been seen.
    harvested: Position,
    /// Completions before this position may be overwritten by the controller.
    released: Position,
    tail_doorbell: D,
    head_doorbell: D,
}

impl<'m, D: Doorbell> CheckedQueue<'m, D> {
    /// The kernel's end of `queue`, with rings of `size`; `None` where a part of the memory is too small.
    #[must_use]
    pub fn new(
        queue: QueueId,
        size: RingSize,
        memory: CheckedMemory<'m>,
        rules: Rules,
        doorbells: [D; 2],
    ) -> Option<Self> {
        let entries = size.entries() as usize;
        let [tail_doorbell, head_doorbell] = doorbells;
        Some(Self {
            shadow: memory.shadow.slice(0, entries)?,
            submissions: memory.submission.slice(0, entries)?,
            completions: memory.completion.slice(0, entries)?,
            validator: Validator::new(rules, memory.busy.get_mut(..entries)?),
            queue: queue.as_u16(),
            size,
            accepted: Position::START,
            harvested: Position::START,
            released: Position::START,
            tail_doorbell,
            head_doorbell,
        })
    }

    /// Takes over what the process claims to have published, `budget` commands at most, and gives the position up to
    /// which everything is with the controller.
    ///
    /// # Errors
    ///
    /// [`ServiceError`]; the queue then has to be drained and deleted.
    pub fn service(
        &mut self,
        claim: Claim,
        regions: &RegionTable<'_>,
        budget: u32,
    ) -> Result<Position, ServiceError> {
        self.harvest().map_err(ServiceError::Completion)?;
        self.release(claim.head);
        self.take_over(claim.tail, regions, budget)
            .map_err(ServiceError::Violation)
    }

    /// Up to where completions have been seen.
    #[must_use]
    pub const fn harvested(&self) -> Position {
        self.harvested
    }

    /// How many commands are with the controller.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.accepted.since(self.harvested)
    }

    /// Whether there are completions that the process has not taken, going by how far it says it has `seen`.
    ///
    /// # Errors
    ///
    /// [`CompletionError`], where the controller broke the protocol.
    pub fn has_news(&mut self, seen: Position) -> Result<bool, CompletionError> {
        self.harvest()?;
        Ok(self.harvested != seen)
    }

    /// Lets commands in flight end, without the process: takes completions in its place, and gives the number of
    /// commands that are still with the controller. To be called until that is 0, or time is up; then the pair is
    /// deleted.
    ///
    /// # Errors
    ///
    /// [`CompletionError`], where the controller broke the protocol: the pair must be deleted with commands in flight.
    pub fn drain(&mut self) -> Result<u32, CompletionError> {
        self.harvest()?;
        self.release(self.harvested);
        Ok(self.in_flight())
    }

    /// Sees the completions that have come: their ids are free again.
    fn harvest(&mut self) -> Result<(), CompletionError> {
        let start = self.harvested;
        let mut outcome = Ok(true);
        // Every completion is of a command in flight, so this ends.
        while outcome == Ok(true) && self.in_flight() > 0 {
            outcome = self.harvest_run();
        }
        if self.harvested != start {
            // What the ids are used for next comes after the completions that freed them.
            fence(Ordering::Acquire);
        }
        outcome.map(|_| ())
    }

    /// The same as far as the ring goes without a wrap; whether there may be more.
    fn harvest_run(&mut self) -> Result<bool, CompletionError> {
        let success = State::success(self.queue, !self.size.is_odd_round(self.harvested));
        let run = run(self.size, self.harvested, self.in_flight());
        let validator = &mut self.validator;
        let entries = self.completions.get(run).unwrap_or_default();
        let mut left = entries;
        let mut outcome = Ok(true);
        while let [entry, rest @ ..] = left {
            let state = entry.state();
            if !state.matches(success) {
                outcome = no_match(state, success);
                break;
            }
            if !validator.complete(state.command()) {
                outcome = Err(CompletionError::CommandId {
                    id: state.command(),
                });
                break;
            }
            left = rest;
        }
        let seen = u32::try_from(entries.len() - left.len()).unwrap_or(0);
        self.harvested = self.harvested.advanced(seen);
        outcome
    }

    /// Gives entries back to the controller that the process has taken: those it claims, of those that are there.
    fn release(&mut self, claimed: Position) {
        let there = self.harvested.since(self.released);
        let taken = claimed.since(self.released).min(there);
        if taken > 0 {
            self.released = self.released.advanced(taken);
            self.head_doorbell.ring(self.released);
        }
    }

    /// Copies, checks and publishes commands.
    fn take_over(
        &mut self,
        claimed: Position,
        regions: &RegionTable<'_>,
        budget: u32,
    ) -> Result<Position, Violation> {
        let start = self.accepted;
        // A command has an entry of the completion ring to itself until the process has taken its completion.
        let room = self.size.entries() - 1 - start.since(self.released);
        let wanted = claimed.since(start);
        if wanted > room {
            return Err(Violation::TailJump {
                claimed: claimed.as_u32(),
                accepted: start.as_u32(),
            });
        }
        let access = Access::new(regions);
        let end = start.advanced(wanted.min(budget));
        let mut outcome = Ok(());
        while self.accepted != end && outcome.is_ok() {
            let odd = self.take_over_usual(end.since(self.accepted), &access);
            outcome = odd.map_or(Ok(()), |command| self.take_over_odd(command, &access));
        }
        if self.accepted != start {
            self.tail_doorbell.ring(self.accepted);
        }
        outcome.map(|()| self.accepted)
    }

    /// Takes over up to `count` commands, as far as the ring goes without a wrap; gives back the first that is none of
    /// the usual ones, as it was copied.
    fn take_over_usual(&mut self, count: u32, access: &Access<'_>) -> Option<Command> {
        let run = run(self.size, self.accepted, count);
        let shadow = self.shadow.get(run.clone()).unwrap_or_default();
        let entries = self.submissions.get(run).unwrap_or_default();
        // A copy, because every store to the ring makes the compiler reload what is behind `self`.
        let rules = self.validator.rules;
        let busy = &mut *self.validator.busy;
        let mut taken = 0;
        let mut odd = None;
        for (shadow, entry) in shadow.iter().zip(entries) {
            let command = shadow.read();
            let Some(accepted) = Validator::accept_usual(&rules, busy, &command, access) else {
                odd = Some(command);
                break;
            };
            write(entry, accepted);
            taken += 1;
        }
        self.accepted = self.accepted.advanced(taken);
        odd
    }

    /// Takes over one command.
    #[cold]
    fn take_over_odd(&mut self, command: Command, access: &Access<'_>) -> Result<(), Violation> {
        let accepted = self.validator.accept(command, access)?;
        if let Some(entry) = self.submissions.get(self.size.slot(self.accepted).index()) {
            write(entry, accepted);
            self.accepted = self.accepted.after();
        }
        Ok(())
    }
}

/// What an entry is that is not a completion of this round and queue: none yet, or one that must not be there.
#[cold]
const fn no_match(state: State, success: State) -> Result<bool, CompletionError> {
    if state.is_new(success) {
        return Err(CompletionError::QueueId { id: state.queue() });
    }
    Ok(false)
}

/// The slots of up to `count` entries from `position` on that follow each other in a ring of `size`.
fn run(size: RingSize, position: Position, count: u32) -> Range<usize> {
    let first = size.slot(position).index();
    let end = size.entries() as usize;
    first..end.min(first + count as usize)
}

/// The only way into a controller's ring.
#[inline]
fn write(entry: &SubmissionEntry, command: Validated<Validator<'_>>) {
    let HardwareCommand(words) = command.into_inner();
    entry.write_io(&words);
}
