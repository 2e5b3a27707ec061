//! Taking leases back: what carries the steps of [`lease`](crate::lease) out, and what is left to do at the end.

use core::{task::Poll, time::Duration};

use super::{
    ControlPlane, Cut, Job, LeaseSpec, Memory, Outcome, Platform, Progress, Refusal, RuleState,
    Tag,
    devices::{DeviceEntry, Health},
    entries::{RuleStage, Stage},
    queues::Jobs,
};
use crate::{
    device::{Operation, QueueDevice},
    handle::{LeaseId, ProcessId},
    lease::{Ending, Refused, Revocation, Step, Teardown},
    steering::RuleTable,
    time::{Deadline, Instant},
};

impl<P: Platform> ControlPlane<'_, P> {
    pub(super) fn release(
        &mut self,
        process: ProcessId,
        tag: Tag,
        lease: LeaseId,
    ) -> Result<(), Refusal> {
        let entry = self
            .leases
            .get_mut(lease)
            .filter(|entry| entry.spec.process == process);
        let entry = entry.ok_or(Refusal::NoSuchHandle)?;
        let can_end = match entry.stage {
            Stage::Active | Stage::Lost(_) | Stage::Fencing(_) | Stage::Fenced => true,
            Stage::Claiming { .. } | Stage::Revoking(_) | Stage::Quarantined(..) => false,
        };
        if entry.is_ending || !can_end {
            return Err(Refusal::WrongState);
        }
        entry.tag = Some(tag);
        self.end_lease(lease);
        Ok(())
    }

    /// Takes all leases of a process back, without being asked. The process goes on, and is told as each has ended.
    pub fn revoke_all(&mut self, process: ProcessId) {
        for index in 0..self.leases.capacity() {
            if let Some((lease, entry)) = self.leases.at(index)
                && entry.spec.process == process
            {
                self.end_lease(lease);
            }
        }
    }

    /// Takes a lease back that its process did not give back. The process goes on; it is told when the lease has ended.
    ///
    /// Nothing happens where the lease is ending anyway, or the handle is stale.
    pub fn revoke(&mut self, lease: LeaseId) {
        self.end_lease(lease);
    }

    /// Ends a lease as soon as it can.
    pub(super) fn end_lease(&mut self, lease: LeaseId) {
        let Some(entry) = self.leases.get_mut(lease) else {
            return;
        };
        entry.is_ending = true;
        match entry.stage {
            Stage::Active => entry.stage = Stage::Revoking(Revocation::new()),
            Stage::Lost(_) => entry.stage = Stage::Revoking(Revocation::after_reset()),
            // The device has to answer first; or it goes on already; or only a reset helps.
            Stage::Claiming { .. }
            | Stage::Fencing(_)
            | Stage::Fenced
            | Stage::Revoking(_)
            | Stage::Quarantined(..) => {}
        }
        self.enqueue(Job::Lease(lease));
    }

    pub(super) fn step_lease(&mut self, lease: LeaseId, now: Instant) -> Progress {
        let Some(entry) = self.leases.get(lease) else {
            return Progress::Idle;
        };
        match entry.stage {
            Stage::Claiming { deadline, origin } => self.step_claim(lease, deadline, origin, now),
            Stage::Fencing(deadline) => self.step_fencing(lease, deadline, now),
            Stage::Revoking(revocation) => self.step_revocation(lease, revocation, now),
            Stage::Active | Stage::Fenced | Stage::Lost(_) | Stage::Quarantined(..) => {
                Progress::Idle
            }
        }
    }

    fn step_revocation(
        &mut self,
        lease: LeaseId,
        mut revocation: Revocation,
        now: Instant,
    ) -> Progress {
        let Some(entry) = self.leases.get_mut(lease) else {
            return Progress::Idle;
        };
        let device = self
            .devices
            .get(entry.spec.device.index())
            .and_then(Option::as_ref);
        let health = device.map_or(Health::Gone, |device| device.health);
        let needs_device = revocation.step().is_done_by_reset() && !revocation.was_reset();
        if needs_device && !matches!(health, Health::Up | Health::Loose) {
            // A reset ends all operations. It comes back here when it is over.
            return Progress::Again;
        }
        let mut work = LeaseTeardown {
            platform: &mut self.platform,
            rules: &mut self.rules,
            jobs: &mut self.jobs,
            device,
            spec: entry.spec,
            memory: entry.memory,
            health,
        };
        let ending = revocation.poll(now, &mut work);
        entry.stage = Stage::Revoking(revocation);
        match ending {
            Poll::Pending => Progress::Again,
            Poll::Ready(Ending::Reclaimed) => {
                self.finish_lease(lease);
                Progress::Idle
            }
            Poll::Ready(Ending::Quarantined(step)) => {
                self.quarantine(lease, revocation, step);
                Progress::Idle
            }
        }
    }

    fn quarantine(&mut self, lease: LeaseId, revocation: Revocation, step: Step) {
        let Some(entry) = self.leases.get_mut(lease) else {
            return;
        };
        entry.stage = Stage::Quarantined(revocation, step);
        let (process, tag) = (entry.spec.process, entry.tag.take());
        if let Some(owner) = self.processes.get_mut(process) {
            owner.quarantined += 1;
        }
        self.answer(process, tag, Outcome::Quarantined { lease, step });
        self.enqueue(Job::Process(process));
    }

    /// Says that the lease has ended, frees its memory, and offers its queue again; in this order.
    fn finish_lease(&mut self, lease: LeaseId) {
        let Some(entry) = self.leases.get_mut(lease) else {
            return;
        };
        let (spec, memory, tag) = (entry.spec, entry.memory, entry.tag.take());
        // A process that was not told of the lease waits for its claim.
        let was_told = entry.was_told;
        let failure = entry.failure.or((!was_told).then_some(Refusal::WrongState));
        match failure {
            Some(refusal) if tag.is_some() => {
                self.answer(spec.process, tag, Outcome::Refused(refusal));
                if was_told {
                    self.answer(spec.process, None, Outcome::Revoked { lease });
                }
            }
            _ => self.answer(spec.process, tag, Outcome::Revoked { lease }),
        }
        self.platform.free(memory);
        self.forget_lease(lease);
        self.return_to_device(&spec);
        self.release_kept(spec.process);
        self.enqueue(Job::Process(spec.process));
    }

    /// Takes a lease off its process's account.
    pub(super) fn forget_lease(&mut self, lease: LeaseId) {
        let Some(entry) = self.leases.remove(lease) else {
            return;
        };
        if let Some(owner) = self.processes.get_mut(entry.spec.process) {
            owner.used.leases -= 1;
            owner.used.pages -= entry.memory.pages;
            owner.used.vectors -= u32::from(entry.spec.has_own_vector());
        }
    }

    /// Offers the queue and the vector of a lease again.
    pub(super) fn return_to_device(&mut self, spec: &LeaseSpec) {
        let Some(Some(entry)) = self.devices.get_mut(spec.device.index()) else {
            return;
        };
        entry.return_vector(self.links, spec.vector);
        if let Some(queue) = spec.queue {
            entry.return_queue(self.links, queue);
        }
    }

    /// Looks whether the process of a failed device's lease is shut out.
    fn step_fencing(&mut self, lease: LeaseId, deadline: Deadline, now: Instant) -> Progress {
        let Some(entry) = self.leases.get_mut(lease) else {
            return Progress::Idle;
        };
        let device = entry.spec.device;
        if self.platform.poll_cut(&entry.spec, Cut::Suspend).is_ready() {
            entry.stage = Stage::Fenced;
        } else if deadline.check(now).is_ok() {
            return Progress::Again;
        } else {
            // Waited for by itself from here on; the device is not.
            entry.is_ending = true;
            entry.stage = Stage::Revoking(Revocation::new());
            self.enqueue(Job::Lease(lease));
        }
        self.one_fenced(device);
        Progress::Idle
    }
}

