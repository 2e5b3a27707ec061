//! Processes that die in full flight, a thousand in a row, under the control plane and on the models of both devices.
//!
//! Each moves frames and blocks first, and is ended with frames and commands on their way. The next finds the same memory,
//! queues, vectors and room for rules; between the two, no device touches what the first one had.
#![expect(unsafe_code, reason = "makes a process's view of its regions")]
#![expect(
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "the helpers of a test may fail as the test itself"
)]

use core::time::Duration;

use parakernel_core::abi::{LeaseRing, SharedDoorbell};
use parakernel_core::{
    access::{AccessMode, Policy},
    address::{CoreId, Direction, Iova, NodeId},
    control::{
        ClaimWish, ControlPlane, ControlStorage, Event, MemoryWish, Outcome, PageSize, Placement,
        ProcessSpec, Quota, Request, Tag, Wake,
    },
    device::{DeviceId, QueueIndex, Vector},
    handle::{LeaseId, ProcessId, Slot, VolumeId},
    memory::{Arena, BlockArena, BlockBuffer, Pool, SegmentList},
    queue::{BlockOperation, BlockQueue, BlockRequest, Lba, RxQueue, TxQueue},
    ring::RingSize,
    steering::{FlowRule, IpPrefix, Mac, Matches, RuleBucket},
};
use parakernel_mock_hw::memory::{Lease, Range};
use parakernel_nic_virtio::{
    rx::{Receiver, Spread},
    tx::{HeaderSource, Sender},
};
use parakernel_nvme::queue::{CommandTable, Queue, Rings};

use super::disk::VOLUME;
use super::machine::{DISK, ENTRIES, Early, Machine, NIC, Pages, REQUESTERS};
use super::nic::{LAYOUT, MAC, Ring, names};

const BUFFER: usize = 16 << 10;
const BUFFERS: usize = 8;
const BLOCK: usize = 512;
/// Blocks of one transfer.
const BLOCKS: usize = BUFFER / BLOCK;
const QUOTA: Quota = Quota {
    pages: 200,
    regions: 2,
    leases: 2,
    vectors: 2,
    rules: 1,
    requests: 4,
};

fn leak<T>(count: usize, make: impl FnMut() -> T) -> &'static mut [T] {
    Vec::leak(core::iter::repeat_with(make).take(count).collect())
}

fn storage() -> ControlStorage<'static> {
    ControlStorage {
        processes: leak(1, || Slot::EMPTY),
        leases: leak(2, || Slot::EMPTY),
        memories: leak(2, || Slot::EMPTY),
        rules: leak(1, || Slot::EMPTY),
        rule_buckets: leak(1, || RuleBucket::EMPTY),
        grants: leak(1, || Slot::EMPTY),
        volumes: leak(1, || Slot::EMPTY),
        devices: leak(2, || None),
        links: leak(10, || 0),
        jobs: leak(8, || None),
        events: leak(4, || None),
    }
}

/// A UDP frame of `len` bytes from the host `from` to the host `to`.
fn frame(from: u8, to: u8, len: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; len];
    let of = |host: u8| {
        if host == 2 {
            MAC
        } else {
            [2, 0, 0, 0, 0, host]
        }
    };
    frame[..6].copy_from_slice(&of(to));
    frame[6..12].copy_from_slice(&of(from));
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

/// What a life was given.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Resources {
    regions: [Range; 2],
    queues: [Option<QueueIndex>; 2],
    vectors: [Vector; 2],
    modes: [AccessMode; 2],
}

/// What is free, and used, while no process is there.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Counts {
    bytes: usize,
    /// Queues and vectors that are free, of each device.
    free: [Option<(u32, u32)>; 2],
    used: [usize; 4],
}

/// A process's end of everything.
struct Process {
    id: ProcessId,
    leases: [LeaseId; 2],
    rx: Receiver<Ring, SharedDoorbell<'static>, ENTRIES>,
    tx: Sender<'static, Ring, SharedDoorbell<'static>, ENTRIES>,
    pool: Pool<'static>,
    disk: Queue<'static, SharedDoorbell<'static>, ENTRIES>,
    arena: BlockArena<'static>,
    spare: Vec<BlockBuffer>,
}

