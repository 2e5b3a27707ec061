//! Queues that the kernel checks, on the model: policies `integrity` and `no-spoof`.
#![expect(unsafe_code, reason = "makes the arena of a process by hand")]

use alloc::{collections::VecDeque, rc::Rc};
use core::{cell::Cell, sync::atomic::AtomicU32};

use parakernel_core::{
    address::{BusAddress, Direction, Iova, NodeId, PhysAddr},
    handle::{ProcessId, Slot},
    memory::{
        Arena, Extent, ExtentSlot, PageSlot, Pool, Region, RegionEntry, RegionStorage, RegionTable,
    },
    queue::{Doorbell, RxQueue, TxQueue},
    ring::Position,
    steering::{Ipv4Prefix, Mac, NameGrant, PortRange},
    validate::{SpoofedField, Violation},
};
use parakernel_mock_hw::{Memory, memory::Lease, pci::Bar};
use parakernel_nic_ixgbe::{
    checked::{
        AnySource, CheckedReceiver, CheckedSender, Counts, Fault, FrameMemory, GrantedSource,
        Heads, Progress, SourceCheck,
    },
    descriptor::{Headers, Ip, L4},
    device::Pair,
    doorbell::Tail,
    offload::{Metadata, Request},
    rx::Receiver,
    tx::Sender,
    validate::Limits,
};
use proptest::prelude::*;

use crate::rig::{
    Card, DEVICE, LAYOUT, MAC, Machine, N, QUEUES, Rings, bell, claim_rings, receive, release,
    send, udp,
};

const LEASE: Lease = Lease(7);
const KERNEL: Lease = Lease(0);
/// Where the process believes its buffers to be.
const IOVA: u64 = 0x4000_0000;
/// Where the device finds them.
const BUS: u64 = 0x33_0000_0000;

/// The process's side of a doorbell: the tail that the kernel will read, and how far it came.
#[derive(Clone, Debug, Default)]
struct Bell {
    tail: Rc<Cell<Position>>,
    accepted: Rc<Cell<Position>>,
}

impl Doorbell for Bell {
    fn ring(&mut self, tail: Position) {
        self.tail.set(tail);
    }

    fn accepted(&self, _rung: Position) -> Position {
        self.accepted.get()
    }
}

/// The process's one region.
struct Regions {
    slots: Vec<Slot<RegionEntry>>,
    extents: Vec<ExtentSlot>,
    pages: Vec<PageSlot>,
}

impl Regions {
    fn new() -> Self {
        Self {
            slots: (0..2).map(|_| Slot::EMPTY).collect(),
            extents: vec![ExtentSlot::EMPTY; 2],
            pages: vec![PageSlot::EMPTY; 256],
        }
    }

    fn table(&mut self) -> RegionTable<'_> {
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
struct View<'a> {
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
fn buffers(machine: &Machine) -> (Pool<'_>, View<'_>) {
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
    let arena = unsafe { Arena::new(base, Iova::new(IOVA), LAYOUT) }.unwrap();
    let start = range.start;
    let words = vec![0; LAYOUT.count.into()].leak();
    (Pool::new(arena, words), View { memory, start })
}

/// The kernel's side of a checked pair whose card's transmit ring has `H` entries.
struct Kernel<'a, const H: usize> {
    rx: CheckedReceiver<'a, Tail<Bar>, N>,
    tx: CheckedSender<'a, Tail<Bar>, N, H>,
    bells: [Bell; 2],
}

impl<const H: usize> Kernel<'_, H> {
    /// Takes over what the process published: one system call.
    fn submit(
        &mut self,
        regions: &RegionTable<'_>,
        source: &impl SourceCheck,
    ) -> Result<(), Fault> {
        let [rx, tx] = &self.bells;
        rx.accepted
            .set(self.rx.service(rx.tail.get(), regions, 64)?);
        tx.accepted
            .set(self.tx.service(tx.tail.get(), regions, source, 64)?);
        Ok(())
    }
}

