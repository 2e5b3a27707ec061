//! Queues that the kernel checks, and sealed ones, against the model, in both layouts.
#![expect(unsafe_code, reason = "makes the arena of a process by hand")]

use std::{cell::Cell, collections::VecDeque, net::Ipv4Addr, rc::Rc};

use parakernel_core::{
    address::{BusAddress, Direction, Iova, NodeId, PhysAddr},
    handle::{ProcessId, Slot},
    memory::{
        Arena, ArenaLayout, DmaBlock, Extent, ExtentSlot, PageSlot, Pool, Region, RegionEntry,
        RegionStorage, RegionTable, SharedMemory,
    },
    queue::{Doorbell, RxQueue, TxQueue},
    ring::Position,
    steering::{Ipv4Prefix, Mac, NameGrant, PortRange},
};
use parakernel_mock_hw::{Memory, memory::Lease};
use parakernel_nic_virtio::{
    checked::{
        AnySource, CheckedReceiver, CheckedSender, Fault, FrameMemory, GrantedSource, SourceCheck,
        Tables, seal,
    },
    device::{Device, Pair, PairRings, Vectors},
    features::Features,
    header::Header,
    notify::Notifier,
    rx::{Receiver, Spread},
    transport::Transport,
    tx::{HeaderSource, Sender},
    virtqueue::{
        CheckedFormat,
        packed::Packed,
        split::{Sealed, Split},
    },
};
use proptest::prelude::*;

use super::rig::{
    Bus, DEVICE, KERNEL, LAYOUT, MAC, Machine, N, Ring, everything, jumbo, poll, receive, send, udp,
};

const LEASE: Lease = Lease(7);
/// Where the process believes its buffers to be.
const IOVA: u64 = 0x4000_0000;
/// Where the device finds them.
pub(super) const BUS: u64 = 0x33_0000_0000;

/// A layout whose shadow a process can have.
pub(super) trait Shadowed<'a>: Ring<'a> {
    /// The process's ring: its shadow, and where it reads completions.
    fn shadow(shadow: SharedMemory<'a>, completions: SharedMemory<'a>) -> Self;

    /// Where a process reads the completions of the ring in `block`.
    fn completions(block: &DmaBlock<'a>) -> SharedMemory<'a>;
}

const AVAILABLE: usize = 4096;
pub(super) const SHADOW_LEN: usize = 8192;

impl<'a> Shadowed<'a> for Split<'a, N> {
    fn shadow(shadow: SharedMemory<'a>, completions: SharedMemory<'a>) -> Self {
        let available = shadow.part(AVAILABLE, 4096).unwrap();
        Self::new(shadow, available, completions).unwrap()
    }

    fn completions(block: &DmaBlock<'a>) -> SharedMemory<'a> {
        block.memory().part(Split::<N>::USED, 4096).unwrap()
    }
}

impl<'a> Shadowed<'a> for Packed<'a, N> {
    fn shadow(shadow: SharedMemory<'a>, completions: SharedMemory<'a>) -> Self {
        let events = shadow.part(AVAILABLE, 4096).unwrap();
        Self::new(shadow, completions, events).unwrap()
    }

    fn completions(block: &DmaBlock<'a>) -> SharedMemory<'a> {
        block.memory()
    }
}

/// The process's side of a doorbell: the tail that the kernel will read.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail(pub(super) Rc<Cell<Position>>);

impl Doorbell for Tail {
    fn ring(&mut self, tail: Position) {
        self.0.set(tail);
    }

    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}

/// The process's one region.
pub(super) struct Regions {
    slots: Vec<Slot<RegionEntry>>,
    extents: Vec<ExtentSlot>,
    pages: Vec<PageSlot>,
}

impl Regions {
    pub(super) fn new() -> Self {
        Self {
            slots: (0..2).map(|_| Slot::EMPTY).collect(),
            extents: vec![ExtentSlot::EMPTY; 2],
            pages: vec![PageSlot::EMPTY; 256],
        }
    }

    pub(super) fn table(&mut self) -> RegionTable<'_> {
        let storage = RegionStorage {
            regions: &mut self.slots,
            extents: &mut self.extents,
            pages: &mut self.pages,
        };
        let owner = ProcessId::new(1, 1);
        let mut table = RegionTable::new(owner, Iova::new(IOVA), storage, &[]).unwrap();
        let len = LAYOUT.bytes().next_multiple_of(4096) as u64;
        let region = Region {
            iova: Iova::new(IOVA),
            len,
            direction: Direction::Bidirectional,
            node: NodeId::new(0),
        };
        let bus = BusAddress::new(BUS);
        table.insert(region, &[Extent { bus, len }]).unwrap();
        table
    }
}

