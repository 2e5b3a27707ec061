//! Reset, shutdown and silence of a controller in service (NVMe 1.4 §7.3, §7.6.2).

use core::task::Poll;

use parakernel_core::{
    mmio::{Register, Registers},
    time::{Deadline, Instant},
};

use super::Controller;
use crate::{
    admin::Ticket,
    command::Command,
    error::{AdminError, InitError, InitStep},
    quirk::{Quirks, SLOW_READY_DELAY},
    regs::{Cc, Csts, ready_timeout},
};

/// How far a reset, or a shutdown, has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Resetting(Step);

#[derive(Clone, Copy, Debug, Default)]
enum Step {
    #[default]
    Idle,
    /// Waits for RDY to follow EN, before EN may be cleared.
    Settle(Deadline),
    /// CSTS is not to be read before this instant.
    Disable(Instant, Deadline),
    Enable(Deadline),
    Queues(Ticket),
    Shadow(Ticket),
    Events(Ticket),
    Shutdown(Deadline),
    Failed(InitError),
}

impl Resetting {
    /// Whether commands would be lost.
    pub(super) const fn is_running(&self) -> bool {
        !matches!(self.0, Step::Idle)
    }
}

impl<R: Registers> Controller<'_, R> {
    /// Begins to reset the controller, which ends every queue pair: [`PairState::Lost`](super::PairState::Lost).
    ///
    /// All users of queue pairs must be fenced before. Also begins anew where a reset failed.
    pub fn begin_reset(&mut self, now: Instant) {
        let limit = Deadline::after(now, ready_timeout(&self.window, self.cap));
        self.reset.0 = Step::Settle(limit);
    }

    /// Goes on with a reset. Afterwards live pairs are lost, and namespaces should be looked for again.
    ///
    /// # Errors
    ///
    /// [`InitError`] names the step that failed. The controller then takes no commands until a reset succeeds; the
    /// platform may turn off its bus mastering.
    pub fn poll_reset(&mut self, now: Instant) -> Poll<Result<(), InitError>> {
        let step = match self.reset.0 {
            Step::Idle | Step::Shutdown(_) => return Poll::Ready(Ok(())),
            Step::Failed(error) => return Poll::Ready(Err(error)),
            Step::Settle(limit) => Ok(self.settle(now, limit)),
            Step::Disable(not_before, limit) => self.await_disabled(now, not_before, limit),
            Step::Enable(limit) => self.await_ready(now, limit),
            Step::Queues(ticket) => self.await_queues(now, ticket),
            Step::Shadow(ticket) => self.await_shadow(now, ticket),
            Step::Events(ticket) => self.await_events(now, ticket),
        };
        self.reset.0 = step.unwrap_or_else(Step::Failed);
        match step {
            Ok(Step::Idle) => Poll::Ready(Ok(())),
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn settle(&self, now: Instant, limit: Deadline) -> Step {
        if self.is_between_states() && limit.check(now).is_ok() {
            return self.reset.0;
        }
        self.clear_enable();
        let slow = self.config.quirks.contains(Quirks::SLOW_READY);
        let not_before = if slow {
            now.saturating_add(SLOW_READY_DELAY)
        } else {
            now
        };
        Step::Disable(
            not_before,
            Deadline::after(not_before, ready_timeout(&self.window, self.cap)),
        )
    }

    fn await_disabled(
        &mut self,
        now: Instant,
        not_before: Instant,
        limit: Deadline,
    ) -> Result<Step, InitError> {
        if now < not_before {
            return Ok(self.reset.0);
        }
        if !self.is_disabled()? {
            limit.check(now).map_err(InitError::Disable)?;
            return Ok(self.reset.0);
        }
        self.admin.reset();
        self.page_user = None;
        self.pairs.lose_all();
        self.program_admin_queue();
        self.set_enable();
        Ok(Step::Enable(Deadline::after(
            now,
            ready_timeout(&self.window, self.cap),
        )))
    }

    fn await_ready(&mut self, now: Instant, limit: Deadline) -> Result<Step, InitError> {
        if !self.is_ready()? {
            limit.check(now).map_err(InitError::Enable)?;
            return Ok(self.reset.0);
        }
        self.give(self.queue_request(), InitStep::NumberOfQueues, now)
            .map(Step::Queues)
    }

    /// Takes the number of queues, which must not be lower than before: pairs above it could not be revived.
    fn await_queues(&mut self, now: Instant, ticket: Ticket) -> Result<Step, InitError> {
        let step = InitStep::NumberOfQueues;
        let error = |error| InitError::Command { step, error };
        let Poll::Ready(granted) = self.step_outcome(now, ticket).map_err(error)? else {
            return Ok(self.reset.0);
        };
        let before = self.limits.pairs;
        self.limit_pairs(granted);
        if self.limits.pairs < before {
            return Err(error(AdminError::Protocol));
        }
        let Some(command) = self.shadow_request() else {
            return self.ask_for_events(now);
        };
        self.give(command, InitStep::ShadowDoorbells, now)
            .map(Step::Shadow)
    }

    fn await_shadow(&mut self, now: Instant, ticket: Ticket) -> Result<Step, InitError> {
        let error = |error| InitError::Command {
            step: InitStep::ShadowDoorbells,
            error,
        };
        let Poll::Ready(_) = self.step_outcome(now, ticket).map_err(error)? else {
            return Ok(self.reset.0);
        };
        self.ask_for_events(now)
    }

    fn ask_for_events(&mut self, now: Instant) -> Result<Step, InitError> {
        self.give(self.event_request(), InitStep::Events, now)
            .map(Step::Events)
    }

    /// Gives a command of the reset itself.
    fn give(
        &mut self,
        command: Command,
        step: InitStep,
        now: Instant,
    ) -> Result<Ticket, InitError> {
        let deadline = Deadline::after(now, self.config.admin_timeout);
        self.submit(command, Some(deadline))
            .map_err(|error| InitError::Command { step, error })
    }

    fn await_events(&mut self, now: Instant, ticket: Ticket) -> Result<Step, InitError> {
        let error = |error| InitError::Command {
            step: InitStep::Events,
            error,
        };
        let Poll::Ready(_) = self.step_outcome(now, ticket).map_err(error)? else {
            return Ok(self.reset.0);
        };
        self.arm_event().map_err(error)?;
        Ok(Step::Idle)
    }

    fn step_outcome(&mut self, now: Instant, ticket: Ticket) -> Result<Poll<u32>, AdminError> {
        self.reap();
        match self.outcome(ticket, now) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(outcome) => outcome.map(Poll::Ready),
        }
    }

    /// Begins a normal shutdown: the controller writes its caches back. All queue pairs should have been deleted.
    pub fn begin_shutdown(&mut self, now: Instant) {
        self.window.modify(|cc: Cc| cc.with(Cc::SHN, 1));
        self.reset.0 = Step::Shutdown(Deadline::after(now, self.data.shutdown_timeout));
    }

    /// Whether the shutdown is complete. The controller takes no commands any more, until it is reset.
    ///
    /// # Errors
    ///
    /// [`AdminError::Timeout`], [`AdminError::Removed`]; [`AdminError::Argument`] where no shutdown was begun.
    pub fn poll_shutdown(&mut self, now: Instant) -> Poll<Result<(), AdminError>> {
        let Step::Shutdown(limit) = self.reset.0 else {
            return Poll::Ready(Err(AdminError::Argument));
        };
        let csts: Csts = self.window.read();
        if csts.bits() == u64::from(u32::MAX) {
            return Poll::Ready(Err(AdminError::Removed));
        }
        if csts.field(Csts::SHST) == 2 {
            return Poll::Ready(Ok(()));
        }
        match limit.check(now) {
            Ok(()) => Poll::Pending,
            Err(timeout) => Poll::Ready(Err(AdminError::Timeout(timeout))),
        }
    }

    /// Disables the controller without waiting, so that it stops its transfers soon: for a kernel that panics.
    pub fn silence(&self) {
        self.clear_enable();
    }
}
