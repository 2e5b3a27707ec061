//! The 82599 driver against a port that lies: registers that say anything, write-backs of anything.
//!
//! The driver may fail, with an error. It may not panic, wait longer than its own limits allow, go on without end, or lose
//! or double a buffer.

use core::{
    cell::{Cell, RefCell},
    task::Poll,
    time::Duration,
};
use std::collections::BTreeMap;

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    memory::{ArenaLayout, Pool, SegmentList},
    mmio::{Registers, Width},
    queue::{RxQueue as _, TxQueue as _},
    ring::RingSize,
    steering::Mac,
    time::Instant,
};
use parakernel_nic_ixgbe::{
    device::{Device, Pair, PairRings, ReceiveRing, Setup, Sharing, TransmitRing, Vector},
    doorbell::Tail,
    id::Kind,
    offload::Metadata,
    pool::PoolNames,
    rx::Receiver,
    stats::QueueStatistics,
    tx::Sender,
};

use super::any_answer;
use crate::{Report, Target, input::Input, memory::Pages};

pub(super) const TARGET: Target = Target {
    name: "ixgbe_driver",
    run,
    is_validator: false,
    max_len: 512,
};

/// Entries of each ring.
const N: usize = 16;
/// The buffers of frames.
const BUFFERS: ArenaLayout = ArenaLayout {
    stride: 1088,
    headroom: 64,
    header: 16,
    count: 40,
};
/// The longest that bring-up may take: every step as long as it may.
const LONGEST: u64 = 5_000_000_000;

/// A clock that runs only while somebody waits.
#[derive(Debug, Default)]
struct Clock(u64);

impl DelayNs for Clock {
    fn delay_ns(&mut self, ns: u32) {
        self.0 += u64::from(ns);
        assert!(self.0 < LONGEST, "a wait without a bound");
    }
}

/// A port that mostly says what bring-up wants to hear.
struct Port<'a> {
    input: &'a RefCell<Input<'a>>,
    written: RefCell<BTreeMap<usize, u32>>,
    /// How many reads are answered rightly before the next lie.
    honest: Cell<u64>,
}

impl Port<'_> {
    fn is_time_to_lie(&self) -> bool {
        let left = self.honest.get();
        self.honest.set(left.saturating_sub(1));
        if left == 0 {
            let mut input = self.input.borrow_mut();
            // An input that is used up tells no more lies.
            let next = if input.is_empty() {
                u64::MAX
            } else {
                input.below(2000)
            };
            self.honest.set(next);
            return next != u64::MAX;
        }
        false
    }
}

impl Registers for Port<'_> {
    fn read(&self, offset: usize, width: Width) -> u64 {
        assert_eq!(width, Width::U32);
        if self.is_time_to_lie() {
            let mut input = self.input.borrow_mut();
            let word = input.word();
            return [word & 0xFFFF_FFFF, 0xFFFF_FFFF, 0][usize::from(input.byte()) % 3];
        }
        let written = self.written.borrow().get(&offset).copied().unwrap_or(0);
        u64::from(match offset {
            // Nothing is under way, no reset goes on, no semaphore is taken.
            0x0 => written & !(1 << 26 | 1 << 3),
            0x8 | 0x1_0148 => 0,
            0x1_0140 => written & 2,
            0x1_0010 => 0x300,
            0x2F00 => written | 8,
            0x8D04 => 1,
            0xA200 => 0x5634_1202,
            0xA204 => 0x8000_9A78,
            _ => written,
        })
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        assert!(width == Width::U32 && offset < 0x2_0000);
        let value = u32::try_from(value).expect("32 bits");
        self.written.borrow_mut().insert(offset, value);
    }

    fn len(&self) -> usize {
        0x2_0000
    }
}

/// All memory that the driver lends to the port.
struct Memory {
    receive: Pages,
    transmit: Pages,
    head: Pages,
    buffers: Pages,
}

fn run(bytes: &[u8]) -> Report {
    let page = |number: u64, bytes| Pages::new(bytes, 0x4000_0000 + number * 0x10_0000);
    let memory = Memory {
        receive: page(0, 16 * N),
        transmit: page(1, 16 * N),
        head: page(2, 4096),
        buffers: page(3, BUFFERS.bytes()),
    };
    let input = RefCell::new(Input::new(bytes));
    let port = Port {
        input: &input,
        written: RefCell::default(),
        honest: Cell::new(input.borrow_mut().below(4000)),
    };
    let sharing = if input.borrow_mut().byte() & 1 == 0 {
        Sharing::Queues
    } else {
        Sharing::Pools
    };
    let mut pairs = [Pair::EMPTY; 4];
    let setup = Setup {
        sharing,
        ..Setup::new(Kind::Sfp, &mut pairs)
    };
    let mut report = Report::default();
    let device = Device::bring_up(&port, &mut Clock::default(), setup);
    report.note("brought up", device.is_ok());
    if let Ok(device) = device {
        use_rings(&port, &memory, &input, &mut report);
        use_device(device, &memory, &input, &mut report);
    }
    report
}

