//! Who has a pair: its rings, its buffers, and what the port writes into both.
#![expect(unsafe_code, reason = "takes back what the port has let go")]

use parakernel_core::{
    memory::{ArenaLayout, DmaBlock, Pool, SegmentList},
    queue::{RxQueue as _, TxQueue as _},
    ring::RingSize,
};
use parakernel_nic_ixgbe::{
    descriptor::{Headers, Ip, L4},
    device::{Device, PairRings, ReceiveRing, TransmitRing},
    doorbell::Tail,
    offload::{Metadata, Received, Request},
    rx::Receiver,
    tx::Sender,
};

use super::port::Port;
use crate::{Report, input::Input, memory::Pages, targets::any_answer};

/// Entries of each ring.
const N: usize = 16;
/// The buffers of frames.
pub(super) const BUFFERS: ArenaLayout = ArenaLayout {
    stride: 1088,
    headroom: 64,
    header: 16,
    count: 40,
};

type Bell<'a> = Tail<&'a Port<'a>>;

/// All memory that an owner lends to the port.
pub(super) struct Memory {
    receive: Pages,
    transmit: Pages,
    head: Pages,
    buffers: Pages,
}

impl Memory {
    pub(super) fn new(number: u64) -> Self {
        let page = |part: u64, bytes| {
            let bus = 0x4000_0000 + number * 0x100_0000 + part * 0x10_0000;
            Pages::new(bytes, bus)
        };
        Self {
            receive: page(0, 16 * N),
            transmit: page(1, 16 * N),
            head: page(2, 4096),
            buffers: page(3, BUFFERS.bytes()),
        }
    }

    /// The buffers, all free.
    pub(super) fn pool<'a>(&'a self, words: &'a mut [u32]) -> Pool<'a> {
        Pool::new(self.buffers.arena(BUFFERS), words)
    }

    /// The part of a page that a ring takes.
    fn ring(pages: &Pages) -> DmaBlock<'_> {
        let parts = pages.block().split_at(16 * N);
        parts.expect("longer than a ring").0
    }

    /// Rings that hold zeroes.
    pub(super) fn rings(&self) -> PairRings {
        for pages in [&self.receive, &self.transmit, &self.head] {
            pages.clear();
        }
        let transmit = TransmitRing::new(&Self::ring(&self.transmit), &self.head.block());
        PairRings {
            receive: ReceiveRing::new(&Self::ring(&self.receive), 1024).expect("a ring"),
            transmit: transmit.expect("a ring"),
        }
    }

    /// The port writes some descriptors and a head, mostly such as it may.
    fn lie(&self, input: &mut Input<'_>, next: &mut u8) {
        for _ in 0..input.below(4) {
            // Mostly in order.
            let slot = if input.one_in(8) {
                usize::from(input.byte()) % N
            } else {
                *next = next.wrapping_add(1);
                usize::from(next.wrapping_sub(1)) % N
            };
            let len = 17 + input.below(1000);
            let ends = u64::from(!input.one_in(4)) << 1;
            let status = if input.one_in(32) {
                input.word()
            } else {
                1 | ends | len << 32
            };
            self.receive.store(2 * slot, input.byte().into());
            self.receive.store(2 * slot + 1, status);
        }
        if input.one_in(4) {
            self.head.store(0, input.below(20));
        }
    }
}

/// An owner's ends of its rings.
struct Halves<'a> {
    rx: Receiver<'a, Bell<'a>, N>,
    tx: Sender<'a, Bell<'a>, N>,
    /// Where the port writes back next.
    next: u8,
    is_broken: bool,
}

/// A pair and whoever has it.
pub(super) struct Seat<'a> {
    memory: &'a Memory,
    pool: Pool<'a>,
    halves: Option<Halves<'a>>,
}

impl<'a> Seat<'a> {
    pub(super) const fn new(memory: &'a Memory, pool: Pool<'a>) -> Self {
        Self {
            memory,
            pool,
            halves: None,
        }
    }

    /// Whether the port has been given memory that it has not let go of.
    pub(super) const fn is_taken(&self) -> bool {
        self.halves.is_some()
    }

