//! A machine that rejects a control plane that breaks its promises.
//!
//! Devices and platform take a random time for what they are asked, fail, or never answer. Whatever a queue may still
//! reach is watched: freeing it, zeroing it or giving it to another is an escape, and ends the test.

use alloc::collections::{BTreeMap, BTreeSet};
use core::task::Poll;

use parakernel_core::{
    access::{AccessMode, Isolation},
    address::{Direction, Iova, NodeId},
    control::{Cut, Frames, LeaseSpec, Memory, NoRoom, Platform, Purpose, Regions, Wiring, Woken},
    device::{DeviceId, Limits, Operation, QueueDevice, QueueKind, Waits},
    error::ErrorKind,
    handle::{LeaseId, ProcessId, RegionId, RuleId},
    memory::RegionError,
    ring::RingSize,
    steering::{Change, Matches, Steering},
    time::Instant,
};

/// One step of time: 20 ms.
pub(crate) const TURN_NS: u64 = 20_000_000;
/// How long each operation of a device may take, in steps of time.
const LIMIT: u64 = 6;
pub(crate) const PAGES: u64 = 200;

/// A small generator, so that a seed repeats a run.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn turns(now: Instant) -> u64 {
    now.as_nanos() / TURN_NS
}

/// How an operation ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    After(u64),
    FailsAfter(u64),
    Never,
}

/// How often things go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    Perfect,
    Slow,
    Faulty,
}

#[derive(Debug)]
struct Chance {
    random: Random,
    mood: Mood,
}

impl Chance {
    fn fate(&mut self) -> Fate {
        match (self.mood, self.random.below(16)) {
            (Mood::Perfect, _) => Fate::After(0),
            (Mood::Faulty, 0) => Fate::Never,
            (Mood::Faulty, 1) => Fate::FailsAfter(self.random.below(LIMIT)),
            (Mood::Faulty, 2) => Fate::After(self.random.below(3 * LIMIT)),
            (Mood::Slow | Mood::Faulty, _) => Fate::After(self.random.below(LIMIT)),
        }
    }

    fn refuses(&mut self) -> bool {
        self.mood == Mood::Faulty && self.random.below(16) == 0
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Claim(u32),
    Drain(u32),
    Stop(u32),
    Flush(u32),
    Reset,
    Change(RuleId),
}

/// A queue of the device: it may read and write its lease's memory and its process's regions, whoever has been cut off from
/// it and whatever has been unregistered.
#[derive(Clone, Copy, Debug)]
struct Queue {
    lease: LeaseId,
}

/// Whether a device does what it is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Conduct {
    Good,
    /// Says that a queue stopped, though it goes on.
    LiesAboutStopping,
    /// Never says that a queue stopped.
    Stuck,
    /// No reset helps, and there is no switch to take it off the bus: its queues go on.
    Loose,
}

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) limits: Limits,
    chance: Chance,
    /// What may start DMA.
    queues: BTreeMap<u32, Queue>,
    /// Where frames of a rule go: a queue, or the drop queue.
    rules: BTreeMap<RuleId, Option<u32>>,
    confirmed: BTreeSet<RuleId>,
    under_way: BTreeMap<Key, (Fate, u64)>,
    pub(crate) conduct: Conduct,
    pub(crate) is_silent: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed;

impl parakernel_core::error::Error for Failed {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Device
    }
}

impl Device {
    fn new(kind: QueueKind, queues: u32, vectors: u32, seed: u64) -> Self {
        let wait = core::time::Duration::from_nanos(LIMIT * TURN_NS);
        let ring = |entries| RingSize::new(entries).unwrap();
        let isolation =
            Isolation::STEERS_EXACTLY | Isolation::SPLITS_FRAMES | Isolation::DROPS_WHEN_FULL;
        Self {
            limits: Limits {
                kind,
                queues,
                vectors,
                min_ring: ring(8),
                max_ring: ring(256),
                doorbell_stride: 4,
                first_isolation: isolation,
                second_isolation: isolation,
                rules: 3,
                node: NodeId::new(0),
                waits: Waits {
                    claim: wait,
                    drain: wait,
                    stop: wait,
                    steer: wait,
                    reset: wait,
                },
            },
            chance: Chance {
                random: Random(seed),
                mood: Mood::Perfect,
            },
            queues: BTreeMap::new(),
            rules: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            under_way: BTreeMap::new(),
            conduct: Conduct::Good,
            is_silent: false,
        }
    }

