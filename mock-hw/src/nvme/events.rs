//! Asynchronous events (NVMe 1.4, 5.2): held requests, and events that wait for one.

use alloc::collections::{BTreeSet, VecDeque};

use super::{controller::Controller, queue::Posting, status::Status};

/// Something that the controller reports by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The composite temperature is over its threshold.
    Temperature,
    /// Spare capacity is below its threshold.
    Spare,
    /// An internal error that does not stop the controller.
    TransientError,
}

#[derive(Debug, Default)]
pub(super) struct Events {
    /// Ids of the requests that the controller holds.
    held: VecDeque<u16>,
    waiting: VecDeque<u32>,
    /// Event types that stay quiet until their log page is read.
    masked: BTreeSet<u8>,
}

/// The event's type, information and log page, as dword 0 of its completion has them.
const fn event(kind: u8, information: u8, page: u8) -> u32 {
    kind as u32 | (information as u32) << 8 | (page as u32) << 16
}

impl Events {
    /// Write to an invalid doorbell register.
    pub(super) const INVALID_REGISTER: u32 = event(0, 0x00, 0x01);
    /// Invalid doorbell write value.
    pub(super) const INVALID_VALUE: u32 = event(0, 0x01, 0x01);
    /// Transient internal error.
    const TRANSIENT: u32 = event(0, 0x04, 0x01);
    /// Temperature threshold.
    const TEMPERATURE: u32 = event(1, 0x01, 0x02);
    /// Spare below threshold.
    const SPARE: u32 = event(1, 0x02, 0x02);
    /// Namespace attribute changed.
    pub(super) const NAMESPACE: u32 = event(2, 0x00, 0x04);

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn holds(&self, id: u16) -> bool {
        self.held.contains(&id)
    }

    /// The log page that reports `page`'s events was read: they are told again.
    pub(super) fn unmask(&mut self, page: u8) {
        let kinds: &[u8] = match page {
            0x01 => &[0],
            0x02 => &[1],
            0x04 => &[2],
            _ => &[],
        };
        kinds.iter().for_each(|kind| {
            self.masked.remove(kind);
        });
    }

    /// Takes `id` back from the held requests; whether it was there.
    pub(super) fn abort(&mut self, id: u16) -> bool {
        let position = self.held.iter().position(|held| *held == id);
        position
            .and_then(|position| self.held.remove(position))
            .is_some()
    }
}

impl Controller {
    /// Makes the controller report `event`, as its configuration (feature 0Bh) allows.
    pub(super) fn raise(&mut self, event: Event) {
        let (report, enabled) = match event {
            Event::TransientError => (Events::TRANSIENT, true),
            Event::Temperature => (Events::TEMPERATURE, self.features.events & 2 != 0),
            Event::Spare => (Events::SPARE, self.features.events & 1 != 0),
        };
        if enabled {
            self.report(report);
        }
    }

    pub(super) fn report(&mut self, event: u32) {
        self.events.waiting.push_back(event);
        self.send_events();
    }

    /// Holds an Asynchronous Event Request until there is something to report.
    pub(super) fn hold_request(&mut self, id: u16) -> Result<(), Status> {
        if self.events.held() > usize::from(self.config.event_requests - 1) {
            return Err(Status::EVENT_LIMIT);
        }
        self.events.held.push_back(id);
        self.send_events();
        Ok(())
    }

    pub(super) fn send_events(&mut self) {
        loop {
            let events = &mut self.events;
            let kind = |event: u32| u8::try_from(event & 7).unwrap_or(0);
            let next = events
                .waiting
                .iter()
                .position(|event| !events.masked.contains(&kind(*event)));
            let (Some(next), false) = (next, events.held.is_empty()) else {
                return;
            };
            let (Some(result), Some(id)) = (events.waiting.remove(next), events.held.pop_front())
            else {
                return;
            };
            events.masked.insert(kind(result));
            self.post(Posting {
                submission: 0,
                id,
                status: Status::SUCCESS,
                result,
                repeated: false,
            });
        }
    }
}