    pub(super) fn rings(&self) -> PairRings {
        self.memory.rings()
    }

    /// The pair is being made: its owner has rings, and arms nothing yet.
    pub(super) fn prepare(&mut self, port: &'a Port<'a>, pair: u8, metadata: Metadata) {
        let size = RingSize::new(16).expect("a size");
        let bell = |offset: Option<usize>| Tail::new(port, offset.expect("a queue"), size);
        let rx_bell = bell(Device::<&Port<'_>>::receive_tail(pair));
        let tx_bell = bell(Device::<&Port<'_>>::transmit_tail(pair));
        let memory = self.memory;
        let ring = memory.receive.shared();
        let rx = Receiver::new(ring, ring, rx_bell, &BUFFERS, metadata);
        let (ring, head) = (memory.transmit.shared(), memory.head.shared());
        let tx = Sender::new(ring, head, tx_bell, self.pool.arena().again(), metadata);
        self.halves = Some(Halves {
            rx: rx.expect("rings"),
            tx: tx.expect("rings"),
            next: 0,
            is_broken: false,
        });
    }

    pub(super) fn arm(&mut self) {
        if let Some(halves) = &mut self.halves {
            halves.rx.arm(&mut self.pool);
        }
    }

    /// Frames there and back, over rings that anything is written into.
    pub(super) fn work(&mut self, input: &mut Input<'_>, report: &mut Report) {
        let Self {
            memory,
            pool,
            halves,
        } = self;
        let Some(halves) = halves.as_mut().filter(|halves| !halves.is_broken) else {
            return;
        };
        memory.lie(input, &mut halves.next);
        let mut words = [0; 24];
        let mut frames = SegmentList::new(&mut words);
        let budget = input.choose(&[8, 1, 0, 64]);
        let received = halves.rx.poll(pool, &mut frames, budget);
        report.note("receive", received.is_ok());
        for segment in frames.iter() {
            assert!(
                (1..=1024).contains(&segment.len()),
                "a length beyond its buffer"
            );
            let header = pool.arena().header(segment).first_chunk();
            any_answer(header.map(Received::from_bytes));
        }
        let mut again = [0; 24];
        let mut list = SegmentList::new(&mut again);
        let mut request = request(input);
        while let Some(mut segment) = frames.pop() {
            if let Some(request) = request.take() {
                let header = pool.arena().header_mut(&mut segment);
                header.copy_from_slice(&request.to_bytes());
            }
            list.push(segment).expect("room for as many");
        }
        if !list.is_empty() {
            report.note("send", halves.tx.submit(&mut list).is_ok());
        }
        list.clear_into(pool);
        let reclaimed = halves.tx.reclaim(pool);
        report.note("reclaim", reclaimed.is_ok());
        halves.rx.arm(pool);
        halves.is_broken = received.is_err() || reclaimed.is_err();
    }

    /// The port has let go: all buffers are back.
    pub(super) fn bury(&mut self) {
        if let Some(Halves { rx, tx, .. }) = self.halves.take() {
            // SAFETY: the port is this program's, and writes to buffers only where a call of this type makes it.
            unsafe { rx.dismantle(&mut self.pool) };
            // SAFETY: as above.
            unsafe { tx.dismantle(&mut self.pool) };
        }
        let all = usize::from(BUFFERS.count);
        assert_eq!(self.pool.free(), all, "a buffer was lost or doubled");
    }
}

/// What is asked for a frame, as often as not.
fn request(input: &mut Input<'_>) -> Option<Request> {
    let headers = Headers {
        mac_len: input.choose(&[14, 18]),
        ip: input.choose(&[Ip::V4, Ip::V6]),
        ip_len: input.choose(&[20, 40, 24]),
        l4: input.choose(&[L4::Udp, L4::Tcp]),
        l4_len: input.choose(&[8, 20, 32]),
    };
    match input.byte() & 3 {
        0 | 1 => None,
        2 => Some(Request::checksums(headers)),
        _ => Some(Request::segments(headers, u16::from(input.byte()) + 1).with_vlan(7)),
    }
}
