//! The admin queue: commands with deadlines, found again by id (NVMe 1.4 §4.1, §5).

use core::{
    sync::atomic::{Ordering, fence},
    task::Poll,
};

use parakernel_core::{
    memory::{DmaBlock, PAGE_SIZE},
    mmio::Registers,
    ring::{Position, RingSize},
    time::{Deadline, Instant},
};

use crate::{
    command::{Command, SubmissionEntry},
    completion::{CompletionEntry, State as Completion},
    error::AdminError,
    regs::Cap,
};

/// The caller's memory for the admin queue.
#[derive(Debug)]
pub struct AdminMemory<'m> {
    /// The submission queue: at least a page, aligned to a page. 64 bytes an entry, at most 4,096 entries.
    pub submission: DmaBlock<'m>,
    /// The completion queue: at least a page, aligned to a page. 16 bytes an entry.
    pub completion: DmaBlock<'m>,
    /// A page, aligned, that the controller writes descriptions and logs into.
    pub data: DmaBlock<'m>,
    /// One for each command that may be outstanding: at least 2, at most 128 are used.
    pub slots: &'m mut [AdminSlot],
}

/// Room for an outstanding admin command.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdminSlot {
    state: SlotState,
    /// Counts the uses of the slot; a part of the command id, so that a late completion is not taken for a new one.
    generation: u8,
}

impl AdminSlot {
    /// An unused slot, to fill the table with.
    pub const EMPTY: Self = Self {
        state: SlotState::Free,
        generation: 0,
    };
}

#[derive(Clone, Copy, Debug, Default)]
enum SlotState {
    #[default]
    Free,
    InFlight(Option<Deadline>),
    Done(Result<u32, AdminError>),
    /// Timed out: out of use until its completion comes after all, or the controller is reset.
    Abandoned,
}

/// Completions that nobody waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Strays {
    /// Of commands that had timed out before.
    pub late: u32,
    /// Of commands that were never given, or had completed before, or of another queue.
    pub unknown: u32,
}

/// Slots are numbered in 7 bits of the command id, the uses of a slot in the upper 8. So no id is ever 0xFFFF, which
/// the error log uses for "no command" (NVMe 1.4 figure 195).
const MAX_SLOTS: usize = 128;

/// AQA has 12 bits for sizes: at most 4,096 entries (NVMe 1.4 §3.1.8).
const MAX_ENTRIES: usize = 4096;

/// Handle of an outstanding command, good for one answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket {
    id: CommandId,
    /// How many resets came before it.
    epoch: u32,
}

/// The id of a command: its slot, and which use of the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CommandId(u16);

impl CommandId {
    const fn new(slot: u16, generation: u8) -> Self {
        Self((generation as u16) << 8 | slot)
    }

    const fn slot(self) -> usize {
        (self.0 & 0xff) as usize
    }

    const fn generation(self) -> u8 {
        self.0.to_le_bytes()[1]
    }
}

/// The admin queue pair.
#[derive(Debug)]
pub(crate) struct AdminQueue<'m> {
    blocks: [DmaBlock<'m>; 2],
    submissions: &'m [SubmissionEntry],
    completions: &'m [CompletionEntry],
    slots: &'m mut [AdminSlot],
    size: RingSize,
    tail: Position,
    head: Position,
    epoch: u32,
    strays: Strays,
}