    fn start(&mut self, key: Key, now: Instant) {
        if let Key::Change(_) = key {
            let other = self
                .under_way
                .keys()
                .find(|other| matches!(other, Key::Change(_)));
            assert_eq!(other, None, "two changes of steering at a time");
        }
        let fate = match key {
            Key::Reset if self.conduct == Conduct::Loose => Fate::FailsAfter(0),
            Key::Stop(_) if self.conduct == Conduct::Stuck => Fate::Never,
            _ => self.chance.fate(),
        };
        self.under_way.insert(key, (fate, turns(now)));
    }

    fn finish(&mut self, key: Key, now: Instant) -> Poll<Result<(), Failed>> {
        let (fate, begun) = *self
            .under_way
            .get(&key)
            .expect("polled without being begun");
        let elapsed = turns(now) - begun;
        match fate {
            Fate::After(time) if elapsed >= time => Poll::Ready(Ok(())),
            Fate::FailsAfter(time) if elapsed >= time => Poll::Ready(Err(Failed)),
            Fate::After(_) | Fate::FailsAfter(_) | Fate::Never => Poll::Pending,
        }
    }

    pub(crate) fn is_resetting(&self) -> bool {
        self.under_way.contains_key(&Key::Reset)
    }

    fn key(operation: Operation) -> Key {
        match operation {
            Operation::Claim(spec) => Key::Claim(spec.queue.as_u32()),
            Operation::Drain(queue) => Key::Drain(queue.as_u32()),
            Operation::Stop(queue) => Key::Stop(queue.as_u32()),
            Operation::Flush(queue) => Key::Flush(queue.as_u32()),
            Operation::Reset | Operation::Silence => Key::Reset,
        }
    }

    fn all_queues_are_gone(&mut self) {
        self.queues.clear();
        self.under_way.clear();
        // Unconfirmed rules are forgotten; the others lead to the drop queue.
        self.rules.retain(|rule, _| self.confirmed.contains(rule));
        self.rules.values_mut().for_each(|to| *to = None);
    }
}

impl QueueDevice for Device {
    type Error = Failed;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), Failed> {
        assert!(
            !self.is_silent,
            "a device that was given up is asked for {operation:?}"
        );
        if operation == Operation::Silence && self.conduct == Conduct::Loose {
            self.is_silent = true;
            return Err(Failed);
        }
        if operation == Operation::Silence {
            self.all_queues_are_gone();
            self.is_silent = true;
            return Ok(());
        }
        assert!(!self.is_resetting(), "{operation:?} during a reset");
        if self.chance.refuses() {
            return Err(Failed);
        }
        if let Operation::Claim(spec) = operation {
            assert!(
                spec.queue.as_u32() < self.limits.queues,
                "there is no {:?}",
                spec.queue
            );
            let lease = spec.lease;
            let old = self.queues.insert(spec.queue.as_u32(), Queue { lease });
            assert!(
                old.is_none(),
                "{:?} is claimed while {old:?} is there",
                spec.queue
            );
        }
        self.start(Self::key(operation), now);
        Ok(())
    }

    fn poll(&mut self, operation: Operation, now: Instant) -> Poll<Result<(), Failed>> {
        let result = self.finish(Self::key(operation), now);
        if result.is_pending() {
            return result;
        }
        match operation {
            Operation::Stop(queue)
                if matches!(result, Poll::Ready(Ok(())))
                    && self.conduct != Conduct::LiesAboutStopping =>
            {
                self.queues.remove(&queue.as_u32());
            }
            Operation::Reset => {
                self.under_way.remove(&Key::Reset);
                if matches!(result, Poll::Ready(Ok(()))) {
                    self.all_queues_are_gone();
                }
            }
            Operation::Claim(_)
            | Operation::Drain(_)
            | Operation::Stop(_)
            | Operation::Flush(_)
            | Operation::Silence => {}
        }
        result
    }
}

impl Steering for Device {
    type Error = Failed;

    fn can_express(&self, matches: &Matches) -> bool {
        matches.vlan.is_none()
    }

    fn begin_change(&mut self, change: Change, now: Instant) -> Result<(), Failed> {
        assert!(
            !self.is_silent && !self.is_resetting(),
            "{change:?} on a device that is down"
        );
        if self.chance.refuses() {
            return Err(Failed);
        }
        let (Change::Add { rule, .. } | Change::Remove { rule }) = change;
        self.under_way
            .retain(|key, _| !matches!(key, Key::Change(_)) || *key == Key::Change(rule));
        self.start_change(rule, now);
        if let Change::Add { rule, queue, .. } = change {
            // May be in force from now on.
            assert!(
                self.queues.contains_key(&queue.as_u32()),
                "a rule to {queue:?}, which is not there"
            );
            self.rules.insert(rule, Some(queue.as_u32()));
        }
        Ok(())
    }

