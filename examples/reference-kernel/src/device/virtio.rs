//! A virtio network card: the driver's control half, as the control plane works it.

use core::task::Poll;
use core::time::Duration;

use parakernel_core::access::Isolation;
use parakernel_core::address::{NodeId, PhysAddr};
use parakernel_core::device::{Limits, Operation, QueueIndex, QueueKind, QueueSpec, Waits};
use parakernel_core::error::ErrorKind;
use parakernel_core::memory::PAGE_SIZE;
use parakernel_core::mmio::MappedRegisters;
use parakernel_core::ring::RingSize;
use parakernel_core::steering::{Change, Mac, Matches};
use parakernel_core::time::Instant;
use parakernel_nic_virtio::control::TIME_LIMIT;
use parakernel_nic_virtio::device::{
    Device, PairRings, QUEUE_RESET_LIMIT, RESET_LIMIT, Vectors, queues_of,
};
use parakernel_nic_virtio::features::Features;
use parakernel_nic_virtio::notify::NotifyRegister;
use parakernel_nic_virtio::steering::{CLASSES, ClassRules};
use parakernel_nic_virtio::transport::Transport;
use parakernel_nic_virtio::virtqueue::{Events, Order};

use crate::memory::FRAME;
use crate::pci::Function;
use crate::pci::msix::MsiX;
use crate::queues::network::{ENTRIES, NetworkQueue};
use crate::{devices, time};

mod bring_up;
mod bus;

use bus::Bus;

/// The kernel's own pair, for frames that belong to no rule: the one that every card has.
pub(crate) const KERNEL_PAIR: u16 = 0;
/// How long a frame for a full queue may delay those of others that the card took in behind it.
const NUDGE_INTERVAL: Duration = Duration::from_millis(10);
/// Payload of a frame where the card does not say, and what is in front of it.
const MTU: u16 = 1500;
const HEADERS: u16 = 14;

type Card = Device<'static, Bus>;

/// A queue pair that processes may claim.
#[derive(Debug, Default)]
struct Place {
    rings: Option<PairRings>,
    vector: Option<u16>,
    /// The kernel's end, once its process is fenced.
    fenced: Option<NetworkQueue>,
}

/// A virtio network card.
#[derive(Debug)]
pub(crate) struct VirtioNet {
    card: Card,
    /// The PCI function, where it is one.
    function: Option<&'static Function>,
    /// The notification registers, and where they lie, where processes may have a page of them.
    notify: &'static MappedRegisters,
    notify_start: Option<PhysAddr>,
    msix: Option<MsiX>,
    places: &'static mut [Place],
    rules: ClassRules<'static>,
    node: NodeId,
    /// When the receive queues are notified next.
    nudge_at: Instant,
    /// How many resets have been begun.
    resets: u32,
}

impl VirtioNet {
    /// The node that it hangs on.
    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    /// Its interrupt table.
    pub(crate) const fn interrupts(&mut self) -> Option<&mut MsiX> {
        self.msix.as_mut()
    }

    /// How many resets of the card have been begun since it was brought up.
    pub(crate) const fn resets(&self) -> u32 {
        self.resets
    }

    /// What was agreed on with the card.
    pub(crate) const fn features(&self) -> Features {
        self.card.features()
    }

    /// How notifications are suppressed, and in which order buffers come back.
    pub(crate) const fn habits(&self) -> (Events, Order) {
        (self.card.events(), self.card.order())
    }

    /// The card's own address; one made up where it has none.
    pub(crate) fn mac(&self) -> Mac {
        Mac(self.card.limits().mac.unwrap_or([2, 0, 0, 0, 0, 1]))
    }

    /// The longest frame.
    pub(crate) fn max_frame(&self) -> u16 {
        let mtu = self.card.limits().mtu.unwrap_or(MTU);
        mtu.min(MTU).saturating_add(HEADERS)
    }

    /// Whether the card leads frames to queues by exact classes of addresses.
    pub(crate) fn steers(&self) -> bool {
        self.card.can_steer() && self.card.pairs() > 1
    }

    /// Whether its accesses go through an IOMMU where there is one.
    pub(super) const fn is_behind_iommu(&self) -> bool {
        self.features().contains(Features::ACCESS_PLATFORM)
    }

    /// Whether rings are packed.
    pub(crate) const fn is_packed(&self) -> bool {
        self.features().contains(Features::RING_PACKED)
    }

