//! The same data half with the kernel in between, and what a process that writes its own entries gets.
#![expect(
    unsafe_code,
    reason = "implements a trait whose memory is read by bus address"
)]
#![expect(
    clippy::too_many_lines,
    clippy::panic_in_result_fn,
    reason = "one rule after the other; what does not fit is a failed test"
)]

use std::{cell::Cell, collections::VecDeque, net::Ipv4Addr, rc::Rc, sync::atomic::AtomicU32};

use parakernel_core::{
    address::{BusAddress, Direction, Iova, NodeId},
    handle::{ProcessId, Slot},
    memory::{DmaBlock, Extent, ExtentSlot, PageSlot, Pool, Region, RegionStorage, RegionTable},
    queue::{Doorbell, RxQueue, TxQueue},
    ring::{Position, RingSize},
    steering::{Ipv4Prefix, Mac, NameGrant, PortRange},
    validate::{SpoofedField, Violation},
};
use parakernel_nic_ixgbe::{
    checked::{
        AnySource, CheckedReceiver, CheckedSender, Fault, FrameMemory, GrantedSource, Heads,
        Progress, SourceCheck,
    },
    descriptor::{Headers, Ip, L4},
    doorbell::Tail,
    error::RingError,
    offload::{Metadata, Request},
    rx::Receiver,
    tx::Sender,
    validate::Limits,
};
use proptest::prelude::*;

use crate::{
    card::{BASE, BUFFERS, Bus, Card, HEAD, N, RX_RING, TX_RING, TailCell},
    rig::{LAYOUT, Step, frame, poll, pool, step, submit},
};

const H: usize = 2 * N;
const RX_SHADOW: u64 = BASE + 0x3000;
const TX_SHADOW: u64 = BASE + 0x4000;
const TOLD: u64 = BASE + 0x5000;
const HEADS: u64 = BASE + 0x6000;
/// Where the process knows its buffers.
const IOVA: u64 = 0x70_0000;
/// How many bytes it registered: all its buffers, in whole pages.
const REGISTERED: u64 = (64 * 1088_u64).next_multiple_of(4096);
const LIMITS: Limits = Limits {
    max_frame: 1514,
    vlan: Some(7),
};

/// A word that process and kernel share, and how far the kernel came.
#[derive(Clone, Debug, Default)]
struct Shared {
    claim: Rc<Cell<u32>>,
    accepted: Rc<Cell<u32>>,
}

impl Doorbell for Shared {
    fn ring(&mut self, tail: Position) {
        self.claim.set(tail.as_u32());
    }

    fn accepted(&self, _rung: Position) -> Position {
        Position::new(self.accepted.get())
    }
}

fn regions() -> RegionTable<'static> {
    let storage = RegionStorage {
        regions: (0..4).map(|_| Slot::EMPTY).collect::<Vec<_>>().leak(),
        extents: vec![ExtentSlot::EMPTY; 4].leak(),
        pages: vec![PageSlot::EMPTY; 64].leak(),
    };
    let mut table = RegionTable::new(ProcessId::new(1, 1), Iova::new(IOVA), storage, &[]).unwrap();
    let region = Region {
        iova: Iova::new(IOVA),
        len: REGISTERED,
        direction: Direction::Bidirectional,
        node: NodeId::new(0),
    };
    let extent = Extent {
        bus: BusAddress::new(BUFFERS),
        len: REGISTERED,
    };
    table.insert(region, &[extent]).unwrap();
    table
}

type Bell = Tail<TailCell>;

struct Kernel<const HARDWARE: usize> {
    rx: CheckedReceiver<'static, Bell, N>,
    tx: CheckedSender<'static, Bell, N, HARDWARE>,
    regions: RegionTable<'static>,
}

struct Process {
    rx: Receiver<'static, Shared, N>,
    tx: Sender<'static, Shared, N>,
    rx_bell: Shared,
    tx_bell: Shared,
    pool: Pool<'static>,
}

