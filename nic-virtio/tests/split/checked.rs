//! The kernel between process and device: what the process may do works as if nobody stood there, and what it may not
//! stops it before the device sees anything.
#![expect(
    unsafe_code,
    reason = "implements a trait whose memory is read by bus address"
)]

use std::{cell::Cell, collections::VecDeque, net::Ipv4Addr, rc::Rc};

use parakernel_core::{
    address::{BusAddress, Direction, Iova, NodeId},
    handle::{ProcessId, Slot},
    memory::{
        Arena, ArenaLayout, Extent, ExtentSlot, PageSlot, Pool, Region, RegionEntry, RegionStorage,
        RegionTable,
    },
    queue::{Doorbell as _, RxQueue, TxQueue},
    ring::Position,
    steering::{Ipv4Prefix, Mac, NameGrant, PortRange},
    validate::{SpoofedField, Violation},
};
use parakernel_nic_virtio::{
    checked::{
        AnySource, CheckedReceiver, CheckedSender, Fault, FrameMemory, GrantedSource, Tables, seal,
    },
    rx::{Receiver, Spread},
    tx::{HeaderSource, Sender},
    virtqueue::{Events, Order, split::Split},
};
use proptest::prelude::*;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::bench::{
    BUFFERS, CAPACITY, Device, Doorbell, HEADER, Kicks, LAYOUT, N, RX_RING, SHADOWS, Step, TABLES,
    TX_RING, VICTIM, block, driver_ring, frame, guest_memory, host, poll, shared, step, submit,
};

/// Where the process believes its buffers to be.
const IOVA: u64 = 0x4000_0000;
const REGION_LEN: u64 = 0x6000;
const RX_SHADOW: u64 = SHADOWS;
const TX_SHADOW: u64 = SHADOWS + 0x1000;
/// Where the available rings of the shadows lie.
const AVAILABLE: u64 = 0x800;
const MAX_FRAME: u32 = 1000;

/// The process's side of a doorbell: the tail that the kernel will read.
#[derive(Clone, Debug, Default)]
struct Tail(Rc<Cell<Position>>);

impl parakernel_core::queue::Doorbell for Tail {
    fn ring(&mut self, tail: Position) {
        self.0.set(tail);
    }

    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}

/// The regions of one process: its buffers, and a page that devices may only read.
struct Regions {
    slots: Vec<Slot<RegionEntry>>,
    extents: Vec<ExtentSlot>,
    pages: Vec<PageSlot>,
}

const READ_ONLY: u64 = IOVA + 0x10_0000;

impl Regions {
    fn new() -> Self {
        Self {
            slots: (0..4).map(|_| Slot::EMPTY).collect(),
            extents: vec![ExtentSlot::EMPTY; 4],
            pages: vec![PageSlot::EMPTY; 512],
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
        let places = [
            (IOVA, BUFFERS, REGION_LEN, Direction::Bidirectional),
            (READ_ONLY, VICTIM, 0x1000, Direction::ToDevice),
        ];
        for (iova, bus, len, direction) in places {
            let region = Region {
                iova: Iova::new(iova),
                len,
                direction,
                node: NodeId::new(0),
            };
            let extent = Extent {
                bus: BusAddress::new(bus),
                len,
            };
            table.insert(region, &[extent]).unwrap();
        }
        table
    }
}

/// The kernel's view of processes' memory.
#[derive(Clone, Copy)]
struct View<'a>(&'a GuestMemoryMmap);

impl FrameMemory for View<'_> {
    unsafe fn read(&self, from: BusAddress, into: &mut [u8]) -> bool {
        self.0.read_slice(into, GuestAddress(from.as_u64())).is_ok()
    }
}

/// Process, kernel and device of a queue pair.
struct Bench<'a> {
    device: Device<'a>,
    kicks: Kicks,
    kernel_rx: CheckedReceiver<'a, Split<'a, N>, Doorbell<'a>, N>,
    kernel_tx: CheckedSender<'a, Split<'a, N>, Doorbell<'a>, N>,
    rx: Receiver<Split<'a, N>, Tail, N>,
    tx: Sender<'a, Split<'a, N>, Tail, N>,
    rx_tail: Tail,
    tx_tail: Tail,
    pool: Pool<'a>,
}

