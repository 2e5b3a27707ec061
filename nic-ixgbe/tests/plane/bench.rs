//! Processes under the control plane.
#![expect(unsafe_code, reason = "makes a process's view of its region")]

use core::time::Duration;

use parakernel_core::{
    abi::{LeaseRing, SharedDoorbell},
    access::{AccessMode, Policy},
    address::{CoreId, Direction, NodeId},
    control::{
        ClaimWish, ControlPlane, ControlStorage, Event, MemoryWish, Outcome, PageSize, Placement,
        ProcessSpec, Quota, Request, Tag, Wake,
    },
    device::{DeviceId, QueueIndex, Vector},
    handle::{LeaseId, ProcessId, Slot},
    memory::{Arena, Pool, SegmentList},
    queue::{RxQueue, TxQueue},
    ring::RingSize,
    steering::{FlowRule, IpPrefix, Mac, Matches, RuleBucket},
    volume::Identity,
};
use parakernel_mock_hw::memory::Lease;
use parakernel_nic_ixgbe::{error::RingError, offload::Metadata, rx::Receiver, tx::Sender};

use super::card::{LAYOUT, MAC, N, names};
use super::machine::{Machine, PAGE, leak};

pub(crate) const NIC: DeviceId = DeviceId::new(0);
const QUOTA: Quota = Quota {
    pages: 100,
    regions: 1,
    leases: 1,
    vectors: 1,
    rules: 1,
    requests: 4,
};

/// A UDP packet in a frame of `len` bytes from the host 10.0.0.`from` to the host 10.0.0.`to`.
pub(crate) fn frame(from: u8, to: u8, len: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; len];
    frame[..6].copy_from_slice(&MAC);
    frame[6..12].copy_from_slice(&MAC);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].fill(0);
    frame[14] = 0x45;
    let total = u16::try_from(len - 14).unwrap();
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    (frame[22], frame[23]) = (64, 17);
    frame[26..30].copy_from_slice(&[10, 0, 0, from]);
    frame[30..34].copy_from_slice(&[10, 0, 0, to]);
    frame[38..40].copy_from_slice(&(total - 20).to_be_bytes());
    frame
}

/// Sends a frame of one buffer, for which there is room.
pub(crate) fn send(tx: &mut impl TxQueue<Error = RingError>, pool: &mut Pool<'_>, frame: &[u8]) {
    let mut words = [0; 2];
    let mut list = SegmentList::new(&mut words);
    let mut segment = pool.take().unwrap().with_len(frame.len());
    pool.arena().bytes_mut(&mut segment).copy_from_slice(frame);
    pool.arena().header_mut(&mut segment).fill(0);
    list.push(segment).unwrap();
    assert_eq!(tx.submit(&mut list), Ok(1));
}

/// Takes all frames that have come.
pub(crate) fn receive(
    rx: &mut impl RxQueue<Error = RingError>,
    pool: &mut Pool<'_>,
) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    loop {
        let mut words = [0; 2 * N];
        let mut list = SegmentList::new(&mut words);
        let count = rx.poll(pool, &mut list, N).unwrap();
        while let Some(segment) = list.pop() {
            frames.push(pool.arena().bytes(&segment).to_vec());
            pool.put(segment);
        }
        if count == 0 {
            return frames;
        }
    }
}

/// A process's end of everything.
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    /// The last byte of its address.
    pub(crate) number: u8,
    pub(crate) lease: LeaseId,
    pub(crate) queue: QueueIndex,
    pub(crate) vector: Vector,
    rx: Receiver<'static, SharedDoorbell<'static>, N>,
    tx: Sender<'static, SharedDoorbell<'static>, N>,
    pool: Pool<'static>,
}

impl Process {
    pub(crate) fn arm(&mut self) {
        self.rx.arm(&mut self.pool);
    }

    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.tx.reclaim(&mut self.pool).unwrap();
        send(&mut self.tx, &mut self.pool, frame);
    }

    pub(crate) fn receive(&mut self) -> Vec<Vec<u8>> {
        receive(&mut self.rx, &mut self.pool)
    }

    /// Gives up its rings, of which the card has let go, and gets its buffers back.
    pub(crate) fn dismantle(self) -> usize {
        let Self {
            rx, tx, mut pool, ..
        } = self;
        // SAFETY: the lease was revoked, so the card has let go.
        unsafe { rx.dismantle(&mut pool) };
        // SAFETY: as above.
        unsafe { tx.dismantle(&mut pool) };
        pool.free()
    }
}