fn kernel<const HARDWARE: usize>(card: &mut Card, limits: Limits) -> Kernel<HARDWARE> {
    let bus = card.bus;
    let entries = u32::try_from(HARDWARE).unwrap();
    card.tx_entries = entries;
    let bell =
        |cell: &TailCell, entries| Tail::new(cell.clone(), 0x18, RingSize::new(entries).unwrap());
    let (rx_ring, rx_shadow) = (bus.shared(RX_RING, 16 * N), bus.shared(RX_SHADOW, 16 * N));
    let rx = CheckedReceiver::new(rx_ring, rx_shadow, bell(&card.rdt, 16), 1024).unwrap();
    let progress = if HARDWARE == N {
        Progress::Device
    } else {
        let told = bus.shared(TOLD, 4).view::<AtomicU32>(0).unwrap();
        // SAFETY: the card finds this memory at this address.
        let block =
            unsafe { DmaBlock::new(bus.shared(HEADS, Heads::<N>::BYTES), BusAddress::new(HEADS)) };
        Progress::Kernel(told, Heads::new(block).unwrap())
    };
    let hardware = (bus.shared(TX_RING, 16 * HARDWARE), bus.shared(HEAD, 4));
    let shadow = bus.shared(TX_SHADOW, 16 * N);
    let tx = CheckedSender::new(hardware, shadow, progress, bell(&card.tdt, entries), limits);
    Kernel {
        rx,
        tx: tx.unwrap(),
        regions: regions(),
    }
}

fn process(bus: Bus, completion: u64, metadata: Metadata) -> Process {
    let pool = pool(bus, IOVA);
    let (rx_bell, tx_bell) = (Shared::default(), Shared::default());
    let (ring, seen) = (bus.shared(RX_SHADOW, 16 * N), bus.shared(RX_RING, 16 * N));
    let rx = Receiver::new(ring, seen, rx_bell.clone(), &LAYOUT, metadata).unwrap();
    let (ring, word) = (bus.shared(TX_SHADOW, 16 * N), bus.shared(completion, 4));
    let tx = Sender::new(ring, word, tx_bell.clone(), pool.arena().again(), metadata).unwrap();
    Process {
        rx,
        tx,
        rx_bell,
        tx_bell,
        pool,
    }
}

impl<const HARDWARE: usize> Kernel<HARDWARE> {
    /// One system call: the tails of both rings.
    fn call<S: SourceCheck>(
        &mut self,
        process: &Process,
        source: &S,
        budget: u32,
    ) -> Result<(), Fault> {
        let claim = |bell: &Shared| Position::new(bell.claim.get());
        let accepted = self
            .rx
            .service(claim(&process.rx_bell), &self.regions, budget)?;
        process.rx_bell.accepted.set(accepted.as_u32());
        let accepted = self
            .tx
            .service(claim(&process.tx_bell), &self.regions, source, budget)?;
        process.tx_bell.accepted.set(accepted.as_u32());
        Ok(())
    }
}

/// A frame that the process may send: its own MAC and IP address, UDP.
fn own(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = frame(number, len.max(42));
    bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    bytes[12..14].copy_from_slice(&[8, 0]);
    let total = u16::try_from(bytes.len() - 14).unwrap().to_be_bytes();
    bytes[14..24].copy_from_slice(&[0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17]);
    bytes[26..30].copy_from_slice(&[10, 0, 0, 1]);
    let udp = u16::try_from(bytes.len() - 34).unwrap().to_be_bytes();
    bytes[34..40].copy_from_slice(&[0, 80, 0, 81, udp[0], udp[1]]);
    bytes
}

const GRANT: NameGrant = NameGrant {
    mac: Mac([2, 0, 0, 0, 0, 1]),
    vlan: None,
    ipv4: Some(Ipv4Prefix::host(Ipv4Addr::new(10, 0, 0, 1))),
    ipv6: None,
    ports: PortRange::ALL,
};

#[derive(Clone, Copy, Debug)]
struct Memory;