/// The kernel's view of the process's buffers.
#[derive(Clone)]
pub(super) struct View<'a> {
    memory: &'a Memory,
    start: PhysAddr,
}

impl FrameMemory for View<'_> {
    unsafe fn read(&self, from: BusAddress, into: &mut [u8]) -> bool {
        let offset = from.offset_from(BusAddress::new(BUS));
        let at = offset.and_then(|offset| self.start.checked_add(offset));
        at.is_some_and(|at| self.memory.peek(at, into))
    }
}

/// Buffers of a process: its pool, and the kernel's view of them.
pub(super) fn buffers<'a>(
    machine: &'a Machine,
    layout: ArenaLayout,
    words: &'a mut [u32],
) -> (Pool<'a>, View<'a>) {
    let memory = &machine.memory;
    let range = memory.allocate(LAYOUT.bytes()).unwrap();
    memory.grant(DEVICE, range, Direction::Bidirectional, LEASE);
    memory.map(
        DEVICE,
        BusAddress::new(BUS),
        range,
        Direction::Bidirectional,
    );
    let base = memory.pointer(range).unwrap();
    // SAFETY: freshly allocated, and used through this arena; the kernel reads it only while the process waits.
    let arena = unsafe { Arena::new(base, Iova::new(IOVA), layout) }.unwrap();
    let start = range.start;
    (Pool::new(arena, words), View { memory, start })
}

type Bell<F, T> = Notifier<F, <T as Transport>::Registers>;

/// The kernel's side of a checked pair.
struct Kernel<'a, F, D> {
    rx: CheckedReceiver<'a, F, D, N>,
    tx: CheckedSender<'a, F, D, N>,
    tails: [Tail; 2],
}

impl<F: CheckedFormat, D: Doorbell> Kernel<'_, F, D> {
    fn submit(
        &mut self,
        regions: &RegionTable<'_>,
        source: &impl SourceCheck,
    ) -> Result<(), Fault> {
        let [rx, tx] = [self.tails[0].0.get(), self.tails[1].0.get()];
        self.rx.service(rx, regions, 64)?;
        self.tx.service(tx, regions, source, 64)?;
        Ok(())
    }
}

/// The process's side.
struct Process<'a, F> {
    rx: Receiver<F, Tail, N>,
    tx: Sender<'a, F, Tail, N>,
    pool: Pool<'a>,
}

/// Claims pair 0 for a process whose queues are checked.
fn claim<'a, F: Shadowed<'a>, T: Transport<Registers: Clone>>(
    machine: &'a Machine,
    device: &mut Device<'_, T>,
    pool: Pool<'a>,
) -> (Kernel<'a, F, Bell<F, T>>, Process<'a, F>) {
    let lend = |len| machine.memory.lend(DEVICE, len, KERNEL).unwrap();
    let [rx_block, tx_block] = [lend(F::BYTES), lend(F::BYTES)];
    let [rx_shadow, tx_shadow] = [lend(SHADOW_LEN).memory(), lend(SHADOW_LEN).memory()];
    let copies = lend(4096).memory();
    let (rx_ring, receive) = F::make(&rx_block);
    let (tx_ring, transmit) = F::make(&tx_block);
    let bell = |ring, queue| {
        let registers = device.transport().notify_registers().clone();
        let register = device.notify_register(queue).unwrap();
        Notifier::new(ring, registers, register, device.events())
    };
    let posted = (Header::LEN + LAYOUT.capacity()) as u32;
    let rx = CheckedReceiver::new(rx_ring, bell(rx_ring, 0), rx_shadow, posted).unwrap();
    let tables = Tables::new(lend(Tables::<N>::BYTES)).unwrap();
    let completions = F::COPIES_COMPLETIONS.then_some(copies);
    let rings = (tx_ring, bell(tx_ring, 1));
    let tx = CheckedSender::new(rings, tx_shadow, completions, tables, 9014).unwrap();
    let tails = [Tail::default(), Tail::default()];
    let kernel = Kernel {
        rx,
        tx,
        tails: tails.clone(),
    };
    let [rx_tail, tx_tail] = tails;
    let rx_ring = F::shadow(rx_shadow, F::completions(&rx_block));
    let seen = completions.unwrap_or_else(|| F::completions(&tx_block));
    let tx_ring = F::shadow(tx_shadow, seen);
    let (order, spread) = (device.order(), Spread::Merged);
    let rx = Receiver::new(rx_ring, rx_tail, &LAYOUT, (order, spread)).unwrap();
    let options = (order, HeaderSource::Queue);
    let tx = Sender::new(tx_ring, tx_tail, pool.arena().again(), options).unwrap();
    let rings = PairRings { receive, transmit };
    let now = machine.world.now();
    device
        .begin_claim(0, rings, Vectors::default(), now)
        .unwrap();
    poll(machine, |now| device.poll_claim(0, now)).unwrap();
    (kernel, Process { rx, tx, pool })
}

