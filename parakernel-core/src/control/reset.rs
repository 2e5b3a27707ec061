//! Devices that fail: fenced, reset, and given back; or given up.

use core::{task::Poll, time::Duration};

use super::{
    ControlPlane, Cut, Event, Job, Outcome, Platform, Progress, Refusal,
    devices::{AfterFence, Health, ResetEnd},
    entries::{Origin, RuleStage, Stage},
};
use crate::{
    device::{DeviceId, Operation, QueueDevice},
    handle::LeaseId,
    lease::Revocation,
    time::{Deadline, Instant},
};

/// How long a process's core may take to let go of a failed device's queues.
const FENCE_LIMIT: Duration = Duration::from_millis(100);

/// How a device failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Failure {
    /// It says that it needs a reset, or reports a fatal error.
    NeedsReset,
    /// It is gone: its registers read as all ones.
    Removed,
}

impl<P: Platform> ControlPlane<'_, P> {
    /// Takes note that a device failed. Never called because of what a process does, or does not do, with its queue.
    ///
    /// All leases on it are fenced, then the device is reset, or given up where it is gone.
    pub fn device_failed(&mut self, device: DeviceId, failure: Failure, now: Instant) {
        match self.health(device) {
            Health::Up => {}
            Health::Fencing { left, .. } if failure == Failure::Removed => {
                let next = AfterFence::GiveUp;
                return self.set_health(device, Health::Fencing { left, next });
            }
            Health::Fencing { .. } | Health::Gone | Health::Loose => return,
            // The reset is for the failure that is known.
            Health::Resetting(_) if failure == Failure::NeedsReset => return,
            Health::Resetting(_) | Health::Restoring { .. } => {
                if let Some(entry) = self.device_mut(device) {
                    entry.failed_again = Some(failure);
                }
                return;
            }
        }
        let mut left = 0;
        for index in 0..self.leases.capacity() {
            if let Some((lease, entry)) = self.leases.at(index)
                && entry.spec.device == device
                && entry.spec.queue.is_some()
                && self.begin_fencing(lease, now)
            {
                left += 1;
            }
        }
        let next = match failure {
            Failure::NeedsReset => AfterFence::Reset,
            Failure::Removed => AfterFence::GiveUp,
        };
        self.set_health(device, Health::Fencing { left, next });
        self.enqueue(Job::Device(device));
    }

    /// Begins to shut the process of a lease out, which finds its queue idle until it is told that it is lost; `false` where that is under way, or done, anyway.
    fn begin_fencing(&mut self, lease: LeaseId, now: Instant) -> bool {
        let Some(entry) = self.leases.get_mut(lease) else {
            return false;
        };
        let mut rearming = None;
        match entry.stage {
            Stage::Active => {}
            // It is lost once more.
            Stage::Claiming {
                origin: Origin::Rearm,
                ..
            } => rearming = entry.tag.take(),
            Stage::Claiming { .. } => {
                entry.is_ending = true;
                entry.failure = entry.failure.or(Some(Refusal::DeviceDown));
            }
            Stage::Lost(_) => {
                // Fenced before, and not connected again since.
                entry.stage = Stage::Fenced;
                return false;
            }
            Stage::Fencing(_) | Stage::Fenced | Stage::Revoking(_) | Stage::Quarantined(..) => {
                return false;
            }
        }
        entry.stage = Stage::Fencing(Deadline::after(now, FENCE_LIMIT));
        self.platform.cut(&entry.spec, Cut::Suspend);
        let process = entry.spec.process;
        if rearming.is_some() {
            let refused = Outcome::Refused(Refusal::DeviceDown);
            self.answer(process, rearming, refused);
        }
        self.enqueue(Job::Lease(lease));
        true
    }

    /// Takes note that one more lease of a failed device is fenced, or cannot be.
    pub(super) fn one_fenced(&mut self, device: DeviceId) {
        if let Some(entry) = self.device_mut(device)
            && let Health::Fencing { left, .. } = &mut entry.health
        {
            *left = left.saturating_sub(1);
        }
        self.enqueue(Job::Device(device));
    }

    pub(super) fn step_device(&mut self, device: DeviceId, now: Instant) -> Progress {
        match self.health(device) {
            Health::Up | Health::Gone | Health::Loose => Progress::Idle,
            // The last lease that is fenced takes this job up again.
            Health::Fencing { left: 1.., .. } => Progress::Idle,
            Health::Fencing { next, .. } => {
                self.begin_reset(device, next, now);
                Progress::Again
            }
            Health::Resetting(deadline) => self.step_reset(device, deadline, now),
            Health::Restoring { lease, end } => self.step_restoring(device, lease, end, now),
        }
    }

    fn begin_reset(&mut self, device: DeviceId, next: AfterFence, now: Instant) {
        let begun = match (next, self.platform.device(device)) {
            (AfterFence::Reset, Some(it)) => it.begin(Operation::Reset, now).is_ok(),
            (AfterFence::Reset, None) | (AfterFence::GiveUp, _) => false,
        };
        let limit = self
            .device_mut(device)
            .map_or(Duration::ZERO, |entry| entry.limits.waits.reset);
        if begun {
            self.set_health(device, Health::Resetting(Deadline::after(now, limit)));
        } else {
            self.give_up(device, now);
        }
    }

    fn step_reset(&mut self, device: DeviceId, deadline: Deadline, now: Instant) -> Progress {
        let polled = match self.platform.device(device) {
            Some(it) => it.poll(Operation::Reset, now).map_err(drop),
            None => Poll::Ready(Err(())),
        };
        match polled {
            Poll::Ready(Ok(())) => self.begin_restoring(device, ResetEnd::Up),
            Poll::Pending if deadline.check(now).is_ok() => {}
            Poll::Ready(Err(())) | Poll::Pending => self.give_up(device, now),
        }
        Progress::Again
    }

    fn give_up(&mut self, device: DeviceId, now: Instant) {
        let silenced = match self.platform.device(device) {
            Some(it) => it.begin(Operation::Silence, now).is_ok(),
            None => true,
        };
        let end = if silenced {
            ResetEnd::Gone
        } else {
            ResetEnd::Loose
        };
        self.begin_restoring(device, end);
    }

    /// The reset is over: no queue does anything, and rules lead to the drop queue.
    fn begin_restoring(&mut self, device: DeviceId, end: ResetEnd) {
        if let Some(entry) = self.device_mut(device) {
            entry.epoch = entry.epoch.next();
            entry.steering = None;
        }
        self.set_health(device, Health::Restoring { lease: 0, end });
        for (rule, installed) in self.rules.iter_mut().filter(|(_, it)| it.device == device) {
            let state = &mut installed.state;
            state.stage = match state.stage {
                RuleStage::Hardware => RuleStage::Dropped,
                // One that was in force before goes with its lease; one that is new goes.
                RuleStage::Waiting { .. } | RuleStage::Adding(_) if state.tag.is_none() => {
                    RuleStage::Dropped
                }
                RuleStage::Waiting { .. } | RuleStage::Adding(_) => {
                    state.failure = Some(Refusal::DeviceDown);
                    RuleStage::Leaving { in_device: false }
                }
                RuleStage::Removing(_) | RuleStage::Stuck => RuleStage::Leaving { in_device: true },
                RuleStage::Software | RuleStage::Dropped | RuleStage::Leaving { .. } => state.stage,
            };
            state.queued = self.jobs.add(Job::Rule(rule), state.queued);
        }
    }

    /// Tells the leases of the device one after the other.
    fn step_restoring(
        &mut self,
        device: DeviceId,
        first: usize,
        end: ResetEnd,
        now: Instant,
    ) -> Progress {
        for index in first..self.leases.capacity() {
            if let Some((lease, entry)) = self.leases.at(index)
                && entry.spec.device == device
                && entry.spec.queue.is_some()
            {
                self.restore(lease, end);
                let lease = index + 1;
                self.set_health(device, Health::Restoring { lease, end });
                return Progress::Again;
            }
        }
        self.end_restoring(device, end, now);
        Progress::Idle
    }

    fn end_restoring(&mut self, device: DeviceId, end: ResetEnd, now: Instant) {
        let Some(entry) = self.device_mut(device) else {
            return;
        };
        let (epoch, failed_again) = (entry.epoch, entry.failed_again.take());
        let (health, event) = match end {
            ResetEnd::Up => (Health::Up, Event::DeviceUp(device, epoch)),
            ResetEnd::Gone => (Health::Gone, Event::DeviceGone(device)),
            ResetEnd::Loose => (Health::Loose, Event::DeviceLoose(device)),
        };
        entry.health = health;
        self.say(event);
        if let (Some(failure), ResetEnd::Up) = (failed_again, end) {
            self.device_failed(device, failure, now);
        }
    }

    fn restore(&mut self, lease: LeaseId, end: ResetEnd) {
        let Some(entry) = self.leases.get_mut(lease) else {
            return;
        };
        let epoch = self
            .devices
            .get(entry.spec.device.index())
            .and_then(Option::as_ref);
        let epoch = epoch.map_or_else(Default::default, |device| device.epoch);
        let process = entry.spec.process;
        match (entry.stage, end) {
            (Stage::Fenced, ResetEnd::Loose) => {
                // Its queue is taken for one that goes on: whatever the device is asked for, it confirms nothing.
                entry.is_ending = true;
                entry.stage = Stage::Revoking(Revocation::new());
            }
            (Stage::Revoking(_), ResetEnd::Loose) => entry.is_ending = true,
            (Stage::Quarantined(..), ResetEnd::Loose) => return,
            (Stage::Fenced, _) if end == ResetEnd::Gone || entry.is_ending => {
                entry.is_ending = true;
                entry.stage = Stage::Revoking(Revocation::after_reset());
            }
            (Stage::Fenced, _) => {
                entry.stage = Stage::Lost(epoch);
                return self.answer(process, None, Outcome::Lost { lease, epoch });
            }
            (Stage::Revoking(mut revocation), _) => {
                revocation.device_was_reset();
                entry.is_ending = true;
                entry.stage = Stage::Revoking(revocation);
            }
            (Stage::Quarantined(mut revocation, _), _) => {
                revocation.device_was_reset();
                entry.stage = Stage::Revoking(revocation);
                if let Some(owner) = self.processes.get_mut(process) {
                    owner.quarantined -= 1;
                }
            }
            // Not on a device that failed.
            (Stage::Active | Stage::Claiming { .. } | Stage::Fencing(_) | Stage::Lost(_), _) => {
                return;
            }
        }
        self.enqueue(Job::Lease(lease));
    }

    fn set_health(&mut self, device: DeviceId, health: Health) {
        if let Some(entry) = self.device_mut(device) {
            entry.health = health;
        }
    }
}