thread_local! {
    static BUS: Cell<Option<Bus>> = const { Cell::new(None) };
}

impl FrameMemory for Memory {
    unsafe fn read(&self, from: BusAddress, into: &mut [u8]) -> bool {
        let bus = BUS.get().unwrap();
        into.copy_from_slice(&bus.read(from.as_u64(), into.len()));
        true
    }
}

const GRANTED: GrantedSource<'static, Memory> = GrantedSource {
    grants: &[GRANT],
    memory: Memory,
};

/// Runs steps with the kernel in between; everything passes as without it.
fn run<const HARDWARE: usize, S: SourceCheck>(
    steps: Vec<(Step, u32)>,
    source: &S,
) -> Result<(), TestCaseError> {
    let mut card = Card::new(Bus::new());
    BUS.set(Some(card.bus));
    let limits = Limits {
        max_frame: 2600,
        vlan: None,
    };
    let mut kernel = kernel::<HARDWARE>(&mut card, limits);
    let completion = if HARDWARE == N { HEAD } else { TOLD };
    let mut process = process(card.bus, completion, Metadata::None);
    let (mut arriving, mut leaving, mut left) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
    for (number, (step, budget)) in steps.into_iter().enumerate() {
        match step {
            Step::Send { len, part } => {
                let frame = own(number, len);
                if submit(&mut process.tx, &mut process.pool, &frame, part, [0; 16]).unwrap() {
                    leaving.push_back(frame);
                }
            }
            Step::DeviceSends(budget) => {
                left.extend(card.send(budget).into_iter().map(|sent| sent.bytes));
            }
            Step::Reclaim => {
                process.tx.reclaim(&mut process.pool).unwrap();
            }
            Step::Arrive(len) => {
                let frame = frame(number, len);
                if card.receive(&frame) {
                    arriving.push_back(frame);
                }
            }
            Step::Poll(budget) => {
                for frame in poll(&mut process.rx, &mut process.pool, budget) {
                    prop_assert_eq!(Some(frame), arriving.pop_front());
                }
            }
            Step::Arm => {
                process.rx.arm(&mut process.pool);
            }
        }
        if budget > 0 {
            kernel.call(&process, source, budget).unwrap();
        }
    }
    for _ in 0..N {
        kernel.call(&process, source, 100).unwrap();
        left.extend(card.send(usize::MAX).into_iter().map(|sent| sent.bytes));
    }
    kernel.call(&process, source, 100).unwrap();
    prop_assert_eq!(&left, &leaving);
    process.tx.reclaim(&mut process.pool).unwrap();
    prop_assert_eq!((process.tx.in_flight(), kernel.tx.outstanding()), (0, 0));
    loop {
        let frames = poll(&mut process.rx, &mut process.pool, 5);
        if frames.is_empty() {
            break;
        }
        for frame in frames {
            prop_assert_eq!(Some(frame), arriving.pop_front());
        }
        kernel.call(&process, source, 100).unwrap();
    }
    prop_assert!(arriving.is_empty());
    // SAFETY: the device is the test's, and does nothing more.
    unsafe { process.rx.dismantle(&mut process.pool) };
    // SAFETY: as above.
    unsafe { process.tx.dismantle(&mut process.pool) };
    prop_assert_eq!(process.pool.free(), usize::from(LAYOUT.count));
    Ok(())
}

proptest! {
    #[test]
    fn frames_pass_the_check_as_they_are(steps in prop::collection::vec((step(), 0..12_u32), 0..100)) {
        run::<N, _>(steps, &AnySource)?;
    }

    #[test]
    fn frames_with_own_names_pass_as_they_are(steps in prop::collection::vec((step(), 0..12_u32), 0..100)) {
        run::<H, _>(steps, &GRANTED)?;
    }
}

