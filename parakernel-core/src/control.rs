//! The control plane: who has what, written once, free of device and platform.
//!
//! One state machine. Requests go in by [`ControlPlane::submit`]; [`ControlPlane::poll`] takes the next steps and says
//! what happened. Neither ever waits: an operation that takes time is begun and looked at again. There is nothing else
//! that changes who owns what, so the policy that isolation rests on is all here, and is tested without hardware.
//!
//! ```text
//!  processes ── Request ──►  ┌──────────────┐ ── Frames, Regions, Wiring ──► platform: page tables, IOMMU, vectors
//!                            │ ControlPlane │
//!  processes ◄── Event ────  └──────────────┘ ── QueueDevice, Steering ────► control halves
//! ```
//!
//! # What it decides
//!
//! - **Memory** is registered region by region, within a quota, and given back only while its process holds no hardware
//!   queue: so no descriptor in flight can point into it.
//! - **Queues** are lent out as leases. The mode is the cheapest that is sound under the policy
//!   ([`access::choose`](crate::access::choose)). Where a network device has no queue left, or its frames cannot be steered,
//!   the queue is a virtual one, and the process is told. Storage is never multiplexed: a claim is refused instead.
//! - **Flow rules** must be covered by a name grant of their process and contradict no other rule. What the device cannot
//!   express arrives at the virtual queue, and the process is told.
//! - **Taking back**, because the process gave back or because it died, goes through the steps of
//!   [`lease`](crate::lease), all leases at the same time. [`Outcome::Revoked`] is said after the memory was zeroed and
//!   before the queue is offered again.
//! - **A queue that does not stop** is quarantined with its pages, and nobody else is disturbed. Nothing that a process
//!   does leads to a reset. If its process has ended, the process is buried all the same: its core and whatever no device may
//!   reach are free again, while the rings of the queue and the process's regions are kept until the device is reset.
//! - **A device that fails** is reset after every lease on it was [suspended](Cut::Suspend). Leases are [`Lost`](Outcome::Lost) until their
//!   process acknowledges the epoch. If the reset fails, the device is off the bus and its leases end; where it refuses even
//!   that, they are quarantined for ever, and [`Event::DeviceLoose`] says so.
//!
//! # What is promised
//!
//! 1. No memory is freed while a lease may reference it, and none changes owner before it was zeroed.
//! 2. Each request has exactly one outcome, and outcomes come in the order in which things happened.
//! 3. After a process has ended, all counts are what they were before it started, but for
//!    [what is quarantined](ControlPlane::quarantined).
//! 4. A handle that is stale, or another's, is refused.

use crate::{
    access::Policy,
    device::{DeviceId, Epoch, QueueDevice},
    handle::{HandleTable, LeaseId, MemoryId, ProcessId, Slot, VolumeId},
    lease::LeaseState,
    steering::{GrantTable, OwnedGrant, RuleBucket, RuleEntry, RuleTable},
    time::Instant,
    volume::{Volume, VolumeError, VolumeTable},
};

mod claim;
mod devices;
mod entries;
mod error;
mod memory;
mod platform;
mod process;
mod queues;
mod request;
mod reset;
mod revoke;
mod rules;

pub use devices::DeviceEntry;
pub use entries::{LeaseEntry, MemoryEntry, ProcessEntry, Quota, RuleState};
pub use error::{SetupError, SubmitError};
pub use platform::{
    Cut, Frames, LeaseSpec, Memory, NoRoom, Platform, Purpose, Regions, Wiring, Woken,
};
pub use process::{ProcessSpec, StartError};
pub use queues::Job;
pub use request::{
    ClaimWish, Event, MemoryWish, Outcome, PageSize, Placement, Refusal, Request, Tag, Wake,
};
pub use reset::Failure;

use devices::{FreeList, Health};
use entries::{Life, MemoryStage, Stage};
use queues::{Events, Jobs, Queued};

/// How many steps one [`ControlPlane::poll`] takes at most, so that whoever calls it is never kept for long.
const JOBS_PER_POLL: usize = 32;

