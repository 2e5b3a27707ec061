//! The card of the machine: the driver's control half, the kernel's own pair, and the kernel's ends of processes' pairs.
#![expect(
    unsafe_code,
    reason = "implements a trait whose memory is read by bus address"
)]

use alloc::collections::BTreeMap;
use core::sync::atomic::Ordering::{Acquire, Release};
use core::task::Poll;
use core::time::Duration;

use parakernel_core::{
    abi::LeaseRing,
    access::Isolation,
    address::{BusAddress, NodeId, PhysAddr},
    control::LeaseSpec,
    device::{Limits, Operation, QueueDevice, QueueIndex, QueueKind, Vector, Waits},
    error::ErrorKind,
    handle::ProcessId,
    memory::{ArenaLayout, DmaBlock, Pool, RegionTable, SharedMemory},
    mmio::Registers as _,
    pci::Config as PciConfig,
    queue::{RxQueue as _, TxQueue as _},
    ring::{Position, RingSize},
    steering::{Change, Ipv4Prefix, Mac, Matches, NameGrant, PortRange, Steering},
    time::Instant,
};
use parakernel_mock_hw::{
    Ixgbe, Memory, World,
    ixgbe::Config,
    memory::{Lease, Range},
    pci::Bar,
    wire::Wire,
};
use parakernel_nic_ixgbe::{
    checked::{CheckedReceiver, CheckedSender, FrameMemory, GrantedSource, Heads, Progress},
    device::{
        Device, GRACE, Halves, Pair, PairRings, PairState, QUEUE_LIMIT, ReceiveRing, Setup,
        TransmitRing, Vector as CardVector,
    },
    doorbell::Tail,
    id::Kind,
    rx::{Receiver, buffer_size},
    steering::{FILTERS, Filter, Filters},
    tx::Sender,
    validate,
};

use super::machine::{Cutter, DEVICE, PAGE, Pages, leak};

/// Entries of a process's rings.
pub(crate) const N: usize = 16;
/// Entries of the card's transmit rings: first bytes take one of their own.
const H: usize = 2 * N;
pub(crate) const MAC: [u8; 6] = [0x02, 0x1b, 0x21, 0x00, 0x00, 0x01];
pub(crate) const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: 16,
    count: 48,
};
/// What the audit knows the kernel's own memory as.
const KERNEL: Lease = Lease(0);
/// The kernel's pair: what no rule is about comes to queue 0.
const KERNEL_PAIR: u8 = 0;
/// What the message of vector 0 says; those of the others follow.
const FIRST_MESSAGE: u32 = 0x40;

