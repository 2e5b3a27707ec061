//! Reading log pages (NVMe 1.4 §5.14).

use core::task::Poll;

use parakernel_core::{
    mmio::Registers,
    time::{Deadline, Instant},
};

use super::Controller;
use crate::{
    admin::Ticket,
    command::{self, LogPage},
    error::AdminError,
    log::Log,
};

/// Bytes of the data page.
const PAGE_LEN: u32 = 4096;

/// The log page that is being read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading(Option<Ticket>);

impl<R: Registers> Controller<'_, R> {
    /// Begins to read a log page of the whole controller; one at a time.
    ///
    /// # Errors
    ///
    /// [`AdminError::Busy`] while the data page is in use, [`AdminError::Reset`] during a reset.
    pub fn begin_log(&mut self, page: LogPage, now: Instant) -> Result<(), AdminError> {
        if self.reset.is_running() {
            return Err(AdminError::Reset);
        }
        let deadline = Deadline::after(now, self.config.admin_timeout);
        self.log.0 = Some(self.read_log(page, deadline)?);
        Ok(())
    }

    /// The log page that was asked for, when it has come.
    ///
    /// # Errors
    ///
    /// [`AdminError`], where the command failed; [`AdminError::Argument`] where none was asked for.
    pub fn poll_log(&mut self, now: Instant) -> Poll<Result<Log<'_>, AdminError>> {
        self.reap();
        let Some(ticket) = self.log.0 else {
            return Poll::Ready(Err(AdminError::Argument));
        };
        self.outcome(ticket, now).map(|outcome| {
            self.log.0 = None;
            outcome.map(|_| Log::new(self.page.memory(), self.data.error_log_entries))
        })
    }

    pub(super) fn read_log(
        &mut self,
        page: LogPage,
        deadline: Deadline,
    ) -> Result<Ticket, AdminError> {
        let len = match page {
            LogPage::Errors => (64 * u32::from(self.data.error_log_entries)).min(PAGE_LEN),
            LogPage::Health => 512,
            LogPage::ChangedNamespaces | LogPage::Other(_) => PAGE_LEN,
        };
        let command = command::log_page(page, self.page.bus_address(), len);
        self.begin_paged(command, Some(deadline))
    }
}
