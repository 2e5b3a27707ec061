//! Asynchronous events: what the controller reports unasked (NVMe 1.4 §5.2).

use core::task::Poll;

use parakernel_core::{
    mmio::Registers,
    time::{Deadline, Instant},
};

use super::Controller;
use crate::{
    admin::Ticket,
    command::{self, Command, Feature, LogPage},
    error::AdminError,
};

/// Something that the controller reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Event {
    /// An error that belongs to no command: a doorbell written wrongly, a failed self-test, an internal error.
    Error {
        /// Which, NVMe 1.4 figure 147.
        info: u8,
    },
    /// The health changed: temperature, spare capacity, reliability.
    Health {
        /// Which, NVMe 1.4 figure 148.
        info: u8,
    },
    /// Namespaces came, went or changed size: scan again.
    NamespacesChanged,
    /// Anything else, by its type and information.
    Other {
        /// The event's type.
        kind: u8,
        /// The event's information.
        info: u8,
    },
}

/// Where the one event request is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Events(State);

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// The controller refused the request, or a reset took it.
    #[default]
    Off,
    Armed(Ticket),
    /// An event came; its log page must be read, or no more of its kind come.
    Came(Event, u8),
    Clearing(Event, Ticket),
    /// The next request has to be given.
    Due,
}

/// Bits of Asynchronous Event Configuration (§5.21.1.11): all critical warnings, and attribute notices.
const WARNINGS: u32 = 0x1f;
const NAMESPACE_NOTICE: u32 = 1 << 8;

impl<R: Registers> Controller<'_, R> {
    /// The next event, if one came. Takes one event a call, and reads its log page, which makes room for the next.
    ///
    /// # Errors
    ///
    /// [`AdminError`], where a log page could not be read or the request not be repeated; events then are off.
    pub fn poll_event(&mut self, now: Instant) -> Result<Option<Event>, AdminError> {
        self.reap();
        if let State::Armed(ticket) = self.events.0 {
            match self.outcome(ticket, now) {
                Poll::Pending => return Ok(None),
                Poll::Ready(Ok(result)) => self.events.0 = decode(result),
                Poll::Ready(Err(error)) => {
                    self.events.0 = State::Off;
                    return Err(error);
                }
            }
        }
        let step = self.go_on(now);
        match step {
            // The data page, or a slot, will be free again.
            Err(AdminError::Busy) => Ok(None),
            Err(error) => {
                self.events.0 = State::Off;
                Err(error)
            }
            Ok(event) => Ok(event),
        }
    }

    fn go_on(&mut self, now: Instant) -> Result<Option<Event>, AdminError> {
        match self.events.0 {
            State::Off | State::Armed(_) => Ok(None),
            State::Came(event, log) => {
                let deadline = Deadline::after(now, self.config.admin_timeout);
                let ticket = self.read_log(LogPage::Other(log), deadline)?;
                self.events.0 = State::Clearing(event, ticket);
                Ok(None)
            }
            State::Clearing(event, ticket) => match self.outcome(ticket, now) {
                Poll::Pending => Ok(None),
                Poll::Ready(Err(
                    error @ (AdminError::Timeout(_) | AdminError::Removed | AdminError::Fatal),
                )) => Err(error),
                // A log page that cannot be read is no reason to swallow the event.
                Poll::Ready(_) => {
                    self.events.0 = State::Due;
                    self.rearm_event()?;
                    Ok(Some(event))
                }
            },
            State::Due => self.rearm_event().map(|()| None),
        }
    }

    /// Gives the request again; where no slot is free, at the next poll.
    fn rearm_event(&mut self) -> Result<(), AdminError> {
        match self.arm_event() {
            Err(AdminError::Busy) => Ok(()),
            result => result,
        }
    }

    pub(super) fn arm_event(&mut self) -> Result<(), AdminError> {
        self.events.0 = State::Due;
        let ticket = self.submit(command::async_event_request(), None)?;
        self.events.0 = State::Armed(ticket);
        Ok(())
    }

    /// Asks for the events that are known here, of those that the controller has.
    pub(super) fn event_request(&self) -> Command {
        let optional = self.data.events & NAMESPACE_NOTICE;
        command::set_feature(Feature::AsyncEvents(WARNINGS | optional))
    }
}

/// The completion's dword 0: type, information, log page (NVMe 1.4 figure 146).
fn decode(result: u32) -> State {
    let [kind, info, log, _] = result.to_le_bytes();
    let event = match (kind & 7, info) {
        (0, info) => Event::Error { info },
        (1, info) => Event::Health { info },
        (2, 0) => Event::NamespacesChanged,
        (kind, info) => Event::Other { kind, info },
    };
    State::Came(event, log)
}
