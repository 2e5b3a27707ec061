//! A machine for the control plane, with an 82599.
#![expect(unsafe_code, reason = "hands memory out to the control half")]

use alloc::collections::{BTreeMap, BTreeSet};
use core::task::Poll;

use parakernel_core::{
    abi::{StatusPage, SubmissionPage},
    address::{BusAddress, Direction, Iova, NodeId},
    control::{Cut, Frames, LeaseSpec, Memory, NoRoom, Platform, Purpose, Regions, Wiring, Woken},
    device::DeviceId,
    handle::{LeaseId, ProcessId, RegionId, Slot},
    memory::{
        DmaBlock, Extent, ExtentSlot, PageSlot, Region, RegionError, RegionStorage, RegionTable,
        SharedMemory,
    },
};
use parakernel_mock_hw::{
    Memory as Ram, World,
    memory::{Lease, Range, RequesterId},
};

use super::card::Card;

pub(crate) const DEVICE: RequesterId = RequesterId(0x0100);
pub(crate) const PAGE: usize = 4096;
/// Rings and shared pages of a lease.
const LEASE_PAGES: usize = 8;
/// Where regions begin in the I/O address space of every process.
const FIRST_IOVA: u64 = 0x4000_0000;

/// What a platform frees when a process dies, though its queue is still there.
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

/// Memory of a lease, from which pages are cut.
pub(crate) struct Cutter(Option<DmaBlock<'static>>);

impl Cutter {
    /// The first `len` bytes of a page, of which the rest stays unused.
    pub(crate) fn cut(&mut self, len: usize) -> DmaBlock<'static> {
        let (page, rest) = self.0.take().unwrap().split_at(PAGE).unwrap();
        self.0 = Some(rest);
        if len == PAGE {
            page
        } else {
            page.split_at(len).unwrap().0
        }
    }

    pub(crate) fn pages(&mut self) -> Pages {
        let page = self.cut(PAGE).memory();
        Pages {
            submission: page.view(0).unwrap(),
            status: page.view(PAGE / 2).unwrap(),
        }
    }
}

/// A connected lease: its memory, and what the audit knows it as.
struct Connection {
    memory: u32,
    audit: Lease,
    process: ProcessId,
}

pub(crate) struct Machine {
    pub(crate) world: &'static World,
    pub(crate) ram: &'static Ram,
    pub(crate) card: Card,
    blocks: BTreeMap<u32, Range>,
    next: u32,
    /// By the process's place among all.
    tables: Vec<Option<RegionTable<'static>>>,
    regions: BTreeMap<(ProcessId, RegionId), (u32, Range)>,
    leases: BTreeMap<LeaseId, Connection>,
    next_audit: u64,
    pub(crate) early: Option<Early>,
    freed_early: BTreeSet<u32>,
}

impl Machine {
    /// A machine whose card has room for `pairs` pairs, and `processes` processes.
    pub(crate) fn new(seed: u64, pairs: usize, processes: usize) -> Self {
        let world: &'static World = Box::leak(Box::new(World::new(seed)));
        let ram: &'static Ram = Box::leak(Box::new(world.memory(32 << 20)));
        Self {
            world,
            ram,
            card: Card::new(world, ram, pairs),
            blocks: BTreeMap::new(),
            next: 0,
            tables: (0..processes).map(|_| None).collect(),
            regions: BTreeMap::new(),
            leases: BTreeMap::new(),
            next_audit: 1,
            early: None,
            freed_early: BTreeSet::new(),
        }
    }

    /// The kernel's turn: takes over what processes published.
    pub(crate) fn turn(&mut self) {
        self.card.service(&self.tables, self.ram);
    }

    /// Where a process finds its region.
    pub(crate) fn range_of(&self, process: ProcessId) -> Range {
        let mut regions = self.regions.iter();
        let found = regions.find(|((owner, _), _)| *owner == process);
        found.unwrap().1.1
    }

    /// What the audit knows a lease as.
    pub(crate) fn audit_of(&self, lease: LeaseId) -> Lease {
        self.leases[&lease].audit
    }

    /// Whether nobody has anything.
    pub(crate) fn is_vacant(&self) -> bool {
        self.blocks.is_empty()
            && self.regions.is_empty()
            && self.leases.is_empty()
            && self.card.is_vacant()
    }

