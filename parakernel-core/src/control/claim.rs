//! Claims: from a wish to a queue that works.

use core::task::Poll;

use super::{
    ClaimWish, ControlPlane, Job, LeaseEntry, LeaseSpec, Outcome, Platform, Progress, Purpose,
    Refusal, Tag, Wake,
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
        let lease = self.enter(spec, tag)?;
        self.connect(lease, now)
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

    /// Enters a lease, with memory for its rings.
    fn enter(&mut self, mut spec: LeaseSpec, tag: Tag) -> Result<LeaseId, Refusal> {
        let entry = LeaseEntry {
            spec,
            memory: super::Memory { id: 0, pages: 0 },
            stage: Stage::Fenced,
            tag: Some(tag),
            is_ending: false,
            was_told: false,
            failure: None,
            queued: Queued::default(),
        };
        let Ok(lease) = self.leases.insert(entry) else {
            self.return_to_device(&spec);
            return Err(Refusal::Exhausted);
        };
        spec.lease = lease;
        match self.allocate_for(&spec) {
            Ok(memory) => {
                if let Some(entry) = self.leases.get_mut(lease) {
                    (entry.spec, entry.memory) = (spec, memory);
                }
                self.count_lease(&spec, memory.pages);
                Ok(lease)
            }
            Err(refusal) => {
                self.leases.remove(lease);
                self.return_to_device(&spec);
                Err(refusal)
            }
        }
    }

    fn allocate_for(&mut self, spec: &LeaseSpec) -> Result<super::Memory, Refusal> {
        let memory = self
            .platform
            .allocate(Purpose::Lease(*spec))
            .ok_or(Refusal::Exhausted)?;
        let owner = self
            .processes
            .get(spec.process)
            .ok_or(Refusal::NoSuchHandle)?;
        if owner.used.pages + memory.pages > owner.quota.pages {
            self.platform.free(memory);
            return Err(Refusal::Quota);
        }
        Ok(memory)
    }

    fn count_lease(&mut self, spec: &LeaseSpec, pages: u64) {
        if let Some(owner) = self.processes.get_mut(spec.process) {
            owner.used.leases += 1;
            owner.used.pages += pages;
            owner.used.vectors += u32::from(matches!(spec.vector, Vector::Own(_)));
        }
    }

    /// Connects a lease that was entered, and has its queue made.
    fn connect(&mut self, lease: LeaseId, now: Instant) -> Result<(), Refusal> {
        let Some(entry) = self.leases.get_mut(lease) else {
            return Ok(());
        };
        if self.platform.connect(&entry.spec, entry.memory).is_err() {
            let (spec, memory) = (entry.spec, entry.memory);
            self.platform.free(memory);
            self.forget_lease(lease);
            self.return_to_device(&spec);
            return Err(Refusal::Exhausted);
        }
        self.begin_claim(lease, Origin::Claim, now);
        Ok(())
    }

    /// Has the queue of a lease made that is connected.
    fn begin_claim(&mut self, lease: LeaseId, origin: Origin, now: Instant) {
        let Some(entry) = self.leases.get_mut(lease) else {
            return;
        };
        let device = self.platform.device(entry.spec.device);
        let (begun, limit) = match (entry.spec.queue_spec(), device) {
            (Some(spec), Some(device)) => (
                device.begin(Operation::Claim(spec), now),
                device.limits().waits.claim,
            ),
            (_, _) => (Ok(()), core::time::Duration::MAX),
        };
        entry.stage = match begun {
            Ok(()) => Stage::Claiming {
                deadline: Deadline::after(now, limit),
                origin,
            },
            Err(error) => {
                entry.failure = Some(Refusal::Device(error.kind()));
                entry.is_ending = true;
                // Nothing was begun, so there is no queue to stop.
                Stage::Revoking(Revocation::after_reset())
            }
        };
        self.enqueue(Job::Lease(lease));
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
        let device = self.platform.device(entry.spec.device);
        let made = match (entry.spec.queue_spec(), device) {
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
        self.platform
            .connect(&entry.spec, entry.memory)
            .map_err(|_| Refusal::Exhausted)?;
        entry.tag = Some(tag);
        self.begin_claim(lease, Origin::Rearm, now);
        Ok(())
    }
}