/// The caller's memory that the control plane keeps its tables in. Each is as long as the machine needs.
#[derive(Debug)]
pub struct ControlStorage<'a> {
    /// One for each process at a time.
    pub processes: &'a mut [Slot<ProcessEntry>],
    /// One for each lease at a time.
    pub leases: &'a mut [Slot<LeaseEntry>],
    /// One for each registered region at a time.
    pub memories: &'a mut [Slot<MemoryEntry>],
    /// One for each flow rule at a time.
    pub rules: &'a mut [Slot<RuleEntry<RuleState>>],
    /// What rules are found by: best as many as there are rules.
    pub rule_buckets: &'a mut [RuleBucket],
    /// One for each name grant at a time.
    pub grants: &'a mut [Slot<OwnedGrant>],
    /// One for each volume.
    pub volumes: &'a mut [Slot<Volume>],
    /// One for each device.
    pub devices: &'a mut [Option<DeviceEntry>],
    /// One for each queue and each vector of each device.
    pub links: &'a mut [u32],
    /// As many as processes, leases, memories, rules and devices together.
    pub jobs: &'a mut [Option<Job>],
    /// Two, or as many as requests are submitted between two polls.
    pub events: &'a mut [Option<Event>],
}

/// The control plane; see the [module's documentation](self).
#[derive(Debug)]
pub struct ControlPlane<'a, P> {
    platform: P,
    policy: Policy,
    processes: HandleTable<'a, ProcessId, ProcessEntry>,
    leases: HandleTable<'a, LeaseId, LeaseEntry>,
    memories: HandleTable<'a, MemoryId, MemoryEntry>,
    rules: RuleTable<'a, RuleState>,
    grants: GrantTable<'a>,
    volumes: VolumeTable<'a>,
    devices: &'a mut [Option<DeviceEntry>],
    links: &'a mut [u32],
    jobs: Jobs<'a>,
    events: Events<'a>,
}

/// What quarantined queues keep from everyone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Quarantine {
    /// Leases that could not be taken back.
    pub leases: usize,
    /// Regions of processes that have ended, which these might still reach.
    pub regions: usize,
    /// Pages of 4 KiB that both take.
    pub pages: u64,
}

/// Whether a job is to be looked at again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    /// Something else will take it up again, or nothing is left of it.
    Idle,
    /// Again, soon.
    Again,
}

impl<'a, P: Platform> ControlPlane<'a, P> {
    /// A control plane for all devices of the platform, with nobody there yet.
    ///
    /// # Errors
    ///
    /// [`SetupError`], where the storage is too small for the devices.
    pub fn new(
        mut platform: P,
        policy: Policy,
        storage: ControlStorage<'a>,
    ) -> Result<Self, SetupError> {
        let things = storage.processes.len()
            + storage.leases.len()
            + storage.memories.len()
            + storage.rules.len()
            + storage.devices.len();
        let (jobs, events) = (Jobs::new(storage.jobs), Events::new(storage.events));
        if jobs.capacity() < things {
            return Err(SetupError::Jobs);
        }
        if events.capacity() < 2 {
            return Err(SetupError::Events);
        }
        enlist(&mut platform, storage.devices, storage.links)?;
        Ok(Self {
            platform,
            policy,
            processes: HandleTable::new(storage.processes),
            leases: HandleTable::new(storage.leases),
            memories: HandleTable::new(storage.memories),
            rules: RuleTable::new(storage.rules, storage.rule_buckets),
            grants: GrantTable::new(storage.grants),
            volumes: VolumeTable::new(storage.volumes),
            devices: storage.devices,
            links: storage.links,
            jobs,
            events,
        })
    }

    /// Takes a request of a process. Its outcome comes by [`poll`](Self::poll), under `tag`.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]; there is no outcome then, and nothing has changed. After [`Busy`](SubmitError::Busy) one event must be
    /// polled, and there is room. Who polls one event after each request is never told so.
    pub fn submit(
        &mut self,
        process: ProcessId,
        tag: Tag,
        request: Request,
        now: Instant,
    ) -> Result<(), SubmitError> {
        let has_room = self.events.room() > 0;
        let entry = self
            .processes
            .get_mut(process)
            .filter(|entry| entry.life == Life::Running);
        let entry = entry.ok_or(SubmitError::NoSuchProcess)?;
        if entry.used.requests >= entry.quota.requests {
            return Err(SubmitError::TooMany);
        }
        if !has_room {
            return Err(SubmitError::Busy);
        }
        entry.used.requests += 1;
        let result = match request {
            Request::RegisterMemory(wish) => self.register_memory(process, tag, wish),
            Request::ReleaseMemory(memory) => self.release_memory(process, tag, memory),
            Request::Claim(wish) => self.claim(process, tag, &wish, now),
            Request::Release(lease) => self.release(process, tag, lease),
            Request::AddRule(rule) => self.add_rule(process, tag, rule),
            Request::RemoveRule(rule) => self.remove_rule(process, tag, rule),
            Request::Acknowledge { lease, epoch } => {
                self.acknowledge(process, tag, (lease, epoch), now)
            }
        };
        if let Err(refusal) = result {
            self.answer(process, Some(tag), Outcome::Refused(refusal));
        }
        Ok(())
    }

