//! How much of everything the kernel keeps books of: as much as the machine and its devices have, found at boot.

use core::fmt;

use parakernel_core::control::{ControlStorage, Job, LeaseEntry, Quota};
use parakernel_core::device::QueueDevice;
use parakernel_core::handle::Slot;
use parakernel_core::steering::RuleBucket;

use crate::arch::native;
use crate::cores;
use crate::machine::{DEVICES_MAX, Devices, VOLUMES_MAX};
use crate::memory::{FRAME, Frames};
use crate::print;
use crate::queues;

/// What a process may have, besides its queue pairs.
pub(crate) const QUOTA: Quota = Quota {
    pages: 32 * 1024,
    regions: 32,
    leases: 2,
    vectors: 16,
    rules: 16,
    requests: 16,
};
/// Pages for the rings of each queue pair that a process may have besides; one with long rings takes from the rest.
const RING_PAGES: u64 = 32;
/// Most names of a process: one on the card.
pub(crate) const NAMES: usize = 1;
/// The part of the free memory that books of one device's pairs may take, as a divisor.
const BOOKS: usize = 4;

/// How many things of each kind there can be at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Processes: one for each core but the first.
    processes: usize,
    /// Leases: of all queues of all devices, and virtual ones.
    pub(crate) leases: usize,
    /// Regions.
    regions: usize,
    /// Queues and vectors of all devices.
    links: usize,
}

impl Capacity {
    /// What there is room to be needed for on this machine, with these devices.
    pub(crate) fn of(devices: &Devices) -> Self {
        let processes = cores::all().count().saturating_sub(1);
        let limits = || devices.iter().map(QueueDevice::limits);
        let queues: usize = limits().map(|limits| native(limits.queues.into())).sum();
        let vectors: usize = limits().map(|limits| native(limits.vectors.into())).sum();
        Self {
            processes,
            leases: queues + processes * native(QUOTA.leases.into()),
            regions: processes * native(QUOTA.regions.into()),
            links: queues + vectors,
        }
    }

    /// Pieces of memory: rings of leases, and regions.
    pub(crate) const fn blocks(&self) -> usize {
        self.leases + self.regions
    }

    /// Memory for the control plane's tables; `None` where there is too little.
    pub(crate) fn storage(&self, frames: &mut Frames) -> Option<ControlStorage<'static>> {
        let node = frames.nodes().next()?;
        let per_process = |count: u32| self.processes * native(count.into());
        let (rules, things) = (per_process(QUOTA.rules), self.leases + self.regions);
        let jobs = self.processes + things + rules + DEVICES_MAX;
        // Each request that is under way may have its outcome waiting, and a step of a job says two things.
        let events = per_process(QUOTA.requests) + 2;
        Some(ControlStorage {
            processes: frames.place_with(node, self.processes, || Slot::EMPTY)?,
            leases: frames.place_with(node, self.leases, || Slot::EMPTY)?,
            memories: frames.place_with(node, self.regions, || Slot::EMPTY)?,
            rules: frames.place_with(node, rules, || Slot::EMPTY)?,
            rule_buckets: frames.place_with(node, rules, || RuleBucket::EMPTY)?,
            grants: frames.place_with(node, self.processes * NAMES, || Slot::EMPTY)?,
            volumes: frames.place_with(node, VOLUMES_MAX, || Slot::EMPTY)?,
            devices: frames.place_with(node, DEVICES_MAX, || None)?,
            links: frames.place_slice(node, self.links, 0)?,
            jobs: frames.place_with(node, jobs, || None)?,
            events: frames.place_with(node, events, || None)?,
        })
    }
}

/// The quota of a process with so many queue pairs.
pub(crate) fn quota(pairs: u32) -> Quota {
    Quota {
        leases: QUOTA.leases + pairs,
        pages: QUOTA.pages + RING_PAGES * u64::from(pairs),
        ..QUOTA
    }
}

/// How many of the `reported` queue pairs of a device there is memory to keep books of, `own` bytes of them the driver's; says so
/// where that is not all of them.
pub(crate) fn affordable(
    frames: &Frames,
    device: &impl fmt::Debug,
    (reported, own): (u16, usize),
) -> usize {
    let each = own
        + size_of::<Slot<LeaseEntry>>()
        + size_of::<Option<Job>>()
        + 2 * size_of::<u32>()
        + crate::machine::LEASE_BOOKS
        + size_of::<Option<queues::Lease>>();
    let free = frames.free_total().saturating_mul(native(FRAME)) / BOOKS;
    let most = free / each;
    let reported = usize::from(reported);
    if most < reported {
        print!("{device:?}: memory for {most} of {reported} queue pairs\n");
    }
    most.min(reported)
}

/// Says so where there was no memory for the tables of a device, which is of no use then.
pub(crate) fn told<T>(device: &impl fmt::Debug, tables: Option<T>) -> Option<T> {
    if tables.is_none() {
        print!("{device:?}: no memory for its tables\n");
    }
    tables
}