/// What is free, and used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    bytes: usize,
    /// Queues and vectors that are free.
    free: (u32, u32),
    pub(crate) used: [usize; 4],
}

pub(crate) struct Bench {
    pub(crate) control: ControlPlane<'static, Machine>,
    random: u64,
    next_tag: u64,
    /// What the audit knows leases as.
    audits: Vec<(LeaseId, Lease)>,
}

impl Bench {
    /// A machine for so many processes, whose card has room for `pairs` pairs.
    pub(crate) fn new(seed: u64, pairs: usize, processes: usize) -> Self {
        let storage = ControlStorage {
            processes: leak(processes, || Slot::EMPTY),
            leases: leak(processes, || Slot::EMPTY),
            memories: leak(processes, || Slot::EMPTY),
            rules: leak(processes, || Slot::EMPTY),
            rule_buckets: leak(processes, || RuleBucket::EMPTY),
            grants: leak(processes, || Slot::EMPTY),
            volumes: leak(1, || Slot::EMPTY),
            devices: leak(1, || None),
            links: leak(pairs + 63, || 0),
            jobs: leak(4 * processes + 1, || None),
            events: leak(4, || None),
        };
        let machine = Machine::new(seed, pairs, processes);
        Self {
            control: ControlPlane::new(machine, Policy::all(), storage).unwrap(),
            random: seed,
            next_tag: 0,
            audits: Vec::new(),
        }
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap() % bound
    }

    pub(crate) fn machine(&mut self) -> &mut Machine {
        self.control.platform_mut()
    }

    /// A frame comes to the port.
    pub(crate) fn arrives(&mut self, frame: &[u8]) {
        self.machine().card.wire.send(frame);
    }

    /// The kernel's turn, and some time for the card; what the control plane had to say.
    pub(crate) fn turn(&mut self) -> Vec<Event> {
        self.machine().turn();
        let time = 1 + self.below(20) as u64;
        let world = self.machine().world;
        world.run_for(Duration::from_micros(time));
        let control = &mut self.control;
        let events: Vec<_> = core::iter::from_fn(|| control.poll(world.now())).collect();
        for event in &events {
            if let Event::Deliver {
                outcome: Outcome::Revoked { lease },
                ..
            } = event
            {
                self.nothing_moves_for(*lease);
            }
        }
        events
    }

    /// Turns until `found` finds something in what the control plane says.
    pub(crate) fn turn_until<T>(&mut self, mut found: impl FnMut(&Event) -> Option<T>) -> T {
        for _ in 0..20_000 {
            if let Some(it) = self.turn().iter().find_map(&mut found) {
                return it;
            }
        }
        panic!("it does not happen: {:?}", self.control.quarantined());
    }

    /// Nothing is allowed to a lease that has ended, nor tried.
    fn nothing_moves_for(&mut self, lease: LeaseId) {
        let Some(&(_, audit)) = self.audits.iter().rev().find(|(of, _)| *of == lease) else {
            return;
        };
        let (world, ram) = (self.machine().world, self.machine().ram);
        let before = (ram.allowed(audit), ram.escapes().len());
        world.settle(500);
        assert_eq!((ram.allowed(audit), ram.escapes().len()), before);
    }

    pub(crate) fn ask(&mut self, process: ProcessId, request: Request) -> Outcome {
        let tag = Tag(self.next_tag);
        self.next_tag += 1;
        let now = self.machine().world.now();
        self.control.submit(process, tag, request, now).unwrap();
        self.turn_until(|event| {
            let Event::Deliver {
                tag: Some(of),
                outcome,
                ..
            } = event
            else {
                return None;
            };
            (*of == tag).then_some(*outcome)
        })
    }

    /// Process `number`, with nothing yet.
    pub(crate) fn spawn(&mut self, number: u8) -> ProcessId {
        let spec = ProcessSpec {
            identity: Identity(number.into()),
            core: CoreId::new(number.into()),
            node: NodeId::new(0),
            quota: QUOTA,
            grants: &[(NIC, names(number))],
        };
        let id = self.control.start_process(&spec).unwrap();
        self.machine().card.names.insert(id, names(number));
        id
    }

    /// What a claim of the process comes to.
    pub(crate) fn claim(&mut self, process: ProcessId) -> Outcome {
        let ring = RingSize::new(u32::try_from(N).unwrap()).unwrap();
        let wish = ClaimWish {
            device: NIC,
            at_least: AccessMode::Direct,
            first_ring: ring,
            second_ring: ring,
            wake: Wake::Interrupt,
            volume: None,
        };
        self.ask(process, Request::Claim(wish))
    }