/// What the device would read of a transmit ring into which a process wrote `entries`.
fn transmit(entries: &[[u64; 2]]) -> Result<Vec<Vec<u8>>, Fault> {
    let mut card = Card::new(Bus::new());
    let mut kernel = kernel::<N>(&mut card, LIMITS);
    for (number, entry) in entries.iter().enumerate() {
        let at = TX_SHADOW + 16 * number as u64;
        card.bus.set_word(at, entry[0]);
        card.bus.set_word(at + 8, entry[1]);
    }
    let claim = Position::new(u32::try_from(entries.len()).unwrap());
    let result = kernel.tx.service(claim, &kernel.regions, &AnySource, 100);
    let sent = card
        .send(usize::MAX)
        .into_iter()
        .map(|sent| sent.bytes)
        .collect();
    result.map(|_| sent)
}

/// A data descriptor by its fields, as literals.
fn data(address: u64, len: u64, payload: u64, bits: u64) -> [u64; 2] {
    [
        address,
        len | 3 << 20 | 1 << 25 | 1 << 29 | payload << 46 | bits,
    ]
}

const EOP: u64 = 1 << 24;

#[test]
fn every_rule_of_a_plain_frame_is_enforced() {
    let ok = |entry| assert!(transmit(&[entry]).is_ok());
    let bad = |entry| {
        assert!(
            matches!(transmit(&[entry]), Err(Fault::Process(_))),
            "{entry:x?}"
        );
    };
    let end = IOVA + REGISTERED;
    for len in [17, 60, 1514] {
        ok(data(IOVA, len, len, EOP));
        ok(data(end - len, len, len, EOP));
        bad(data(end - len + 1, len, len, EOP));
        bad(data(IOVA - 1, len, len, EOP));
        bad(data(u64::MAX - 10, len, len, EOP));
    }
    for (len, payload) in [
        (0, 0),
        (16, 16),
        (1515, 1515),
        (0xFFFF, 0xFFFF),
        (60, 61),
        (60, 0),
    ] {
        bad(data(IOVA, len, payload, EOP));
    }
    // A report is the kernel's to ask for, whatever the process says; every other bit is refused.
    ok(data(IOVA, 60, 60, EOP | 1 << 27));
    for bit in (16..46).filter(|bit| ![24, 27].contains(bit)) {
        let [address, word] = data(IOVA, 60, 60, EOP);
        bad([address, word ^ 1 << bit]);
    }
    assert_eq!(
        transmit(&[data(IOVA, 60, 60, 0)]),
        Err(Fault::Process(Violation::Chain { head: 1 }))
    );
}