impl<'m> AdminQueue<'m> {
    /// A queue in the caller's memory, and the data page; `None` where a part of it is too small or unaligned.
    pub(crate) fn new(memory: AdminMemory<'m>) -> Option<(Self, DmaBlock<'m>)> {
        let AdminMemory {
            submission,
            completion,
            data,
            slots,
        } = memory;
        let usable = |block: &DmaBlock<'_>| {
            block.len() >= PAGE_SIZE && block.bus_address().is_aligned(PAGE_SIZE as u64)
        };
        if !(usable(&submission) && usable(&completion) && usable(&data)) || slots.len() < 2 {
            return None;
        }
        let entries = (submission.len() / 64)
            .min(completion.len() / 16)
            .min(MAX_ENTRIES);
        let size = RingSize::at_most(u32::try_from(entries).ok()?)?;
        let entries = size.entries() as usize;
        // One entry stays free, so that a full ring differs from an empty one.
        let usable_slots = slots.len().min(MAX_SLOTS).min(entries - 1);
        let slots = &mut slots[..usable_slots];
        slots.fill(AdminSlot::EMPTY);
        let queue = Self {
            submissions: submission.memory().slice(0, entries)?,
            completions: completion.memory().slice(0, entries)?,
            blocks: [submission, completion],
            slots,
            size,
            tail: Position::START,
            head: Position::START,
            epoch: 0,
            strays: Strays::default(),
        };
        Some((queue, data))
    }

    pub(crate) const fn blocks(&self) -> &[DmaBlock<'m>; 2] {
        &self.blocks
    }

    pub(crate) const fn entries(&self) -> u32 {
        self.size.entries()
    }

    pub(crate) const fn strays(&self) -> Strays {
        self.strays
    }

    /// Starts over, for a controller that is disabled: every command outstanding ends as [`AdminError::Reset`].
    pub(crate) fn reset(&mut self) {
        for slot in self.slots.iter_mut() {
            slot.state = SlotState::Free;
        }
        self.completions.iter().for_each(CompletionEntry::clear);
        self.tail = Position::START;
        self.head = Position::START;
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// Gives a command, to be answered by `deadline` if there is one.
    pub(crate) fn submit(
        &mut self,
        registers: &impl Registers,
        cap: Cap,
        command: Command,
        deadline: Option<Deadline>,
    ) -> Result<Ticket, AdminError> {
        let mut slots = (0_u16..).zip(self.slots.iter_mut());
        let free = slots.find(|(_, slot)| matches!(slot.state, SlotState::Free));
        let (index, slot) = free.ok_or(AdminError::Busy)?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.state = SlotState::InFlight(deadline);
        let id = CommandId::new(index, slot.generation);
        self.submissions[self.size.slot(self.tail).index()].write(&command.with_id(id.0));
        self.tail = self.tail.after();
        fence(Ordering::Release);
        registers.write32(cap.tail_doorbell(0), self.doorbell_value(self.tail));
        Ok(Ticket {
            id,
            epoch: self.epoch,
        })
    }

    /// Takes the completions that have come, at most one ring of them.
    pub(crate) fn reap(&mut self, registers: &impl Registers, cap: Cap) {
        let before = self.head;
        while self.head.since(before) < self.size.entries() {
            let expected = Completion::success(0, !self.size.is_odd_round(self.head));
            let entry = &self.completions[self.size.slot(self.head).index()];
            let state = entry.state();
            if !state.is_new(expected) {
                break;
            }
            fence(Ordering::Acquire);
            let outcome = state
                .status()
                .map(|()| entry.result())
                .map_err(AdminError::Status);
            self.complete(state, outcome);
            self.head = self.head.after();
        }
        if self.head != before {
            registers.write32(cap.head_doorbell(0), self.doorbell_value(self.head));
        }
    }

    /// Files a completion with the command that it is of, if there is one.
    fn complete(&mut self, completion: Completion, outcome: Result<u32, AdminError>) {
        let slot = self.slot(CommandId(completion.command()));
        match slot.filter(|_| completion.queue() == 0) {
            Some(slot) if matches!(slot.state, SlotState::InFlight(_)) => {
                slot.state = SlotState::Done(outcome);
            }
            Some(slot) if matches!(slot.state, SlotState::Abandoned) => {
                slot.state = SlotState::Free;
                self.strays.late = self.strays.late.saturating_add(1);
            }
            _ => self.strays.unknown = self.strays.unknown.saturating_add(1),
        }
    }

    /// How a command ended, if it has; its slot is then free again, or abandoned where it timed out.
    pub(crate) fn outcome(
        &mut self,
        ticket: Ticket,
        now: Instant,
    ) -> Poll<Result<u32, AdminError>> {
        if ticket.epoch != self.epoch {
            return Poll::Ready(Err(AdminError::Reset));
        }
        let Some(slot) = self.slot(ticket.id) else {
            return Poll::Ready(Err(AdminError::Protocol));
        };
        match slot.state {
            SlotState::InFlight(deadline) => {
                match deadline.map_or(Ok(()), |limit| limit.check(now)) {
                    Ok(()) => Poll::Pending,
                    Err(timeout) => {
                        slot.state = SlotState::Abandoned;
                        Poll::Ready(Err(AdminError::Timeout(timeout)))
                    }
                }
            }
            SlotState::Done(outcome) => {
                slot.state = SlotState::Free;
                Poll::Ready(outcome)
            }
            SlotState::Free | SlotState::Abandoned => Poll::Ready(Err(AdminError::Protocol)),
        }
    }

    /// Whether the command has not completed yet, or nobody has asked for its outcome.
    pub(crate) fn is_outstanding(&mut self, ticket: Ticket) -> bool {
        let epoch = self.epoch;
        let slot = self.slot(ticket.id);
        slot.is_some_and(|slot| ticket.epoch == epoch && !matches!(slot.state, SlotState::Free))
    }

    /// The slot of a command, unless it was used again since.
    fn slot(&mut self, id: CommandId) -> Option<&mut AdminSlot> {
        let slot = self.slots.get_mut(id.slot())?;
        (slot.generation == id.generation()).then_some(slot)
    }

    const fn doorbell_value(&self, position: Position) -> u32 {
        position.as_u32() & (self.size.entries() - 1)
    }
}