/// The process's side.
struct Process<'a> {
    rx: Receiver<'a, Bell, N>,
    tx: Sender<'a, Bell, N>,
    pool: Pool<'a>,
}

/// Claims pair 0 for a process whose queues are checked.
fn claim<'a, const H: usize>(
    machine: &'a Machine,
    device: &mut Card<'_>,
    pool: Pool<'a>,
) -> (Kernel<'a, H>, Process<'a>) {
    let rings = Rings::new(machine, [N, H], KERNEL);
    let lend = |len| machine.memory.lend(DEVICE, len, KERNEL).unwrap();
    let [rx_shadow, tx_shadow, told] = [(); 3].map(|()| lend(4096).memory());
    let [rx_bell, tx_bell] = [Bell::default(), Bell::default()];
    let hardware = rings.receive.memory();
    let rx = Receiver::new(
        rx_shadow,
        hardware,
        rx_bell.clone(),
        &LAYOUT,
        Metadata::Header,
    )
    .unwrap();
    let ring = bell(machine, Card::receive_tail(0), N);
    let checked_rx = CheckedReceiver::new(hardware, rx_shadow, ring, rx.posted()).unwrap();
    let is_same = H == N;
    let word: &AtomicU32 = told.view(0).unwrap();
    let progress = if is_same {
        Progress::Device
    } else {
        Progress::Kernel(word, Heads::new(lend(Heads::<N>::BYTES)).unwrap())
    };
    let head = rings.head.memory();
    let seen = if is_same { head } else { told };
    let limits = Limits {
        max_frame: 1514,
        vlan: None,
    };
    let ring = bell(machine, Card::transmit_tail(0), H);
    let hardware = (rings.transmit.memory(), head);
    let checked_tx = CheckedSender::new(hardware, tx_shadow, progress, ring, limits).unwrap();
    let arena = pool.arena().again();
    let tx = Sender::new(tx_shadow, seen, tx_bell.clone(), arena, Metadata::Header).unwrap();
    claim_rings(machine, device, 0, rings.of_card(rx.posted())).unwrap();
    let kernel = Kernel {
        rx: checked_rx,
        tx: checked_tx,
        bells: [rx_bell, tx_bell],
    };
    (kernel, Process { rx, tx, pool })
}

