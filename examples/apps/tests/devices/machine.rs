//! A machine for the control plane: virtio-net and NVMe by the family's drivers, on models in one world.
//!
//! The audit is told what the tables of an IOMMU would be: a queue's device may reach the rings of its lease and the regions
//! of its process from when the queue is connected until the lease is isolated, and nothing else.
#![expect(unsafe_code, reason = "hands memory out to control halves")]

use alloc::collections::{BTreeMap, BTreeSet};
use core::task::Poll;

use parakernel_core::{
    abi::{StatusPage, SubmissionPage},
    address::{BusAddress, Direction, Iova, NodeId},
    control::{Cut, Frames, LeaseSpec, Memory, NoRoom, Platform, Purpose, Regions, Wiring, Woken},
    device::{DeviceId, Limits, Operation, QueueDevice},
    error::ErrorKind,
    handle::{LeaseId, ProcessId, RegionId, Slot},
    memory::{
        DmaBlock, Extent, ExtentSlot, PageSlot, Region, RegionError, RegionStorage, RegionTable,
        SharedMemory,
    },
    steering::{Change, Matches, Steering},
    time::Instant,
};
use parakernel_mock_hw::{
    Memory as Ram, World,
    memory::{Lease, Range, RequesterId},
};
use parakernel_nvme::prp::{ListTables, write_tables};

use super::{disk::DiskCard, nic::NetCard};

pub(crate) const NIC: DeviceId = DeviceId::new(0);
pub(crate) const DISK: DeviceId = DeviceId::new(1);
pub(crate) const REQUESTERS: [RequesterId; 2] = [RequesterId(0x0100), RequesterId(0x0200)];
pub(crate) const ENTRIES: usize = 16;
const PAGE: usize = 4096;
/// Rings and shared pages of a lease, of either kind.
const LEASE_PAGES: usize = 24;
/// Where regions begin in the I/O address space of a process.
const FIRST_IOVA: u64 = 0x4000_0000;

/// What a platform frees when a process dies, though its queues are still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Early {
    Regions,
    Leases,
}

/// The pages by which a process and the kernel tell each other how far they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    pub(crate) submission: &'static SubmissionPage,
    pub(crate) status: &'static StatusPage,
}

/// Memory of a lease, from which pieces are cut.
pub(crate) struct Cutter(Option<DmaBlock<'static>>);

impl Cutter {
    pub(crate) fn cut(&mut self, len: usize) -> DmaBlock<'static> {
        let rest = self.0.take().unwrap();
        let (piece, rest) = rest.split_at(len.next_multiple_of(PAGE)).unwrap();
        self.0 = Some(rest);
        piece
    }

    pub(crate) fn pages(&mut self) -> Pages {
        let page = self.cut(PAGE).memory();
        Pages {
            submission: page.view(0).unwrap(),
            status: page.view(PAGE / 2).unwrap(),
        }
    }
}

/// A device, as the control plane works it.
pub(crate) enum Card {
    Net(Box<NetCard>),
    Disk(Box<DiskCard>),
}

impl QueueDevice for Card {
    type Error = ErrorKind;

    fn limits(&self) -> Limits {
        match self {
            Self::Net(card) => card.limits(),
            Self::Disk(card) => card.limits(),
        }
    }

    fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), ErrorKind> {
        match self {
            Self::Net(card) => card.begin(operation, now),
            Self::Disk(card) => card.begin(operation, now),
        }
    }

    fn poll(&mut self, operation: Operation, now: Instant) -> Poll<Result<(), ErrorKind>> {
        match self {
            Self::Net(card) => card.poll(operation, now),
            Self::Disk(card) => card.poll(operation, now),
        }
    }
}

impl Steering for Card {
    type Error = ErrorKind;

    fn can_express(&self, matches: &Matches) -> bool {
        matches!(self, Self::Net(card) if card.can_express(matches))
    }

    fn begin_change(&mut self, change: Change, now: Instant) -> Result<(), ErrorKind> {
        match self {
            Self::Net(card) => card.begin_change(change, now),
            Self::Disk(_) => Err(ErrorKind::Unsupported),
        }
    }

    fn poll_change(&mut self, _change: Change, now: Instant) -> Poll<Result<(), ErrorKind>> {
        match self {
            Self::Net(card) => card.poll_change(now),
            Self::Disk(_) => Poll::Ready(Err(ErrorKind::Unsupported)),
        }
    }
}

/// A connected lease: its memory, and what the audit knows it as.
struct Connection {
    memory: u32,
    audit: Lease,
}