    /// Goes on with what is under way, and says the next thing that happened.
    ///
    /// A bounded number of steps; `None` does not mean that nothing is under way: [`is_idle`](Self::is_idle) does.
    pub fn poll(&mut self, now: Instant) -> Option<Event> {
        for _ in 0..self.jobs.len().min(JOBS_PER_POLL) {
            // There is room for what a step has to say, since nothing else is left to be said.
            if let Some(event) = self.next_event() {
                return Some(event);
            }
            let job = self.jobs.next()?;
            self.go_on(job, now);
        }
        self.next_event()
    }

    /// The oldest event. A request is under way until its outcome is handed out here, so that what a process may have waiting
    /// to be said is bounded by its quota.
    fn next_event(&mut self) -> Option<Event> {
        let event = self.events.pop()?;
        if let Event::Deliver { process, tag, .. } = event
            && tag.is_some()
            && let Some(entry) = self.processes.get_mut(process)
        {
            entry.used.requests -= 1;
        }
        Some(event)
    }

    /// Whether nothing is under way, so that nothing will happen before the next request, death or failure.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.jobs.len() == 0 && self.events.len() == 0
    }

    /// The platform.
    #[must_use]
    pub const fn platform(&self) -> &P {
        &self.platform
    }

    /// The platform, for what the control plane has no part in, such as admin events.
    pub const fn platform_mut(&mut self) -> &mut P {
        &mut self.platform
    }

    /// The name grants, to classify frames and check sources with.
    #[must_use]
    pub const fn grants(&self) -> &GrantTable<'a> {
        &self.grants
    }

    /// The volumes.
    #[must_use]
    pub const fn volumes(&self) -> &VolumeTable<'a> {
        &self.volumes
    }

    /// Takes in a volume that is on a device, as its partition table says.
    ///
    /// # Errors
    ///
    /// [`VolumeError`].
    pub fn add_volume(&mut self, volume: Volume) -> Result<VolumeId, VolumeError> {
        self.volumes.insert(volume)
    }

    /// Forgets a volume, whose blocks have been erased or are to be given to somebody else as they are.
    ///
    /// # Errors
    ///
    /// [`Refusal::InUse`] while a lease borrows it, [`Refusal::NoSuchHandle`] where the handle is stale.
    pub fn remove_volume(&mut self, volume: VolumeId) -> Result<Volume, Refusal> {
        if self.leases().any(|(spec, _)| spec.volume == Some(volume)) {
            return Err(Refusal::InUse);
        }
        self.volumes.remove(volume).ok_or(Refusal::NoSuchHandle)
    }

    /// A lease, and what it is at; `None` where the handle is stale.
    #[must_use]
    pub fn lease(&self, lease: LeaseId) -> Option<(&LeaseSpec, LeaseState)> {
        self.leases
            .get(lease)
            .map(|entry| (&entry.spec, entry.state()))
    }

    /// All leases: the partition map.
    pub fn leases(&self) -> impl Iterator<Item = (&LeaseSpec, LeaseState)> {
        self.leases
            .iter()
            .map(|(_, entry)| (&entry.spec, entry.state()))
    }

    /// What a process has of its quota; `None` where there is no such process.
    #[must_use]
    pub fn usage(&self, process: ProcessId) -> Option<&Quota> {
        self.processes.get(process).map(|entry| &entry.used)
    }

    /// How many queues and vectors of a device are free, and its epoch.
    #[must_use]
    pub fn free_of(&self, device: DeviceId) -> Option<(u32, u32, Epoch)> {
        let entry = self.devices.get(device.index())?.as_ref()?;
        Some((entry.queues.count, entry.vectors.count, entry.epoch))
    }

    /// How many processes, leases, regions and rules there are.
    #[must_use]
    pub fn counts(&self) -> [usize; 4] {
        let (processes, leases) = (self.processes.len(), self.leases.len());
        [
            processes,
            leases,
            self.memories.len(),
            self.rules.iter().count(),
        ]
    }

    /// What only a reset of a device gives back.
    #[must_use]
    pub fn quarantined(&self) -> Quarantine {
        let mut found = Quarantine::default();
        for (_, entry) in self.leases.iter() {
            if matches!(entry.stage, Stage::Quarantined(..)) {
                found.leases += 1;
                found.pages += entry.memory.pages;
            }
        }
        for (_, entry) in self.memories.iter() {
            if entry.stage == MemoryStage::Kept {
                found.regions += 1;
                found.pages += entry.memory.pages;
            }
        }
        found
    }

    /// One step of a job, which may have become void meanwhile.
    fn go_on(&mut self, job: Job, now: Instant) {
        if let Some(queued) = self.queued(job) {
            *queued = Queued::default();
        }
        let progress = match job {
            Job::Process(process) => self.step_process(process),
            Job::Lease(lease) => self.step_lease(lease, now),
            Job::Memory(memory) => self.step_memory(memory),
            Job::Rule(rule) => self.step_rule(rule, now),
            Job::Device(device) => self.step_device(device, now),
        };
        if progress == Progress::Again {
            self.enqueue(job);
        }
    }

    fn enqueue(&mut self, job: Job) {
        let Some(queued) = self.queued(job).copied() else {
            return;
        };
        let queued = self.jobs.add(job, queued);
        if let Some(entry) = self.queued(job) {
            *entry = queued;
        }
    }

    /// Whether the job is in the ring, where the thing still is that it is about.
    fn queued(&mut self, job: Job) -> Option<&mut Queued> {
        match job {
            Job::Process(id) => self.processes.get_mut(id).map(|entry| &mut entry.queued),
            Job::Lease(id) => self.leases.get_mut(id).map(|entry| &mut entry.queued),
            Job::Memory(id) => self.memories.get_mut(id).map(|entry| &mut entry.queued),
            Job::Rule(id) => self.rules.get_mut(id).map(|entry| &mut entry.state.queued),
            Job::Device(id) => self.device_mut(id).map(|entry| &mut entry.queued),
        }
    }

    /// Says what became of a request, or what happened to a process; the dead are told nothing.
    fn answer(&mut self, process: ProcessId, tag: Option<Tag>, outcome: Outcome) {
        let entry = self.processes.get(process);
        if entry.is_some_and(|entry| entry.life == Life::Running) {
            self.say(Event::Deliver {
                process,
                tag,
                outcome,
            });
        }
    }

    fn say(&mut self, event: Event) {
        if self.events.push(event).is_err() {
            // A submission says one thing at most and a step two, and both find room for it.
            debug_assert!(false, "an event without room");
        }
    }

    fn device_mut(&mut self, device: DeviceId) -> Option<&mut DeviceEntry> {
        self.devices.get_mut(device.index())?.as_mut()
    }

    fn health(&self, device: DeviceId) -> Health {
        match self.devices.get(device.index()) {
            Some(Some(entry)) => entry.health,
            Some(None) | None => Health::Gone,
        }
    }
}

/// Makes an entry for each device of the platform.
fn enlist<P: Platform>(
    platform: &mut P,
    entries: &mut [Option<DeviceEntry>],
    links: &mut [u32],
) -> Result<(), SetupError> {
    let mut base = 0;
    entries.fill_with(|| None);
    for number in 0_u32.. {
        let Some(device) = platform.device(DeviceId::new(number)) else {
            break;
        };
        let limits = device.limits();
        let entry = entries
            .get_mut(number as usize)
            .ok_or(SetupError::Devices)?;
        let queues = FreeList::new(links, base, limits.queues).ok_or(SetupError::Links)?;
        base += limits.queues as usize;
        let vectors = FreeList::new(links, base, limits.vectors).ok_or(SetupError::Links)?;
        base += limits.vectors as usize;
        *entry = Some(DeviceEntry {
            limits,
            health: Health::Up,
            epoch: Epoch::default(),
            queues,
            vectors,
            shared: None,
            rules: 0,
            steering: None,
            failed_again: None,
            queued: Queued::default(),
        });
    }
    Ok(())
}
