//! Finding the namespaces that are attached (NVMe 1.4 §5.15.2.3).

use core::task::Poll;

use parakernel_core::{
    mmio::Registers,
    time::{Deadline, Instant},
};
use zerocopy::little_endian::U32;

use super::Controller;
use crate::{
    admin::Ticket,
    command::{self, Identify},
    error::{AdminError, NamespaceError},
    identify::{NamespaceData, copy},
    namespace::{Namespace, NamespaceId},
    quirk::Quirks,
};

/// How far a scan has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    step: Step,
    deadline: Option<Deadline>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Step {
    #[default]
    Idle,
    /// The next namespace is the first whose id is greater than this.
    Next(u32),
    /// The list of ids greater than this was asked for.
    List(u32, Ticket),
    Identify(NamespaceId, Ticket),
}

impl<R: Registers> Controller<'_, R> {
    /// Begins to look for namespaces anew; until [`poll_scan`](Self::poll_scan) is done, the table is incomplete.
    ///
    /// # Errors
    ///
    /// [`AdminError::Busy`] while the data page is in use, [`AdminError::Reset`] during a reset.
    pub fn begin_scan(&mut self, now: Instant) -> Result<(), AdminError> {
        if self.reset.is_running() {
            return Err(AdminError::Reset);
        }
        if self.is_page_used() || !matches!(self.scan.step, Step::Idle) {
            return Err(AdminError::Busy);
        }
        self.start_scan();
        self.scan.deadline = Some(Deadline::after(now, self.config.admin_timeout));
        Ok(())
    }

    pub(super) fn start_scan(&mut self) {
        self.namespaces.clear();
        self.scan.deadline = None;
        self.scan.step = Step::Next(0);
    }

    /// Goes on with a scan; all of it may take as long as one admin command.
    ///
    /// # Errors
    ///
    /// [`AdminError`], where a command failed; the table then holds what was found before.
    pub fn poll_scan(&mut self, now: Instant) -> Poll<Result<(), AdminError>> {
        self.reap();
        loop {
            let step = match self.scan.step {
                Step::Idle => return Poll::Ready(Ok(())),
                Step::Next(after) => self.ask_next(after, now),
                Step::List(after, ticket) => match self.outcome(ticket, now) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(outcome) => outcome.and_then(|_| self.take_list(after)),
                },
                Step::Identify(id, ticket) => match self.outcome(ticket, now) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(outcome) => {
                        self.take_namespace(id, outcome);
                        Ok(Step::Next(id.as_u32()))
                    }
                },
            };
            match step {
                Ok(step) => self.scan.step = step,
                // The data page, or a slot, will be free again.
                Err(AdminError::Busy) => return Poll::Pending,
                Err(error) => {
                    self.scan.step = Step::Idle;
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Asks for the next namespace, if there is time: a controller may claim to have billions.
    fn ask_next(&mut self, after: u32, now: Instant) -> Result<Step, AdminError> {
        if let Some(deadline) = self.scan.deadline {
            deadline.check(now).map_err(AdminError::Timeout)?;
        }
        if self.config.quirks.contains(Quirks::NO_NAMESPACE_LIST) {
            return self.ask_namespace(after + 1);
        }
        let command = command::identify(Identify::ActiveNamespaces(after), self.page.bus_address());
        let ticket = self.begin_paged(command, self.scan.deadline)?;
        Ok(Step::List(after, ticket))
    }

    /// The next id in the list; ids ascend, so a controller that goes back or stands still ends the scan.
    fn take_list(&mut self, after: u32) -> Result<Step, AdminError> {
        let first: U32 = copy(self.page.memory(), 0).ok_or(AdminError::Protocol)?;
        if first.get() != 0 && first.get() <= after {
            return Err(AdminError::Protocol);
        }
        self.ask_namespace(first.get())
    }

    fn ask_namespace(&mut self, id: u32) -> Result<Step, AdminError> {
        let id = NamespaceId::new(id).filter(|id| id.as_u32() <= self.data.namespaces);
        let Some(id) = id else {
            return Ok(Step::Idle);
        };
        let command = command::identify(Identify::Namespace(id), self.page.bus_address());
        let ticket = self.begin_paged(command, self.scan.deadline)?;
        Ok(Step::Identify(id, ticket))
    }

    /// Enters a namespace, if it is there. One that cannot even be described is entered as such.
    fn take_namespace(&mut self, id: NamespaceId, outcome: Result<u32, AdminError>) {
        let data = match outcome {
            Ok(_) => NamespaceData::read(self.page.memory()),
            Err(_) => Err(NamespaceError::Malformed),
        };
        if let Some(data) = data.transpose() {
            self.namespaces.add(Namespace { id, data });
        }
    }
}