#[test]
fn every_rule_of_offloads_is_enforced() {
    let headers = |ip_len: u64, mac_len: u64| ip_len | mac_len << 9 | 7 << 16;
    let context =
        |tucmd: u64, l4_len: u64, mss: u64| tucmd | 2 << 20 | 1 << 29 | l4_len << 40 | mss << 48;
    const V4_TCP: u64 = 1 << 10 | 1 << 11;
    const TSE: u64 = 1 << 31 | 1 << 39 | 3 << 40;
    let tso = [headers(20, 14), context(V4_TCP, 20, 500)];
    let packet = |bits| data(IOVA, 1054, 1000, EOP | bits);
    assert!(transmit(&[tso, packet(TSE)]).is_ok());
    assert!(transmit(&[tso, packet(TSE | 1 << 30)]).is_ok());
    let bad = |entries: &[[u64; 2]]| assert!(transmit(entries).is_err(), "{entries:x?}");
    // No context, two, one at the end, one in the middle.
    bad(&[packet(TSE)]);
    bad(&[tso, tso, packet(TSE)]);
    bad(&[packet(0), tso]);
    bad(&[
        tso,
        data(IOVA, 500, 1000, TSE),
        tso,
        data(IOVA, 554, 1000, TSE | EOP),
    ]);
    // Segments that are none, crumbs, or longer than a frame; lengths that no header has.
    for (l4_len, mss) in [
        (20, 0),
        (20, 63),
        (20, 1461),
        (20, 0xFFFF),
        (19, 500),
        (61, 500),
        (0, 500),
    ] {
        bad(&[[headers(20, 14), context(V4_TCP, l4_len, mss)], packet(TSE)]);
    }
    for (ip_len, mac_len) in [(19, 14), (61, 14), (20, 13), (0, 0), (511, 127)] {
        bad(&[
            [headers(ip_len, mac_len), context(V4_TCP, 20, 500)],
            packet(TSE),
        ]);
    }
    // UDP, IPv6 with an IPv4 checksum, no checksum, a payload that is not what is left.
    bad(&[[headers(20, 14), context(1 << 10, 20, 500)], packet(TSE)]);
    bad(&[[headers(40, 14), context(1 << 11, 20, 500)], packet(TSE)]);
    bad(&[tso, packet(1 << 31 | 1 << 39)]);
    // An offload that does not look at the context, whatever that says.
    bad(&[tso, data(IOVA, 100, 100, EOP | 1 << 40)]);
    bad(&[tso, packet(TSE & !(1 << 39))]);
    bad(&[tso, data(IOVA, 1054, 1054, EOP | TSE)]);
    bad(&[tso, data(IOVA, 54, 0, EOP | TSE)]);
    // IPsec, FCoE, SCTP, another context's index, reserved bits.
    for (word, bit) in [
        (0, 32),
        (0, 41),
        (0, 63),
        (1, 0),
        (1, 8),
        (1, 12),
        (1, 13),
        (1, 15),
        (1, 36),
        (1, 39),
    ] {
        let mut odd = tso;
        odd[word] ^= 1 << bit;
        bad(&[odd, packet(TSE)]);
    }
    // Another VLAN than the one that is granted.
    let mut other = tso;
    other[0] ^= 1 << 16;
    assert!(transmit(&[other, packet(TSE)]).is_ok());
    bad(&[other, packet(TSE | 1 << 30)]);
    // A second part that asks for something else.
    bad(&[tso, data(IOVA, 500, 1000, TSE), data(IOVA, 554, 1000, EOP)]);
}

/// Segments' headers must fit the device's buffer of 240 bytes, and those of any packet add up to less than 512 (the tag that
/// is inserted counts), or the transmit path may hang for everybody.
#[test]
fn headers_that_the_device_cannot_hold_are_refused() {
    const L4: u64 = 1 << 39 | 1 << 41;
    const TSE: u64 = L4 | 1 << 31;
    const TAG: u64 = 1 << 30;
    const TCP: u64 = 1 << 11;
    // IPv6, so that the IP headers may be of any length.
    let is_accepted = |mac_len: u64, ip_len: u64, kind: u64, payload: u64, bits: u64| {
        let context = [
            ip_len | mac_len << 9 | 7 << 16,
            kind | 2 << 20 | 1 << 29 | 20 << 40 | 64 << 48,
        ];
        transmit(&[context, data(IOVA, 1400, payload, EOP | bits)]).is_ok()
    };
    // (bits of the command, TCP or not, bytes behind the IP header, the most in all)
    for (bits, kind, transport, most) in [
        (TSE, TCP, 20, 240),
        (TSE | TAG, TCP, 20, 236),
        (L4, TCP, 20, 511),
        (L4 | TAG, TCP, 20, 507),
        (L4, 0, 8, 511),
    ] {
        for mac_len in [14, 127] {
            let at_most = most - transport - mac_len;
            for (ip_len, expected) in [(at_most, true), (at_most + 1, false)] {
                let len = mac_len + ip_len + transport;
                let payload = if bits & TSE == TSE { 1400 - len } else { 1400 };
                let accepted = is_accepted(mac_len, ip_len, kind, payload, bits);
                assert_eq!(accepted, expected, "{len} bytes, {bits:#x}");
            }
        }
    }
    // What the fields could say at most.
    assert!(!is_accepted(127, 511, TCP, 1400 - 658, TSE));
}