fn names() -> NameGrant {
    NameGrant {
        mac: Mac([2, 0, 0, 0, 0, 1]),
        vlan: None,
        ipv4: Some(Ipv4Prefix::host(Ipv4Addr::new(10, 0, 0, 1))),
        ipv6: None,
        ports: PortRange::ALL,
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive(usize),
    Send { len: usize, part: usize },
    Check,
    Reclaim,
    Submit,
    Device(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (60..5000_usize).prop_map(Step::Arrive),
        3 => (60..3000_usize, 200..3000_usize).prop_map(|(len, part)| Step::Send { len, part }),
        2 => Just(Step::Check),
        1 => Just(Step::Reclaim),
        3 => Just(Step::Submit),
        3 => any::<u8>().prop_map(Step::Device),
    ]
}

/// Frames on their way in either direction.
#[derive(Default)]
struct Flows {
    arriving: VecDeque<Vec<u8>>,
    sending: VecDeque<Vec<u8>>,
    /// Bytes of all frames sent.
    sent_bytes: u64,
}

impl Flows {
    /// Takes what arrived at the process, and what the device sent.
    fn check<F: CheckedFormat>(
        &mut self,
        machine: &Machine,
        process: &mut Process<'_, F>,
    ) -> Result<(), TestCaseError> {
        for frame in receive(&mut process.rx, &mut process.pool).unwrap() {
            prop_assert_eq!(Some(frame), self.arriving.pop_front());
        }
        for frame in machine.net.wire().take_all() {
            prop_assert_eq!(Some(frame), self.sending.pop_front());
        }
        Ok(())
    }

    fn step<F: CheckedFormat>(
        &mut self,
        step: Step,
        machine: &Machine,
        process: &mut Process<'_, F>,
    ) -> Result<(), TestCaseError> {
        match step {
            Step::Arrive(len) => {
                let frame = udp(MAC, [10, 0, 0, 9], [10, 0, 0, 1], len);
                machine.net.wire().send(&frame);
                self.arriving.push_back(frame);
            }
            Step::Send { len, part } => {
                let frame = udp(MAC, [10, 0, 0, 1], [10, 0, 0, 3], len);
                let part = part.min(LAYOUT.capacity());
                if send(&mut process.tx, &mut process.pool, &frame, part).unwrap() {
                    self.sent_bytes += frame.len() as u64;
                    self.sending.push_back(frame);
                }
            }
            Step::Check => self.check(machine, process)?,
            Step::Reclaim => {
                process.tx.reclaim(&mut process.pool).unwrap();
            }
            Step::Submit => {}
            Step::Device(count) => {
                machine.world.settle(count.into());
            }
        }
        Ok(())
    }
}

fn traffic<'a, F: Shadowed<'a>>(
    machine: &'a Machine,
    steps: &[Step],
    (words, pairs): (&'a mut [u32], &'a mut [Pair]),
    named: bool,
) -> Result<(), TestCaseError> {
    let wanted = Features::PARTITION | Features::MRG_RXBUF | F::FEATURES;
    let mut device = machine
        .bring_up(machine.pci().unwrap(), wanted, pairs)
        .unwrap();
    let (pool, memory) = buffers(machine, LAYOUT, words);
    let (mut kernel, mut process) = claim::<F, _>(machine, &mut device, pool);
    let mut regions = Regions::new();
    let regions = regions.table();
    let grants = [names()];
    let source = GrantedSource {
        grants: &grants,
        memory,
    };
    let submit = |kernel: &mut Kernel<'_, F, _>| {
        if named {
            kernel.submit(&regions, &source).unwrap();
        } else {
            kernel.submit(&regions, &AnySource).unwrap();
        }
    };
    let mut flows = Flows::default();
    process.rx.arm(&mut process.pool);
    submit(&mut kernel);
    for &step in steps {
        flows.step(step, machine, &mut process)?;
        if let Step::Submit = step {
            submit(&mut kernel);
        }
    }
    for _ in 0..60 {
        submit(&mut kernel);
        machine.settle();
        flows.check(machine, &mut process)?;
        process.tx.reclaim(&mut process.pool).unwrap();
        process.rx.arm(&mut process.pool);
    }
    prop_assert!(flows.arriving.is_empty() && flows.sending.is_empty());
    prop_assert_eq!(process.tx.in_flight(), 0);
    prop_assert_eq!(kernel.tx.bytes(), flows.sent_bytes);
    prop_assert!(machine.memory.escapes().is_empty());
    machine.world.trace().assert_clean();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// With the kernel in between, every frame arrives once, in order, byte for byte, and the device touches nothing but
    /// the kernel's rings and the process's buffers.
    #[test]
    fn every_frame_arrives_through_the_kernel(
        seed: u64,
        packed: bool,
        named: bool,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut config = jumbo();
        config.backlog = 4096;
        let machine = Machine::new(seed, Bus::Pci, config);
        let (mut words, mut pairs) = ([0; 96], [Pair::EMPTY; 1]);
        let room: (&mut [u32], &mut [Pair]) = (&mut words, &mut pairs);
        if packed {
            traffic::<Packed<'_, N>>(&machine, &steps, room, named)?;
        } else {
            traffic::<Split<'_, N>>(&machine, &steps, room, named)?;
        }
    }
}

