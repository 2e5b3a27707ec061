//! Queue pairs: claimed one by one, and given back one by one.

use core::{task::Poll, time::Duration};

use parakernel_core::{
    memory::{DmaBlock, PAGE_SIZE, Pool},
    mmio::Registers,
    ring::Position,
    time::{Deadline, Instant},
};

use super::Device;
use crate::{
    error::PairError,
    features::Features,
    notify::{Data, Notifier},
    rx::{Receiver, Spread},
    transport::{RingAddresses, Transport},
    tx::{HeaderSource, Sender},
    virtqueue::{Format, ReceiveFormat, TransmitFormat, packed::Packed, split::Split},
};

/// How long the reset of a queue may take. The specification names no limit; a queue that takes longer is quarantined
/// with its memory.
pub const QUEUE_RESET_LIMIT: Duration = Duration::from_millis(100);

/// Entries of the ring of queues that nobody has claimed.
pub(super) const IDLE_ENTRIES: u16 = 2;

/// Where the device finds that ring, in a page of zeros; `None` where `page` is none. Its areas lie on lines of their own.
pub(super) fn idle_ring(page: &DmaBlock<'_>) -> Option<RingAddresses> {
    const AREAS: [usize; 3] = [0, 64, 128];
    let is_page = page.len() >= PAGE_SIZE && page.bus_address().is_aligned(PAGE_SIZE as u64);
    is_page.then(|| RingAddresses::in_block(page, IDLE_ENTRIES, AREAS))
}

/// The rings of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairRings {
    /// The receive ring.
    pub receive: RingAddresses,
    /// The transmit ring.
    pub transmit: RingAddresses,
}

/// Where interrupts of a pair go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Vectors {
    /// Vector of the receive queue; `None` for no interrupts.
    pub receive: Option<u16>,
    /// Vector of the transmit queue.
    pub transmit: Option<u16>,
}

/// Which queues of a pair interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Woken {
    /// The receive queue has the vector that was asked for.
    pub receive: bool,
    /// The transmit queue has.
    pub transmit: bool,
}

/// The state of a queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PairState {
    /// Nobody's: claimable.
    Free,
    /// Being claimed.
    Claiming,
    /// Somebody's.
    Active,
    /// Being stopped.
    Releasing,
    /// It did not stop: its memory stays with the device until that is reset.
    Quarantined,
}

/// What the device keeps of each pair, in the caller's memory.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    step: Step,
    /// Entries that the device allows, of receive and transmit queue.
    limits: [u32; 2],
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Enabled, with a ring that nothing is in.
    Idle,
    /// Not enabled.
    Disabled,
    Claiming {
        rings: PairRings,
        vectors: Vectors,
        reset: Option<Deadline>,
    },
    Active,
    Releasing(Deadline),
    Quarantined,
}

impl Pair {
    /// Room for one pair, to fill the slice with that [`Setup`](super::Setup) takes.
    pub const EMPTY: Self = Self {
        step: Step::Disabled,
        limits: [0; 2],
    };

    /// A pair that nobody claims, of queues with so many entries at most. Whether it has a ring is in `idle`, where it is
    /// to have one.
    pub(super) const fn new(idle: Option<Result<(), PairError>>, limits: [u32; 2]) -> Self {
        let step = match idle {
            None => Step::Disabled,
            Some(Ok(())) => Step::Idle,
            Some(Err(_)) => Step::Quarantined,
        };
        Self { step, limits }
    }

    /// Whether the device may put frames into the pair's queue.
    pub(super) const fn is_enabled(&self) -> bool {
        matches!(self.step, Step::Idle | Step::Active)
    }

    const fn state(&self) -> PairState {
        match self.step {
            Step::Idle | Step::Disabled => PairState::Free,
            Step::Claiming { .. } => PairState::Claiming,
            Step::Active => PairState::Active,
            Step::Releasing(_) => PairState::Releasing,
            Step::Quarantined => PairState::Quarantined,
        }
    }
}

/// Receive and transmit queue of a pair, without a kernel in between.
pub type Queues<'p, F, R, const N: usize> = (
    Receiver<F, Notifier<F, R>, N>,
    Sender<'p, F, Notifier<F, R>, N>,
);

/// Indices of the queues of `pair`, which is below 0x8000: receive and transmit (§5.1.2).
#[must_use]
pub const fn queues_of(pair: u16) -> [u16; 2] {
    let receive = pair.wrapping_mul(2);
    [receive, receive | 1]
}

