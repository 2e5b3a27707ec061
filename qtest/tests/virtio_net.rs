//! The virtio-net driver against QEMU's card, which nobody here wrote, over PCI and MMIO.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "plays a machine: what does not work is a failed test"
)]

use core::{task::Poll, time::Duration};
use std::os::unix::net::UnixDatagram;

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    memory::{ArenaLayout, DmaBlock, Pool, SegmentList},
    mmio::Registers,
    pci::Config,
    queue::{RxQueue, TxQueue},
    time::Instant,
};
use parakernel_nic_virtio::{
    control::Command,
    device::{Device, Pair, PairRings, Setup, Vectors},
    error::RingError,
    features::Features,
    transport::{
        RingAddresses, Transport,
        mmio::MmioTransport,
        pci::{Layout, PciTransport},
    },
    virtqueue::{CheckedFormat, packed::Packed, split::Split},
};
use parakernel_qtest::{Machine, Memory, Part};

const N: usize = 64;
const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: 12,
    count: 160,
};
const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// Where BAR 4 is put: above the machine's memory, below the APICs.
const BAR: u32 = 0xE000_0000;
/// The first of microvm's windows for virtio devices, which it fills from the end, their length and number.
const WINDOW: u64 = 0xFEB0_0000;
const WINDOW_LEN: usize = 512;
const WINDOWS: u64 = 24;

/// Where the card is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Board {
    /// On PCI, of a `q35` machine.
    Q35,
    /// Memory-mapped, of a `microvm` machine.
    Microvm,
}

/// What is outside of the machine: its memory, and the other end of its network cable.
struct Outside {
    memory: Memory,
    cable: UnixDatagram,
}

impl Outside {
    fn new(name: &str) -> Self {
        let memory = Memory::new(name);
        let cable = UnixDatagram::bind(memory.path("here")).unwrap();
        let limit = Some(Duration::from_secs(5));
        cable.set_read_timeout(limit).unwrap();
        Self { memory, cable }
    }

    /// Starts a machine on `board` with a card that has the options `card`.
    fn start(&self, board: Board, card: &str) -> Machine {
        let (machine, device) = match board {
            Board::Q35 => ("q35", "virtio-net-pci,addr=4,disable-legacy=on"),
            Board::Microvm => ("microvm,acpi=off", "virtio-net-device"),
        };
        let [here, there] = ["here", "there"].map(|name| self.memory.path(name));
        let cable = format!(
            "dgram,id=net,local.type=unix,local.path={},remote.type=unix,remote.path={}",
            there.display(),
            here.display()
        );
        let card = format!("{device},netdev=net{card}");
        let modern = ["-global", "virtio-mmio.force-legacy=false"];
        let arguments = [&modern[..], &["-netdev", &cable, "-device", &card]].concat();
        Machine::start(&self.memory, machine, &arguments)
    }

    /// Sends a frame to the card.
    fn send(&self, frame: &[u8]) {
        let there = self.memory.path("there");
        self.cable.send_to(frame, there).unwrap();
    }

    /// Waits for a frame of the card's.
    fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; 16 << 10];
        let len = self.cable.recv(&mut frame).unwrap();
        frame.truncate(len);
        frame
    }
}

/// A layout of rings in a block.
trait Ring<'a>: CheckedFormat {
    const BYTES: usize;
    const FEATURES: Features;
    const CARD: &'static str;
    fn make(block: &DmaBlock<'a>) -> (Self, RingAddresses);
}

impl<'a> Ring<'a> for Split<'a, N> {
    const BYTES: usize = Split::<N>::BYTES;
    const FEATURES: Features = Features::empty();
    const CARD: &'static str = "";

    fn make(block: &DmaBlock<'a>) -> (Self, RingAddresses) {
        (
            Self::in_block(block.memory()).unwrap(),
            Self::addresses(block),
        )
    }
}

impl<'a> Ring<'a> for Packed<'a, N> {
    const BYTES: usize = Packed::<N>::BYTES;
    const FEATURES: Features = Features::RING_PACKED;
    const CARD: &'static str = ",packed=on";

    fn make(block: &DmaBlock<'a>) -> (Self, RingAddresses) {
        (
            Self::in_block(block.memory()).unwrap(),
            Self::addresses(block),
        )
    }
}

fn pci(machine: &Machine) -> PciTransport<Part> {
    let space = machine.config_space(4);
    space.place(0x20, BAR);
    let config = Config::new(space).unwrap();
    let layout = Layout::parse(&config).unwrap();
    let map = |range: parakernel_nic_virtio::transport::pci::BarRange| {
        assert_eq!(range.bar, 4);
        let start = u64::from(BAR) + u64::from(range.offset);
        Some(machine.part(start, range.len as usize))
    };
    PciTransport::new(&layout, map).unwrap()
}

