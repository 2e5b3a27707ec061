//! An 82599: the driver's control half, as the control plane works it.

use core::task::Poll;
use core::time::Duration;

use parakernel_core::access::Isolation;
use parakernel_core::address::NodeId;
use parakernel_core::device::{Limits, Operation, QueueIndex, QueueKind, QueueSpec, Waits};
use parakernel_core::error::ErrorKind;
use parakernel_core::mmio::MappedRegisters;
use parakernel_core::ring::RingSize;
use parakernel_core::steering::{Change, Mac, Matches};
use parakernel_core::time::Instant;
use parakernel_nic_ixgbe::device::{Device, GRACE, Pair, PairRings, QUEUE_LIMIT, Setup, Vector};
use parakernel_nic_ixgbe::error::ModuleError;
use parakernel_nic_ixgbe::id::{Kind, VENDOR};
use parakernel_nic_ixgbe::interrupt::Alarm;
use parakernel_nic_ixgbe::link::Link;
use parakernel_nic_ixgbe::stats::QueueStatistics;
use parakernel_nic_ixgbe::steering::{DROP_QUEUE, FILTERS, Filter, Filters};

use crate::boot::Kernel;
use crate::pci::Function;
use crate::pci::msix::MsiX;
use crate::queues::network::ENTRIES;
use crate::{capacity, devices, print, report, time};

/// The kernel's own pair: what no filter leads anywhere comes to queue 0.
pub(crate) const KERNEL_PAIR: u8 = 0;
/// The longest frame: what the buffers of processes are made for.
const MAX_FRAME: u16 = 1514;
/// How often it is looked whether the port is there.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// A reset with all its steps: the sum of the limits in the driver, each of a second or less.
const RESET_LIMIT: Duration = Duration::from_secs(5);

/// How often counters are read: they stop after 2³² frames.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// The port's counters that are used.
const OF_KERNEL: u8 = 0;
const OF_PROCESSES: u8 = 1;

/// The link before the first look.
const DOWN: Link = Link {
    is_up: false,
    speed_mbps: None,
};

type Registers = &'static MappedRegisters;
type Card = Device<'static, Registers>;

/// A queue pair that processes may claim.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    rings: Option<PairRings>,
    vector: Option<Vector>,
}

/// A port.
#[derive(Debug)]
pub(crate) struct IxgbeNet {
    card: Card,
    function: &'static Function,
    registers: Registers,
    msix: Option<MsiX>,
    places: &'static mut [Place],
    filters: Filters<'static>,
    node: NodeId,
    /// When it is looked at next.
    look_at: Instant,
    /// When its counters are, which stop at their end.
    count_at: Instant,
    /// The link at the last look, and how often it has gone down since it was up first.
    link: Link,
    link_losses: u32,
    /// What the port counted: of the kernel's pair, and of processes'.
    counted: [QueueStatistics; 2],
    /// Frames for which the port itself had no room.
    missed: u64,
    /// How many resets have been begun.
    resets: u32,
}

impl IxgbeNet {
    /// Whether `function` is such a port.
    pub(crate) fn is(function: &Function) -> bool {
        function.identity.vendor == VENDOR && Kind::of(function.identity.device).is_some()
    }

    /// Brings the port up; `None` where that fails, which the log says why.
    pub(crate) fn bring_up(kernel: &mut Kernel, function: &'static Function) -> Option<Self> {
        let address = function.address;
        let registers = function.map_bar(0, &mut kernel.tables, &mut kernel.frames, &kernel.memory);
        let registers = registers
            .map_err(|error| print!("ixgbe {address}: {error:?}\n"))
            .ok()?;
        let node = kernel.node_of(function);
        let registers: Registers = kernel.frames.place(node, registers)?;
        devices::allow(function)
            .map_err(|error| print!("ixgbe {address}: {error:?}\n"))
            .ok()?;
        let msix = MsiX::of(kernel, function, (0, registers));
        let pairs = kernel
            .frames
            .place_slice(node, DROP_QUEUE.into(), Pair::EMPTY)?;
        let setup = Setup {
            max_frame: MAX_FRAME,
            node,
            ..Setup::new(Kind::of(function.identity.device)?, pairs)
        };
        let card = Device::bring_up(registers, &mut time::Spin, setup)
            .map_err(|error| print!("ixgbe {address}: {error}\n"))
            .ok()?;
        let (pairs, mac) = (card.pairs(), card.mac());
        print!("ixgbe {address}: {pairs} queue pairs, {mac}\n");
        // Without a module, or with one for another link, there will be no link: said, and no reason not to come up.
        match card.identify_module(&mut time::Spin) {
            Ok(module) => print!("ixgbe {address}: {module:?}\n"),
            Err(ModuleError::NoCage) => {}
            Err(error) => print!("ixgbe {address}: {error}\n"),
        }
        let frames = &mut kernel.frames;
        let filters = frames.place_slice(node, FILTERS, Filter::UNUSED)?;
        let offered = usize::from(pairs - 1);
        let places = frames.place_slice(node, offered, Place::default());
        let port = Self {
            card,
            function,
            registers,
            msix,
            places: capacity::told(&address, places)?,
            filters: Filters::new(filters, KERNEL_PAIR + 1),
            node,
            look_at: time::now(),
            count_at: time::now(),
            link: DOWN,
            link_losses: 0,
            counted: [QueueStatistics::default(); 2],
            missed: 0,
            resets: 0,
        };
        port.share_counters();
        Some(port)
    }

