//! The cores that run processes: one process each.

use heapless::Vec;
use parakernel_core::abi;
use parakernel_core::address::CoreId;

use crate::address_space::Leak;
use crate::arch::paging::{MapError, Tables};
use crate::cores::{CORES_MAX, Core, EVENT_KERNEL, Flush};
use crate::gate::Gate;
use crate::mailbox::{KernelEnd, Message, Order};
use crate::memory::Frames;
use crate::process::{LoadError, Plan, Process, RingFull};
use crate::queues::Queues;
use crate::runner::End;
use parakernel_core::validate::Violation;

/// A core and the process on it.
pub(crate) struct Seat {
    /// The core.
    pub(crate) core: &'static Core,
    mailbox: KernelEnd,
    /// The queues of its process.
    pub(crate) queues: &'static Gate<Queues>,
    /// The last flush that the core was asked for, after which it knows no memory that was unregistered.
    pub(crate) flush: Option<Flush>,
    /// The rule that core 0 found the process to have broken.
    pub(crate) violation: Option<Violation>,
    /// The process, until it is reclaimed.
    pub(crate) process: Option<Process>,
}

/// All cores but core 0.
#[derive(Default)]
pub(crate) struct Seats {
    seats: Vec<&'static mut Seat, CORES_MAX>,
    runs: u32,
}

/// Why a process did not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StartError {
    /// There is no such core, or it has a process already.
    NoSeat,
    /// The process cannot be made.
    Load(LoadError),
}

impl Seats {
    /// Adds the core at the other end of `mailbox`.
    ///
    /// # Errors
    ///
    /// If there is no memory for the seat.
    pub(crate) fn add(
        &mut self,
        frames: &mut Frames,
        core: &'static Core,
        mailbox: KernelEnd,
    ) -> Result<(), MapError> {
        let seat = Seat {
            core,
            queues: mailbox.queues,
            mailbox,
            flush: None,
            violation: None,
            process: None,
        };
        let seat = frames.place(core.node, seat).ok_or(MapError::OutOfFrames)?;
        self.seats.push(seat).map_err(|_| MapError::OutOfFrames)
    }

    /// The seats.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.seats.iter_mut().map(|seat| &mut **seat)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    /// The oldest message of seat number `index`, and its core.
    pub(crate) fn receive(&mut self, index: usize) -> Option<(CoreId, Message)> {
        let seat = self.seats.get_mut(index)?;
        Some((seat.core.id, seat.receive()?))
    }

    /// Seat number `index`.
    pub(crate) fn by_index(&self, index: usize) -> Option<&Seat> {
        self.seats.get(index).map(|seat| &**seat)
    }

    /// The seat of a core, to look at.
    pub(crate) fn get(&self, core: CoreId) -> Option<&Seat> {
        let mut seats = self.seats.iter();
        seats.find(|seat| seat.core.id == core).map(|seat| &**seat)
    }

    /// The seat of a core.
    pub(crate) fn at(&mut self, core: CoreId) -> Option<&mut Seat> {
        self.iter_mut().find(|seat| seat.core.id == core)
    }

    /// Starts a process.
    ///
    /// # Errors
    ///
    /// If it cannot be; nothing is left of it then.
    pub(crate) fn start(
        &mut self,
        frames: &mut Frames,
        kernel: Tables,
        plan: &Plan<'_>,
    ) -> Result<(), StartError> {
        let run = self.runs.checked_add(1).ok_or(StartError::NoSeat)?;
        let seat = self.at(plan.core).ok_or(StartError::NoSeat)?;
        if seat.process.is_some() {
            return Err(StartError::NoSeat);
        }
        let (process, launch) =
            Process::load(frames, kernel, plan, run, seat.core.node).map_err(StartError::Load)?;
        if seat.mailbox.order(Order::Run(launch)).is_err() {
            // A core without a process has taken all its orders, so this does not happen; the frames come back all
            // the same.
            let _leak = process.destroy(frames).is_err();
            return Err(StartError::NoSeat);
        }
        seat.process = Some(process);
        seat.core.post(0);
        self.runs = run;
        Ok(())
    }
}

impl Seat {
    /// The oldest message of the core; the end of a process is noted.
    pub(crate) fn receive(&mut self) -> Option<Message> {
        let mut message = self.mailbox.receive()?;
        if let Message::Ended(end) = &mut message
            && let Some(violation) = self.violation.take()
            && *end == End::Stopped
        {
            *end = End::Violated(violation);
        }
        if let (Message::Ended(end), Some(process)) = (&message, &mut self.process) {
            process.end = Some(*end);
        }
        Some(message)
    }

    /// Hands the process an outcome and wakes it.
    ///
    /// # Errors
    ///
    /// If its ring is full; without a process the outcome is dropped.
    pub(crate) fn deliver(&mut self, outcome: &abi::Message) -> Result<(), RingFull> {
        if let Some(process) = &mut self.process {
            process.deliver(outcome)?;
            self.core.post(EVENT_KERNEL);
        }
        Ok(())
    }

    /// Has the process stopped; its end comes as a message.
    pub(crate) fn stop(&self) {
        if let Some(process) = &self.process {
            self.core.stop(process.run);
        }
    }

    /// Frees the memory of a process that has ended; does nothing while it runs.
    ///
    /// # Errors
    ///
    /// If not all frames that it had taken came back.
    pub(crate) fn reclaim(&mut self, frames: &mut Frames) -> Result<(), Leak> {
        match self.process.take_if(|process| process.end.is_some()) {
            Some(process) => process.destroy(frames),
            None => Ok(()),
        }
    }
}
