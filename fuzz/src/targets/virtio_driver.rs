//! The virtio-net driver against a card that lies: capabilities, registers, configuration, answers, used buffers.
//!
//! The driver may fail, with an error. It may not panic, wait longer than its own limits allow, go on without end, or
//! lose or double a buffer.

mod card;

use core::{cell::RefCell, task::Poll};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    memory::{ArenaLayout, Pool, SegmentList},
    pci::Config,
    queue::{RxQueue as _, TxQueue as _},
    time::Instant,
};
use parakernel_nic_virtio::{
    control::Command,
    device::{Device, Pair, PairRings, Queues, Setup, Vectors},
    features::Features,
    steering::Classes,
    transport::{
        Transport,
        mmio::MmioTransport,
        pci::{Layout as Structures, PciTransport},
    },
    virtqueue::{ReceiveFormat, TransmitFormat, packed::Packed, split::Split},
};

use super::any_answer;
use super::virtqueue::{Layout, Wire};
use crate::{Report, Target, input::Input, memory::Pages};
use card::{Card, Part, View};

pub(super) const TARGET: Target = Target {
    name: "virtio_driver",
    run,
    is_validator: false,
    max_len: 384,
};

/// Entries of each ring.
const N: usize = 8;
/// The buffers of frames.
const BUFFERS: ArenaLayout = ArenaLayout {
    stride: 256,
    headroom: 64,
    header: 12,
    count: 16,
};
/// The longest that bring-up may take: a reset, and then another where it failed.
const LONGEST: u64 = 10_000_000_000;

/// A clock that runs only while somebody waits.
#[derive(Debug, Default)]
struct Clock(u64);

impl DelayNs for Clock {
    fn delay_ns(&mut self, ns: u32) {
        self.0 += u64::from(ns);
        assert!(self.0 < LONGEST, "a wait without a bound");
    }
}

/// All memory that the driver lends to the card.
struct Memory {
    control: Pages,
    idle: Pages,
    receive: Pages,
    transmit: Pages,
    buffers: Pages,
}

fn run(bytes: &[u8]) -> Report {
    let page = |number: u64, bytes| Pages::new(bytes, 0x4000_0000 + number * 0x10_0000);
    let memory = Memory {
        control: page(0, 4096),
        idle: page(1, 4096),
        receive: page(2, Wire::bytes::<N>()),
        transmit: page(3, Wire::bytes::<N>()),
        buffers: page(4, BUFFERS.bytes()),
    };
    let input = RefCell::new(Input::new(bytes));
    let card = Card::new(&memory.control, &input);
    let mut report = Report::default();
    let is_pci = input.borrow_mut().byte() & 1 == 0;
    if is_pci {
        let transport = on_pci(&card);
        report.note("found on PCI", transport.is_some());
        if let Some(transport) = transport {
            use_device(transport, (&card, &memory, &input), &mut report);
        }
    } else {
        let transport = MmioTransport::new(View::new(&card, Part::Mmio));
        report.note("found by MMIO", transport.is_ok());
        if let Ok(transport) = transport {
            use_device(
                transport.with_queue_reset(),
                (&card, &memory, &input),
                &mut report,
            );
        }
    }
    report
}

/// The card's structures, found through its capabilities.
fn on_pci<'c, 'm>(card: &'c Card<'m>) -> Option<PciTransport<View<'c, 'm>>> {
    let config = Config::new(View::new(card, Part::Space)).ok()?;
    let structures = Structures::parse(&config).ok()?;
    PciTransport::new(&structures, |range| card.map(range)).ok()
}

type Place<'c, 'm> = (&'c Card<'m>, &'m Memory, &'m RefCell<Input<'m>>);

fn use_device<'c, 'm: 'c, T>(
    transport: T,
    (card, memory, input): Place<'c, 'm>,
    report: &mut Report,
) where
    T: Transport<Registers = View<'c, 'm>>,
{
    let mut pairs = [Pair::EMPTY; 2];
    let extra = u64::from(input.borrow_mut().byte());
    let mut wanted = Features::PARTITION;
    for (bit, feature) in [
        Features::RING_PACKED,
        Features::IN_ORDER,
        Features::NOTIFICATION_DATA,
        Features::MRG_RXBUF,
        Features::CSUM,
        Features::GUEST_CSUM,
    ]
    .into_iter()
    .enumerate()
    {
        wanted.set(feature, extra >> bit & 1 == 1);
    }
    let setup = Setup {
        wanted,
        control: memory.control.block(),
        idle: memory.idle.block(),
        pairs: &mut pairs,
        config_vector: None,
        capacity: 2048,
    };
    let mut clock = Clock::default();
    let device = Device::bring_up(transport, &mut clock, setup);
    report.note("brought up", device.is_ok());
    let Ok(device) = device else { return };
    let mut user = User {
        device,
        card,
        memory,
        input,
        now: clock.0,
    };
    user.work(report);
    // Whatever comes of it, something does.
    any_answer(user.device.shut_down(&mut clock));
}

/// Whoever uses the card.
struct User<'d, 'c, 'm, T> {
    device: Device<'d, T>,
    card: &'c Card<'m>,
    memory: &'m Memory,
    input: &'m RefCell<Input<'m>>,
    now: u64,
}