#[test]
fn a_packet_of_too_many_parts_is_refused() {
    let parts = |count: u64| {
        let last = move |n| if n + 1 == count { EOP } else { 0 };
        (0..count)
            .map(|n| data(IOVA, 20, 20 * count, last(n)))
            .collect::<Vec<_>>()
    };
    assert!(transmit(&parts(15)).is_ok());
    assert!(transmit(&parts(16)).is_err());
}

#[test]
fn a_tail_jumps_neither_far_nor_back() {
    let mut card = Card::new(Bus::new());
    let mut kernel = kernel::<N>(&mut card, LIMITS);
    for claim in [16, 17, 1000, u32::MAX] {
        let violation = Violation::TailJump {
            claimed: claim,
            accepted: 0,
        };
        let claim = Position::new(claim);
        let fault = Err(Fault::Process(violation));
        assert_eq!(
            kernel.tx.service(claim, &kernel.regions, &AnySource, 8),
            fault
        );
        assert_eq!(kernel.rx.service(claim, &kernel.regions, 8), fault);
    }
}

#[test]
fn a_slot_that_the_device_has_is_not_written() {
    let mut card = Card::new(Bus::new());
    let mut kernel = kernel::<N>(&mut card, LIMITS);
    for slot in 0..N as u64 {
        card.bus.set_word(RX_SHADOW + 16 * slot, IOVA + 1088 * slot);
        let [address, word] = data(IOVA, 60, 60, EOP);
        card.bus.set_word(TX_SHADOW + 16 * slot, address);
        card.bus.set_word(TX_SHADOW + 16 * slot + 8, word);
    }
    let at = Position::new;
    assert_eq!(kernel.rx.service(at(15), &kernel.regions, 100), Ok(at(15)));
    let busy = Err(Fault::Process(Violation::Busy { id: 0 }));
    assert_eq!(kernel.rx.service(at(16), &kernel.regions, 100), busy);
    assert!(card.receive(&[1; 100]));
    assert_eq!(kernel.rx.service(at(16), &kernel.regions, 100), Ok(at(16)));
    assert_eq!(kernel.rx.harvest(), 0);
    assert_eq!(
        kernel.tx.service(at(15), &kernel.regions, &AnySource, 100),
        Ok(at(15))
    );
    assert_eq!(
        kernel.tx.service(at(16), &kernel.regions, &AnySource, 100),
        busy
    );
    assert_eq!(card.send(1).len(), 1);
    assert_eq!(
        kernel.tx.service(at(16), &kernel.regions, &AnySource, 100),
        busy
    );
    assert_eq!(card.send(100).len(), 14);
    assert_eq!(
        kernel.tx.service(at(16), &kernel.regions, &AnySource, 100),
        Ok(at(16))
    );
}

#[test]
fn a_buffer_lies_where_the_device_may_write() {
    let end = IOVA + REGISTERED;
    let cases = [
        (IOVA, true),
        (end - 1024, true),
        (end - 1022, false),
        (end, false),
        (IOVA - 2, false),
        (IOVA + 1, false),
        (u64::MAX - 1, false),
        (0, false),
    ];
    for (address, is_right) in cases {
        let mut card = Card::new(Bus::new());
        let mut kernel = kernel::<N>(&mut card, LIMITS);
        card.bus.set_word(RX_SHADOW, address);
        // What looks like "done" in the process's entry never reaches the device's ring.
        card.bus.set_word(RX_SHADOW + 8, u64::MAX);
        let result = kernel.rx.service(Position::new(1), &kernel.regions, 8);
        assert_eq!(result.is_ok(), is_right, "{address:#x}");
        if is_right {
            assert_eq!(card.bus.word(RX_RING), address - IOVA + BUFFERS);
            assert_eq!(card.bus.word(RX_RING + 8), 0);
        } else {
            assert_eq!(card.armed(), 0);
        }
    }
}