/// Memory of a region: its pages, and the lists of them that the disk reads.
#[derive(Clone, Copy)]
struct Listed {
    memory: u32,
    pages: Range,
    lists: Range,
}

pub(crate) struct Machine {
    pub(crate) world: &'static World,
    pub(crate) ram: &'static Ram,
    pub(crate) cards: [Card; 2],
    blocks: BTreeMap<u32, Range>,
    next: u32,
    table: Option<RegionTable<'static>>,
    regions: BTreeMap<RegionId, Listed>,
    leases: BTreeMap<LeaseId, Connection>,
    next_audit: u64,
    pub(crate) early: Option<Early>,
    freed_early: BTreeSet<u32>,
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        let world: &'static World = Box::leak(Box::new(World::new(seed)));
        let ram: &'static Ram = Box::leak(Box::new(world.memory(4 << 20)));
        let net = Card::Net(Box::new(NetCard::new(world, ram)));
        let disk = Card::Disk(Box::new(DiskCard::new(world, ram)));
        Self {
            world,
            ram,
            cards: [net, disk],
            blocks: BTreeMap::new(),
            next: 0,
            table: None,
            regions: BTreeMap::new(),
            leases: BTreeMap::new(),
            next_audit: 1,
            early: None,
            freed_early: BTreeSet::new(),
        }
    }

    pub(crate) fn net(&mut self) -> &mut NetCard {
        let [Card::Net(card), _] = &mut self.cards else {
            unreachable!("the first card is the network's")
        };
        card
    }

    pub(crate) fn disk(&mut self) -> &mut DiskCard {
        let [_, Card::Disk(card)] = &mut self.cards else {
            unreachable!("the second card is the disk's")
        };
        card
    }

    /// The kernel's turn: takes over what processes published.
    pub(crate) fn turn(&mut self) {
        let Some(regions) = &self.table else { return };
        for card in &mut self.cards {
            match card {
                Card::Net(card) => card.service(regions, self.ram),
                Card::Disk(card) => card.service(regions),
            }
        }
    }

    /// Where a process finds its region.
    pub(crate) fn range_at(&self, iova: Iova) -> Range {
        let table = self.table.as_ref().unwrap();
        let (id, _) = table
            .regions()
            .find(|(_, region)| region.iova == iova)
            .unwrap();
        self.regions[&id].pages
    }

    /// What the audit knows a lease as.
    pub(crate) fn audit_of(&self, lease: LeaseId) -> Lease {
        self.leases[&lease].audit
    }

    /// Whether nobody has anything.
    pub(crate) fn is_vacant(&self) -> bool {
        self.blocks.is_empty() && self.regions.is_empty() && self.leases.is_empty()
    }

    /// A process has died. There is nothing to do yet, except on a platform that frees too early.
    pub(crate) fn dies(&mut self) {
        let Some(early) = self.early else { return };
        let freed: Vec<u32> = match early {
            Early::Regions => self.regions.values().map(|region| region.memory).collect(),
            Early::Leases => self.leases.values().map(|lease| lease.memory).collect(),
        };
        for memory in freed {
            let range = self.blocks[&memory];
            for lease in self.leases.values() {
                self.ram.end_range(lease.audit, range);
            }
            self.ram.free(range);
            self.freed_early.insert(memory);
        }
    }

    fn block(&self, range: Range) -> DmaBlock<'static> {
        let memory: SharedMemory<'static> = self.ram.shared(range).unwrap();
        // SAFETY: the devices' addresses are physical ones. The range was allocated for this block, and what was cut from it in
        // an earlier life was dropped before it was freed.
        unsafe { DmaBlock::new(memory, BusAddress::new(range.start.as_u64())) }
    }
}

fn leak<T>(count: usize, make: impl FnMut() -> T) -> &'static mut [T] {
    Vec::leak(core::iter::repeat_with(make).take(count).collect())
}

/// The pages of a region, and the room for the lists of them: as many as fit.
fn with_lists(range: Range) -> (Range, Range) {
    let total = range.len / PAGE;
    let fits = |pages: &usize| {
        let lists = usize::try_from(ListTables::bytes(*pages as u64)).unwrap();
        pages + lists.div_ceil(PAGE) <= total
    };
    let pages = Range {
        start: range.start,
        len: (0..total).rev().find(fits).unwrap() * PAGE,
    };
    let lists = Range {
        start: range.start.checked_add(pages.len as u64).unwrap(),
        len: range.len - pages.len,
    };
    (pages, lists)
}