/// The card's registers, on a board without PCI.
fn window(machine: &Machine) -> Part {
    let windows = (0..WINDOWS).map(|n| WINDOW + n * WINDOW_LEN as u64);
    let parts = windows.map(|base| machine.part(base, WINDOW_LEN));
    // A window without a device has device id 0.
    let mut found = parts.filter(|part| part.read32(8) == 1);
    found.next().expect("a network card in one of the windows")
}

/// Polls for two seconds at most, while the machine's time passes.
fn poll<V>(machine: &Machine, mut look: impl FnMut(Instant) -> Poll<V>) -> V {
    for millisecond in 0..2000 {
        let now = Instant::from_nanos(millisecond * 1_000_000);
        if let Poll::Ready(value) = look(now) {
            return value;
        }
        machine.clock().delay_ns(1_000_000);
    }
    panic!("the operation did not end");
}

/// Sends `frame` in segments of `part` bytes.
fn send(tx: &mut impl TxQueue<Error = RingError>, pool: &mut Pool<'_>, frame: &[u8], part: usize) {
    let mut words = [0; 64];
    let mut list = SegmentList::new(&mut words);
    let count = frame.len().div_ceil(part);
    for (number, bytes) in frame.chunks(part).enumerate() {
        let mut segment = pool.take().unwrap().with_len(bytes.len());
        pool.arena().bytes_mut(&mut segment).copy_from_slice(bytes);
        list.push(segment.with_more(number + 1 < count)).unwrap();
    }
    assert_eq!(tx.submit(&mut list), Ok(1));
}

/// Waits for a frame.
fn receive(
    machine: &Machine,
    rx: &mut impl RxQueue<Error = RingError>,
    pool: &mut Pool<'_>,
) -> Vec<u8> {
    let mut frame = Vec::new();
    poll(machine, |_| {
        let mut words = [0; 64];
        let mut list = SegmentList::new(&mut words);
        if rx.poll(pool, &mut list, 1).unwrap() == 0 {
            return Poll::Pending;
        }
        for segment in list.segments() {
            frame.extend_from_slice(pool.arena().bytes(segment));
        }
        list.clear_into(pool);
        Poll::Ready(())
    });
    frame
}

fn frame(round: usize, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|n| (n * 3 + round * 7) as u8).collect();
    frame[..6].copy_from_slice(&MAC);
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 0x88, 0xB5]);
    frame
}

