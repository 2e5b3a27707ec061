//! Claims: from a wish to a queue that works.

use core::{task::Poll, time::Duration};

use super::{
    ClaimWish, ControlPlane, Cut, Job, LeaseEntry, LeaseSpec, Memory, NoRoom, Outcome, Platform,
    ProcessEntry, Progress, Purpose, Refusal, Tag, Wake, Woken,
    devices::Health,
    entries::{Origin, Stage},
    queues::Queued,
};
use crate::{
    access::{self, AccessMode, Side},
    device::{Epoch, Limits, Operation, QueueDevice, QueueKind, Vector},
    error::Error,
    handle::{LeaseId, ProcessId, VolumeId},
    lease::Revocation,
    time::{Deadline, Instant},
};

impl<P: Platform> ControlPlane<'_, P> {
    pub(super) fn claim(
        &mut self,
        process: ProcessId,
        tag: Tag,
        wish: &ClaimWish,
        now: Instant,
    ) -> Result<(), Refusal> {
        let device = self.device_mut(wish.device).ok_or(Refusal::NoSuchDevice)?;
        let limits = device.limits;
        if device.health != Health::Up {
            return Err(Refusal::DeviceDown);
        }
        if !limits.has_ring(wish.first_ring) || !limits.has_ring(wish.second_ring) {
            return Err(Refusal::OutOfRange);
        }
        self.check_claim(process, wish, &limits)?;
        let spec = self.draft(process, wish, &limits)?;
        let claimed = self.set_up(spec, tag, now);
        if claimed.is_err() {
            self.return_to_device(&spec);
        }
        claimed
    }

    /// Whether the process may have a queue of this kind, with this volume.
    fn check_claim(
        &self,
        process: ProcessId,
        wish: &ClaimWish,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let owner = self.processes.get(process).ok_or(Refusal::NoSuchHandle)?;
        if owner.used.leases >= owner.quota.leases {
            return Err(Refusal::Quota);
        }
        if self.leases.len() == self.leases.capacity() {
            return Err(Refusal::Exhausted);
        }
        match (limits.kind, wish.volume) {
            (QueueKind::Network, None) => Ok(()),
            (QueueKind::Block, Some(volume)) => self.check_volume(process, wish, volume),
            (QueueKind::Network, Some(_)) | (QueueKind::Block, None) => Err(Refusal::Unsupported),
        }
    }

    fn check_volume(
        &self,
        process: ProcessId,
        wish: &ClaimWish,
        volume: VolumeId,
    ) -> Result<(), Refusal> {
        let identity = self.processes.get(process).map(|owner| owner.identity);
        let volume = self.volumes.get(volume).ok_or(Refusal::NoSuchHandle)?;
        if Some(volume.owner) != identity || volume.device != wish.device {
            return Err(Refusal::NotGranted);
        }
        Ok(())
    }

    /// Chooses the modes, and takes a queue and a vector.
    fn draft(
        &mut self,
        process: ProcessId,
        wish: &ClaimWish,
        limits: &Limits,
    ) -> Result<LeaseSpec, Refusal> {
        let (first_mode, second_mode) = self.modes(wish, limits)?;
        let mut spec = LeaseSpec {
            lease: LeaseId::new(0, 0),
            process,
            device: wish.device,
            queue: None,
            first_ring: wish.first_ring,
            second_ring: wish.second_ring,
            first_mode,
            second_mode,
            vector: Vector::None,
            volume: wish.volume,
        };
        if (first_mode, second_mode) == (AccessMode::Virtual, AccessMode::Virtual) {
            return Ok(spec);
        }
        let owner = self.processes.get(process).ok_or(Refusal::NoSuchHandle)?;
        let (quota, used) = (owner.quota, owner.used);
        let entry = self
            .devices
            .get_mut(wish.device.index())
            .and_then(Option::as_mut);
        let entry = entry.ok_or(Refusal::NoSuchDevice)?;
        spec.queue = entry.take_queue(self.links);
        if spec.queue.is_none() {
            // What cannot be partitioned any further is multiplexed; blocks are not.
            if limits.kind == QueueKind::Block {
                return Err(Refusal::Exhausted);
            }
            spec.first_mode = AccessMode::Virtual;
            spec.second_mode = AccessMode::Virtual;
        } else if wish.wake == Wake::Interrupt {
            spec.vector = entry.take_vector(self.links, &quota, &used);
        }
        Ok(spec)
    }

    fn modes(
        &self,
        wish: &ClaimWish,
        limits: &Limits,
    ) -> Result<(AccessMode, AccessMode), Refusal> {
        let choose =
            |side| access::choose(side, limits.isolation(side), self.policy, wish.at_least);
        match limits.kind {
            QueueKind::Network => Ok((choose(Side::Receive), choose(Side::Transmit))),
            QueueKind::Block => {
                let mode = choose(Side::Block);
                if mode == AccessMode::Virtual {
                    return Err(Refusal::Unsupported);
                }
                Ok((mode, mode))
            }
        }
    }

    /// Enters a lease, with memory for its rings, and begins to have its queue made.
    fn set_up(&mut self, mut spec: LeaseSpec, tag: Tag, now: Instant) -> Result<(), Refusal> {
        spec.lease = self.leases.vacancy().ok_or(Refusal::Exhausted)?;
        let memory = self.allocate_for(&spec)?;
        let mut entry = LeaseEntry {
            spec,
            memory,
            stage: Stage::Fenced,
            tag: Some(tag),
            is_ending: false,
            was_told: false,
            failure: None,
            queued: Queued::default(),
        };
        let begun = self.connect(&mut entry.spec, memory, now);
        entry.claims(Origin::Claim, begun);
        let spec = entry.spec;
        if let Some(owner) = self.processes.get_mut(spec.process) {
            owner.used.leases += 1;
            owner.used.pages += memory.pages;
            owner.used.vectors += u32::from(spec.has_own_vector());
        }
        let inserted = self.leases.insert(entry);
        debug_assert!(
            inserted.is_ok_and(|lease| lease == spec.lease),
            "the vacancy is another"
        );
        self.enqueue(Job::Lease(spec.lease));
        Ok(())
    }

    fn allocate_for(&mut self, spec: &LeaseSpec) -> Result<Memory, Refusal> {
        let memory = self.platform.allocate(Purpose::Lease(*spec));
        let memory = memory.ok_or(Refusal::Exhausted)?;
        let fits = |owner: &ProcessEntry| owner.used.pages + memory.pages <= owner.quota.pages;
        if !self.processes.get(spec.process).is_some_and(fits) {
            // Nobody has seen it, so it still holds zeroes.
            self.platform.free(memory);
            return Err(Refusal::Quota);
        }
        Ok(memory)
    }

    /// Connects a lease, and begins to have its queue made; until when that has to be done. A vector that the platform cannot
    /// have is given back, so that the process is told that there is none.
    fn connect(
        &mut self,
        spec: &mut LeaseSpec,
        memory: Memory,
        now: Instant,
    ) -> Result<Deadline, Refusal> {
        let connected = self.platform.connect(spec, memory);
        if connected.map_err(|NoRoom| Refusal::Exhausted)? == Woken::ByNothing {
            let vector = core::mem::replace(&mut spec.vector, Vector::None);
            let device = self.devices.get_mut(spec.device.index());
            if let Some(entry) = device.and_then(Option::as_mut) {
                entry.return_vector(self.links, vector);
            }
        }
        let device = self.platform.device(spec.device);
        let (Some(queue), Some(device)) = (spec.queue_spec(), device) else {
            // Nothing to wait for.
            return Ok(Deadline::after(now, Duration::ZERO));
        };
        let begun = device.begin(Operation::Claim(queue), now);
        begun.map_err(|error| Refusal::Device(error.kind()))?;
        Ok(Deadline::after(now, device.limits().waits.claim))
    }

    /// Looks whether the queue of a lease has been made.
    pub(super) fn step_claim(
        &mut self,
        lease: LeaseId,
        deadline: Deadline,
        origin: Origin,
        now: Instant,
    ) -> Progress {
        let Some(entry) = self.leases.get_mut(lease) else {
            return Progress::Idle;
        };
        // What stood in while the lease was suspended must be forgotten before the process is told that the queue works.
        let is_linked =
            origin == Origin::Claim || self.platform.poll_cut(&entry.spec, Cut::Suspend).is_ready();
        let device = self.platform.device(entry.spec.device);
        let made = match (entry.spec.queue_spec(), device) {
            (_, _) if !is_linked => Poll::Pending,
            (Some(spec), Some(device)) => device
                .poll(Operation::Claim(spec), now)
                .map_err(|error| error.kind()),
            (_, _) => Poll::Ready(Ok(())),
        };
        let failure = match made {
            Poll::Ready(Ok(())) => None,
            Poll::Ready(Err(kind)) => Some(kind),
            Poll::Pending => match deadline.check(now) {
                Ok(()) => return Progress::Again,
                Err(timeout) => Some(timeout.kind()),
            },
        };
        if let Some(kind) = failure {
            entry.failure = Some(Refusal::Device(kind));
            entry.is_ending = true;
        }
        if entry.is_ending {
            entry.stage = Stage::Revoking(Revocation::new());
            return Progress::Again;
        }
        self.activate(lease, origin);
        Progress::Idle
    }

    fn activate(&mut self, lease: LeaseId, origin: Origin) {
        let Some(entry) = self.leases.get_mut(lease) else {
            return;
        };
        entry.stage = Stage::Active;
        entry.was_told = true;
        let (spec, tag) = (entry.spec, entry.tag.take());
        let outcome = match origin {
            Origin::Claim => Outcome::Claimed {
                lease,
                first_mode: spec.first_mode,
                second_mode: spec.second_mode,
                vector: spec.vector,
            },
            Origin::Rearm => {
                self.restore_rules(lease);
                Outcome::Rearmed { lease }
            }
        };
        self.answer(spec.process, tag, outcome);
    }

    /// Arms a lease again whose device was reset.
    pub(super) fn acknowledge(
        &mut self,
        process: ProcessId,
        tag: Tag,
        (lease, epoch): (LeaseId, Epoch),
        now: Instant,
    ) -> Result<(), Refusal> {
        let entry = self
            .leases
            .get_mut(lease)
            .filter(|entry| entry.spec.process == process);
        let entry = entry.ok_or(Refusal::NoSuchHandle)?;
        if entry.stage != Stage::Lost(epoch) || entry.is_ending {
            return Err(Refusal::WrongState);
        }
        let device = self
            .devices
            .get(entry.spec.device.index())
            .and_then(Option::as_ref);
        if device.is_none_or(|device| device.health != Health::Up) {
            return Err(Refusal::DeviceDown);
        }
        entry.tag = Some(tag);
        let (mut spec, memory) = (entry.spec, entry.memory);
        let had_own = spec.has_own_vector();
        let begun = self.connect(&mut spec, memory, now);
        if let Some(entry) = self.leases.get_mut(lease) {
            entry.spec = spec;
            entry.claims(Origin::Rearm, begun);
        }
        if let Some(owner) = self.processes.get_mut(process) {
            owner.used.vectors -= u32::from(had_own && !spec.has_own_vector());
        }
        self.enqueue(Job::Lease(lease));
        Ok(())
    }
}

impl LeaseEntry {
    /// Takes note that the queue is being made, or could not be begun: then what was connected is cut again.
    fn claims(&mut self, origin: Origin, begun: Result<Deadline, Refusal>) {
        self.stage = match begun {
            Ok(deadline) => Stage::Claiming { deadline, origin },
            Err(refusal) => {
                self.failure = Some(refusal);
                self.is_ending = true;
                // There is no queue to stop.
                Stage::Revoking(Revocation::after_reset())
            }
        };
    }
}