impl<T: Transport> Device<'_, T> {
    /// Number of pairs that can be claimed.
    #[must_use]
    pub const fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// The state of `pair`; `None` where there is no such pair.
    #[must_use]
    pub fn pair_state(&self, pair: u16) -> Option<PairState> {
        self.pairs.get(usize::from(pair)).map(Pair::state)
    }

    /// The most entries that the device allows in the receive and the transmit queue of `pair`.
    #[must_use]
    pub fn pair_limits(&self, pair: u16) -> Option<[u32; 2]> {
        self.pairs.get(usize::from(pair)).map(|pair| pair.limits)
    }

    /// Gives `pair` its rings; the queues work as soon as [`poll_claim`](Self::poll_claim) says so.
    ///
    /// The rings must be zeroed, or hold what a data half prepared in them, with nothing made available.
    ///
    /// # Errors
    ///
    /// Where there is no such pair, it is not free, or a ring is larger than the device allows.
    pub fn begin_claim(
        &mut self,
        pair: u16,
        rings: PairRings,
        vectors: Vectors,
        now: Instant,
    ) -> Result<(), PairError> {
        let slot = self.slot(pair)?;
        let needs_reset = match slot.step {
            Step::Idle => true,
            Step::Disabled => false,
            Step::Claiming { .. } | Step::Active | Step::Releasing(_) | Step::Quarantined => {
                return Err(PairError::WrongState);
            }
        };
        for (ring, limit) in [rings.receive, rings.transmit].iter().zip(slot.limits) {
            if u32::from(ring.entries()) > limit {
                return Err(PairError::Entries(limit));
            }
        }
        let reset = needs_reset.then(|| Deadline::after(now, QUEUE_RESET_LIMIT));
        slot.step = Step::Claiming {
            rings,
            vectors,
            reset,
        };
        if needs_reset {
            self.start_reset(pair);
        }
        Ok(())
    }

    /// Looks whether `pair` works, and which of its queues interrupt.
    ///
    /// # Errors
    ///
    /// [`PairError::Quarantined`] where a queue did not come out of its reset in time, [`PairError::Refused`] where the
    /// device does not enable it.
    pub fn poll_claim(&mut self, pair: u16, now: Instant) -> Poll<Result<Woken, PairError>> {
        let (rings, vectors, reset) = match self.slot(pair).map(|slot| slot.step) {
            Ok(Step::Claiming {
                rings,
                vectors,
                reset,
            }) => (rings, vectors, reset),
            Ok(_) => return Poll::Ready(Err(PairError::WrongState)),
            Err(error) => return Poll::Ready(Err(error)),
        };
        let stopped = match reset {
            Some(deadline) => self.poll_stopped(pair, deadline, now),
            None => Poll::Ready(Ok(())),
        };
        stopped.map(|result| {
            let enabled = result.and_then(|()| enable(&self.transport, pair, rings, vectors));
            self.settle(pair, Step::Active, enabled)
        })
    }

    /// Stops the queues of `pair`; no process uses them any more, and nothing is steered to them.
    ///
    /// # Errors
    ///
    /// [`PairError::NoQueueReset`] where the device cannot stop a single queue: the pair is then quarantined.
    pub fn begin_release(&mut self, pair: u16, now: Instant) -> Result<(), PairError> {
        let can_reset = self.features.contains(Features::RING_RESET);
        let slot = self.slot(pair)?;
        if !matches!(slot.step, Step::Active) {
            return Err(PairError::WrongState);
        }
        if !can_reset {
            slot.step = Step::Quarantined;
            return Err(PairError::NoQueueReset);
        }
        slot.step = Step::Releasing(Deadline::after(now, QUEUE_RESET_LIMIT));
        self.start_reset(pair);
        Ok(())
    }

    /// Looks whether the device has let go of the rings and buffers of `pair`.
    ///
    /// The pair then has a ring with nothing in it again, as all have that nobody claims: a device whose network side
    /// spreads frames over its queues before it steers them would leave those unread that come to a queue without a ring.
    ///
    /// # Errors
    ///
    /// [`PairError::Quarantined`] where it did not confirm that in time, [`PairError::Refused`] where it does not take that
    /// ring: either way the memory stays with it.
    pub fn poll_release(&mut self, pair: u16, now: Instant) -> Poll<Result<(), PairError>> {
        let deadline = match self.slot(pair).map(|slot| slot.step) {
            Ok(Step::Releasing(deadline)) => deadline,
            Ok(_) => return Poll::Ready(Err(PairError::WrongState)),
            Err(error) => return Poll::Ready(Err(error)),
        };
        let stopped = self.poll_stopped(pair, deadline, now);
        stopped.map(|result| {
            let idle = result.and_then(|()| enable_idle(&self.transport, pair, &self.idle));
            self.settle(pair, Step::Idle, idle)
        })
    }

    /// Notifies every receive queue, those of pairs that nobody claims included, that there may be buffers.
    ///
    /// For devices whose network side holds back what came to one queue and is for another that is full, until *the first*
    /// is notified, as QEMU's does behind a tap. A notification too many is harmless, so call this now and then. With `NOTIFICATION_DATA` only idle queues are notified, since the
    /// others' owners know alone how far they have filled them.
    pub fn nudge(&self) {
        let registers = self.transport.notify_registers();
        let tail = if self.features.contains(Features::RING_PACKED) {
            Packed::<{ IDLE_ENTRIES as usize }>::notification_data(Position::START)
        } else {
            Split::<{ IDLE_ENTRIES as usize }>::notification_data(Position::START)
        };
        let pairs = (0_u16..).zip(self.pairs.iter());
        for (pair, slot) in pairs.filter(|(_, slot)| slot.is_enabled()) {
            let [receive, _] = queues_of(pair);
            let is_idle = matches!(slot.step, Step::Idle);
            if let Ok(register) = self.notify_register(receive)
                && (is_idle || register.data == Data::Index)
            {
                register.notify(registers, tail);
            }
        }
    }

    /// The data halves of `pair`, for an owner that nobody stands before: the kernel itself, or a process that has the
    /// whole device. The device is notified through `registers`, a view of its notification registers.
    ///
    /// # Errors
    ///
    /// [`PairError::Refused`] where a notification register lies outside of those, [`PairError::Memory`] where the rings
    /// do not have `N` entries or the pool's arena has no room for the header before a frame.
    pub fn queues<'p, F, R, const N: usize>(
        &self,
        pair: u16,
        [receive, transmit]: [F; 2],
        registers: R,
        pool: &Pool<'p>,
    ) -> Result<Queues<'p, F, R, N>, PairError>
    where
        F: ReceiveFormat + TransmitFormat,
        R: Registers + Clone,
    {
        let spread = if self.features.contains(Features::MRG_RXBUF) {
            Spread::Merged
        } else {
            Spread::Single
        };
        let [rx, tx] = queues_of(pair);
        let bell = |ring, queue| {
            let register = self.notify_register(queue)?;
            Ok(Notifier::new(
                ring,
                registers.clone(),
                register,
                self.events(),
            ))
        };
        let (arena, order) = (pool.arena(), self.order());
        let rx = Receiver::new(receive, bell(receive, rx)?, arena.layout(), (order, spread));
        let source = (order, HeaderSource::Queue);
        let tx = Sender::new(transmit, bell(transmit, tx)?, arena.again(), source);
        rx.zip(tx).ok_or(PairError::Memory)
    }

    /// Takes note of how an operation ended.
    fn settle<V>(
        &mut self,
        pair: u16,
        done: Step,
        result: Result<V, PairError>,
    ) -> Result<V, PairError> {
        let step = if result.is_ok() {
            done
        } else {
            Step::Quarantined
        };
        self.slot(pair)?.step = step;
        result
    }

    fn slot(&mut self, pair: u16) -> Result<&mut Pair, PairError> {
        let slot = self.pairs.get_mut(usize::from(pair));
        slot.ok_or(PairError::NoSuchPair(pair))
    }

    fn start_reset(&self, pair: u16) {
        for queue in queues_of(pair) {
            self.transport.start_queue_reset(queue);
        }
    }

    /// Whether both queues are reset. A queue that says so, but is still enabled, was not (§4.1.4.3.1): a device that
    /// offers `RING_RESET` without having it must not pass for one that let go.
    fn poll_stopped(
        &self,
        pair: u16,
        deadline: Deadline,
        now: Instant,
    ) -> Poll<Result<(), PairError>> {
        if self.transport.status().is_gone() {
            return Poll::Ready(Err(PairError::Removed));
        }
        let queues = queues_of(pair);
        if queues
            .iter()
            .any(|&queue| self.transport.is_queue_resetting(queue))
        {
            return match deadline.check(now) {
                Ok(()) => Poll::Pending,
                Err(timeout) => Poll::Ready(Err(PairError::Quarantined(timeout))),
            };
        }
        let running = queues
            .iter()
            .find(|&&queue| self.transport.is_queue_enabled(queue));
        Poll::Ready(running.map_or(Ok(()), |&queue| Err(PairError::Refused { queue })))
    }
}