/// Claims the pair, passes frames both ways, and gives it back, several times.
fn echoes<'a, F: Ring<'a>, T: Transport<Registers: Clone>>(
    machine: &Machine,
    outside: &'a Outside,
    device: &mut Device<'_, T>,
) {
    let can_reset = device.features().contains(Features::RING_RESET);
    let arena = outside.memory.arena(LAYOUT);
    let mut words = [0; LAYOUT.count as usize];
    let mut pool = Pool::new(arena, &mut words);
    for life in 0..if can_reset { 5 } else { 1 } {
        let blocks = [0, 1].map(|_| outside.memory.block(F::BYTES));
        let [(receive_ring, receive_at), (transmit_ring, transmit)] =
            blocks.each_ref().map(F::make);
        let registers = device.transport().notify_registers().clone();
        let rings = [receive_ring, transmit_ring];
        let (mut rx, mut tx) = device
            .queues::<F, _, N>(0, rings, registers, &pool)
            .unwrap();
        let rings = PairRings {
            receive: receive_at,
            transmit,
        };
        let now = Instant::default();
        device
            .begin_claim(0, rings, Vectors::default(), now)
            .unwrap();
        poll(machine, |now| device.poll_claim(0, now)).unwrap();
        assert_eq!(rx.arm(&mut pool), N);
        let longest = if device.features().contains(Features::MRG_RXBUF) {
            4000
        } else {
            1514
        };
        // Twice round the ring and more.
        for round in 0..150 {
            let there = frame(round, 60 + (round * 97 + life * 31) % (longest - 60));
            outside.send(&there);
            assert_eq!(
                receive(machine, &mut rx, &mut pool),
                there,
                "{life}, {round}"
            );
            let back = frame(round + 1, 60 + (round * 53) % 1400);
            send(&mut tx, &mut pool, &back, 700);
            assert_eq!(outside.receive(), back, "{life}, {round}");
            poll(machine, |_| {
                tx.reclaim(&mut pool).unwrap();
                if tx.in_flight() == 0 {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
        }
        assert!(!device.needs_reset());
        if can_reset {
            device.begin_release(0, now).unwrap();
            poll(machine, |now| device.poll_release(0, now)).unwrap();
            rx.dismantle(&mut pool);
            tx.dismantle(&mut pool);
            assert_eq!(pool.free(), usize::from(LAYOUT.count));
        }
    }
}

fn life<'a, F: Ring<'a>, T: Transport<Registers: Clone>>(
    machine: &Machine,
    outside: &'a Outside,
    transport: T,
    more: Features,
) {
    let mut pairs = [Pair::EMPTY];
    let setup = Setup {
        wanted: Features::PARTITION | F::FEATURES | more,
        control: outside.memory.block(4096),
        idle: outside.memory.block(4096),
        pairs: &mut pairs,
        config_vector: None,
        capacity: LAYOUT.capacity(),
    };
    let mut device = Device::bring_up(transport, &mut machine.clock(), setup).unwrap();
    assert!(
        device.features().contains(F::FEATURES | more),
        "{:?}",
        device.features()
    );
    assert_eq!(device.limits().mac, Some(MAC));
    let now = Instant::default();
    for command in [
        Command::Promiscuous(true),
        Command::AllMulticast(true),
        Command::MacTable {
            unicast: &[[2; 6]],
            multicast: &[[3; 6]],
        },
        Command::AddVlan(5),
        Command::MacAddress(MAC),
    ] {
        device.begin_command(&command, now).unwrap();
        assert_eq!(
            poll(machine, |now| device.poll_command(now)),
            Ok(()),
            "{command:?}"
        );
    }
    echoes::<F, T>(machine, outside, &mut device);
    device.begin_reset(now);
    poll(machine, |now| device.poll_reset(now)).unwrap();
    echoes::<F, T>(machine, outside, &mut device);
    drop(device.shut_down(&mut machine.clock()).unwrap());
    assert_eq!(outside.memory.complaints(), "");
}

/// One machine with one card, of which the features `more` are wanted too.
fn runs<F: for<'a> RingOf<'a>>(name: &str, board: Board, card: &str, more: Features) {
    let outside = Outside::new(name);
    let card = format!("{card}{}", <F as RingOf<'_>>::Ring::CARD);
    let machine = outside.start(board, &card);
    machine
        .clock()
        .delay_ns(Duration::from_millis(1).as_nanos() as u32);
    match board {
        Board::Q35 => life::<<F as RingOf<'_>>::Ring, _>(&machine, &outside, pci(&machine), more),
        Board::Microvm => {
            let transport = MmioTransport::new(window(&machine)).unwrap();
            life::<<F as RingOf<'_>>::Ring, _>(&machine, &outside, transport, more);
        }
    }
}

/// A layout, for rings of any life.
trait RingOf<'a> {
    type Ring: Ring<'a>;
}

struct SplitRings;
struct PackedRings;

impl<'a> RingOf<'a> for SplitRings {
    type Ring = Split<'a, N>;
}

impl<'a> RingOf<'a> for PackedRings {
    type Ring = Packed<'a, N>;
}

const OFFER: &str = ",mac=52:54:00:12:34:56";

#[test]
fn split_rings_over_pci() {
    runs::<SplitRings>("split", Board::Q35, OFFER, Features::empty());
}

#[test]
fn split_rings_with_merged_buffers_over_pci() {
    runs::<SplitRings>("split-merged", Board::Q35, OFFER, Features::MRG_RXBUF);
}

#[test]
fn split_rings_in_order_over_pci() {
    let card = format!("{OFFER},in_order=on");
    runs::<SplitRings>("split-order", Board::Q35, &card, Features::IN_ORDER);
}

#[test]
fn split_rings_without_event_index_over_pci() {
    let card = format!("{OFFER},event_idx=off");
    runs::<SplitRings>("split-flags", Board::Q35, &card, Features::empty());
}

#[test]
fn packed_rings_over_pci() {
    runs::<PackedRings>("packed", Board::Q35, OFFER, Features::empty());
}

#[test]
fn packed_rings_with_merged_buffers_in_order_over_pci() {
    let card = format!("{OFFER},in_order=on");
    let more = Features::MRG_RXBUF | Features::IN_ORDER;
    runs::<PackedRings>("packed-order", Board::Q35, &card, more);
}

#[test]
fn packed_rings_without_event_index_over_pci() {
    let card = format!("{OFFER},event_idx=off");
    runs::<PackedRings>("packed-flags", Board::Q35, &card, Features::empty());
}

#[test]
fn split_rings_over_mmio() {
    runs::<SplitRings>("mmio-split", Board::Microvm, OFFER, Features::empty());
}

#[test]
fn packed_rings_over_mmio() {
    runs::<PackedRings>("mmio-packed", Board::Microvm, OFFER, Features::MRG_RXBUF);
}