/// The steps of one lease, carried out by platform and device.
struct LeaseTeardown<'t, 'a, P> {
    platform: &'t mut P,
    rules: &'t mut RuleTable<'a, RuleState>,
    jobs: &'t mut Jobs<'a>,
    device: Option<&'t DeviceEntry>,
    spec: LeaseSpec,
    memory: Memory,
    /// Whether the device can be asked for anything. Where it is being reset, that does what was to be asked; one that is
    /// [loose](Health::Loose) confirms nothing any more.
    health: Health,
}

impl<P: Platform> LeaseTeardown<'_, '_, P> {
    /// What a step is for the device, where it is for the device.
    fn operation(&self, step: Step) -> Option<Operation> {
        let queue = self.spec.queue?;
        match step {
            Step::Drain => Some(Operation::Drain(queue)),
            Step::Stop => Some(Operation::Stop(queue)),
            Step::Flush => Some(Operation::Flush(queue)),
            Step::Fence | Step::Steer | Step::Isolate | Step::Mask | Step::Unmap | Step::Zero => {
                None
            }
        }
    }

    /// What a step is for the platform, where it is for the platform.
    const fn cut(step: Step) -> Option<Cut> {
        match step {
            Step::Fence => Some(Cut::Fence),
            Step::Isolate => Some(Cut::Isolate),
            Step::Mask => Some(Cut::Mask),
            Step::Unmap => Some(Cut::Unmap),
            Step::Steer | Step::Drain | Step::Stop | Step::Flush | Step::Zero => None,
        }
    }