/// Gives both queues of `pair`, which are not enabled, the ring with nothing in it.
pub(super) fn enable_idle<T: Transport>(
    transport: &T,
    pair: u16,
    idle: &RingAddresses,
) -> Result<(), PairError> {
    let rings = PairRings {
        receive: *idle,
        transmit: *idle,
    };
    enable(transport, pair, rings, Vectors::default()).map(drop)
}

/// Sets up both queues. Vectors first: "before enabling", §4.1.5.1.2; where the device refuses one, the queue has none.
fn enable<T: Transport>(
    transport: &T,
    pair: u16,
    rings: PairRings,
    vectors: Vectors,
) -> Result<Woken, PairError> {
    let [receive, transmit] = queues_of(pair);
    let is_set = |queue, vector: Option<u16>| {
        let is_set = transport.set_vector(Some(queue), vector);
        if !is_set {
            transport.set_vector(Some(queue), None);
        }
        is_set && vector.is_some()
    };
    let woken = Woken {
        receive: is_set(receive, vectors.receive),
        transmit: is_set(transmit, vectors.transmit),
    };
    for (queue, ring) in [(receive, &rings.receive), (transmit, &rings.transmit)] {
        transport.enable_queue(queue, ring);
        if !transport.is_queue_enabled(queue) {
            return Err(PairError::Refused { queue });
        }
    }
    Ok(woken)
}