/// Operations in any order, each polled to its end.
fn use_device(
    mut device: Device<'_, &Port<'_>>,
    memory: &Memory,
    input: &RefCell<Input<'_>>,
    report: &mut Report,
) {
    let [receive, transmit] = [&memory.receive, &memory.transmit].map(ring_block);
    let rings = PairRings {
        receive: ReceiveRing::new(&receive, 1024).expect("a ring"),
        transmit: TransmitRing::new(&transmit, &memory.head.block()).expect("a ring"),
    };
    let mut now = Instant::default();
    for _ in 0..64 {
        if input.borrow().is_empty() {
            return;
        }
        let choice = input.borrow_mut().byte();
        let pair = choice >> 5;
        match choice & 15 {
            0..=3 => {
                let begun = device
                    .begin_claim(pair, rings, Vector::new(pair), now)
                    .is_ok();
                let is_claimed =
                    begun && until(&mut now, |now| device.poll_claim(pair, now)).is_ok();
                report.note("claim", is_claimed);
            }
            4..=6 if device.begin_release(pair, now).is_ok() => {
                let result = until(&mut now, |now| device.poll_release(pair, now));
                report.note("release", result.is_ok());
            }
            7 => any_answer(device.poll_drain(pair)),
            8 => {
                device.begin_reset(now);
                report.note(
                    "reset",
                    until(&mut now, |now| device.poll_reset(now)).is_ok(),
                );
            }
            9 => any_answer((device.link(), device.has_module(), device.take_cause())),
            10 => device.add_statistics(pair, &mut QueueStatistics::default()),
            11 => any_answer(device.open_pool(pair, names(input))),
            12 => any_answer(device.close_pool(pair)),
            13 => any_answer(device.set_rate(pair, Some(choice.into()), 10_000)),
            _ => any_answer(device.take_missed()),
        }
    }
}

fn names(input: &RefCell<Input<'_>>) -> PoolNames {
    let number = input.borrow_mut().below(4096);
    PoolNames {
        mac: Mac([2, 0, 0, 0, 0, 9]),
        vlan: parakernel_core::steering::Vlan::new(u16::try_from(number).unwrap_or(0)),
    }
}

/// Polls until it is ready, which it must be some time.
fn until<T>(now: &mut Instant, mut poll: impl FnMut(Instant) -> Poll<T>) -> T {
    for _ in 0..100_000 {
        if let Poll::Ready(result) = poll(*now) {
            return result;
        }
        *now = now.saturating_add(Duration::from_micros(100));
    }
    panic!("an operation without an end");
}

/// The part of a page that a ring takes.
fn ring_block(pages: &Pages) -> parakernel_core::memory::DmaBlock<'_> {
    pages
        .block()
        .split_at(16 * N)
        .expect("longer than a ring")
        .0
}

/// Frames there and back, over rings that anything is written into.
fn use_rings(port: &Port<'_>, memory: &Memory, input: &RefCell<Input<'_>>, report: &mut Report) {
    let metadata = [Metadata::None, Metadata::Header][usize::from(input.borrow_mut().byte() & 1)];
    let bell = |offset| Tail::new(port, offset, RingSize::new(16).expect("a size"));
    let (ring, arena) = (memory.receive.shared(), memory.buffers.arena(BUFFERS));
    let mut words = [0; BUFFERS.count as usize];
    let mut pool = Pool::new(arena, &mut words);
    let rx = Receiver::<_, N>::new(ring, ring, bell(0x1018), &BUFFERS, metadata);
    let arena = pool.arena().again();
    let (ring, head) = (memory.transmit.shared(), memory.head.shared());
    let tx = Sender::<_, N>::new(ring, head, bell(0x6018), arena, metadata);
    let (mut rx, mut tx) = (rx.expect("rings"), tx.expect("rings"));
    rx.arm(&mut pool);
    let mut list = [0; 24];
    let mut frames = SegmentList::new(&mut list);
    for _ in 0..24 {
        lie(memory, &mut input.borrow_mut());
        let received = rx.poll(&mut pool, &mut frames, 8);
        report.note("receive", received.is_ok());
        assert!(
            frames
                .iter()
                .all(|segment| (1..=1024).contains(&segment.len()))
        );
        any_answer(tx.submit(&mut frames));
        frames.clear_into(&mut pool);
        let reclaimed = tx.reclaim(&mut pool);
        report.note("reclaim", reclaimed.is_ok());
        if received.is_err() || reclaimed.is_err() {
            break;
        }
    }
    rx.dismantle(&mut pool);
    tx.dismantle(&mut pool);
    assert_eq!(
        pool.free(),
        usize::from(BUFFERS.count),
        "a buffer was lost or doubled"
    );
}

/// The port writes some descriptors and a head, mostly such as it may.
fn lie(memory: &Memory, input: &mut Input<'_>) {
    for _ in 0..input.below(4) {
        let slot = usize::from(input.byte()) % N;
        let len = 17 + input.below(1000);
        let ends = u64::from(!input.one_in(4)) << 1;
        let status = if input.one_in(32) {
            input.word()
        } else {
            1 | ends | len << 32
        };
        memory.receive.store(2 * slot, input.byte().into());
        memory.receive.store(2 * slot + 1, status);
    }
    if input.one_in(8) {
        memory.head.store(0, input.below(20));
    }
}