    fn poll_change(&mut self, change: Change, now: Instant) -> Poll<Result<(), Failed>> {
        let (Change::Add { rule, .. } | Change::Remove { rule }) = change;
        let result = self.finish(Key::Change(rule), now);
        if result.is_ready() {
            self.under_way.remove(&Key::Change(rule));
        }
        match (change, &result) {
            (Change::Add { .. }, Poll::Ready(Ok(()))) => {
                self.confirmed.insert(rule);
            }
            (Change::Remove { .. }, Poll::Ready(Ok(()))) => {
                self.rules.remove(&rule);
                self.confirmed.remove(&rule);
            }
            (Change::Add { .. } | Change::Remove { .. }, _) => {}
        }
        result
    }
}

impl Device {
    fn start_change(&mut self, rule: RuleId, now: Instant) {
        self.under_way.remove(&Key::Change(rule));
        self.start(Key::Change(rule), now);
    }
}

/// Which queues find a way to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// That of the lease that it belongs to.
    Lease,
    /// Those of the process that it belongs to.
    Process,
    /// None, or none that comes from now on.
    Nobody,
}

/// Memory that was handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Block {
    pages: u64,
    owner: Option<ProcessId>,
    reach: Reach,
    /// Mapped in a process, or in the tables that devices are translated by.
    is_mapped: bool,
    is_dirty: bool,
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) free_pages: u64,
    pub(crate) devices: Vec<Device>,
    chance: Chance,
    blocks: BTreeMap<u32, Block>,
    next_block: u32,
    /// Connected leases, with their memory.
    leases: BTreeMap<LeaseId, (LeaseSpec, u32)>,
    /// The process and the memory of each lease that was ever connected: what its queue reaches as long as there is one.
    reachable: BTreeMap<LeaseId, (ProcessId, u32)>,
    regions: BTreeMap<(ProcessId, RegionId), u32>,
    next_region: u32,
    /// Regions that are being taken out, with their memory, until then.
    leaving: BTreeMap<(ProcessId, RegionId), (u32, u64)>,
    cuts: BTreeMap<(LeaseId, u8), (Fate, u64)>,
    fenced: BTreeSet<LeaseId>,
    masked: BTreeSet<LeaseId>,
    now: u64,
    /// Says that memory was zeroed, though it was not.
    pub(crate) lies_about_zeroing: bool,
}

impl Machine {
    /// A NIC of two queues and two vectors, and a disk of three and one.
    pub(crate) fn new(seed: u64) -> Self {
        let nic = Device::new(QueueKind::Network, 2, 2, seed.wrapping_add(1));
        let disk = Device::new(QueueKind::Block, 3, 1, seed.wrapping_add(2));
        Self {
            free_pages: PAGES,
            devices: vec![nic, disk],
            chance: Chance {
                random: Random(seed),
                mood: Mood::Perfect,
            },
            blocks: BTreeMap::new(),
            next_block: 0,
            leases: BTreeMap::new(),
            reachable: BTreeMap::new(),
            regions: BTreeMap::new(),
            next_region: 0,
            leaving: BTreeMap::new(),
            cuts: BTreeMap::new(),
            fenced: BTreeSet::new(),
            masked: BTreeSet::new(),
            now: 0,
            lies_about_zeroing: false,
        }
    }

    pub(crate) fn set_mood(&mut self, mood: Mood) {
        self.chance.mood = mood;
        for device in &mut self.devices {
            device.chance.mood = mood;
        }
    }

    /// Lets time pass, and devices and processes do whatever they may do now.
    pub(crate) fn turn(&mut self, now: Instant) {
        self.now = turns(now);
        for device in &self.devices {
            for queue in device.queues.values() {
                for block in self.reach(queue.lease) {
                    self.blocks
                        .get_mut(&block)
                        .expect("DMA to memory that was freed")
                        .is_dirty = true;
                }
            }
        }
        let connected = self
            .leases
            .iter()
            .filter(|(lease, _)| !self.fenced.contains(lease));
        for (_, block) in connected.map(|(lease, (_, block))| (lease, *block)) {
            self.blocks
                .get_mut(&block)
                .expect("a mapping of freed memory")
                .is_dirty = true;
        }
    }

    /// What a queue of a lease may reach: the lease's memory, and each region of its process.
    fn reach(&self, lease: LeaseId) -> Vec<u32> {
        let (process, own) = self.reachable[&lease];
        let regions = self
            .blocks
            .iter()
            .filter(|(_, block)| block.reach == Reach::Process && block.owner == Some(process));
        regions.map(|(block, _)| *block).chain([own]).collect()
    }