    /// The registers by which a queue is notified, and which of them is the queue's.
    pub(crate) fn bell(&self, queue: u16) -> Option<(&'static MappedRegisters, NotifyRegister)> {
        Some((self.notify, self.card.notify_register(queue).ok()?))
    }

    /// The page of a queue's notification register, if nothing else is on it, and where on it the register is.
    pub(crate) fn doorbell_page(&self, queue: u16) -> Option<(PhysAddr, u64)> {
        if !self.card.has_doorbell_page(queue) {
            return None;
        }
        let offset = self.card.notify_register(queue).ok()?.address.offset;
        let address = self.notify_start?.as_u64() + offset as u64;
        let within = address % FRAME;
        Some((PhysAddr::new(address - within), within))
    }

    /// Keeps the rings of a pair until it is made.
    pub(crate) fn prepare(&mut self, queue: QueueIndex, rings: PairRings, vector: Option<u16>) {
        if let Some(place) = self.places.get_mut(queue.index()) {
            *place = Place {
                rings: Some(rings),
                vector,
                fenced: None,
            };
        }
    }

    /// Takes over the kernel's end of a pair whose process is fenced, to let what is in flight leave.
    pub(crate) fn take_over(&mut self, queue: QueueIndex, pair: NetworkQueue) {
        if let Some(place) = self.places.get_mut(queue.index()) {
            place.fenced = Some(pair);
        }
    }

    /// Starts the kernel's own pair; waits for the card.
    pub(crate) fn start_kernel_pair(&mut self, rings: PairRings, vector: Option<u16>) -> bool {
        let vectors = Vectors {
            receive: vector,
            transmit: None,
        };
        let begun = self
            .card
            .begin_claim(KERNEL_PAIR, rings, vectors, time::now());
        let (card, mut outcome) = (&mut self.card, None);
        let _expired = time::spin_until(2 * QUEUE_RESET_LIMIT, || {
            if let Poll::Ready(result) = card.poll_claim(KERNEL_PAIR, time::now()) {
                outcome = Some(result.is_ok());
            }
            outcome.is_some()
        })
        .is_err();
        begun.is_ok() && outcome == Some(true) && self.steer_and_wait()
    }

    /// Puts the classes in force; waits for the card.
    fn steer_and_wait(&mut self) -> bool {
        if !self.steers() {
            return true;
        }
        let begun = self.rules.begin(&mut self.card, time::now());
        let (card, rules, mut outcome) = (&mut self.card, &mut self.rules, None);
        let _expired = time::spin_until(2 * TIME_LIMIT, || {
            if let Poll::Ready(result) = rules.poll_change(card, time::now()) {
                outcome = Some(result.is_ok());
            }
            outcome.is_some()
        })
        .is_err();
        begun.is_ok() && outcome == Some(true)
    }

