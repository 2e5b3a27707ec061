//! The Flow Director: thousands of exact filters in a part of the receive packet buffer, §7.1.2.7.
//!
//! Perfect filters only: signatures are hashes of what a sender chooses. All filters compare the same [`Masks`], which are
//! fixed at bring-up, as the buffer that they take. They are for IPv4 packets, of fragments at most those that are led by
//! their addresses alone, and come after the five-tuple filters. [`Filters`](crate::steering::Filters) uses them for rules
//! that those cannot express, or have no room for; [`Director`] by itself also leads flows by two bytes of the frame, and
//! drops.

use core::{task::Poll, time::Duration};

use parakernel_core::{
    handle::RuleId,
    mmio::{Register, Registers},
    time::{Deadline, Instant},
};

use crate::{
    device::Device,
    error::SteerError,
    regs::director::{Fdircmd, Fdirfree, Fdirfstat, Fdirmatch, Fdirmiss, Fdirustat},
};

mod command;
mod hash;
mod masks;

use command::{Command, Target};
pub use masks::{Capacity, Config, Field, Flow, L4, Masks};

/// A command is carried out within it. Drivers give it 100 µs; the datasheet names no limit.
pub const COMMAND_LIMIT: Duration = Duration::from_millis(1);

/// How many commands one look at a port gives at most.
const COMMANDS: usize = 16;

/// What is known of a filter, in the caller's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry(State);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unused,
    InForce(RuleId, Flow),
    /// Dropped until a rule is added for the flow, or the place is needed.
    Removed(Flow),
}

impl Entry {
    /// Room for one, to fill the slice with that [`Director::new`] takes.
    pub const UNUSED: Self = Self(State::Unused);
}

/// What is under way: commands in their order.
#[derive(Clone, Copy, Debug)]
struct Job {
    index: u16,
    commands: [Option<Command>; 3],
    /// When the command under way must be done; unknown until the time is.
    deadline: Option<Deadline>,
    /// Whether the filter that was asked for must be there, or must not.
    expected: Option<bool>,
}

/// The filters of a port's Flow Director. Changes are begun, and then polled.
#[derive(Debug)]
pub struct Director<'a> {
    entries: &'a mut [Entry],
    job: Option<Job>,
    outcome: Result<(), SteerError>,
    /// Where [`restore`](Self::restore) goes on.
    to_restore: Option<u16>,
}

impl<'a> Director<'a> {
    /// No filter; `entries` has room for as many as there may be.
    #[must_use]
    pub fn new(entries: &'a mut [Entry]) -> Self {
        entries.fill(Entry::UNUSED);
        let count = entries.len().min(Capacity::Large.filters().into());
        Self {
            entries: entries.get_mut(..count).unwrap_or_default(),
            job: None,
            outcome: Ok(()),
            to_restore: None,
        }
    }