/// The names of process `number`: one address.
pub(crate) fn names(number: u8) -> NameGrant {
    NameGrant {
        mac: Mac(MAC),
        vlan: None,
        ipv4: Some(Ipv4Prefix::host([10, 0, 0, number].into())),
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
    rx: CheckedReceiver<'static, Tail<Bar>, N>,
    tx: CheckedSender<'static, Tail<Bar>, N, H>,
    pages: Pages,
    process: ProcessId,
    names: NameGrant,
}

/// What a process is given of a pair.
#[derive(Clone, Copy)]
pub(crate) struct Given {
    /// Its own receive ring, and the card's.
    pub(crate) receive: [SharedMemory<'static>; 2],
    /// Its own transmit ring, and the word that says how far the card came.
    pub(crate) transmit: [SharedMemory<'static>; 2],
    pub(crate) pages: Pages,
}

#[derive(Default)]
struct Place {
    rings: Option<PairRings>,
    vector: Option<CardVector>,
    end: Option<End>,
    given: Option<Given>,
    is_fenced: bool,
}

type Port = Device<'static, Bar>;

/// The kernel's own pair, nobody between it and the card.
struct Own {
    rx: Receiver<'static, Tail<Bar>, N>,
    tx: Sender<'static, Tail<Bar>, N>,
    pool: Pool<'static>,
    rings: PairRings,
    /// Of the receive ring, the transmit ring, and the word that the card writes its head to.
    memory: [DmaBlock<'static>; 3],
}

impl Own {
    /// Buffers and empty rings, of which the card knows nothing yet.
    fn new(port: &Port, ram: &'static Memory) -> Self {
        let memory = [16 * N, 16 * N, 64].map(|len| {
            let block = ram.lend(DEVICE, PAGE, KERNEL).unwrap();
            block.split_at(len).unwrap().0
        });
        let arena = ram.lend_arena(DEVICE, LAYOUT, KERNEL).unwrap();
        let pool = Pool::new(arena, leak(LAYOUT.count.into(), || 0));
        Self::with(port, memory, pool)
    }

    fn with(port: &Port, memory: [DmaBlock<'static>; 3], pool: Pool<'static>) -> Self {
        let Halves { rings, rx, tx } = port.queues(KERNEL_PAIR, &memory, &pool).unwrap();
        Self {
            rx,
            tx,
            pool,
            rings,
            memory,
        }
    }

    /// The same pair with rings that begin anew: the card has let go of all that it had.
    fn renewed(self, port: &Port, ram: &'static Memory) -> Self {
        let Self {
            rx,
            tx,
            mut pool,
            memory,
            ..
        } = self;
        // SAFETY: the reset has ended, as whoever calls it has seen.
        unsafe { rx.dismantle(&mut pool) };
        // SAFETY: as above.
        unsafe { tx.dismantle(&mut pool) };
        for block in &memory {
            let start = PhysAddr::new(block.bus_address().as_u64());
            let len = block.len();
            ram.fill(Range { start, len }, 0);
        }
        Self::with(port, memory, pool)
    }
}

pub(crate) struct Card {
    pub(crate) model: Ixgbe,
    pub(crate) wire: Wire,
    world: &'static World,
    device: Port,
    filters: Filters<'static>,
    ram: &'static Memory,
    own: Option<Own>,
    places: Vec<Place>,
    /// Gives up waiting for frames on their way at once, as when the time for it is over.
    pub(crate) is_hasty: bool,
    /// The names of processes.
    pub(crate) names: BTreeMap<ProcessId, NameGrant>,
}

impl Card {
    /// The card with its link up, the kernel's pair at work, and room for `pairs` pairs, that one included.
    pub(crate) fn new(world: &'static World, ram: &'static Memory, pairs: usize) -> Self {
        let model = Ixgbe::new(world, ram, DEVICE, Config::default());
        model.config_space().enable();
        let setup = Setup::new(Kind::Sfp, vec![Pair::EMPTY; pairs].leak());
        let mut device = Device::bring_up(model.bar0(), &mut world.clone(), setup).unwrap();
        let mut own = Own::new(&device, ram);
        start(world, &mut device, own.rings);
        own.rx.arm(&mut own.pool);
        let card = Self {
            wire: model.wire(),
            world,
            filters: Filters::new(leak(FILTERS, || Filter::UNUSED), KERNEL_PAIR + 1),
            ram,
            own: Some(own),
            places: (1..device.pairs()).map(|_| Place::default()).collect(),
            device,
            is_hasty: false,
            names: BTreeMap::new(),
            model,
        };
        card.enable_interrupts();
        let up = (0..1000).find(|_| {
            world.run_for(Duration::from_millis(1));
            card.device.link().is_up
        });
        up.unwrap();
        card
    }

    /// Lets all vectors send their messages.
    fn enable_interrupts(&self) {
        let config = PciConfig::new(self.model.config_space()).unwrap();
        config.msi_x().unwrap().unwrap().set_enabled(true);
        let table = self.model.bar(4);
        for vector in 0..64_u32 {
            let at = 16 * usize::try_from(vector).unwrap();
            table.write32(at, 0xFEE0_0000);
            table.write32(at + 8, FIRST_MESSAGE + vector);
            table.write32(at + 12, 0);
        }
    }

    /// What the control plane called the vectors whose messages came.
    pub(crate) fn take_messages(&self) -> Vec<u32> {
        let messages = self.world.interrupts().take_all();
        let number = |data: u32| data.checked_sub(FIRST_MESSAGE + 1);
        let numbers = messages.iter().filter_map(|message| number(message.data));
        numbers.collect()
    }

    /// Has the vector of a pair tell once.
    pub(crate) fn arm(&self, queue: QueueIndex) {
        self.device.arm(self.places[queue.index()].vector.unwrap());
    }

    /// What came to the kernel's own pair.
    pub(crate) fn take_own(&mut self) -> Vec<Vec<u8>> {
        let Own { rx, pool, .. } = self.own.as_mut().unwrap();
        super::bench::receive(rx, pool)
    }

    /// Sends a frame of the kernel's own.
    pub(crate) fn send_own(&mut self, frame: &[u8]) {
        let Own { tx, pool, .. } = self.own.as_mut().unwrap();
        tx.reclaim(pool).unwrap();
        super::bench::send(tx, pool, frame);
    }

    /// What a process is given of its pair.
    pub(crate) fn given(&self, queue: QueueIndex) -> Given {
        self.places[queue.index()].given.unwrap()
    }

    /// Whether no pair but the kernel's is anybody's.
    pub(crate) fn is_vacant(&self) -> bool {
        let mut pairs = (1..self.device.pairs()).map(|pair| self.device.pair_state(pair));
        pairs.all(|state| state == Some(PairState::Free))
    }

    /// Frames for a process that the card has taken in, and that wait for their queue.
    pub(crate) fn outstanding(&self, queue: QueueIndex) -> u32 {
        let end = self.places[queue.index()].end.as_ref();
        end.map_or(0, |end| end.tx.outstanding())
    }

    pub(crate) fn prepare(&mut self, spec: &LeaseSpec, mut memory: Cutter) {
        let queue = spec.queue.unwrap();
        let pair = pair(queue);
        let [receive, transmit] = [16 * N, 16 * H].map(|len| memory.cut(len));
        let head = memory.cut(64);
        let heads = Heads::new(memory.cut(PAGE)).unwrap();
        let [rx_shadow, tx_shadow, told] = [(); 3].map(|()| memory.cut(PAGE).memory());
        let pages = memory.pages();
        let posted = buffer_size(LAYOUT.capacity()).unwrap();
        let progress = Progress::Kernel(told.view(0).unwrap(), heads);
        let limits = validate::Limits {
            max_frame: 1514,
            vlan: None,
        };
        let rx_bell = bell(&self.model, Device::<Bar>::receive_tail(pair), N);
        let tx_bell = bell(&self.model, Device::<Bar>::transmit_tail(pair), H);
        let rx = CheckedReceiver::new(receive.memory(), rx_shadow, rx_bell, posted);
        let hardware = (transmit.memory(), head.memory());
        let tx = CheckedSender::new(hardware, tx_shadow, progress, tx_bell, limits);
        let vector = spec.vector.number();
        self.places[queue.index()] = Place {
            rings: Some(PairRings {
                receive: ReceiveRing::new(&receive, posted).unwrap(),
                transmit: TransmitRing::new(&transmit, &head).unwrap(),
            }),
            // Vector 0 is the port's own.
            vector: vector.and_then(|number| CardVector::new(u8::try_from(number + 1).unwrap())),
            end: Some(End {
                rx: rx.unwrap(),
                tx: tx.unwrap(),
                pages,
                process: spec.process,
                names: self.names[&spec.process],
            }),
            given: Some(Given {
                receive: [rx_shadow, receive.memory()],
                transmit: [tx_shadow, told],
                pages,
            }),
            is_fenced: false,
        };
    }

    pub(crate) fn fence(&mut self, queue: QueueIndex) {
        self.places[queue.index()].is_fenced = true;
    }

    /// A vector that wakes others too is left alone.
    pub(crate) fn mask(&self, vector: Vector, queue: QueueIndex) {
        if let (Vector::Own(_), Some(vector)) = (vector, self.places[queue.index()].vector) {
            self.device.mask(vector);
        }
    }

    /// Takes over what processes published.
    pub(crate) fn service(
        &mut self,
        tables: &[Option<RegionTable<'static>>],
        memory: &'static Memory,
    ) {
        let served = self.places.iter_mut().filter(|place| !place.is_fenced);
        for end in served.filter_map(|place| place.end.as_mut()) {
            let Some(regions) = &tables[end.process.index()] else {
                continue;
            };
            let source = GrantedSource {
                grants: core::slice::from_ref(&end.names),
                memory: View(memory),
            };
            let claimed = |ring: LeaseRing| {
                Position::new(end.pages.submission.tails[ring as usize].load(Acquire))
            };
            let [first, second] = [claimed(LeaseRing::First), claimed(LeaseRing::Second)];
            let accepted = [
                end.rx.service(first, regions, 64).unwrap(),
                end.tx.service(second, regions, &source, 64).unwrap(),
            ];
            for (cell, position) in end.pages.status.accepted.iter().zip(accepted) {
                cell.store(position.as_u32(), Release);
            }
        }
    }

    /// After a reset: the kernel's pair works again, with rings that begin anew.
    fn restore(&mut self) {
        self.filters.restore(&self.device);
        for place in &mut self.places {
            place.rings = None;
        }
        let own = self.own.take().unwrap();
        let own = self.own.insert(own.renewed(&self.device, self.ram));
        start(self.world, &mut self.device, own.rings);
        own.rx.arm(&mut own.pool);
    }
}

impl QueueDevice for Card {
    type Error = ErrorKind;

    fn limits(&self) -> Limits {
        let size = RingSize::new(u32::try_from(N).unwrap()).unwrap();
        Limits {
            kind: QueueKind::Network,
            queues: u32::try_from(self.places.len()).unwrap(),
            vectors: 63,
            min_ring: size,
            max_ring: size,
            doorbell_stride: 0,
            first_isolation: Isolation::DROPS_WHEN_FULL | Isolation::STEERS_EXACTLY,
            second_isolation: Isolation::SPLITS_FRAMES,
            rules: u32::try_from(FILTERS).unwrap(),
            node: NodeId::new(0),
            waits: Waits {
                claim: 2 * QUEUE_LIMIT,
                drain: QUEUE_LIMIT,
                stop: 2 * QUEUE_LIMIT + GRACE,
                steer: QUEUE_LIMIT,
                reset: Duration::from_secs(5),
            },
        }
    }

    fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), ErrorKind> {
        let begun = match operation {
            Operation::Claim(spec) => {
                let place = &mut self.places[spec.queue.index()];
                let rings = place.rings.take().unwrap();
                self.device
                    .begin_claim(pair(spec.queue), rings, place.vector, now)
            }
            Operation::Stop(queue) => self.device.begin_release(pair(queue), now),
            Operation::Drain(_) | Operation::Flush(_) => Ok(()),
            Operation::Reset => {
                self.device.begin_reset(now);
                Ok(())
            }
            // The card is not given up here: a reset that fails is a failed test.
            Operation::Silence => return Err(ErrorKind::Unsupported),
        };
        begun.map_err(|error| error.kind())
    }

    fn poll(&mut self, operation: Operation, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let polled = match operation {
            Operation::Claim(spec) => self.device.poll_claim(pair(spec.queue), now),
            Operation::Drain(_) if self.is_hasty => Poll::Ready(Ok(())),
            Operation::Drain(queue) => self.device.poll_drain(pair(queue)),
            Operation::Stop(queue) => {
                let stopped = self.device.poll_release(pair(queue), now);
                if stopped == Poll::Ready(Ok(())) {
                    self.places[queue.index()] = Place::default();
                }
                stopped
            }
            Operation::Flush(_) => {
                self.device.flush();
                Poll::Ready(Ok(()))
            }
            Operation::Reset => {
                let reset = self.device.poll_reset(now);
                if let Poll::Ready(Ok(())) = reset {
                    self.restore();
                }
                return reset.map_err(|error| error.kind());
            }
            Operation::Silence => return Poll::Ready(Err(ErrorKind::Unsupported)),
        };
        polled.map_err(|error| error.kind())
    }
}

impl Steering for Card {
    type Error = ErrorKind;

    fn can_express(&self, matches: &Matches) -> bool {
        Filters::can_express(&self.device, matches)
    }

    fn begin_change(&mut self, change: Change, _now: Instant) -> Result<(), ErrorKind> {
        let changed = self.filters.change(&self.device, change);
        changed.map_err(|error| error.kind())
    }

    fn poll_change(&mut self, _change: Change, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let changed = self.filters.poll(&self.device, now);
        changed.map(|result| result.map_err(|error| error.kind()))
    }
}

/// The card's number of a pair: pair 0 is the kernel's.
fn pair(queue: QueueIndex) -> u8 {
    u8::try_from(queue.index() + 1).unwrap()
}

fn bell(model: &Ixgbe, offset: Option<usize>, entries: usize) -> Tail<Bar> {
    let size = RingSize::new(u32::try_from(entries).unwrap()).unwrap();
    Tail::new(model.bar0(), offset.unwrap(), size)
}

/// Has the kernel's pair made.
fn start(world: &World, device: &mut Port, rings: PairRings) {
    device
        .begin_claim(KERNEL_PAIR, rings, None, world.now())
        .unwrap();
    let made = (0..1000).find_map(|_| {
        world.run_for(Duration::from_micros(100));
        match device.poll_claim(KERNEL_PAIR, world.now()) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    });
    made.unwrap().unwrap();
}