impl<'a> Bench<'a> {
    fn new(
        memory: &'a GuestMemoryMmap,
        words: &'a mut [u32],
        events: Events,
        spread: Spread,
    ) -> Self {
        // SAFETY: inside the mapping; the device writes buffers only while it has them.
        let arena = unsafe { Arena::new(host(memory, BUFFERS), Iova::new(IOVA), LAYOUT) };
        let pool = Pool::new(arena.unwrap(), words);
        let (rx_ring, rx_doorbell, _) = driver_ring(memory, RX_RING, events);
        let (tx_ring, tx_doorbell, kicks) = driver_ring(memory, TX_RING, events);
        let posted = (CAPACITY + HEADER) as u32;
        let rx_shadow = shared(memory, RX_SHADOW, 0x800);
        let kernel_rx = CheckedReceiver::new(rx_ring, rx_doorbell, rx_shadow, posted).unwrap();
        let tables = Tables::new(block(memory, TABLES, Tables::<N>::BYTES)).unwrap();
        let kernel_tx = CheckedSender::new(
            (tx_ring, tx_doorbell),
            shared(memory, TX_SHADOW, 0x800),
            None,
            tables,
            MAX_FRAME,
        );
        let process_ring = |shadow, hardware| {
            Split::new(
                shared(memory, shadow, 0x800),
                shared(memory, shadow + AVAILABLE, 0x800),
                shared(memory, hardware + Split::<N>::USED as u64, 0x1000),
            )
            .unwrap()
        };
        let (rx_tail, tx_tail) = (Tail::default(), Tail::default());
        let rx_ring = process_ring(RX_SHADOW, RX_RING);
        let tx_ring = process_ring(TX_SHADOW, TX_RING);
        let rx = Receiver::new(rx_ring, rx_tail.clone(), &LAYOUT, (Order::Any, spread)).unwrap();
        let options = (Order::Any, HeaderSource::Queue);
        let tx = Sender::new(tx_ring, tx_tail.clone(), pool.arena().again(), options).unwrap();
        Self {
            device: Device::new(memory, events),
            kicks,
            kernel_rx,
            kernel_tx: kernel_tx.unwrap(),
            rx,
            tx,
            rx_tail,
            tx_tail,
            pool,
        }
    }

    /// The system call that hands both tails to the kernel.
    fn submit_call(&mut self, regions: &RegionTable<'_>) -> Result<(), Fault> {
        self.kernel_rx.service(self.rx_tail.0.get(), regions, 64)?;
        self.kernel_tx
            .service(self.tx_tail.0.get(), regions, &AnySource, 64)?;
        Ok(())
    }

    /// The same for the transmit queue, with names checked.
    fn submit_named(
        &mut self,
        regions: &RegionTable<'_>,
        names: &[NameGrant],
    ) -> Result<Position, Fault> {
        let memory = View(self.device.memory);
        let source = GrantedSource {
            grants: names,
            memory,
        };
        self.kernel_tx
            .service(self.tx_tail.0.get(), regions, &source, 64)
    }