    /// Begins to lead the packets of `flow` to receive queue `queue`, or to drop them (`None`), in the name of `rule`. A rule
    /// of the same flow is replaced, without a packet that goes elsewhere in between.
    ///
    /// # Errors
    ///
    /// [`SteerError::Unsupported`] without a Flow Director, [`SteerError::Masks`] where `flow` does not fit what filters
    /// compare, [`SteerError::NoSuchQueue`], [`SteerError::Full`] where all filters are those of rules in force, and
    /// [`SteerError::Busy`] while another change is under way.
    pub fn begin_add<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        (rule, flow): (RuleId, Flow),
        queue: Option<u8>,
    ) -> Result<(), SteerError> {
        let config = device.director().ok_or(SteerError::Unsupported)?;
        if !config.masks.fit(&flow) {
            return Err(SteerError::Masks);
        }
        let target = match queue {
            Some(queue) => Target::queue(device, queue),
            None => Target::drop(device),
        };
        let target = target.ok_or(SteerError::NoSuchQueue)?;
        self.check_idle()?;
        let index = self.place_for(&flow, config.capacity);
        let index = index.ok_or(SteerError::Full)?;
        let stale = match self.state(index) {
            State::Removed(other) | State::InForce(_, other) if other != flow => {
                Some(Command::Remove(other))
            }
            State::Removed(_) | State::InForce(..) | State::Unused => None,
        };
        self.set_state(index, State::InForce(rule, flow));
        let commands = [
            stale,
            Some(Command::Write(flow, target)),
            Some(Command::Ask(flow, true)),
        ];
        self.begin(index, commands);
        Ok(())
    }

    /// Begins to drop the packets of `rule`, where the port has a [drop queue](Device::drop_queue); else they go where those
    /// of no rule do. One that is not known is out already.
    ///
    /// # Errors
    ///
    /// [`SteerError::Busy`] while another change is under way.
    pub fn begin_remove<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        rule: RuleId,
    ) -> Result<(), SteerError> {
        self.settle()?;
        let is_its = |state: State| matches!(state, State::InForce(id, _) if id == rule);
        let found = self.find(is_its);
        if let Some((index, State::InForce(_, flow))) = found.map(|it| (it, self.state(it))) {
            self.retire(device, index, flow);
        }
        Ok(())
    }

    /// Begins to tell the port of all filters again, after it was reset: their packets are dropped until rules are added
    /// again.
    pub fn begin_restore(&mut self) {
        self.job = None;
        self.outcome = Ok(());
        let is_used = |entry: &Entry| entry.0 != State::Unused;
        self.to_restore = self.entries.iter().any(is_used).then_some(0);
    }

    /// Looks whether the change that was begun is in force; asked again, it says the same.
    ///
    /// # Errors
    ///
    /// [`SteerError::Director`] where the port does not carry a command out in time: what became of the filter is unknown
    /// then, and only a reset of the port ends that. [`SteerError::Refused`] where it did, and the filter is not as it should
    /// be.
    pub fn poll<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        now: Instant,
    ) -> Poll<Result<(), SteerError>> {
        for _ in 0..COMMANDS {
            let Some(job) = &mut self.job else {
                if !self.restore_next(device) {
                    return Poll::Ready(self.outcome);
                }
                continue;
            };
            match job.step(device, now) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {}
                Poll::Ready(Some(result)) => self.end(device, result),
            }
        }
        Poll::Pending
    }

    /// That no change is under way, and what the last one came to is told no more.
    pub(crate) fn settle(&mut self) -> Result<(), SteerError> {
        self.check_idle()?;
        self.outcome = Ok(());
        Ok(())
    }

    fn check_idle(&self) -> Result<(), SteerError> {
        if self.job.is_some() || self.to_restore.is_some() {
            return Err(SteerError::Busy);
        }
        Ok(())
    }

    fn begin(&mut self, index: u16, commands: [Option<Command>; 3]) {
        self.outcome = Ok(());
        self.job = Some(Job {
            index,
            commands,
            deadline: None,
            expected: None,
        });
    }

    /// Takes note of how a change ended.
    fn end<R: Registers>(&mut self, device: &Device<'_, R>, result: Result<(), SteerError>) {
        self.outcome = self.outcome.and(result);
        let Some(Job { index, .. }) = self.job.take() else {
            return;
        };
        match (result, self.state(index)) {
            // Without a drop queue nothing is left of what was removed.
            (Ok(()), State::Removed(_)) if device.drop_queue().is_none() => {
                self.set_state(index, State::Unused);
            }
            // It is not there, as the port says.
            (Err(SteerError::Refused), State::InForce(..)) => {
                self.set_state(index, State::Unused);
            }
            // What timed out may be there: a removal, or a reset, finds it.
            _ => {}
        }
        if result.is_err() {
            self.to_restore = None;
        }
    }

    /// Drops the packets of the filter at `index`, or takes it out where there is no drop queue.
    fn retire<R: Registers>(&mut self, device: &Device<'_, R>, index: u16, flow: Flow) {
        self.set_state(index, State::Removed(flow));
        let commands = match Target::drop(device) {
            Some(target) => [Some(Command::Write(flow, target)), None, None],
            None => [
                Some(Command::Remove(flow)),
                Some(Command::Ask(flow, false)),
                None,
            ],
        };
        self.begin(index, commands);
    }

    /// Goes on with the next filter that is to be restored; whether there is one.
    fn restore_next<R: Registers>(&mut self, device: &Device<'_, R>) -> bool {
        let Some(from) = self.to_restore.take() else {
            return false;
        };
        for index in from..u16::try_from(self.entries.len()).unwrap_or(u16::MAX) {
            let (State::InForce(_, flow) | State::Removed(flow)) = self.state(index) else {
                continue;
            };
            if let Some(target) = Target::drop(device) {
                self.set_state(index, State::Removed(flow));
                self.begin(index, [Some(Command::Write(flow, target)), None, None]);
                self.to_restore = index.checked_add(1);
                return true;
            }
            self.set_state(index, State::Unused);
        }
        false
    }

    /// The filter of the same flow, else an unused place, else that of any that was removed: its packets then go to the
    /// kernel's queue, as those of no rule do.
    fn place_for(&self, flow: &Flow, capacity: Capacity) -> Option<u16> {
        let same =
            |state| matches!(state, State::InForce(_, it) | State::Removed(it) if it == *flow);
        self.find(same)
            .or_else(|| self.find(|state| state == State::Unused))
            .filter(|&index| index < capacity.filters())
            .or_else(|| self.find(|state| matches!(state, State::Removed(_))))
    }

    fn find(&self, wanted: impl Fn(State) -> bool) -> Option<u16> {
        let index = self.entries.iter().position(|entry| wanted(entry.0))?;
        u16::try_from(index).ok()
    }

    fn state(&self, index: u16) -> State {
        self.entries
            .get(usize::from(index))
            .map_or(State::Unused, |entry| entry.0)
    }

    fn set_state(&mut self, index: u16, state: State) {
        if let Some(entry) = self.entries.get_mut(usize::from(index)) {
            entry.0 = state;
        }
    }
}