impl<'c, 'm, T: Transport<Registers = View<'c, 'm>>> User<'_, 'c, 'm, T> {
    fn byte(&self) -> u8 {
        self.input.borrow_mut().byte()
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    /// Polls until something is ready: each operation has a deadline of its own, so it comes.
    fn wait<V>(&mut self, mut poll: impl FnMut(&mut Self, Instant) -> Poll<V>) -> V {
        for _ in 0..200 {
            self.card.turn();
            let now = self.now();
            if let Poll::Ready(value) = poll(self, now) {
                return value;
            }
            self.now += 50_000_000;
        }
        panic!("an operation that does not end");
    }

    fn work(&mut self, report: &mut Report) {
        for _ in 0..1 + self.byte() % 3 {
            self.command();
            if self.claim() {
                self.transfer(report);
                self.command();
                let now = self.now();
                if self.device.begin_release(0, now).is_ok() {
                    any_answer(self.wait(|user, now| user.device.poll_release(0, now)));
                }
            }
            if self.byte() & 1 == 0 {
                let now = self.now();
                self.device.begin_reset(now);
                let reset = self.wait(|user, now| user.device.poll_reset(now));
                report.note("reset", reset.is_ok());
            }
        }
    }

    /// Gives pair 0 its rings; whether that works.
    fn claim(&mut self) -> bool {
        let [receive, transmit] = [&self.memory.receive, &self.memory.transmit];
        receive.clear();
        transmit.clear();
        let [receive, transmit] = [receive.block(), transmit.block()];
        let rings = if self.device.features().contains(Features::RING_PACKED) {
            [
                Packed::<N>::addresses(&receive),
                Packed::<N>::addresses(&transmit),
            ]
        } else {
            [
                Split::<N>::addresses(&receive),
                Split::<N>::addresses(&transmit),
            ]
        };
        let [receive, transmit] = rings;
        let rings = PairRings { receive, transmit };
        let now = self.now();
        self.device
            .begin_claim(0, rings, Vectors::default(), now)
            .is_ok()
            && self
                .wait(|user, now| user.device.poll_claim(0, now))
                .is_ok()
    }

    fn command(&mut self) {
        let byte = self.byte();
        let mut classes = Classes::all_to(0);
        classes.set([10, 0, 0, byte], u16::from(byte & 1));
        let mac = [2, 0, 0, 0, 0, byte];
        let command = match byte % 7 {
            0 => Command::Promiscuous(true),
            1 => Command::MacTable {
                unicast: &[mac],
                multicast: &[],
            },
            2 => Command::MacAddress(mac),
            3 => Command::AddVlan(u16::from(byte) * 17),
            4 => Command::Pairs(u16::from(byte & 3)),
            5 => Command::Steer {
                classes: &classes,
                pairs: 1 + u16::from(byte & 1),
            },
            _ => Command::AllMulticast(false),
        };
        let now = self.now();
        if self.device.begin_command(&command, now).is_ok() {
            any_answer(self.wait(|user, now| user.device.poll_command(now)));
        }
        any_answer(self.device.link());
        any_answer(self.device.needs_reset());
        any_answer(self.device.can_steer());
        any_answer(self.device.take_cause());
        any_answer(self.device.has_doorbell_page(u16::from(byte)));
    }

    fn transfer(&mut self, report: &mut Report) {
        let shared = [self.memory.receive.shared(), self.memory.transmit.shared()];
        if self.device.features().contains(Features::RING_PACKED) {
            let rings = shared.map(|ring| Packed::<N>::in_block(ring).expect("room"));
            self.exchange(rings, Layout::Packed, report);
        } else {
            let rings = shared.map(|ring| Split::<N>::in_block(ring).expect("room"));
            self.exchange(rings, Layout::Split, report);
        }
    }

    /// Frames in and out, until a side errs or the input ends.
    fn exchange<F: ReceiveFormat + TransmitFormat>(
        &mut self,
        rings: [F; 2],
        layout: Layout,
        report: &mut Report,
    ) {
        let mut words = [0; BUFFERS.count as usize];
        let mut pool = Pool::new(self.memory.buffers.arena(BUFFERS), &mut words);
        let registers = self.device.transport().notify_registers().clone();
        let queues = self.device.queues(0, rings, registers, &pool);
        let Ok((mut receiver, mut sender)): Result<Queues<'_, F, _, N>, _> = queues else {
            return;
        };
        let mut wires = [
            Wire::new::<N>(&self.memory.receive, layout),
            Wire::new::<N>(&self.memory.transmit, layout),
        ];
        let mut words = [0; 24];
        let mut frames = SegmentList::new(&mut words);
        receiver.arm(&mut pool);
        for _ in 0..16 {
            let mut input = self.input.borrow_mut();
            self.card
                .receive(&mut input, &mut wires[0], &self.memory.buffers);
            let budget = 1 + usize::from(input.byte() & 7);
            drop(input);
            let received = receiver.poll(&mut pool, &mut frames, budget);
            report.note("receive", received.is_ok());
            let lens = frames
                .iter()
                .map(|segment| pool.arena().bytes(segment).len());
            assert!(
                lens.max().unwrap_or(0) <= BUFFERS.capacity() + 12,
                "a frame beyond its buffer"
            );
            let submitted = sender.submit(&mut frames);
            self.card.send(&mut self.input.borrow_mut(), &mut wires[1]);
            let reclaimed = sender.reclaim(&mut pool);
            report.note("send", submitted.is_ok() && reclaimed.is_ok());
            let is_good = received.is_ok() && submitted.is_ok() && reclaimed.is_ok();
            assert!(pool.free() <= usize::from(BUFFERS.count), "a buffer twice");
            if !is_good || self.input.borrow().is_empty() {
                break;
            }
            receiver.arm(&mut pool);
        }
    }
}