impl Process {
    fn send(&mut self, frame: &[u8]) {
        let mut words = [0; 2];
        let mut list = SegmentList::new(&mut words);
        let mut segment = self.pool.take().unwrap().with_len(frame.len());
        self.pool
            .arena()
            .bytes_mut(&mut segment)
            .copy_from_slice(frame);
        list.push(segment).unwrap();
        assert_eq!(self.tx.submit(&mut list), Ok(1));
    }

    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut words = [0; 32];
        let mut list = SegmentList::new(&mut words);
        self.rx.poll(&mut self.pool, &mut list, 16).unwrap();
        let mut frames = Vec::new();
        while let Some(segment) = list.pop() {
            frames.push(self.pool.arena().bytes(&segment).to_vec());
            self.pool.put(segment);
        }
        frames
    }

    /// A transfer of the `index`-th piece of the volume; a write fills it.
    fn submit(&mut self, index: usize, operation: BlockOperation, fill: u8) {
        let mut buffer = self.spare.pop().unwrap();
        self.arena.bytes_mut(&mut buffer).fill(fill);
        let request = BlockRequest {
            operation,
            lba: Lba::new(VOLUME.start.as_u64() + (index * BLOCKS) as u64),
            blocks: u32::try_from(BLOCKS).unwrap(),
            buffer: Some(buffer),
            user: 0,
        };
        assert_eq!(self.disk.submit([request]), Ok(1));
    }

    fn completions(&mut self) -> usize {
        let Self { disk, spare, .. } = self;
        let done = disk.poll(ENTRIES, |done| {
            assert_eq!(done.status, Ok(()));
            spare.extend(done.buffer);
        });
        done.unwrap()
    }
}

struct Bench {
    control: ControlPlane<'static, Machine>,
    volume: VolumeId,
    random: u64,
    next_tag: u64,
    /// What the audit knows the leases of this life as.
    audits: Vec<(LeaseId, Lease)>,
    /// How many lives ended with chains in the card's hands, and with transfers in the disk's.
    in_flight: [usize; 2],
}