impl Job {
    /// Gives the next command once the one before is done; the end, when there is none left.
    fn step<R: Registers>(
        &mut self,
        device: &Device<'_, R>,
        now: Instant,
    ) -> Poll<Option<Result<(), SteerError>>> {
        let command = device.port().read::<Fdircmd>();
        if command.field(Fdircmd::CMD) != 0 {
            let deadline = Deadline::after(now, COMMAND_LIMIT);
            let late = self.deadline.get_or_insert(deadline).check(now).err();
            return late.map_or(Poll::Pending, |timeout| {
                Poll::Ready(Some(Err(SteerError::Director(timeout))))
            });
        }
        self.deadline = None;
        let is_there = command.is_set(Fdircmd::FILTER_VALID);
        if self
            .expected
            .take()
            .is_some_and(|expected| expected != is_there)
        {
            return Poll::Ready(Some(Err(SteerError::Refused)));
        }
        let next = self.commands.iter_mut().find_map(Option::take);
        let Some(next) = next else {
            return Poll::Ready(Some(Ok(())));
        };
        device.give(self.index, &next);
        if let Command::Ask(_, expected) = next {
            self.expected = Some(expected);
        }
        Poll::Ready(None)
    }
}

/// What the Flow Director has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct DirectorStatistics {
    /// Filters added.
    pub added: u64,
    /// Filters removed.
    pub removed: u64,
    /// Filters not added, for want of room.
    pub not_added: u64,
    /// Filters not removed, as they were not there.
    pub not_removed: u64,
    /// Packets that a filter led.
    pub led: u64,
    /// Packets that no filter was about.
    pub missed: u64,
}

impl<R: Registers> Device<'_, R> {
    /// Adds what the Flow Director has counted since the last look to `sum`. To be called before 2¹⁶ filters were changed,
    /// 2⁸ changes failed, and 2³² packets came.
    pub fn add_director_statistics(&self, sum: &mut DirectorStatistics) {
        let port = self.port();
        let add = |sum: &mut u64, seen: u64| *sum = sum.saturating_add(seen);
        let used = port.read::<Fdirustat>();
        add(&mut sum.added, used.field(Fdirustat::ADD));
        add(&mut sum.removed, used.field(Fdirustat::REMOVE));
        let failed = port.read::<Fdirfstat>();
        add(&mut sum.not_added, failed.field(Fdirfstat::FADD));
        add(&mut sum.not_removed, failed.field(Fdirfstat::FREMOVE));
        add(&mut sum.led, port.read::<Fdirmatch>().bits());
        add(&mut sum.missed, port.read::<Fdirmiss>().bits());
    }

    /// How many filters the Flow Director has still room for, as it says itself.
    #[must_use]
    pub fn director_room(&self) -> u16 {
        let free = self.port().read::<Fdirfree>().field(Fdirfree::FREE);
        u16::try_from(free).unwrap_or(0)
    }
}
