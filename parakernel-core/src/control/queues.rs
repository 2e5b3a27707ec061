//! What is to be done, and what is to be told: two rings in the caller's memory.

use super::request::Event;
use crate::device::DeviceId;
use crate::handle::{LeaseId, MemoryId, ProcessId, RuleId};

/// Something that goes on by itself, one step at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// A process that ends.
    Process(ProcessId),
    /// A lease that is being made or taken back.
    Lease(LeaseId),
    /// Memory that is being given back.
    Memory(MemoryId),
    /// A rule that is being put in force, or taken out.
    Rule(RuleId),
    /// A device that is being reset.
    Device(DeviceId),
}

/// A ring of `T`.
#[derive(Debug)]
pub(super) struct Fifo<'a, T> {
    slots: &'a mut [Option<T>],
    first: usize,
    len: usize,
}

impl<'a, T> Fifo<'a, T> {
    pub(super) fn new(slots: &'a mut [Option<T>]) -> Self {
        slots.fill_with(|| None);
        Self {
            slots,
            first: 0,
            len: 0,
        }
    }

    /// Appends `item`, or hands it back where the ring is full.
    pub(super) fn push(&mut self, item: T) -> Result<(), T> {
        if self.room() == 0 {
            return Err(item);
        }
        let place = (self.first + self.len) % self.slots.len();
        match self.slots.get_mut(place) {
            Some(slot) => *slot = Some(item),
            None => return Err(item),
        }
        self.len += 1;
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let item = self.slots.get_mut(self.first)?.take()?;
        self.first = (self.first + 1) % self.slots.len();
        self.len -= 1;
        Some(item)
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub(super) const fn room(&self) -> usize {
        self.slots.len() - self.len
    }
}

/// Events to deliver.
pub(super) type Events<'a> = Fifo<'a, Event>;

/// Whether the job of a thing is in the ring; kept with the thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Queued(bool);

/// Jobs to go on with; each thing has one at most, and there is room for all of them.
#[derive(Debug)]
pub(super) struct Jobs<'a>(Fifo<'a, Job>);

impl<'a> Jobs<'a> {
    pub(super) fn new(slots: &'a mut [Option<Job>]) -> Self {
        Self(Fifo::new(slots))
    }

    /// Appends a job, unless it is there already. Returns what to remember about it.
    pub(super) fn add(&mut self, job: Job, queued: Queued) -> Queued {
        if !queued.0 && self.0.push(job).is_err() {
            // Sized for one job of everything there is; see `ControlPlane::new`.
            debug_assert!(false, "more jobs than things");
        }
        Queued(true)
    }

    pub(super) fn next(&mut self) -> Option<Job> {
        self.0.pop()
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) const fn capacity(&self) -> usize {
        self.0.capacity()
    }
}