    /// Writes an entry of the process's transmit ring by hand.
    fn write_tx(&self, slot: u64, address: u64, len: u32, flags: u16) {
        let mut bytes = Vec::new();
        bytes.extend(address.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend([0; 2]);
        let at = GuestAddress(TX_SHADOW + 16 * slot);
        self.device.memory.write_slice(&bytes, at).unwrap();
    }

    fn write_rx(&self, slot: u64, address: u64) {
        let at = GuestAddress(RX_SHADOW + 16 * slot);
        self.device
            .memory
            .write_slice(&address.to_le_bytes(), at)
            .unwrap();
    }
}

proptest! {
    /// Every frame that a side accepted arrives at the other, once and in order, with the kernel in between.
    #[test]
    fn every_accepted_frame_arrives(
        steps in prop::collection::vec(step(), 1..200),
        by_index: bool,
        merge: bool,
    ) {
        let events = if by_index { Events::Index } else { Events::Flags };
        let spread = if merge { Spread::Merged } else { Spread::Single };
        let memory = guest_memory();
        let (mut words, mut regions) = ([0; LAYOUT.count as usize], Regions::new());
        let regions = regions.table();
        let mut bench = Bench::new(&memory, &mut words, events, spread);
        let (mut sending, mut arriving) = (VecDeque::new(), VecDeque::new());
        bench.rx.arm(&mut bench.pool);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send { len, part } => {
                    let frame = frame(number, len);
                    if submit(&mut bench.tx, &mut bench.pool, &frame, part) {
                        sending.push_back(frame);
                    }
                }
                Step::DeviceSends => {
                    bench.submit_call(&regions).unwrap();
                    for sent in bench.device.send(&bench.kicks) {
                        prop_assert_eq!(Some(sent), sending.pop_front());
                    }
                }
                Step::Reclaim => {
                    bench.tx.reclaim(&mut bench.pool).unwrap();
                }
                Step::Arrive(len) => {
                    let frame = frame(number, if merge { len } else { len.min(CAPACITY) });
                    if bench.device.receive(&frame, merge) {
                        arriving.push_back(frame);
                    }
                }
                Step::Poll(budget) => {
                    for received in poll(&mut bench.rx, &mut bench.pool, budget) {
                        prop_assert_eq!(Some(received), arriving.pop_front());
                    }
                }
                Step::Arm => {
                    bench.rx.arm(&mut bench.pool);
                    bench.submit_call(&regions).unwrap();
                }
            }
        }
        // Frames of several parts may have to wait for a table, so it can take more than one call.
        for _ in 0..=N {
            bench.submit_call(&regions).unwrap();
            for sent in bench.device.send(&bench.kicks) {
                prop_assert_eq!(Some(sent), sending.pop_front());
            }
        }
        prop_assert!(sending.is_empty(), "the device was not told of a frame");
        for received in poll(&mut bench.rx, &mut bench.pool, 64) {
            prop_assert_eq!(Some(received), arriving.pop_front());
        }
        prop_assert!(arriving.is_empty());
        bench.tx.reclaim(&mut bench.pool).unwrap();
        let Bench { rx, tx, mut pool, .. } = bench;
        rx.dismantle(&mut pool);
        tx.dismantle(&mut pool);
        prop_assert_eq!(pool.free(), usize::from(LAYOUT.count));
    }
}