    /// A process with a region, a checked pair, and a rule for its address; its receive queue is armed.
    pub(crate) fn start(&mut self, number: u8) -> Process {
        let id = self.spawn(number);
        let wish = MemoryWish {
            pages: LAYOUT.bytes().div_ceil(PAGE) as u64,
            page_size: PageSize::Base,
            direction: Direction::Bidirectional,
            node: None,
        };
        let Outcome::Registered { iova, .. } = self.ask(id, Request::RegisterMemory(wish)) else {
            panic!("no memory")
        };
        let Outcome::Claimed {
            lease,
            first_mode,
            second_mode,
            vector,
        } = self.claim(id)
        else {
            panic!("no pair")
        };
        assert_eq!(
            (first_mode, second_mode),
            (AccessMode::Checked, AccessMode::Checked)
        );
        let audit = self.machine().audit_of(lease);
        self.audits.push((lease, audit));
        self.add_rule(id, number, lease);
        let queue = self.control.lease(lease).unwrap().0.queue.unwrap();
        let range = self.machine().range_of(id);
        let base = self.machine().ram.pointer(range).unwrap();
        // SAFETY: the region was zeroed for this process, whose views of it are gone before it is freed.
        let arena = unsafe { Arena::new(base, iova, LAYOUT) }.unwrap();
        let pool = Pool::new(arena, leak(LAYOUT.count.into(), || 0));
        let (rx, tx) = self.rings(queue, &pool);
        let mut process = Process {
            id,
            number,
            lease,
            queue,
            vector,
            rx,
            tx,
            pool,
        };
        process.arm();
        process
    }

    /// A rule for all that is sent to the process's address.
    fn add_rule(&mut self, id: ProcessId, number: u8, lease: LeaseId) {
        let rule = FlowRule {
            matches: Matches::to(Mac(MAC), IpPrefix::V4(names(number).ipv4.unwrap())),
            to: lease,
        };
        let Outcome::RuleAdded { placement, .. } = self.ask(id, Request::AddRule(rule)) else {
            panic!("no rule")
        };
        assert_eq!(placement, Placement::Hardware);
    }

    /// The data halves of a pair that was claimed.
    fn rings(
        &mut self,
        queue: QueueIndex,
        pool: &Pool<'static>,
    ) -> (
        Receiver<'static, SharedDoorbell<'static>, N>,
        Sender<'static, SharedDoorbell<'static>, N>,
    ) {
        let given = self.machine().card.given(queue);
        let [rx_bell, tx_bell] = [LeaseRing::First, LeaseRing::Second]
            .map(|ring| SharedDoorbell::new(given.pages.submission, given.pages.status, ring));
        let [own, seen] = given.receive;
        let rx = Receiver::new(own, seen, rx_bell, &LAYOUT, Metadata::Header).unwrap();
        let ([own, seen], arena) = (given.transmit, pool.arena().again());
        let tx = Sender::new(own, seen, tx_bell, arena, Metadata::Header).unwrap();
        (rx, tx)
    }

    /// The process's pair works again after a reset: its rings begin anew.
    pub(crate) fn renew(&mut self, process: Process) -> Process {
        let Process {
            rx,
            tx,
            mut pool,
            queue,
            ..
        } = process;
        // SAFETY: the reset that the lease was lost by has ended.
        unsafe { rx.dismantle(&mut pool) };
        // SAFETY: as above.
        unsafe { tx.dismantle(&mut pool) };
        let (rx, tx) = self.rings(queue, &pool);
        let mut process = Process {
            rx,
            tx,
            pool,
            ..process
        };
        process.arm();
        process
    }

    /// Kills a process and waits until nothing is left of it.
    pub(crate) fn kill(&mut self, process: ProcessId) {
        self.control.end_process(process);
        self.machine().dies(process);
        self.turn_until(|event| (*event == Event::Ended(process)).then_some(()));
    }

    pub(crate) fn counts(&mut self) -> Counts {
        let (queues, vectors, _) = self.control.free_of(NIC).unwrap();
        Counts {
            bytes: self.machine().ram.free_bytes(),
            free: (queues, vectors),
            used: self.control.counts(),
        }
    }

    /// Nothing was done that the datasheet forbids, or that the model leaves out, and no memory was touched that was not the
    /// card's to touch.
    pub(crate) fn assert_clean(&mut self) {
        let machine = self.machine();
        machine.world.trace().assert_clean();
        assert!(machine.world.trace().left_out().is_empty());
        assert_eq!(machine.ram.escapes(), []);
        assert_eq!(machine.ram.faults(), []);
    }
}
