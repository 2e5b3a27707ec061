//! Worlds: time, order, interrupts, the trace.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use core::fmt::Write as _;
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};

use parakernel_mock_hw::{
    self as models,
    memory::RequesterId,
    trace::{Entry, Kind},
    world::Followed,
};

use crate::{
    code::Code,
    host::Callbacks,
    pointer::{Buffer, Out},
};

/// A world, and what the caller has not taken yet.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) models: models::World,
    state: Mutex<State>,
    /// Held by whoever lets the devices work.
    turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Who gets the interrupts of which function.
    routes: BTreeMap<RequesterId, Arc<Callbacks>>,
    trace: VecDeque<Entry>,
    /// Devices so far.
    devices: u8,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            models: models::World::new(seed),
            state: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An identity for the next device: a bus of its own, so that virtual functions find room behind it.
    pub(crate) fn next_requester(&self) -> Result<RequesterId, Code> {
        let mut state = self.state();
        state.devices = state.devices.checked_add(1).ok_or(Code::Full)?;
        Ok(RequesterId(u16::from(state.devices) << 8))
    }

    pub(crate) fn route(&self, requester: RequesterId, callbacks: Arc<Callbacks>) {
        self.state().routes.insert(requester, callbacks);
    }

    pub(crate) fn remove_route(&self, requester: RequesterId) {
        self.state().routes.remove(&requester);
    }

    /// Hands over the interrupts that were sent.
    fn deliver(&self) {
        while let Some(message) = self.models.interrupts().take() {
            let route = self.state().routes.get(&message.requester).cloned();
            if let Some(callbacks) = route {
                callbacks.interrupt(message);
            }
        }
    }

    /// Up to `limit` steps; how many were done. Interrupts arrive in their place among the transfers.
    pub(crate) fn step(&self, limit: u64) -> u64 {
        let _turn = self.turn();
        self.deliver();
        let mut done = 0;
        while done < limit && self.models.step() {
            done += 1;
            self.deliver();
        }
        done
    }

    pub(crate) fn run(&self, nanoseconds: u64) {
        let _turn = self.turn();
        self.deliver();
        let end = self
            .models
            .now()
            .saturating_add(Duration::from_nanos(nanoseconds));
        let mut until = self.models.now();
        while self.models.now() < end {
            let followed = self.models.follow(until, 1);
            self.deliver();
            let now = self.models.now();
            until = match followed {
                Followed::Busy => now,
                // A timer that ended fires at the next step: time goes on at least by a nanosecond.
                Followed::Quiet { next } => {
                    let soonest = now.saturating_add(Duration::from_nanos(1));
                    next.unwrap_or(end).min(end).max(soonest)
                }
            };
        }
    }

    /// The oldest entry of the trace, which stays where it does not fit.
    pub(crate) fn take_entry(
        &self,
        kind: Out<u32>,
        text: Buffer,
        len: Out<usize>,
    ) -> Result<(), Code> {
        let mut state = self.state();
        state.trace.extend(self.models.trace().take());
        let entry = state.trace.front().ok_or(Code::Empty)?;
        let mut line = String::new();
        // Writing to a string does not fail.
        let _written = write!(line, "{entry}\0");
        len.put(line.len() - 1);
        let number = kind_number(entry.kind);
        text.put(line.as_bytes())?;
        kind.put(number);
        state.trace.pop_front();
        Ok(())
    }
}

/// `MOCK_HW_VIOLATION` and so on.
const fn kind_number(kind: Kind) -> u32 {
    match kind {
        Kind::Violation { .. } => 1,
        Kind::LeftOut => 2,
        Kind::Fault => 3,
        Kind::Note => 4,
        // What may come later.
        _ => 4,
    }
}