/// Runs `attack` against a fresh bench whose process has armed its receive ring, and returns what stopped it.
fn stopped_by(attack: impl FnOnce(&mut Bench<'_>)) -> Violation {
    let memory = guest_memory();
    let (mut words, mut regions) = ([0; LAYOUT.count as usize], Regions::new());
    let regions = regions.table();
    let mut bench = Bench::new(&memory, &mut words, Events::Flags, Spread::Single);
    bench.rx.arm(&mut bench.pool);
    bench.submit_call(&regions).unwrap();
    let kicks = bench.kicks.0.take();
    attack(&mut bench);
    let Err(Fault::Process(violation)) = bench.submit_call(&regions) else {
        panic!("the attack was not seen");
    };
    assert_eq!(bench.kicks.0.get(), kicks, "the device was notified");
    assert!(bench.device.tx.pop_descriptor_chain(&memory).is_none());
    violation
}

/// The process sends one hand-made entry.
fn sends(address: u64, len: u32, flags: u16) -> impl FnOnce(&mut Bench<'_>) {
    move |bench| {
        bench.write_tx(0, address, len, flags);
        bench.tx_tail.ring(Position::new(1));
    }
}

#[test]
fn addresses_outside_the_regions_are_refused() {
    let outside = |address: u64, len: u32| {
        let violation = stopped_by(sends(address, len, 0));
        assert!(
            matches!(violation, Violation::OutsideRegions { .. }),
            "{violation}"
        );
    };
    outside(VICTIM, 100);
    outside(IOVA + REGION_LEN - 50, 100);
    outside(IOVA + REGION_LEN, 100);
    outside(IOVA - 100, 100);
    outside(u64::MAX - 20, 100);
    outside(0, 100);
    let armed = stopped_by(|bench| {
        assert!(bench.device.receive(&[1; 60], false));
        poll(&mut bench.rx, &mut bench.pool, 1);
        bench.write_rx(0, IOVA + REGION_LEN - (CAPACITY + HEADER) as u64 + 1);
    });
    assert!(matches!(armed, Violation::OutsideRegions { .. }), "{armed}");
}

#[test]
fn a_region_that_devices_may_only_read_is_no_target() {
    let memory = stopped_by(|bench| {
        assert!(bench.device.receive(&[1; 60], false));
        poll(&mut bench.rx, &mut bench.pool, 1);
        bench.write_rx(0, READ_ONLY);
    });
    assert!(matches!(memory, Violation::Direction { .. }), "{memory}");
}

#[test]
fn lengths_and_flags_are_bounded() {
    for len in [0, 11, 12, 25, MAX_FRAME + 13, u32::MAX] {
        let violation = stopped_by(sends(IOVA, len, 0));
        assert!(
            matches!(violation, Violation::Length { .. }),
            "{len}: {violation}"
        );
    }
    for flags in [2, 4, 5, 6, 8, 0x80, 0x8000] {
        let violation = stopped_by(sends(IOVA, 100, flags));
        assert!(
            matches!(violation, Violation::Forbidden { .. }),
            "{flags}: {violation}"
        );
    }
}

/// Found by the fuzz target `virtio_rx_validator`.
#[test]
fn a_ring_is_not_sealed_for_a_layout_that_is_none() {
    let memory = guest_memory();
    let (ring, ..) = driver_ring(&memory, RX_RING, Events::Flags);
    let mut regions = Regions::new();
    let layout = ArenaLayout {
        stride: 64,
        headroom: 128,
        header: 12,
        count: 1,
    };
    let refused = seal(&ring, Iova::new(IOVA), &layout, &regions.table());
    assert_eq!(refused, Err(Violation::Length { len: 64 }));
}

#[test]
fn tails_do_not_jump() {
    for tail in [N as u32 + 1, u32::MAX, 1 << 16, 1 << 31] {
        let violation = stopped_by(|bench| bench.tx_tail.ring(Position::new(tail)));
        assert!(
            matches!(violation, Violation::TailJump { .. }),
            "{tail}: {violation}"
        );
        let violation = stopped_by(|bench| {
            bench
                .rx_tail
                .ring(Position::new(tail.wrapping_add(N as u32)));
        });
        assert!(
            matches!(violation, Violation::TailJump { .. }),
            "{tail}: {violation}"
        );
    }
}

#[test]
fn a_slot_in_flight_is_not_overwritten() {
    let violation = stopped_by(|bench| bench.rx_tail.ring(Position::new(N as u32 + 1)));
    assert_eq!(violation, Violation::Busy { id: 0 });
}

#[test]
fn a_chain_ends() {
    let violation = stopped_by(|bench| {
        (0..N as u64).for_each(|slot| bench.write_tx(slot, IOVA, 100, 1));
        bench.tx_tail.ring(Position::new(1));
    });
    // Seventeen parts are too many; sixteen go round the ring.
    assert!(
        matches!(
            violation,
            Violation::Chain { .. } | Violation::Length { .. }
        ),
        "{violation}"
    );
}

/// The device reads a header of the kernel's, whatever the process wrote, also after the check.
#[test]
fn the_header_is_not_the_processes() {
    let memory = guest_memory();
    let (mut words, mut regions) = ([0; LAYOUT.count as usize], Regions::new());
    let regions = regions.table();
    let mut bench = Bench::new(&memory, &mut words, Events::Flags, Spread::Single);
    memory
        .write_slice(&[0xFF; 112], GuestAddress(BUFFERS))
        .unwrap();
    bench.write_tx(0, IOVA, 112, 0);
    bench.tx_tail.ring(Position::new(1));
    bench.submit_call(&regions).unwrap();
    bench.write_tx(0, IOVA + 0x5000, 500, 2);
    // `send` asserts that the header is zero.
    assert_eq!(bench.device.send(&bench.kicks), [vec![0xFF; 100]]);
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

/// A UDP packet of `len` bytes in an Ethernet frame, from the names above.
fn udp(len: usize) -> Vec<u8> {
    let mut frame = vec![0x5A; len];
    frame[..6].fill(0xFE);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].fill(0);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
    frame[23] = 17;
    frame[26..30].copy_from_slice(&[10, 0, 0, 1]);
    frame[30..34].copy_from_slice(&[10, 0, 0, 2]);
    frame
}

#[test]
fn frames_leave_with_their_own_names_only() {
    let memory = guest_memory();
    let (mut words, mut regions) = ([0; LAYOUT.count as usize], Regions::new());
    let regions = regions.table();
    let mut bench = Bench::new(&memory, &mut words, Events::Flags, Spread::Single);
    let mut expected = Vec::new();
    for (len, part) in [
        (60, 256),
        (98, 256),
        (99, 256),
        (250, 256),
        (250, 100),
        (250, 30),
        (500, 256),
    ] {
        let frame = udp(len);
        assert!(
            submit(&mut bench.tx, &mut bench.pool, &frame, part),
            "{len}"
        );
        expected.push(frame);
        bench.submit_named(&regions, &[names()]).unwrap();
        if bench.pool.free() < 40 || len == 250 {
            let sent = bench.device.send(&bench.kicks);
            assert_eq!(sent, std::mem::take(&mut expected));
            bench.tx.reclaim(&mut bench.pool).unwrap();
        }
    }
    assert_eq!(bench.device.send(&bench.kicks), expected);
}

#[test]
fn spoofed_frames_are_refused() {
    let refused = |change: &dyn Fn(&mut Vec<u8>), part: usize| {
        let memory = guest_memory();
        let (mut words, mut regions) = ([0; LAYOUT.count as usize], Regions::new());
        let regions = regions.table();
        let mut bench = Bench::new(&memory, &mut words, Events::Flags, Spread::Single);
        let mut frame = udp(200);
        change(&mut frame);
        assert!(submit(&mut bench.tx, &mut bench.pool, &frame, part));
        let result = bench.submit_named(&regions, &[names()]);
        assert!(bench.device.tx.pop_descriptor_chain(&memory).is_none());
        let Err(Fault::Process(Violation::Spoofed { field })) = result else {
            panic!("{result:?}");
        };
        field
    };
    for part in [256, 100, 20] {
        assert_eq!(refused(&|frame| frame[11] = 2, part), SpoofedField::Mac);
        assert_eq!(refused(&|frame| frame[29] = 2, part), SpoofedField::Ipv4);
        assert_eq!(refused(&|frame| frame[13] = 6, part), SpoofedField::Arp);
        let pause = |frame: &mut Vec<u8>| frame[12..14].copy_from_slice(&[0x88, 0x08]);
        assert_eq!(refused(&pause, part), SpoofedField::EtherType);
    }
}

/// What the process changes after the check does not leave: the checked bytes are a copy.
#[test]
fn names_cannot_be_changed_after_the_check() {
    let memory = guest_memory();
    let (mut words, mut regions) = ([0; LAYOUT.count as usize], Regions::new());
    let regions = regions.table();
    let mut bench = Bench::new(&memory, &mut words, Events::Flags, Spread::Single);
    let frame = udp(120);
    assert!(submit(&mut bench.tx, &mut bench.pool, &frame, 256));
    bench.submit_named(&regions, &[names()]).unwrap();
    memory
        .write_slice(&vec![0; REGION_LEN as usize], GuestAddress(BUFFERS))
        .unwrap();
    let sent = bench.device.send(&bench.kicks);
    assert_eq!(sent[0][..98], frame[..98]);
    assert_eq!(sent[0][98..], [0; 22]);
}