    /// Has the port count what it does for processes apart from what it does for the kernel.
    fn share_counters(&self) {
        for queue in 0..self.card.pairs() {
            let counter = if queue == KERNEL_PAIR {
                OF_KERNEL
            } else {
                OF_PROCESSES
            };
            self.card.set_counter(queue, counter);
        }
    }

    /// The node that it hangs on.
    pub(super) const fn node(&self) -> NodeId {
        self.node
    }

    /// Its interrupt table.
    pub(super) const fn interrupts(&mut self) -> Option<&mut MsiX> {
        self.msix.as_mut()
    }

    /// How many resets of the port have been begun since it was brought up.
    pub(super) const fn resets(&self) -> u32 {
        self.resets
    }

    /// The port's own address.
    pub(super) const fn mac(&self) -> Mac {
        self.card.mac()
    }

    /// The longest frame.
    pub(crate) const fn max_frame(&self) -> u16 {
        self.card.max_frame()
    }

    /// Whether the port leads frames to queues exactly: five-tuple filters do.
    #[expect(clippy::unused_self, reason = "other cards may or may not")]
    pub(super) const fn steers(&self) -> bool {
        true
    }

    /// The registers, for tails.
    pub(crate) const fn registers(&self) -> Registers {
        self.registers
    }

    /// Where the tails of the receive and the transmit queue of a pair are.
    pub(crate) const fn tails(pair: u8) -> Option<[usize; 2]> {
        match (Card::receive_tail(pair), Card::transmit_tail(pair)) {
            (Some(receive), Some(transmit)) => Some([receive, transmit]),
            _ => None,
        }
    }

    /// What arms the interrupt of a pair that was prepared, if it has one.
    pub(crate) fn alarm(&self, queue: QueueIndex) -> Option<Alarm<Registers>> {
        let vector = self.places.get(queue.index())?.vector?;
        Some(Alarm::new(self.registers, vector))
    }

    /// Keeps the rings of a pair until it is made.
    pub(crate) fn prepare(&mut self, queue: QueueIndex, rings: PairRings, vector: Option<u16>) {
        let vector = vector.and_then(|number| Vector::new(u8::try_from(number).ok()?));
        if let Some(place) = self.places.get_mut(queue.index()) {
            *place = Place {
                rings: Some(rings),
                vector,
            };
        }
    }

    /// Starts the kernel's own pair; waits for the port.
    pub(crate) fn start_kernel_pair(&mut self, rings: PairRings) -> bool {
        let begun = self.card.begin_claim(KERNEL_PAIR, rings, None, time::now());
        let (card, mut outcome) = (&mut self.card, None);
        let _expired = time::spin_until(2 * QUEUE_LIMIT, || {
            if let Poll::Ready(result) = card.poll_claim(KERNEL_PAIR, time::now()) {
                outcome = Some(result.is_ok());
            }
            outcome.is_some()
        })
        .is_err();
        begun.is_ok() && outcome == Some(true)
    }