    /// A process has died. There is nothing to do yet, except on a platform that frees too early.
    pub(crate) fn dies(&mut self, process: ProcessId) {
        let Some(early) = self.early else { return };
        let leases = self.leases.values();
        let leases = leases.filter(|lease| lease.process == process);
        let regions = self.regions.iter();
        let regions = regions.filter(|((owner, _), _)| *owner == process);
        let freed: Vec<u32> = match early {
            Early::Regions => regions.map(|(_, (memory, _))| *memory).collect(),
            Early::Leases => leases.map(|lease| lease.memory).collect(),
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
        // SAFETY: the card's addresses are physical ones. The range was allocated for this block, and what was cut from it in
        // an earlier life was dropped before it was freed.
        unsafe { DmaBlock::new(memory, BusAddress::new(range.start.as_u64())) }
    }
}

pub(crate) fn leak<T>(count: usize, make: impl FnMut() -> T) -> &'static mut [T] {
    Vec::leak(core::iter::repeat_with(make).take(count).collect())
}

impl Frames for Machine {
    fn allocate(&mut self, purpose: Purpose) -> Option<Memory> {
        let pages = match purpose {
            Purpose::Region { pages, .. } => pages,
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
        // A region comes before queues here.
        if self.leases.values().any(|lease| lease.process == process) {
            return Err(RegionError::Full);
        }
        let range = self.blocks[&memory.id];
        let table = self.tables[process.index()].get_or_insert_with(|| {
            let storage = RegionStorage {
                regions: leak(1, || Slot::EMPTY),
                extents: leak(1, || ExtentSlot::EMPTY),
                pages: leak(128, || PageSlot::EMPTY),
            };
            RegionTable::new(process, Iova::new(FIRST_IOVA), storage, &[]).unwrap()
        });
        if table.owner() != process {
            table.reassign(process);
        }
        let len = range.len as u64;
        let iova = table.vacancy(len).ok_or(RegionError::Full)?;
        let region = Region {
            iova,
            len,
            direction,
            node: NodeId::new(0),
        };
        let bus = BusAddress::new(range.start.as_u64());
        let id = table.insert(region, &[Extent { bus, len }])?;
        self.regions.insert((process, id), (memory.id, range));
        Ok((id, iova))
    }

    fn begin_unregister(&mut self, process: ProcessId, region: RegionId) {
        let table = self.tables[process.index()].as_mut();
        table.unwrap().remove(region).unwrap();
    }

    fn poll_unregister(&mut self, process: ProcessId, region: RegionId) -> Poll<()> {
        self.regions.remove(&(process, region));
        Poll::Ready(())
    }
}

impl Wiring for Machine {
    fn connect(&mut self, spec: &LeaseSpec, memory: Memory) -> Result<Woken, NoRoom> {
        let audit = Lease(self.next_audit);
        self.next_audit += 1;
        // After a reset the lease has the same memory, as it was at first.
        if let Some(before) = self.leases.get(&spec.lease) {
            self.ram.end(before.audit);
            self.ram.fill(self.blocks[&memory.id], 0);
        }
        if spec.queue.is_some() {
            let range = self.blocks[&memory.id];
            self.ram
                .grant(DEVICE, range, Direction::Bidirectional, audit);
            for ((owner, _), (_, range)) in &self.regions {
                if *owner == spec.process {
                    self.ram
                        .grant(DEVICE, *range, Direction::Bidirectional, audit);
                }
            }
            let cutter = Cutter(Some(self.block(range)));
            self.card.prepare(spec, cutter);
        }
        self.leases.insert(
            spec.lease,
            Connection {
                memory: memory.id,
                audit,
                process: spec.process,
            },
        );
        Ok(Woken::AsPlanned)
    }

    fn cut(&mut self, spec: &LeaseSpec, cut: Cut) {
        if cut == Cut::Unmap {
            self.leases.remove(&spec.lease);
        } else if let Some(queue) = spec.queue {
            if cut == Cut::Isolate {
                self.ram.end(self.leases[&spec.lease].audit);
            } else if cut == Cut::Mask {
                self.card.mask(spec.vector, queue);
            } else {
                self.card.fence(queue);
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
        (device.index() == 0).then_some(&mut self.card)
    }
}