#[test]
fn a_device_that_jumps_is_found_out() {
    for head in [4_u32, 16, 0xFFFF_FFFF] {
        let mut card = Card::new(Bus::new());
        let mut kernel = kernel::<N>(&mut card, LIMITS);
        let [address, word] = data(IOVA, 60, 60, EOP);
        for slot in 0..3 {
            card.bus.set_word(TX_SHADOW + 16 * slot, address);
            card.bus.set_word(TX_SHADOW + 16 * slot + 8, word);
        }
        kernel
            .tx
            .service(Position::new(3), &kernel.regions, &AnySource, 8)
            .unwrap();
        card.bus.write(HEAD, &head.to_le_bytes());
        let error = RingError::Head {
            head,
            outstanding: 3,
        };
        assert_eq!(kernel.tx.harvest(), Err(Fault::Device(error)));
    }
}

/// Sends `bytes` in parts of `part` bytes under the policy `no-spoof`.
fn send_as(bytes: &[u8], part: usize) -> Result<Vec<u8>, Fault> {
    let mut card = Card::new(Bus::new());
    BUS.set(Some(card.bus));
    let limits = Limits {
        vlan: None,
        ..LIMITS
    };
    let mut kernel = kernel::<H>(&mut card, limits);
    let mut process = process(card.bus, TOLD, Metadata::None);
    assert!(submit(&mut process.tx, &mut process.pool, bytes, part, [0; 16]).unwrap());
    kernel.call(&process, &GRANTED, 8)?;
    // The frame changes after the look; what was looked at does not.
    for page in 0..4 {
        card.bus.write(BUFFERS + 1088 * page + 64, &[0xEE; 98]);
    }
    let sent = card.send(100);
    kernel.call(&process, &GRANTED, 8)?;
    process.tx.reclaim(&mut process.pool).unwrap();
    assert_eq!(process.tx.in_flight(), 0);
    Ok(sent[0].bytes.clone())
}

#[test]
fn a_foreign_name_does_not_leave() {
    let spoofed = |at: usize, field| {
        let mut bytes = own(1, 100);
        bytes[at] ^= 4;
        let fault = Fault::Process(Violation::Spoofed { field });
        assert_eq!(send_as(&bytes, 1000), Err(fault));
        assert_eq!(send_as(&bytes, 30), Err(fault));
    };
    spoofed(11, SpoofedField::Mac);
    spoofed(29, SpoofedField::Ipv4);
    let mut pause = own(1, 100);
    pause[12..14].copy_from_slice(&[0x88, 0x08]);
    let fault = Fault::Process(Violation::Spoofed {
        field: SpoofedField::EtherType,
    });
    assert_eq!(send_as(&pause, 1000), Err(fault));
}

#[test]
fn what_was_looked_at_is_what_leaves() {
    for len in [42, 97, 98, 99, 400] {
        for part in [42, 50, 1000] {
            let bytes = own(1, len);
            let sent = send_as(&bytes, part).unwrap();
            assert_eq!(sent[..len.min(98)], bytes[..len.min(98)], "{len} {part}");
        }
    }
}

#[test]
fn offloads_pass_the_check() {
    let mut card = Card::new(Bus::new());
    let mut kernel = kernel::<N>(&mut card, LIMITS);
    let mut process = process(card.bus, HEAD, Metadata::Header);
    let headers = Headers {
        mac_len: 14,
        ip: Ip::V4,
        ip_len: 20,
        l4: L4::Tcp,
        l4_len: 20,
    };
    let request = Request::segments(headers, 500).with_vlan(7);
    for number in 0..3 {
        assert!(
            submit(
                &mut process.tx,
                &mut process.pool,
                &frame(number, 3000),
                900,
                request.to_bytes()
            )
            .unwrap()
        );
        kernel.call(&process, &AnySource, 100).unwrap();
        let sent = card.send(100);
        assert_eq!(sent[0].bytes, frame(number, 3000));
        assert!(sent[0].offloads.is_some());
        assert_eq!(process.tx.reclaim(&mut process.pool), Ok(4));
    }
}
