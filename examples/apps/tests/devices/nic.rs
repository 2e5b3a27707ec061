//! The network card of the machine: the driver's control half, and the kernel's ends of its queues.
#![expect(
    unsafe_code,
    reason = "implements a trait whose memory is read by bus address"
)]

use core::sync::atomic::Ordering::{Acquire, Release};
use core::task::Poll;

use parakernel_core::{
    abi::LeaseRing,
    access::Isolation,
    address::{BusAddress, NodeId, PhysAddr},
    control::LeaseSpec,
    device::{Limits, Operation, QueueIndex, QueueKind, Waits},
    error::ErrorKind,
    memory::{ArenaLayout, RegionTable, SharedMemory},
    mmio::{Registers, Width},
    pci::Config as PciConfig,
    ring::{Position, RingSize},
    steering::{Change, Ipv4Prefix, Mac, Matches, NameGrant, PortRange},
    time::Instant,
};
use parakernel_mock_hw::{
    Memory, World,
    memory::Lease,
    pci::Bar,
    virtio_net::{Config, VirtioNet},
};
use parakernel_nic_virtio::{
    checked::{CheckedReceiver, CheckedSender, FrameMemory, GrantedSource, Tables},
    control::TIME_LIMIT,
    device::{
        Device, Pair, PairRings, PairState, QUEUE_RESET_LIMIT, RESET_LIMIT, Setup, Vectors,
        queues_of,
    },
    features::Features,
    header::Header,
    notify::Notifier,
    steering::ClassRules,
    transport::{
        Transport,
        pci::{Layout, PciTransport},
    },
    virtqueue::{Order, split::Split},
};

use super::machine::{Cutter, ENTRIES, NIC, Pages, REQUESTERS};
use super::poll;

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
pub(crate) const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: 12,
    count: 24,
};
pub(crate) type Ring = Split<'static, ENTRIES>;
type Bell = Notifier<Ring, Part>;
const KERNEL: Lease = Lease(0);
const QUEUES: u16 = 2;
const SHADOW: usize = Split::<ENTRIES>::AVAILABLE + 4096;

/// A part of a BAR.
#[derive(Clone)]
pub(crate) struct Part {
    bar: Bar,
    offset: usize,
    len: usize,
}