    /// Whether the card has failed. Where it has not, it looks again at what it holds back for queues that were full.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        let has_failed = self.card.needs_reset();
        if !has_failed && now >= self.nudge_at {
            self.card.nudge();
            self.nudge_at = now.saturating_add(NUDGE_INTERVAL);
        }
        has_failed
    }

    pub(super) fn limits(&self) -> Limits {
        let vectors = self.msix.as_ref().map_or(0, |msix| msix.len() - 1);
        let size = RingSize::at_most(u32::try_from(ENTRIES).unwrap_or(1)).unwrap_or(RingSize::ONE);
        let mut receive = Isolation::DROPS_WHEN_FULL;
        receive.set(Isolation::STEERS_EXACTLY, self.steers());
        receive.set(Isolation::FIXED_DESCRIPTORS, self.can_seal());
        let has_pages = (0..self.places.len()).all(|index| {
            let pair = u16::try_from(index + 1).unwrap_or(u16::MAX);
            let [queue, _] = queues_of(pair);
            self.card.has_doorbell_page(queue)
        });
        receive.set(Isolation::OWN_DOORBELL_PAGE, has_pages);
        Limits {
            kind: QueueKind::Network,
            queues: u32::try_from(self.places.len()).unwrap_or(0),
            vectors: u32::try_from(vectors).unwrap_or(0),
            min_ring: size,
            max_ring: size,
            doorbell_stride: u32::try_from(self.card.transport().notify_stride()).unwrap_or(0),
            first_isolation: receive,
            // The kernel posts its own header, with what it checked, before each frame.
            second_isolation: Isolation::SPLITS_FRAMES,
            rules: u32::try_from(CLASSES).unwrap_or(0),
            node: self.node,
            waits: Waits {
                claim: 2 * QUEUE_RESET_LIMIT,
                drain: QUEUE_RESET_LIMIT,
                stop: 2 * QUEUE_RESET_LIMIT,
                steer: 2 * TIME_LIMIT,
                reset: 2 * RESET_LIMIT,
            },
        }
    }

    /// Whether receive descriptors stay as the kernel fills them, on pages of their own.
    fn can_seal(&self) -> bool {
        let moving = Features::RING_PACKED | Features::NOTIFICATION_DATA | Features::MRG_RXBUF;
        !self.features().intersects(moving) && 16 * ENTRIES >= PAGE_SIZE
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
                match self.function {
                    Some(function) => {
                        devices::forbid(function);
                        Ok(())
                    }
                    // There is nothing between such a card and memory.
                    None => Err(ErrorKind::Unsupported),
                }
            }
        }
    }

    pub(super) fn poll(
        &mut self,
        operation: Operation,
        now: Instant,
    ) -> Poll<Result<(), ErrorKind>> {
        match operation {
            Operation::Claim(spec) => match pair(spec.queue) {
                Ok(pair) => self
                    .card
                    .poll_claim(pair, now)
                    .map(|result| result.map(|_woken| ()).map_err(|error| error.kind())),
                Err(kind) => Poll::Ready(Err(kind)),
            },
            Operation::Drain(queue) => self.poll_drain(queue),
            Operation::Stop(queue) => self.poll_stop(queue, now),
            // Reading a register comes after all that the card wrote before it answered.
            Operation::Flush(_) => {
                let is_alive = !self.card.needs_reset();
                Poll::Ready(is_alive.then_some(()).ok_or(ErrorKind::Removed))
            }
            Operation::Reset => self.poll_reset(now),
            Operation::Silence => Poll::Ready(Ok(())),
        }
    }

    fn poll_reset(&mut self, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let reset = self.card.poll_reset(now);
        if let Poll::Ready(Ok(())) = reset {
            self.places.fill_with(Place::default);
        }
        reset.map(|result| result.map_err(|error| error.kind()))
    }

    fn begin_claim(&mut self, spec: &QueueSpec, now: Instant) -> Result<(), ErrorKind> {
        let place = self.places.get_mut(spec.queue.index());
        let place = place.ok_or(ErrorKind::InvalidArgument)?;
        let rings = place.rings.take().ok_or(ErrorKind::InvalidArgument)?;
        let vectors = Vectors {
            receive: place.vector,
            transmit: None,
        };
        self.card
            .begin_claim(pair(spec.queue)?, rings, vectors, now)
            .map_err(|error| error.kind())
    }

    /// Lets frames that were taken over leave.
    fn poll_drain(&mut self, queue: QueueIndex) -> Poll<Result<(), ErrorKind>> {
        let place = self.places.get_mut(queue.index());
        let Some(pair) = place.and_then(|place| place.fenced.as_mut()) else {
            return Poll::Ready(Ok(()));
        };
        match pair.outstanding() {
            Ok(0) => Poll::Ready(Ok(())),
            Ok(_) => Poll::Pending,
            Err(_) => Poll::Ready(Err(ErrorKind::Protocol)),
        }
    }

    fn poll_stop(&mut self, queue: QueueIndex, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let pair = match pair(queue) {
            Ok(pair) => pair,
            Err(kind) => return Poll::Ready(Err(kind)),
        };
        let stopped = self.card.poll_release(pair, now);
        if let (Poll::Ready(Ok(())), Some(place)) = (&stopped, self.places.get_mut(queue.index())) {
            *place = Place::default();
        }
        stopped.map(|result| result.map_err(|error| error.kind()))
    }

    pub(super) fn can_express(&self, matches: &Matches) -> bool {
        self.rules.can_express(&self.card, matches)
    }

    pub(super) fn begin_change(&mut self, change: Change, now: Instant) -> Result<(), ErrorKind> {
        let begun = self.rules.begin_change(&mut self.card, change, now);
        begun.map_err(|error| error.kind())
    }

    pub(super) fn poll_change(&mut self, now: Instant) -> Poll<Result<(), ErrorKind>> {
        let changed = self.rules.poll_change(&mut self.card, now);
        changed.map(|result| result.map_err(|error| error.kind()))
    }
}

/// The card's number of a pair: that of the kernel comes first.
pub(crate) fn pair(queue: QueueIndex) -> Result<u16, ErrorKind> {
    let pair = queue.as_u32().checked_add(1).map(u16::try_from);
    pair.and_then(Result::ok).ok_or(ErrorKind::InvalidArgument)
}