const SEALED: ArenaLayout = ArenaLayout {
    count: N as u16,
    ..LAYOUT
};

/// Claims pair 0 for a process whose receive queue is sealed.
fn claim_sealed<'a, T: Transport<Registers: Clone>>(
    machine: &'a Machine,
    device: &mut Device<'_, T>,
    regions: &RegionTable<'_>,
) -> Receiver<Sealed<'a, N>, Bell<Sealed<'a, N>, T>, N> {
    let lend = |len| machine.memory.lend(DEVICE, len, KERNEL).unwrap();
    let [rx_block, tx_block] = [lend(Split::<N>::BYTES), lend(Split::<N>::BYTES)];
    let (hardware, receive) = Split::<N>::make(&rx_block);
    let (_, transmit) = Split::<N>::make(&tx_block);
    let beyond = Iova::new(IOVA + 40 * 4096);
    assert!(seal(&hardware, beyond, &SEALED, regions).is_err());
    seal(&hardware, Iova::new(IOVA), &SEALED, regions).unwrap();
    let available = rx_block.memory().part(Split::<N>::AVAILABLE, 4096).unwrap();
    let used = Split::<N>::completions(&rx_block);
    let ring = Sealed::<N>::new(available, used).unwrap();
    let registers = device.transport().notify_registers().clone();
    let register = device.notify_register(0).unwrap();
    let bell = Notifier::new(ring, registers, register, device.events());
    let options = (device.order(), Spread::Single);
    let too_many = ArenaLayout {
        count: N as u16 + 1,
        ..SEALED
    };
    let tail = Tail::default();
    assert!(Receiver::<_, _, N>::new(ring, tail, &too_many, options).is_none());
    let rings = PairRings { receive, transmit };
    let now = machine.world.now();
    device
        .begin_claim(0, rings, Vectors::default(), now)
        .unwrap();
    poll(machine, |now| device.poll_claim(0, now)).unwrap();
    Receiver::new(ring, bell, &SEALED, options).unwrap()
}

/// The process writes its index ring itself; nobody checks, as it can name its own buffers only.
#[test]
fn a_sealed_queue_receives_without_the_kernel() {
    let machine = Machine::new(3, Bus::Pci, everything());
    let mut slots = [Pair::EMPTY; 1];
    let transport = machine.pci().unwrap();
    let mut device = machine
        .bring_up(transport, Features::PARTITION, &mut slots)
        .unwrap();
    let mut words = [0; N];
    let (mut pool, _) = buffers(&machine, SEALED, &mut words);
    let mut regions = Regions::new();
    let mut rx = claim_sealed(&machine, &mut device, &regions.table());
    assert_eq!(rx.arm(&mut pool), N);
    for round in 0..200 {
        let frame = udp(MAC, [10, 0, 0, 9], [10, 0, 0, 1], 60 + round * 5);
        machine.net.wire().send(&frame);
        machine.settle();
        assert_eq!(receive(&mut rx, &mut pool).unwrap(), [frame]);
        rx.arm(&mut pool);
    }
    assert!(machine.memory.escapes().is_empty());
    machine.world.trace().assert_clean();
}
