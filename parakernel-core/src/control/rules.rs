//! Flow rules: covered by a grant, free of conflict, and in force one after the other.

use core::task::Poll;

use super::{
    ControlPlane, Job, LeaseEntry, Outcome, Placement, Platform, Progress, Refusal, RuleState, Tag,
    devices::Health, entries::RuleStage, queues::Queued,
};
use crate::{
    device::DeviceId,
    error::Error,
    handle::{LeaseId, ProcessId, RuleId},
    steering::{Change, FlowRule, RuleError, Steering},
    time::{Deadline, Instant},
};

impl<P: Platform> ControlPlane<'_, P> {
    pub(super) fn add_rule(
        &mut self,
        process: ProcessId,
        tag: Tag,
        rule: FlowRule,
    ) -> Result<(), Refusal> {
        let lease = self
            .leases
            .get(rule.to)
            .filter(|entry| entry.spec.process == process);
        let lease = lease.ok_or(Refusal::NoSuchHandle)?;
        if !lease.is_active() {
            return Err(Refusal::WrongState);
        }
        let (device, has_queue) = (lease.spec.device, lease.spec.queue.is_some());
        if !self.grants.covers(process, device, &rule.matches) {
            return Err(Refusal::NotGranted);
        }
        let owner = self.processes.get(process).ok_or(Refusal::NoSuchHandle)?;
        if owner.used.rules >= owner.quota.rules {
            return Err(Refusal::Quota);
        }
        let in_hardware = has_queue && self.fits_device(device, &rule);
        let state = RuleState {
            process,
            in_hardware,
            stage: if in_hardware {
                RuleStage::Waiting { in_device: false }
            } else {
                RuleStage::Software
            },
            tag: in_hardware.then_some(tag),
            failure: None,
            queued: Queued::default(),
        };
        let added = self.rules.insert(device, rule, state);
        let id = added.map_err(|error| match error {
            RuleError::Conflict { other } => Refusal::Conflict { other },
            RuleError::Full => Refusal::Exhausted,
        })?;
        if let Some(owner) = self.processes.get_mut(process) {
            owner.used.rules += 1;
        }
        if in_hardware {
            if let Some(entry) = self.device_mut(device) {
                entry.rules += 1;
            }
            self.enqueue(Job::Rule(id));
        } else {
            let placement = Placement::Software;
            self.answer(
                process,
                Some(tag),
                Outcome::RuleAdded {
                    rule: id,
                    placement,
                },
            );
        }
        Ok(())
    }

    pub(super) fn remove_rule(
        &mut self,
        process: ProcessId,
        tag: Tag,
        rule: RuleId,
    ) -> Result<(), Refusal> {
        let installed = self
            .rules
            .get_mut(rule)
            .filter(|it| it.state.process == process);
        let state = &mut installed.ok_or(Refusal::NoSuchHandle)?.state;
        if !matches!(
            state.stage,
            RuleStage::Hardware | RuleStage::Software | RuleStage::Dropped
        ) {
            return Err(Refusal::WrongState);
        }
        state.stage = state.stage.leaving();
        state.tag = Some(tag);
        self.enqueue(Job::Rule(rule));
        Ok(())
    }

    /// Puts the rules of a lease in force again after its device was reset.
    pub(super) fn restore_rules(&mut self, lease: LeaseId) {
        let of_lease = self
            .rules
            .iter_mut()
            .filter(|(_, installed)| installed.rule.to == lease);
        for (rule, installed) in of_lease {
            let state = &mut installed.state;
            if state.stage == RuleStage::Dropped {
                state.stage = RuleStage::Waiting { in_device: true };
            }
            if matches!(state.stage, RuleStage::Waiting { .. }) {
                state.queued = self.jobs.add(Job::Rule(rule), state.queued);
            }
        }
    }

    /// Whether the device can express the rule, and has room for it.
    fn fits_device(&mut self, device: DeviceId, rule: &FlowRule) -> bool {
        let has_room = self
            .device_mut(device)
            .is_some_and(|entry| entry.rules < entry.limits.rules);
        let device = self.platform.device(device);
        has_room && device.is_some_and(|device| device.can_express(&rule.matches))
    }

    pub(super) fn step_rule(&mut self, rule: RuleId, now: Instant) -> Progress {
        let Some(installed) = self.rules.get(rule) else {
            return Progress::Idle;
        };
        let device = installed.device;
        match (installed.state.stage, self.health(device)) {
            (
                RuleStage::Hardware | RuleStage::Software | RuleStage::Dropped | RuleStage::Stuck,
                _,
            ) => Progress::Idle,
            (RuleStage::Leaving { in_device: false }, _) => self.rule_is_out(rule),
            // A device that is gone leads nothing anywhere, and a loose one to queues that nobody has.
            (RuleStage::Leaving { .. } | RuleStage::Removing(_), Health::Gone | Health::Loose) => {
                self.rule_is_out(rule)
            }
            (RuleStage::Waiting { .. }, health) => self.step_waiting(rule, health, now),
            (RuleStage::Leaving { .. }, Health::Up) => self.begin_removal(rule, now),
            (RuleStage::Adding(deadline), Health::Up) => self.step_adding(rule, deadline, now),
            (RuleStage::Removing(deadline), Health::Up) => self.step_removing(rule, deadline, now),
            // The reset sorts it out.
            (RuleStage::Leaving { .. } | RuleStage::Adding(_) | RuleStage::Removing(_), _) => {
                Progress::Again
            }
        }
    }

    fn step_waiting(&mut self, rule: RuleId, health: Health, now: Instant) -> Progress {
        let Some((change, lease)) = self.addition(rule) else {
            return self.leave(rule, Refusal::WrongState);
        };
        let is_active = self.leases.get(lease).is_some_and(LeaseEntry::is_active);
        if !is_active {
            // Arming the lease again takes this job up again, and so does its end.
            return Progress::Idle;
        }
        if health != Health::Up {
            return Progress::Again;
        }
        match self.begin_change(rule, change, now) {
            None => Progress::Again,
            Some(Ok(deadline)) => {
                self.set_stage(rule, RuleStage::Adding(deadline), None);
                Progress::Again
            }
            Some(Err(refusal)) => self.leave(rule, refusal),
        }
    }

    fn step_adding(&mut self, rule: RuleId, deadline: Deadline, now: Instant) -> Progress {
        let Some((change, lease)) = self.addition(rule) else {
            // The lease is ending: what was begun is seen to its end, and taken out.
            return self.step_adding_in_vain(rule, deadline, now);
        };
        let Some(result) = self.poll_change(rule, change, deadline, now) else {
            return Progress::Again;
        };
        let is_active = self.leases.get(lease).is_some_and(LeaseEntry::is_active);
        match result {
            Ok(()) if is_active => {
                self.set_stage(rule, RuleStage::Hardware, None);
                let placement = Placement::Hardware;
                self.answer_rule(rule, Outcome::RuleAdded { rule, placement });
                Progress::Idle
            }
            Ok(()) => self.leave(rule, Refusal::WrongState),
            Err(refusal) => self.leave(rule, refusal),
        }
    }

    fn step_adding_in_vain(&mut self, rule: RuleId, deadline: Deadline, now: Instant) -> Progress {
        let Some(change) = self.change_of(rule) else {
            return self.leave(rule, Refusal::WrongState);
        };
        match self.poll_change(rule, change, deadline, now) {
            None => Progress::Again,
            Some(_) => self.leave(rule, Refusal::WrongState),
        }
    }

    /// Takes a rule out that could not be put in force, or not as it should.
    fn leave(&mut self, rule: RuleId, refusal: Refusal) -> Progress {
        if let Some(installed) = self.rules.get(rule) {
            let stage = installed.state.stage.leaving();
            self.set_stage(rule, stage, Some(refusal));
        }
        Progress::Again
    }

    fn begin_removal(&mut self, rule: RuleId, now: Instant) -> Progress {
        match self.begin_change(rule, Change::Remove { rule }, now) {
            None => Progress::Again,
            Some(Ok(deadline)) => {
                self.set_stage(rule, RuleStage::Removing(deadline), None);
                Progress::Again
            }
            Some(Err(refusal)) => self.rule_is_stuck(rule, refusal),
        }
    }

    fn step_removing(&mut self, rule: RuleId, deadline: Deadline, now: Instant) -> Progress {
        match self.poll_change(rule, Change::Remove { rule }, deadline, now) {
            None => Progress::Again,
            Some(Ok(())) => self.rule_is_out(rule),
            Some(Err(refusal)) => self.rule_is_stuck(rule, refusal),
        }
    }

    /// The change that puts a rule in force, and its lease; `None` where the lease is ending.
    fn addition(&self, rule: RuleId) -> Option<(Change, LeaseId)> {
        let installed = self.rules.get(rule)?;
        let lease = self
            .leases
            .get(installed.rule.to)
            .filter(|lease| !lease.is_ending)?;
        lease.spec.queue?;
        Some((self.change_of(rule)?, installed.rule.to))
    }

    fn change_of(&self, rule: RuleId) -> Option<Change> {
        let installed = self.rules.get(rule)?;
        let queue = self.leases.get(installed.rule.to)?.spec.queue?;
        Some(Change::Add {
            rule,
            matches: installed.rule.matches,
            queue,
        })
    }

    /// Begins a change, unless the device is busy with another.
    fn begin_change(
        &mut self,
        rule: RuleId,
        change: Change,
        now: Instant,
    ) -> Option<Result<Deadline, Refusal>> {
        let id = self.rules.get(rule)?.device;
        let device = self.devices.get_mut(id.index())?.as_mut()?;
        if device.steering.is_some() {
            return None;
        }
        let limit = device.limits.waits.steer;
        let begun = self.platform.device(id)?.begin_change(change, now);
        Some(match begun {
            Ok(()) => {
                device.steering = Some(rule);
                Ok(Deadline::after(now, limit))
            }
            Err(error) => Err(Refusal::Device(error.kind())),
        })
    }

    /// The end of a change, unless it is still under way.
    fn poll_change(
        &mut self,
        rule: RuleId,
        change: Change,
        deadline: Deadline,
        now: Instant,
    ) -> Option<Result<(), Refusal>> {
        let id = self.rules.get(rule)?.device;
        let result = match self.platform.device(id)?.poll_change(change, now) {
            Poll::Ready(result) => result.map_err(|error| Refusal::Device(error.kind())),
            Poll::Pending => Err(Refusal::Device(deadline.check(now).err()?.kind())),
        };
        if let Some(device) = self.device_mut(id)
            && device.steering == Some(rule)
        {
            device.steering = None;
        }
        Some(result)
    }

    fn set_stage(&mut self, rule: RuleId, stage: RuleStage, failure: Option<Refusal>) {
        if let Some(installed) = self.rules.get_mut(rule) {
            installed.state.stage = stage;
            installed.state.failure = installed.state.failure.or(failure);
        }
    }

    fn rule_is_out(&mut self, rule: RuleId) -> Progress {
        let Some(installed) = self.rules.remove(rule) else {
            return Progress::Idle;
        };
        let RuleState {
            process,
            in_hardware,
            tag,
            failure,
            ..
        } = installed.state;
        if let Some(owner) = self.processes.get_mut(process) {
            owner.used.rules -= 1;
        }
        if in_hardware && let Some(entry) = self.device_mut(installed.device) {
            entry.rules -= 1;
        }
        let lease = self.leases.get(installed.rule.to);
        match (tag, failure) {
            (Some(_), Some(refusal)) => self.answer(process, tag, Outcome::Refused(refusal)),
            (Some(_), None) => self.answer(process, tag, Outcome::RuleRemoved { rule }),
            // It was in force, and could not be put in force again after a reset.
            (None, Some(_)) if lease.is_some_and(LeaseEntry::is_active) => {
                self.answer(process, None, Outcome::RuleRemoved { rule });
            }
            // It goes with its lease.
            (None, _) => {}
        }
        Progress::Idle
    }

    fn rule_is_stuck(&mut self, rule: RuleId, refusal: Refusal) -> Progress {
        self.set_stage(rule, RuleStage::Stuck, Some(refusal));
        self.answer_rule(rule, Outcome::Refused(refusal));
        Progress::Idle
    }

    /// Answers the request that waits for a rule, if one does.
    fn answer_rule(&mut self, rule: RuleId, outcome: Outcome) {
        let Some(installed) = self.rules.get_mut(rule) else {
            return;
        };
        let (process, tag) = (installed.state.process, installed.state.tag.take());
        if tag.is_some() {
            self.answer(process, tag, outcome);
        }
    }
}