impl Bench {
    fn new(seed: u64) -> Self {
        let machine = Machine::new(seed);
        let mut control = ControlPlane::new(machine, Policy::all(), storage()).unwrap();
        let volume = control.add_volume(VOLUME).unwrap();
        Self {
            control,
            volume,
            random: seed,
            next_tag: 0,
            audits: Vec::new(),
            in_flight: [0; 2],
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap() % bound
    }

    fn machine(&mut self) -> &mut Machine {
        self.control.platform_mut()
    }

    /// The kernel's turn, and some time for the devices.
    fn turn(&mut self) -> Vec<Event> {
        self.machine().turn();
        let time = 1 + self.below(8) as u64;
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

    /// Nothing is allowed to a lease that has ended, nor tried.
    fn nothing_moves_for(&mut self, lease: LeaseId) {
        let audit = self.audits.iter().find(|(of, _)| *of == lease).unwrap().1;
        let (world, ram) = (self.machine().world, self.machine().ram);
        let before = (ram.allowed(audit), ram.escapes().len());
        world.settle(2000);
        assert_eq!((ram.allowed(audit), ram.escapes().len()), before);
    }

    fn ask(&mut self, process: ProcessId, request: Request) -> Outcome {
        let tag = Tag(self.next_tag);
        self.next_tag += 1;
        let now = self.machine().world.now();
        self.control.submit(process, tag, request, now).unwrap();
        for _ in 0..10_000 {
            for event in self.turn() {
                if let Event::Deliver {
                    tag: Some(of),
                    outcome,
                    ..
                } = event
                    && of == tag
                {
                    return outcome;
                }
            }
        }
        panic!("no answer to {request:?}")
    }

    fn region(&mut self, process: ProcessId, bytes: usize) -> (Iova, Range) {
        let wish = MemoryWish {
            pages: bytes.div_ceil(4096) as u64,
            page_size: PageSize::Base,
            direction: Direction::Bidirectional,
            node: None,
        };
        match self.ask(process, Request::RegisterMemory(wish)) {
            Outcome::Registered { iova, .. } => (iova, self.machine().range_at(iova)),
            other => panic!("{other:?}"),
        }
    }

    fn claim(&mut self, process: ProcessId, device: DeviceId, volume: Option<VolumeId>) -> LeaseId {
        let ring = RingSize::new(u32::try_from(ENTRIES).unwrap()).unwrap();
        let wish = ClaimWish {
            device,
            at_least: AccessMode::Checked,
            first_ring: ring,
            second_ring: ring,
            wake: Wake::Interrupt,
            volume,
        };
        let Outcome::Claimed { lease, .. } = self.ask(process, Request::Claim(wish)) else {
            panic!("{device:?} cannot be claimed")
        };
        let audit = self.machine().audit_of(lease);
        self.audits.push((lease, audit));
        lease
    }

    /// A process with a queue of each device and a rule, and what it got.
    fn start(&mut self) -> (Process, Resources) {
        let spec = ProcessSpec {
            identity: VOLUME.owner,
            core: CoreId::new(1),
            node: NodeId::new(0),
            quota: QUOTA,
            grants: &[(NIC, names())],
        };
        let id = self.control.start_process(&spec).unwrap();
        self.audits.clear();
        let (frames, blocks) = (
            self.region(id, LAYOUT.bytes()),
            self.region(id, BUFFER * BUFFERS),
        );
        let volume = self.volume;
        let leases = [
            self.claim(id, NIC, None),
            self.claim(id, DISK, Some(volume)),
        ];
        let rule = FlowRule {
            matches: Matches::to(Mac(MAC), IpPrefix::V4(names().ipv4.unwrap())),
            to: leases[0],
        };
        let added = self.ask(id, Request::AddRule(rule));
        let Outcome::RuleAdded { placement, .. } = added else {
            panic!("{added:?}")
        };
        assert_eq!(placement, Placement::Hardware);
        let specs = leases.map(|lease| *self.control.lease(lease).unwrap().0);
        let resources = Resources {
            regions: [frames.1, blocks.1],
            queues: specs.map(|spec| spec.queue),
            vectors: specs.map(|spec| spec.vector),
            modes: specs.map(|spec| spec.first_mode),
        };
        let queues = specs.map(|spec| spec.queue.unwrap());
        (
            self.process(id, leases, queues, [frames, blocks]),
            resources,
        )
    }

    fn process(
        &mut self,
        id: ProcessId,
        leases: [LeaseId; 2],
        queues: [QueueIndex; 2],
        [frames, blocks]: [(Iova, Range); 2],
    ) -> Process {
        let machine = self.machine();
        let pointer = |range: Range| machine.ram.pointer(range).unwrap();
        // SAFETY: the region was zeroed for this process, whose views of it are gone before it is freed.
        let arena = unsafe { Arena::new(pointer(frames.1), frames.0, LAYOUT) };
        let words = vec![0; usize::from(LAYOUT.count)].leak();
        let pool = Pool::new(arena.unwrap(), words);
        // SAFETY: as above.
        let arena = unsafe { BlockArena::new(pointer(blocks.1), blocks.1.len, blocks.0, BUFFER) };
        let mut arena = arena.unwrap();
        let bells = |pages: Pages| {
            [LeaseRing::First, LeaseRing::Second]
                .map(|ring| SharedDoorbell::new(pages.submission, pages.status, ring))
        };
        let given = machine.net().given(queues[0]);
        let [rx_bell, tx_bell] = bells(given.pages);
        let [rx_ring, tx_ring] = given.rings;
        let rx = Receiver::new(rx_ring, rx_bell, &LAYOUT, (given.order, Spread::Single));
        let options = (given.order, HeaderSource::Queue);
        let tx = Sender::new(tx_ring, tx_bell, pool.arena().again(), options);
        let given = machine.disk().given(queues[1]);
        let config = machine.disk().config(queues[1]);
        let rings = Rings::new(given.shadow, given.completion).unwrap();
        let commands = Box::leak(Box::new(CommandTable::new()));
        let disk = Queue::new(config, rings, commands, &arena, bells(given.pages));
        let spare = core::iter::from_fn(|| arena.take()).collect();
        Process {
            id,
            leases,
            rx: rx.unwrap(),
            tx: tx.unwrap(),
            pool,
            disk: disk.unwrap(),
            arena,
            spare,
        }
    }

    /// Frames come and go, and blocks are written, until all of that is done and found to be right.
    fn work(&mut self, process: &mut Process, life: u8) {
        let (coming, going, writes) = (1 + self.below(4), 1 + self.below(4), 1 + self.below(4));
        process.rx.arm(&mut process.pool);
        self.turn();
        let wire = self.machine().net().model.wire();
        let arrives = |n: usize| frame(9, 2, 60 + 300 * n, life);
        let leaves = |n: usize| frame(2, 9, 64 + 200 * n, life);
        (0..coming).for_each(|n| wire.send(&arrives(n)));
        (0..going).for_each(|n| process.send(&leaves(n)));
        (0..writes).for_each(|n| process.submit(n, BlockOperation::Write, life));
        let (mut came, mut went, mut written) = (Vec::new(), Vec::new(), 0);
        for _ in 0..10_000 {
            self.turn();
            came.extend(process.receive());
            went.extend(wire.take_all());
            written += process.completions();
            if (came.len(), went.len(), written) == (coming, going, writes) {
                break;
            }
        }
        assert_eq!(came, (0..coming).map(arrives).collect::<Vec<_>>());
        assert_eq!(went, (0..going).map(leaves).collect::<Vec<_>>());
        assert_eq!(written, writes);
        let model = &self.machine().disk().model;
        let stored = model.read_blocks(1, VOLUME.start.as_u64(), (writes * BLOCKS) as u64);
        assert!(stored.unwrap().iter().all(|&byte| byte == life));
        process.tx.reclaim(&mut process.pool).unwrap();
    }

    /// Puts a random number of frames and commands on their way, and lets the devices begin with them.
    fn take_off(&mut self, process: &mut Process, life: u8) {
        process.rx.arm(&mut process.pool);
        for n in 0..1 + self.below(BUFFERS) {
            let kind = [BlockOperation::Write, BlockOperation::Read][self.below(2)];
            process.submit(n, kind, life);
        }
        for n in 0..self.below(6) {
            process.send(&frame(2, 9, 64 + 200 * n, life));
        }
        self.machine().turn();
        self.arrivals();
        let steps = self.below(60) as u64;
        self.machine().world.settle(steps);
        let held = self.machine().net().model.counts().held;
        let moving = self.machine().disk().model.counts().moving;
        self.in_flight[0] += usize::from(held > 0);
        self.in_flight[1] += usize::from(moving > 0);
    }

    /// Frames for the process, which the card has not looked at.
    fn arrivals(&mut self) {
        let wire = self.machine().net().model.wire();
        for n in 0..1 + self.below(6) {
            wire.send(&frame(9, 2, 60 + 200 * n, 0xee));
        }
    }

    /// The process dies, some time after its leases were taken where `is_asked` says so.
    fn end(&mut self, process: &Process, is_asked: bool) {
        if is_asked {
            self.control.revoke_all(process.id);
            let mut left = process.leases.to_vec();
            for _ in 0..10_000 {
                for event in self.turn() {
                    if let Event::Deliver {
                        outcome: Outcome::Revoked { lease },
                        ..
                    } = event
                    {
                        left.retain(|other| *other != lease);
                    }
                }
                if left.is_empty() {
                    break;
                }
            }
            assert_eq!(left, [], "leases that did not end");
        }
        self.kill(process.id);
        self.arrivals();
        for _ in 0..10_000 {
            if self.turn().contains(&Event::Ended(process.id)) {
                return;
            }
        }
        panic!("the process does not end: {:?}", self.control.quarantined());
    }

    fn kill(&mut self, process: ProcessId) {
        self.control.end_process(process);
        self.machine().dies();
    }

    fn counts(&mut self) -> Counts {
        let free = |device| {
            let (queues, vectors, _) = self.control.free_of(device)?;
            Some((queues, vectors))
        };
        let free = [free(NIC), free(DISK)];
        Counts {
            bytes: self.machine().ram.free_bytes(),
            free,
            used: self.control.counts(),
        }
    }

    fn life(&mut self, number: usize) -> Resources {
        let fill = u8::try_from(number % 251).unwrap();
        let (mut process, resources) = self.start();
        self.work(&mut process, fill);
        self.take_off(&mut process, fill);
        (
            self.machine().net().is_hasty,
            self.machine().disk().is_hasty,
        ) = (number & 1 == 0, number & 2 == 0);
        self.end(&process, number & 4 == 0);
        resources
    }
}

#[test]
fn a_restarted_process_finds_the_same_a_thousand_times() {
    let mut bench = Bench::new(17);
    let before = bench.counts();
    assert_eq!(before.used, [0; 4]);
    let mut first = None;
    for number in 0..1000 {
        let given = bench.life(number);
        assert_eq!(
            *first.get_or_insert_with(|| given.clone()),
            given,
            "life {number}"
        );
        assert_eq!(bench.counts(), before, "life {number}");
        // Whatever a device still had in mind, it does now.
        bench.arrivals();
        let machine = bench.machine();
        machine.world.settle(5000);
        assert!(machine.is_vacant(), "life {number}");
        assert!(
            machine.net().is_vacant() && machine.disk().is_vacant(),
            "life {number}"
        );
        assert_eq!(machine.ram.escapes(), [], "life {number}");
        drop(machine.net().model.wire().take_all());
    }
    // Of the lives, those that ended with chains and with transfers in the devices' hands.
    let [chains, transfers] = bench.in_flight;
    assert!(chains > 500 && transfers > 250, "{chains} and {transfers}");
    bench.machine().world.trace().assert_clean();
}

/// A process dies with frames and commands on their way, on a platform that frees `early`; whom the audit caught.
fn caught(early: Option<Early>) -> [bool; 2] {
    let mut bench = Bench::new(18);
    bench.machine().early = early;
    let (mut process, _) = bench.start();
    bench.work(&mut process, 1);
    process.rx.arm(&mut process.pool);
    (0..BUFFERS).for_each(|n| process.submit(n, BlockOperation::Write, 2));
    bench.machine().turn();
    bench.kill(process.id);
    bench.arrivals();
    (0..1000).for_each(|_| drop(bench.turn()));
    let escapes = bench.machine().ram.escapes();
    REQUESTERS.map(|requester| escapes.iter().any(|dma| dma.requester == requester))
}

#[test]
fn memory_that_is_freed_when_its_process_dies_is_caught_in_both_devices() {
    assert_eq!(caught(None), [false; 2]);
    assert_eq!(caught(Some(Early::Regions)), [true; 2]);
    assert_eq!(caught(Some(Early::Leases)), [true; 2]);
}