fn names() -> NameGrant {
    NameGrant {
        mac: Mac([2, 0, 0, 0, 0, 1]),
        vlan: None,
        ipv4: Some(Ipv4Prefix::host([10, 0, 0, 1].into())),
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
        3 => (60..1514_usize).prop_map(Step::Arrive),
        3 => (60..1514_usize, 60..1514_usize).prop_map(|(len, part)| Step::Send { len, part }),
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
    /// All frames that the process has sent, and their bytes.
    sent: Counts,
}

impl Flows {
    /// Takes what arrived at the process, and what the device sent. What found no buffer is missing, nothing else is.
    fn check(&mut self, machine: &Machine, process: &mut Process<'_>) -> Result<(), TestCaseError> {
        for (frame, _) in receive(&mut process.rx, &mut process.pool).unwrap() {
            while self.arriving.front().is_some_and(|next| *next != frame) {
                self.arriving.pop_front();
            }
            prop_assert_eq!(Some(frame), self.arriving.pop_front());
        }
        for frame in machine.wire.take_all() {
            prop_assert_eq!(Some(frame), self.sending.pop_front());
        }
        Ok(())
    }

    fn step(
        &mut self,
        (number, step): (usize, Step),
        machine: &Machine,
        process: &mut Process<'_>,
    ) -> Result<(), TestCaseError> {
        match step {
            Step::Arrive(len) => {
                let from = [10, 1, (number >> 8) as u8, number as u8];
                let frame = udp(MAC, from, [10, 0, 0, 1], len);
                machine.wire.send(&frame);
                self.arriving.push_back(frame);
            }
            Step::Send { len, part } => {
                let frame = udp(MAC, [10, 0, 0, 1], [10, 0, 0, 3], len);
                let (tx, pool) = (&mut process.tx, &mut process.pool);
                if send(tx, pool, &frame, (part, [0; 16])).unwrap() {
                    self.sent.packets += 1;
                    self.sent.bytes += len as u64;
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

/// An honest process is never accused; all that it sends leaves, in order and unchanged; in the end all buffers are back.
fn passes<'a, const H: usize, S: SourceCheck>(
    machine: &'a Machine,
    steps: &[Step],
    source: impl FnOnce(View<'a>) -> S,
) -> Result<(), TestCaseError> {
    let mut pairs = [Pair::EMPTY; 1];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let (pool, view) = buffers(machine);
    let (mut kernel, mut process) = claim::<H>(machine, &mut device, pool);
    let source = source(view);
    let mut regions = Regions::new();
    let regions = regions.table();
    let mut flows = Flows::default();
    process.rx.arm(&mut process.pool);
    kernel.submit(&regions, &source).unwrap();
    for step in steps.iter().copied().enumerate() {
        flows.step(step, machine, &mut process)?;
        if matches!(step.1, Step::Submit) {
            kernel.submit(&regions, &source).unwrap();
        }
    }
    for _ in 0..4 {
        kernel.submit(&regions, &source).unwrap();
        machine.settle();
        flows.check(machine, &mut process)?;
    }
    kernel.submit(&regions, &source).unwrap();
    process.tx.reclaim(&mut process.pool).unwrap();
    prop_assert_eq!((flows.sending.len(), process.tx.in_flight()), (0, 0));
    let counted = (H != N).then_some(flows.sent);
    prop_assert_eq!(kernel.tx.counts(), counted);
    release(machine, &mut device, 0).unwrap();
    machine.memory.end(LEASE);
    machine.memory.end(KERNEL);
    machine
        .wire
        .send(&udp(MAC, [10, 0, 0, 9], [10, 0, 0, 1], 99));
    machine.settle();
    let Process { rx, tx, mut pool } = process;
    // SAFETY: the pair was released.
    unsafe { rx.dismantle(&mut pool) };
    // SAFETY: as above.
    unsafe { tx.dismantle(&mut pool) };
    prop_assert_eq!(pool.free(), usize::from(LAYOUT.count));
    machine.assert_clean();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn frames_pass_under_integrity(steps in prop::collection::vec(step(), 0..120)) {
        let machine = Machine::new(1);
        passes::<N, _>(&machine, &steps, |_| AnySource)?;
    }

    #[test]
    fn frames_pass_under_no_spoof(steps in prop::collection::vec(step(), 0..120)) {
        let machine = Machine::new(2);
        let grants = [names()];
        passes::<{ 2 * N }, _>(&machine, &steps, |memory| GrantedSource {
            grants: &grants,
            memory,
        })?;
    }
}

/// What bears another's name does not leave, and nothing of the batch does; the pair is taken back.
#[test]
fn a_foreign_name_does_not_leave() {
    let machine = Machine::new(3);
    let mut pairs = [Pair::EMPTY; 1];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let (pool, memory) = buffers(&machine);
    let (mut kernel, mut process) = claim::<{ 2 * N }>(&machine, &mut device, pool);
    let grants = [names()];
    let source = GrantedSource {
        grants: &grants,
        memory,
    };
    let mut regions = Regions::new();
    let regions = regions.table();
    let own = udp([6; 6], [10, 0, 0, 1], [10, 0, 0, 3], 500);
    let foreign = udp([6; 6], [10, 0, 0, 2], [10, 0, 0, 3], 500);
    let (tx, pool) = (&mut process.tx, &mut process.pool);
    assert!(send(tx, pool, &own, (100, [0; 16])).unwrap());
    kernel.submit(&regions, &source).unwrap();
    machine.settle();
    assert_eq!(machine.wire.take_all(), [own]);
    assert!(send(tx, pool, &foreign, (100, [0; 16])).unwrap());
    let field = SpoofedField::Mac;
    let stopped = kernel.submit(&regions, &source);
    assert_eq!(stopped, Err(Fault::Process(Violation::Spoofed { field })));
    machine.settle();
    assert!(machine.wire.take_all().is_empty());
    release(&machine, &mut device, 0).unwrap();
    machine.memory.end(LEASE);
    machine.settle();
    machine.assert_clean();
}

/// The device writes checksums where lengths of headers say. Ones that are not the frame's would lead it to an address, or a port,
/// that was looked at before.
#[test]
fn a_checksum_is_not_written_over_a_name() {
    let own = Headers {
        mac_len: 14,
        ip: Ip::V4,
        ip_len: 20,
        l4: L4::Udp,
        l4_len: 8,
    };
    // The IPv4 checksum in the source address; the UDP checksum in the source port of a packet with options.
    let late = Headers { mac_len: 16, ..own };
    let short = Headers { ip_len: 30, ..own };
    let mut with_options = udp([6; 6], [10, 0, 0, 1], [10, 0, 0, 3], 500);
    with_options[14] = 0x46 + 3;
    let plain = udp([6; 6], [10, 0, 0, 1], [10, 0, 0, 3], 500);
    for (frame, headers) in [
        (&plain, late),
        (&with_options, short),
        (&with_options, own),
        (&plain, Headers { l4: L4::Tcp, ..own }),
        (
            &plain,
            Headers {
                ip: Ip::V6,
                ip_len: 40,
                ..own
            },
        ),
    ] {
        let machine = Machine::new(5);
        let mut pairs = [Pair::EMPTY; 1];
        let mut device = machine.with_link(QUEUES, &mut pairs);
        let (pool, memory) = buffers(&machine);
        let (mut kernel, mut process) = claim::<{ 2 * N }>(&machine, &mut device, pool);
        let grants = [names()];
        let source = GrantedSource {
            grants: &grants,
            memory,
        };
        let mut regions = Regions::new();
        let regions = regions.table();
        let (tx, pool) = (&mut process.tx, &mut process.pool);
        let right = Request::checksums(own).to_bytes();
        assert!(send(tx, pool, &plain, (100, right)).unwrap());
        kernel.submit(&regions, &source).unwrap();
        machine.settle();
        assert_eq!(machine.wire.take_all().len(), 1, "what is right leaves");
        let request = Request::checksums(headers).to_bytes();
        assert!(send(tx, pool, frame, (100, request)).unwrap());
        let stopped = kernel.submit(&regions, &source);
        machine.settle();
        assert_eq!(machine.wire.take_all(), Vec::<Vec<u8>>::new());
        let field = SpoofedField::Layers;
        assert_eq!(stopped, Err(Fault::Process(Violation::Spoofed { field })));
        release(&machine, &mut device, 0).unwrap();
        machine.memory.end(LEASE);
        machine.assert_clean();
    }
}

/// A buffer outside of the process's memory reaches neither ring.
#[test]
fn foreign_memory_is_not_reached() {
    let machine = Machine::new(4);
    let mut pairs = [Pair::EMPTY; 1];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let end = LAYOUT.bytes().next_multiple_of(4096) as u64;
    let range = machine.memory.allocate(LAYOUT.bytes()).unwrap();
    let base = machine.memory.pointer(range).unwrap();
    // SAFETY: freshly allocated, and used through this arena.
    let foreign = unsafe { Arena::new(base, Iova::new(IOVA + end), LAYOUT) }.unwrap();
    let foreign = Pool::new(foreign, vec![0; LAYOUT.count.into()].leak());
    let (mut kernel, mut process) = claim::<N>(&machine, &mut device, foreign);
    let mut regions = Regions::new();
    let regions = regions.table();
    process.rx.arm(&mut process.pool);
    let stopped = kernel.submit(&regions, &AnySource);
    assert!(
        matches!(
            stopped,
            Err(Fault::Process(Violation::OutsideRegions { .. }))
        ),
        "{stopped:?}"
    );
    machine
        .wire
        .send(&udp(MAC, [10, 0, 0, 9], [10, 0, 0, 1], 99));
    machine.settle();
    machine.assert_clean();
}