    fn reached(&self, block: u32) -> Option<LeaseId> {
        let queues = self
            .devices
            .iter()
            .flat_map(|device| device.queues.values());
        queues
            .map(|queue| queue.lease)
            .find(|lease| self.reach(*lease).contains(&block))
    }

    /// A queue of the process that may do DMA for it.
    fn user_of(&self, process: ProcessId) -> Option<LeaseId> {
        let queues = self
            .devices
            .iter()
            .flat_map(|device| device.queues.values());
        let mut leases = queues.map(|queue| queue.lease);
        leases.find(|lease| {
            self.leases
                .get(lease)
                .is_some_and(|(spec, _)| spec.process == process)
                && !self.fenced.contains(lease)
        })
    }

    /// What must hold once a lease is said to have ended.
    pub(crate) fn assert_ended(&self, lease: LeaseId) {
        for device in &self.devices {
            assert!(
                device.queues.values().all(|queue| queue.lease != lease),
                "a queue of {lease} is there"
            );
        }
        assert!(!self.leases.contains_key(&lease), "{lease} is connected");
    }

    /// What must hold at any time: rules lead to queues of their own lease's process.
    pub(crate) fn assert_steered(&self, owner_of: impl Fn(RuleId) -> Option<LeaseId>) {
        for device in &self.devices {
            for (rule, queue) in &device.rules {
                let Some(queue) = queue else { continue };
                if let Some(at) = device.queues.get(queue) {
                    let owner = owner_of(*rule);
                    assert!(
                        owner.is_none() || owner == Some(at.lease),
                        "{rule} leads to {}",
                        at.lease
                    );
                }
            }
        }
    }

    pub(crate) fn assert_as_new(&self) {
        assert_eq!(self.free_pages, PAGES, "pages are missing");
        assert!(self.blocks.is_empty() && self.leases.is_empty() && self.regions.is_empty());
        for device in &self.devices {
            assert!(device.queues.is_empty(), "queues are left");
            assert!(
                device.is_silent || device.rules.is_empty(),
                "rules are left"
            );
        }
    }

    fn is_cut(&self, lease: LeaseId, cut: Cut) -> bool {
        let (fate, begun) = *self
            .cuts
            .get(&(lease, number(cut)))
            .expect("polled without being begun");
        // A platform may be late, but answers in the end.
        match fate {
            Fate::After(time) | Fate::FailsAfter(time) => self.now - begun >= time,
            Fate::Never => self.chance.mood == Mood::Perfect,
        }
    }
}

fn number(cut: Cut) -> u8 {
    match cut {
        Cut::Fence => 0,
        Cut::Suspend => 4,
        Cut::Isolate => 1,
        Cut::Mask => 2,
        Cut::Unmap => 3,
    }
}

impl Frames for Machine {
    fn allocate(&mut self, purpose: Purpose) -> Option<Memory> {
        let (pages, owner, reach) = match purpose {
            Purpose::Region { pages, .. } => (pages, None, Reach::Process),
            Purpose::Lease(spec) => (4, Some(spec.process), Reach::Lease),
        };
        self.free_pages = self.free_pages.checked_sub(pages)?;
        self.next_block += 1;
        let block = Block {
            pages,
            owner,
            reach,
            is_mapped: false,
            is_dirty: false,
        };
        self.blocks.insert(self.next_block, block);
        Some(Memory {
            id: self.next_block,
            pages,
        })
    }

    fn zero(&mut self, memory: Memory) -> Poll<()> {
        assert_eq!(
            self.reached(memory.id),
            None,
            "zeroed while a queue may write it"
        );
        let slow = self.chance.mood != Mood::Perfect && self.chance.random.below(3) == 0;
        let block = self
            .blocks
            .get_mut(&memory.id)
            .expect("memory that was handed out");
        assert!(!block.is_mapped, "zeroed while mapped");
        if slow {
            return Poll::Pending;
        }
        block.is_dirty &= self.lies_about_zeroing;
        Poll::Ready(())
    }

    fn free(&mut self, memory: Memory) {
        assert_eq!(
            self.reached(memory.id),
            None,
            "freed while a queue may write it"
        );
        let block = self.blocks.remove(&memory.id).expect("freed once");
        assert!(!block.is_mapped, "freed while mapped");
        assert!(!block.is_dirty, "freed with its contents");
        self.free_pages += block.pages;
    }
}