impl Frames for Machine {
    fn allocate(&mut self, purpose: Purpose) -> Option<Memory> {
        let pages = match purpose {
            Purpose::Region { pages, .. } => pages + ListTables::bytes(pages).div_ceil(4096),
            Purpose::Lease(_) => LEASE_PAGES as u64,
        };
        let range = self.ram.allocate(usize::try_from(pages).unwrap() * PAGE)?;
        self.next += 1;
        self.blocks.insert(self.next, range);
        Some(Memory {
            id: self.next,
            pages,
        })
    }

    fn zero(&mut self, memory: Memory) -> Poll<()> {
        if !self.freed_early.contains(&memory.id) {
            self.ram.fill(self.blocks[&memory.id], 0);
        }
        Poll::Ready(())
    }

    fn free(&mut self, memory: Memory) {
        let range = self.blocks.remove(&memory.id).unwrap();
        if !self.freed_early.remove(&memory.id) {
            self.ram.free(range);
        }
    }
}

impl Regions for Machine {
    fn register(
        &mut self,
        process: ProcessId,
        memory: Memory,
        direction: Direction,
    ) -> Result<(RegionId, Iova), RegionError> {
        // Regions come before queues here.
        if !self.leases.is_empty() {
            return Err(RegionError::Full);
        }
        let (pages, lists) = with_lists(self.blocks[&memory.id]);
        let (bus, len) = (pages.start.as_u64(), pages.len as u64);
        let addresses = (0..pages.len / PAGE).map(|n| BusAddress::new(bus + (n * PAGE) as u64));
        let written = write_tables(&self.block(lists), addresses).unwrap();
        let table = self.table.get_or_insert_with(|| {
            let storage = RegionStorage {
                regions: leak(2, || Slot::EMPTY),
                extents: leak(2, || ExtentSlot::EMPTY),
                pages: leak(128, || PageSlot::EMPTY),
            };
            RegionTable::new(process, Iova::new(FIRST_IOVA), storage, &[]).unwrap()
        });
        if table.owner() != process {
            table.reassign(process);
        }
        let iova = table.vacancy(len).ok_or(RegionError::Full)?;
        let region = Region {
            iova,
            len,
            direction,
            node: NodeId::new(0),
        };
        let extent = Extent {
            bus: BusAddress::new(bus),
            len,
        };
        let id = table.insert(region, &[extent])?;
        table.attach_lists(id, written).unwrap();
        let memory = memory.id;
        self.regions.insert(
            id,
            Listed {
                memory,
                pages,
                lists,
            },
        );
        Ok((id, iova))
    }

    fn begin_unregister(&mut self, _process: ProcessId, region: RegionId) {
        self.table.as_mut().unwrap().remove(region).unwrap();
    }

    fn poll_unregister(&mut self, _process: ProcessId, region: RegionId) -> Poll<()> {
        self.regions.remove(&region);
        Poll::Ready(())
    }
}

impl Wiring for Machine {
    fn connect(&mut self, spec: &LeaseSpec, memory: Memory) -> Result<Woken, NoRoom> {
        let range = self.blocks[&memory.id];
        let audit = Lease(self.next_audit);
        self.next_audit += 1;
        let requester = REQUESTERS[spec.device.index()];
        self.ram
            .grant(requester, range, Direction::Bidirectional, audit);
        for region in self.regions.values() {
            self.ram
                .grant(requester, region.pages, Direction::Bidirectional, audit);
            self.ram
                .grant(requester, region.lists, Direction::ToDevice, audit);
        }
        let cutter = Cutter(Some(self.block(range)));
        match &mut self.cards[spec.device.index()] {
            Card::Net(card) => card.prepare(spec, cutter),
            Card::Disk(card) => card.prepare(spec, cutter),
        }
        let memory = memory.id;
        self.leases.insert(spec.lease, Connection { memory, audit });
        Ok(Woken::AsPlanned)
    }

    fn cut(&mut self, spec: &LeaseSpec, cut: Cut) {
        let queue = spec.queue.unwrap();
        match (cut, &mut self.cards[spec.device.index()]) {
            (Cut::Fence | Cut::Suspend, Card::Net(card)) => card.fence(queue),
            (Cut::Fence | Cut::Suspend, Card::Disk(card)) => card.fence(queue),
            (Cut::Isolate, _) => self.ram.end(self.leases[&spec.lease].audit),
            (Cut::Mask, _) => {}
            (Cut::Unmap, _) => {
                self.leases.remove(&spec.lease);
            }
        }
    }

    fn poll_cut(&mut self, _spec: &LeaseSpec, _cut: Cut) -> Poll<()> {
        Poll::Ready(())
    }
}

impl Platform for Machine {
    type Device = Card;

    fn device(&mut self, device: DeviceId) -> Option<&mut Card> {
        self.cards.get_mut(device.index())
    }
}