    /// Has all rules of the lease taken out that are in force; those that are not yet, their own jobs see to.
    fn begin_to_steer(&mut self) {
        let lease = self.spec.lease;
        let of_lease = self
            .rules
            .iter_mut()
            .filter(|(_, installed)| installed.rule.to == lease);
        for (rule, installed) in of_lease {
            let state = &mut installed.state;
            if matches!(
                state.stage,
                RuleStage::Hardware | RuleStage::Software | RuleStage::Dropped
            ) {
                state.stage = state.stage.leaving();
            }
            state.queued = self.jobs.add(Job::Rule(rule), state.queued);
        }
    }

    fn poll_to_steer(&self) -> Poll<Result<(), Refused>> {
        let mut rules = self.rules.of(self.spec.lease).peekable();
        if rules.peek().is_none() {
            Poll::Ready(Ok(()))
        } else if rules.any(|(_, installed)| installed.state.stage == RuleStage::Stuck) {
            Poll::Ready(Err(Refused))
        } else {
            Poll::Pending
        }
    }
}

impl<P: Platform> Teardown for LeaseTeardown<'_, '_, P> {
    fn begin(&mut self, step: Step, now: Instant) -> Result<(), Refused> {
        if step == Step::Steer {
            self.begin_to_steer();
        }
        if let Some(cut) = Self::cut(step) {
            self.platform.cut(&self.spec, cut);
        }
        let Some(operation) = self.operation(step) else {
            return Ok(());
        };
        match (self.health, self.platform.device(self.spec.device)) {
            (Health::Loose, _) => Err(Refused),
            (Health::Up, Some(device)) => device.begin(operation, now).map_err(|_| Refused),
            (_, _) => Ok(()),
        }
    }

    fn poll(&mut self, step: Step, now: Instant) -> Poll<Result<(), Refused>> {
        if step == Step::Steer {
            return self.poll_to_steer();
        }
        if step == Step::Zero {
            return self.platform.zero(self.memory).map(Ok);
        }
        if let Some(cut) = Self::cut(step) {
            return self.platform.poll_cut(&self.spec, cut).map(Ok);
        }
        match (self.operation(step), self.platform.device(self.spec.device)) {
            (Some(_), _) if self.health == Health::Loose => Poll::Ready(Err(Refused)),
            (Some(_), _) if self.health != Health::Up => Poll::Pending,
            (Some(operation), Some(device)) => device.poll(operation, now).map_err(|_| Refused),
            (_, _) => Poll::Ready(Ok(())),
        }
    }

    fn limit(&self, step: Step) -> Option<Duration> {
        let waits = self.device?.limits.waits;
        match step {
            // Trusted to answer in the end. Nothing could be done with the memory meanwhile, so nothing is won by less
            // patience.
            Step::Fence | Step::Isolate | Step::Mask | Step::Unmap | Step::Zero => None,
            // A device changes one rule at a time, and others' may come first.
            Step::Steer => {
                let rules = u32::try_from(self.rules.iter().count()).unwrap_or(u32::MAX);
                Some(waits.steer.saturating_mul(rules.saturating_add(1)))
            }
            Step::Drain | Step::Stop | Step::Flush if self.health != Health::Up => None,
            Step::Drain => Some(waits.drain),
            Step::Stop | Step::Flush => Some(waits.stop),
        }
    }
}