impl Regions for Machine {
    fn register(
        &mut self,
        process: ProcessId,
        memory: Memory,
        _direction: Direction,
    ) -> Result<(RegionId, Iova), RegionError> {
        if self.chance.refuses() {
            return Err(RegionError::Full);
        }
        self.next_region += 1;
        let region = RegionId::new(self.next_region, 0);
        let block = self.blocks.get_mut(&memory.id).unwrap();
        assert_eq!(block.owner.replace(process), None);
        (block.is_mapped, block.is_dirty) = (true, true);
        self.regions.insert((process, region), memory.id);
        Ok((region, Iova::new(u64::from(self.next_region) << 20)))
    }

    fn begin_unregister(&mut self, process: ProcessId, region: RegionId) {
        let block = self
            .regions
            .remove(&(process, region))
            .expect("a region of the process");
        // Queues that come later find no way there.
        let mut queues = self
            .devices
            .iter()
            .flat_map(|device| device.queues.values());
        let is_reached = queues.any(|queue| self.reachable[&queue.lease].0 == process);
        if !is_reached {
            self.blocks.get_mut(&block).unwrap().reach = Reach::Nobody;
        }
        let until = self.now + self.chance.random.below(4);
        self.leaving.insert((process, region), (block, until));
        assert_eq!(
            self.user_of(process),
            None,
            "unregistered while a queue may use it"
        );
    }

    fn poll_unregister(&mut self, process: ProcessId, region: RegionId) -> Poll<()> {
        let (block, until) = self.leaving[&(process, region)];
        if self.now < until {
            return Poll::Pending;
        }
        self.leaving.remove(&(process, region));
        self.blocks
            .get_mut(&block)
            .expect("memory that was handed out")
            .is_mapped = false;
        Poll::Ready(())
    }
}

impl Wiring for Machine {
    fn connect(&mut self, spec: &LeaseSpec, memory: Memory) -> Result<Woken, NoRoom> {
        assert!(
            spec.first_mode >= AccessMode::Checked,
            "the devices offer no more"
        );
        let block = self.blocks.get_mut(&memory.id).unwrap();
        assert_eq!(block.owner, Some(spec.process));
        (block.is_mapped, block.is_dirty) = (true, true);
        self.fenced.remove(&spec.lease);
        let suspended = (spec.lease, number(Cut::Suspend));
        let was_suspended = self.cuts.contains_key(&suspended);
        self.cuts.retain(|(lease, _), _| *lease != spec.lease);
        if was_suspended {
            let fate = self.chance.fate();
            self.cuts.insert(suspended, (fate, self.now));
        }
        self.leases.insert(spec.lease, (*spec, memory.id));
        let reach = (spec.process, memory.id);
        self.reachable.insert(spec.lease, reach);
        // Where it fails, some of it is mapped.
        if self.chance.refuses() {
            return Err(NoRoom);
        }
        if self.chance.refuses() {
            return Ok(Woken::ByNothing);
        }
        Ok(Woken::AsPlanned)
    }

    fn cut(&mut self, spec: &LeaseSpec, cut: Cut) {
        if !matches!(cut, Cut::Fence | Cut::Suspend) {
            assert!(
                self.fenced.contains(&spec.lease),
                "{cut:?} before the fence"
            );
        }
        if matches!(cut, Cut::Isolate) {
            let on_device = self.devices[spec.device.index()].queues.values();
            let lies = self.devices[spec.device.index()].conduct == Conduct::LiesAboutStopping;
            let is_there = on_device.into_iter().any(|queue| queue.lease == spec.lease);
            assert!(lies || !is_there, "{cut:?} before the queue stopped");
        }
        let fate = self.chance.fate();
        self.cuts
            .insert((spec.lease, number(cut)), (fate, self.now));
    }

    fn poll_cut(&mut self, spec: &LeaseSpec, cut: Cut) -> Poll<()> {
        if !self.is_cut(spec.lease, cut) {
            return Poll::Pending;
        }
        match cut {
            Cut::Fence => {
                self.fenced.insert(spec.lease);
            }
            // A process that is suspended goes on writing to the lease's memory.
            Cut::Suspend | Cut::Isolate => {}
            Cut::Mask => {
                self.masked.insert(spec.lease);
            }
            Cut::Unmap => {
                assert!(
                    self.masked.contains(&spec.lease),
                    "unmapped before it was masked"
                );
                if let Some((_, block)) = self.leases.remove(&spec.lease) {
                    self.blocks.get_mut(&block).unwrap().is_mapped = false;
                }
            }
        }
        Poll::Ready(())
    }
}

impl Platform for Machine {
    type Device = Device;

    fn device(&mut self, device: DeviceId) -> Option<&mut Device> {
        self.devices.get_mut(device.index())
    }
}