impl Registers for Part {
    fn read(&self, offset: usize, width: Width) -> u64 {
        self.bar.read(self.offset + offset, width)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        self.bar.write(self.offset + offset, width, value);
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// The process's own names, and what the kernel grants it.
pub(crate) fn names() -> NameGrant {
    NameGrant {
        mac: Mac(MAC),
        vlan: None,
        ipv4: Some(Ipv4Prefix::host([10, 0, 0, 2].into())),
        ipv6: None,
        ports: PortRange::ALL,
    }
}

/// The kernel's view of all memory.
struct View(&'static Memory);

impl FrameMemory for View {
    unsafe fn read(&self, from: BusAddress, into: &mut [u8]) -> bool {
        self.0.peek(PhysAddr::new(from.as_u64()), into)
    }
}

/// The kernel's end of a pair.
struct End {
    rx: CheckedReceiver<'static, Ring, Bell, ENTRIES>,
    tx: CheckedSender<'static, Ring, Bell, ENTRIES>,
    pages: Pages,
}

/// What a process is given of a pair.
#[derive(Clone, Copy)]
pub(crate) struct Given {
    pub(crate) rings: [Ring; 2],
    pub(crate) pages: Pages,
    pub(crate) order: Order,
}

#[derive(Default)]
struct Place {
    rings: Option<PairRings>,
    vector: Option<u16>,
    end: Option<End>,
    given: Option<Given>,
    is_fenced: bool,
}

pub(crate) struct NetCard {
    pub(crate) model: VirtioNet,
    card: Device<'static, PciTransport<Part>>,
    rules: ClassRules<'static>,
    places: [Place; QUEUES as usize],
    /// Gives up waiting for frames on their way at once, as when the time for it is over.
    pub(crate) is_hasty: bool,
}

impl NetCard {
    pub(crate) fn new(world: &'static World, memory: &'static Memory) -> Self {
        let requester = REQUESTERS[NIC.index()];
        let model = VirtioNet::pci(world, memory, requester, Config::default());
        model.config_space().enable();
        let config = PciConfig::new(model.config_space()).unwrap();
        config.msi_x().unwrap().unwrap().set_enabled(true);
        let layout = Layout::parse(&config).unwrap();
        let transport = PciTransport::new(&layout, |range| {
            Some(Part {
                bar: model.bar(range.bar.into()),
                offset: range.offset as usize,
                len: range.len as usize,
            })
        });
        let setup = Setup {
            wanted: Features::PARTITION,
            control: memory.lend(requester, 4096, KERNEL).unwrap(),
            idle: memory.lend(requester, 4096, KERNEL).unwrap(),
            pairs: vec![Pair::EMPTY; usize::from(QUEUES) + 1].leak(),
            config_vector: Some(0),
            capacity: LAYOUT.capacity(),
        };
        let mut card = Device::bring_up(transport.unwrap(), &mut world.clone(), setup).unwrap();
        let mut rules = ClassRules::new(vec![None; 4].leak(), 0, 1);
        rules.begin(&mut card, world.now()).unwrap();
        poll(world, |now| rules.poll_change(&mut card, now)).unwrap();
        Self {
            model,
            card,
            rules,
            places: [0; QUEUES as usize].map(|_| Place::default()),
            is_hasty: false,
        }
    }

    /// What the process of a queue is given.
    pub(crate) fn given(&self, queue: QueueIndex) -> Given {
        self.places[queue.index()].given.unwrap()
    }

    /// Whether no pair is anybody's, and no frames are led to one.
    pub(crate) fn is_vacant(&self) -> bool {
        let mut pairs = (0..=QUEUES).map(|pair| self.card.pair_state(pair));
        pairs.all(|state| state == Some(PairState::Free))
            && self.rules.classes().pairs.iter().all(|&pair| pair == 0)
    }

    pub(crate) fn prepare(&mut self, spec: &LeaseSpec, mut memory: Cutter) {
        let queue = spec.queue.unwrap();
        let blocks = [0; 2].map(|_| memory.cut(Split::<ENTRIES>::BYTES));
        let shadows = [0; 2].map(|_| memory.cut(SHADOW).memory());
        let tables = Tables::new(memory.cut(Tables::<ENTRIES>::BYTES)).unwrap();
        let pages = memory.pages();
        let [receive, transmit] = blocks.each_ref().map(Split::<ENTRIES>::addresses);
        let [rx, tx] = blocks
            .each_ref()
            .map(|block| Ring::in_block(block.memory()).unwrap());
        let bell = |ring, queue| {
            let registers = self.card.transport().notify_registers().clone();
            let register = self.card.notify_register(queue).unwrap();
            Notifier::new(ring, registers, register, self.card.events())
        };
        let [rx_queue, tx_queue] = queues_of(pair(queue));
        let posted = u32::try_from(Header::LEN + LAYOUT.capacity()).unwrap();
        let used = blocks.each_ref().map(|block| {
            let used: SharedMemory<'static> = block.memory();
            used.part(Split::<ENTRIES>::USED, 4096).unwrap()
        });
        let shadow = |index: usize| {
            let shadow: SharedMemory<'static> = shadows[index];
            let available = shadow.part(Split::<ENTRIES>::AVAILABLE, 4096).unwrap();
            Ring::new(shadow, available, used[index]).unwrap()
        };
        self.places[queue.index()] = Place {
            rings: Some(PairRings { receive, transmit }),
            vector: spec.vector.number().map(|n| u16::try_from(n + 1).unwrap()),
            end: Some(End {
                rx: CheckedReceiver::new(rx, bell(rx, rx_queue), shadows[0], posted).unwrap(),
                tx: CheckedSender::new((tx, bell(tx, tx_queue)), shadows[1], None, tables, 1514)
                    .unwrap(),
                pages,
            }),
            given: Some(Given {
                rings: [shadow(0), shadow(1)],
                pages,
                order: self.card.order(),
            }),
            is_fenced: false,
        };
    }

    pub(crate) fn fence(&mut self, queue: QueueIndex) {
        self.places[queue.index()].is_fenced = true;
    }

    /// Takes over what processes published.
    pub(crate) fn service(&mut self, regions: &RegionTable<'_>, memory: &'static Memory) {
        let grants = [names()];
        let source = GrantedSource {
            grants: &grants,
            memory: View(memory),
        };
        let served = self.places.iter_mut().filter(|place| !place.is_fenced);
        for End { rx, tx, pages } in served.filter_map(|place| place.end.as_mut()) {
            let claimed = |ring: LeaseRing| {
                Position::new(pages.submission.tails[ring as usize].load(Acquire))
            };
            rx.service(claimed(LeaseRing::First), regions, 64).unwrap();
            tx.service(claimed(LeaseRing::Second), regions, &source, 64)
                .unwrap();
            let accepted = [rx.accepted(), tx.accepted()];
            for (cell, position) in pages.status.accepted.iter().zip(accepted) {
                cell.store(position.as_u32(), Release);
            }
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        let size = RingSize::new(u32::try_from(ENTRIES).unwrap()).unwrap();
        Limits {
            kind: QueueKind::Network,
            queues: QUEUES.into(),
            vectors: QUEUES.into(),
            min_ring: size,
            max_ring: size,
            doorbell_stride: 4,
            first_isolation: Isolation::DROPS_WHEN_FULL | Isolation::STEERS_EXACTLY,
            second_isolation: Isolation::SPLITS_FRAMES,
            rules: 4,
            node: NodeId::new(0),
            waits: Waits {
                claim: 2 * QUEUE_RESET_LIMIT,
                drain: QUEUE_RESET_LIMIT,
                stop: 2 * QUEUE_RESET_LIMIT,
                steer: 2 * TIME_LIMIT,
                reset: 2 * RESET_LIMIT,
            },
        }
    }

    pub(crate) fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), ErrorKind> {
        let begun = match operation {
            Operation::Claim(spec) => {
                let place = &mut self.places[spec.queue.index()];
                let vectors = Vectors {
                    receive: place.vector,
                    transmit: None,
                };
                let rings = place.rings.take().unwrap();
                self.card.begin_claim(pair(spec.queue), rings, vectors, now)
            }
            Operation::Stop(queue) => self.card.begin_release(pair(queue), now),
            Operation::Drain(_) | Operation::Flush(_) => Ok(()),
            // Every queue stops here: a device that is not brought back fails the test.
            Operation::Reset | Operation::Silence => return Err(ErrorKind::Unsupported),
        };
        begun.map_err(|error| error.kind())
    }

    pub(crate) fn poll(
        &mut self,
        operation: Operation,
        now: Instant,
    ) -> Poll<Result<(), ErrorKind>> {
        match operation {
            Operation::Claim(spec) => {
                let claimed = self.card.poll_claim(pair(spec.queue), now);
                claimed.map(|result| result.map(|_woken| ()).map_err(|error| error.kind()))
            }
            Operation::Drain(_) if self.is_hasty => Poll::Ready(Ok(())),
            Operation::Drain(queue) => {
                let End { tx, .. } = self.places[queue.index()].end.as_mut().unwrap();
                match tx.harvest() {
                    Ok(_) if tx.outstanding() == 0 => Poll::Ready(Ok(())),
                    Ok(_) => Poll::Pending,
                    Err(_) => Poll::Ready(Err(ErrorKind::Protocol)),
                }
            }
            Operation::Stop(queue) => {
                let stopped = self.card.poll_release(pair(queue), now);
                if let Poll::Ready(Ok(())) = stopped {
                    self.places[queue.index()] = Place::default();
                }
                stopped.map_err(|error| error.kind())
            }
            Operation::Flush(_) => Poll::Ready(Ok(())),
            Operation::Reset | Operation::Silence => Poll::Ready(Err(ErrorKind::Unsupported)),
        }
    }

    pub(crate) fn can_express(&self, matches: &Matches) -> bool {
        self.rules.can_express(&self.card, matches)
    }

    pub(crate) fn begin_change(&mut self, change: Change, now: Instant) -> Result<(), ErrorKind> {
        let begun = self.rules.begin_change(&mut self.card, change, now);
        begun.map_err(|error| error.kind())
    }

    pub(crate) fn poll_change(&mut self, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let changed = self.rules.poll_change(&mut self.card, now);
        changed.map_err(|error| error.kind())
    }
}

/// The card's number of a pair: pair 0 is the kernel's.
fn pair(queue: QueueIndex) -> u16 {
    u16::try_from(queue.index() + 1).unwrap()
}