    /// Looks at link and counters; whether the port has failed.
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        if now < self.look_at {
            return false;
        }
        self.look_at = now.saturating_add(LOOK_INTERVAL);
        self.watch_link();
        if now >= self.count_at {
            self.count_at = now.saturating_add(COUNT_INTERVAL);
            self.count();
        }
        self.card.is_gone()
    }

    /// Says where the link has changed. The port goes on by itself when it is back: what it was given to send waits for that, and
    /// queues that are taken back meanwhile do not (their limit is that of draining).
    fn watch_link(&mut self) {
        let link = self.card.link();
        if link == self.link {
            return;
        }
        let address = self.function.address;
        match link.speed_mbps {
            Some(speed) => print!("ixgbe {address}: link up, {speed} Mb/s\n"),
            None if link.is_up => print!("ixgbe {address}: link up\n"),
            None => print!("ixgbe {address}: link down\n"),
        }
        self.link_losses += u32::from(self.link.is_up && !link.is_up);
        self.link = link;
    }

    fn count(&mut self) {
        for (counter, sum) in [OF_KERNEL, OF_PROCESSES].into_iter().zip(&mut self.counted) {
            self.card.add_statistics(counter, sum);
        }
        self.missed += self.card.take_missed();
    }

    /// What the port itself says of its link and its traffic.
    pub(super) fn counters(&mut self) -> report::Card {
        self.count();
        let [kernel, processes] = self.counted;
        report::Card {
            node: self.node,
            link_mbps: self.link.speed_mbps.unwrap_or(0),
            link_losses: self.link_losses,
            received: [kernel.received, processes.received],
            sent: [kernel.transmitted, processes.transmitted],
            dropped: kernel.dropped + processes.dropped,
            missed: self.missed,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        let vectors = self.msix.as_ref().map_or(0, |msix| msix.len() - 1);
        let size = RingSize::at_most(u32::try_from(ENTRIES).unwrap_or(1)).unwrap_or(RingSize::ONE);
        Limits {
            kind: QueueKind::Network,
            queues: u32::try_from(self.places.len()).unwrap_or(0),
            vectors: u32::try_from(vectors).unwrap_or(0),
            min_ring: size,
            max_ring: size,
            // Tails lie among the addresses of rings: none is mapped.
            doorbell_stride: 0,
            first_isolation: Isolation::DROPS_WHEN_FULL | Isolation::STEERS_EXACTLY,
            second_isolation: Isolation::SPLITS_FRAMES,
            rules: u32::try_from(FILTERS).unwrap_or(0),
            node: self.node,
            waits: Waits {
                claim: 2 * QUEUE_LIMIT,
                drain: QUEUE_LIMIT,
                stop: 2 * QUEUE_LIMIT + GRACE,
                steer: QUEUE_LIMIT,
                reset: RESET_LIMIT,
            },
        }
    }

    pub(super) fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), ErrorKind> {
        match operation {
            Operation::Claim(spec) => self.begin_claim(&spec, now),
            Operation::Drain(_) | Operation::Flush(_) => Ok(()),
            Operation::Stop(queue) => self
                .card
                .begin_release(pair(queue)?, now)
                .map_err(|error| error.kind()),
            Operation::Reset => {
                self.resets = self.resets.wrapping_add(1);
                self.card.begin_reset(now);
                Ok(())
            }
            Operation::Silence => {
                devices::forbid(self.function);
                Ok(())
            }
        }
    }

    pub(super) fn poll(
        &mut self,
        operation: Operation,
        now: Instant,
    ) -> Poll<Result<(), ErrorKind>> {
        let (card, of) = (&mut self.card, |queue| pair(queue));
        let polled = match operation {
            Operation::Claim(spec) => of(spec.queue).map(|pair| card.poll_claim(pair, now)),
            Operation::Drain(queue) => of(queue).map(|pair| card.poll_drain(pair)),
            Operation::Stop(queue) => return self.poll_stop(queue, now),
            Operation::Flush(_) => {
                card.flush();
                let is_there = !card.is_gone();
                return Poll::Ready(is_there.then_some(()).ok_or(ErrorKind::Removed));
            }
            Operation::Reset => return self.poll_reset(now),
            Operation::Silence => return Poll::Ready(Ok(())),
        };
        match polled {
            Ok(polled) => polled.map(|result| result.map_err(|error| error.kind())),
            Err(kind) => Poll::Ready(Err(kind)),
        }
    }

    fn begin_claim(&mut self, spec: &QueueSpec, now: Instant) -> Result<(), ErrorKind> {
        let place = self.places.get_mut(spec.queue.index());
        let place = place.ok_or(ErrorKind::InvalidArgument)?;
        let rings = place.rings.take().ok_or(ErrorKind::InvalidArgument)?;
        let begun = self
            .card
            .begin_claim(pair(spec.queue)?, rings, place.vector, now);
        begun.map_err(|error| error.kind())
    }

    fn poll_stop(&mut self, queue: QueueIndex, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let stopped = match pair(queue) {
            Ok(pair) => self.card.poll_release(pair, now),
            Err(kind) => return Poll::Ready(Err(kind)),
        };
        if let (Poll::Ready(Ok(())), Some(place)) = (&stopped, self.places.get_mut(queue.index())) {
            *place = Place::default();
        }
        stopped.map(|result| result.map_err(|error| error.kind()))
    }

    /// Filters come back before anything is received for a process: no queue of one is on yet.
    fn poll_reset(&mut self, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let reset = self.card.poll_reset(now);
        if let Poll::Ready(Ok(())) = reset {
            self.places.fill(Place::default());
            self.filters.restore(&self.card);
            self.share_counters();
        }
        reset.map(|result| result.map_err(|error| error.kind()))
    }

    pub(super) fn can_express(&self, matches: &Matches) -> bool {
        Filters::can_express(&self.card, matches)
    }

    pub(super) fn begin_change(&mut self, change: Change, _now: Instant) -> Result<(), ErrorKind> {
        let changed = self.filters.change(&self.card, change);
        changed.map_err(|error| error.kind())
    }

    pub(super) fn poll_change(&mut self, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let changed = self.filters.poll(&self.card, now);
        changed.map(|result| result.map_err(|error| error.kind()))
    }
}

/// The port's number of a pair: that of the kernel comes first.
pub(crate) fn pair(queue: QueueIndex) -> Result<u8, ErrorKind> {
    let pair = queue.as_u32().checked_add(1).map(u8::try_from);
    pair.and_then(Result::ok).ok_or(ErrorKind::InvalidArgument)
}
