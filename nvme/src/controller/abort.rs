//! Aborting a command of an I/O queue (NVMe 1.4 §5.1).

use core::task::Poll;

use parakernel_core::{mmio::Registers, time::Instant};

use super::{Controller, QueueId};
use crate::{admin::Ticket, command, error::AdminError};

/// What became of an abort.
///
/// Either way the command itself completes, or has: its completion says how. Only deleting the queue, or a reset, makes
/// sure that a command has ended which does not complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum AbortOutcome {
    /// The command was aborted.
    Aborted,
    /// The command was not aborted: it had completed, or the controller could not.
    NotAborted,
}

/// The abort that is under way: one at a time, which every controller allows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Aborting(Option<Ticket>);

impl<R: Registers> Controller<'_, R> {
    /// Begins to abort command `command` of the pair's submission queue.
    ///
    /// # Errors
    ///
    /// [`AdminError::Busy`] while another abort is under way, [`AdminError::Pair`] where the pair is not live.
    pub fn begin_abort(
        &mut self,
        queue: QueueId,
        command: u16,
        now: Instant,
    ) -> Result<(), AdminError> {
        if self.abort.0.is_some() {
            return Err(AdminError::Busy);
        }
        if !self.pairs.is_live(queue) {
            return Err(AdminError::Pair);
        }
        self.abort.0 = Some(self.begin(command::abort(queue.as_u16(), command), now)?);
        Ok(())
    }

    /// What became of the abort, when that is known.
    ///
    /// # Errors
    ///
    /// [`AdminError`], where the command failed; [`AdminError::Argument`] where there is no abort.
    pub fn poll_abort(&mut self, now: Instant) -> Poll<Result<AbortOutcome, AdminError>> {
        self.reap();
        let Some(ticket) = self.abort.0 else {
            return Poll::Ready(Err(AdminError::Argument));
        };
        self.outcome(ticket, now).map(|outcome| {
            self.abort.0 = None;
            // Bit 0 set: not aborted.
            outcome.map(|result| match result & 1 {
                0 => AbortOutcome::Aborted,
                _ => AbortOutcome::NotAborted,
            })
        })
    }
}
