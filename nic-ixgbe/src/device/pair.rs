//! Queue pairs: claimed one by one, drained, and given back one by one.
#![expect(unsafe_code, reason = "gives the port the addresses of rings")]

use core::{task::Poll, time::Duration};

use parakernel_core::{
    address::BusAddress,
    mmio::{Register, Registers},
    ring::RingSize,
    time::{Deadline, Instant},
};

use super::{
    Device,
    ring::{DESCRIPTOR, ReceiveRing, Tags, TransmitRing},
};
use crate::{
    error::PairError,
    regs::{
        DcaRxctrl, DcaTxctrl, QUEUES, Rdbah, Rdbal, Rdh, Rdlen, Rdt, RxQueueBlock, Rxdctl, Srrctl,
        Status, Tdbah, Tdbal, Tdh, Tdlen, Tdt, Tdwbah, Tdwbal, TxQueueBlock, Txdctl,
    },
    steering::DROP_QUEUE,
};

/// How long a queue may take to start or stop. The datasheet names no limit; drivers give it 10 ms. One that takes longer
/// is quarantined with its memory.
pub const QUEUE_LIMIT: Duration = Duration::from_millis(100);

/// How long the device may still write to a receive queue's memory after it says that the queue is off (§4.6.7.1.2).
pub const GRACE: Duration = Duration::from_micros(100);

/// The rings of a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairRings {
    /// The receive ring.
    pub receive: ReceiveRing,
    /// The transmit ring.
    pub transmit: TransmitRing,
}

/// An interrupt vector of the port, 0 to 63. Number 0 is for the port itself: link and errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Vector(pub(crate) u8);

impl Vector {
    /// The port's own.
    pub const PORT: Self = Self(0);

    /// The vector with this number; `None` from 64 on.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < 64 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// The state of a queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PairState {
    /// Nobody's: claimable. What is steered to it is dropped.
    Free,
    /// Being claimed.
    Claiming,
    /// Somebody's.
    Active,
    /// Being stopped.
    Releasing,
    /// It did not start, or did not stop: its memory stays with the port until that is reset.
    Quarantined,
}

/// Which queues of a pair say that they are on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sides {
    /// The receive queue.
    pub receive: bool,
    /// The transmit queue.
    pub transmit: bool,
}

/// What the device keeps of each pair, in the caller's memory.
#[derive(Clone, Copy, Debug)]
pub struct Pair(Step);

#[derive(Clone, Copy, Debug)]
enum Step {
    Free,
    Claiming(Deadline),
    Active,
    Stopping(Deadline),
    /// Off, as the port says; what it still had to write may be on its way.
    Grace(Deadline),
    Quarantined,
}

impl Pair {
    /// Room for one pair, to fill the slice with that [`Setup`](super::Setup) takes.
    pub const EMPTY: Self = Self(Step::Free);

    const fn state(&self) -> PairState {
        match self.0 {
            Step::Free => PairState::Free,
            Step::Claiming(_) => PairState::Claiming,
            Step::Active => PairState::Active,
            Step::Stopping(_) | Step::Grace(_) => PairState::Releasing,
            Step::Quarantined => PairState::Quarantined,
        }
    }
}

impl<R: Registers> Device<'_, R> {
    /// Number of pairs that can be claimed: as many as there is [room](super::Setup::pairs) for, at most 128.
    #[must_use]
    pub fn pairs(&self) -> u8 {
        let count = u8::try_from(self.pairs.len()).unwrap_or(u8::MAX);
        count.min(QUEUES)
    }

    /// The queue that takes what is to be dropped, as it is never on: the last, where there is no room to claim it.
    ///
    /// `None` where all 128 pairs can be claimed. Without pools, frames of a rule that was removed then go to queue 0, the
    /// kernel's, with those that no rule is about: dropped there, and by nobody else's queue.
    #[must_use]
    pub fn drop_queue(&self) -> Option<u8> {
        (self.pairs() <= DROP_QUEUE).then_some(DROP_QUEUE)
    }

    /// The state of `pair`; `None` where there is no such pair.
    #[must_use]
    pub fn pair_state(&self, pair: u8) -> Option<PairState> {
        let slot = self.pairs.get(usize::from(pair));
        slot.filter(|_| pair < self.pairs()).map(Pair::state)
    }

    /// Byte offset of a receive queue's tail register, for its doorbell; `None` beyond the last queue.
    #[must_use]
    pub const fn receive_tail(queue: u8) -> Option<usize> {
        match RxQueueBlock::base(queue) {
            Some(base) => Some(base + Rdt::OFFSET),
            None => None,
        }
    }

    /// Byte offset of a transmit queue's tail register, for its doorbell; `None` beyond the last queue.
    #[must_use]
    pub const fn transmit_tail(queue: u8) -> Option<usize> {
        match TxQueueBlock::base(queue) {
            Some(base) => Some(base + Tdt::OFFSET),
            None => None,
        }
    }

    /// Gives `pair` its rings; the queues work as soon as [`poll_claim`](Self::poll_claim) says so, and no tail may be moved
    /// before (§4.6.7.1). A receive queue drops frames for which it has no buffer, whatever its owner wishes.
    ///
    /// # Errors
    ///
    /// Where there is no such pair, it is not free, or the port is not in service: being reset, or failed to.
    pub fn begin_claim(
        &mut self,
        pair: u8,
        rings: PairRings,
        vector: Option<Vector>,
        now: Instant,
    ) -> Result<(), PairError> {
        let is_in_service = self.start.is_done();
        let slot = self.slot(pair)?;
        if !matches!(slot.0, Step::Free) || !is_in_service {
            return Err(PairError::WrongState);
        }
        slot.0 = Step::Claiming(Deadline::after(now, QUEUE_LIMIT));
        self.set_vector(pair, vector);
        self.start_receive(pair, &rings.receive);
        self.start_transmit(pair, &rings.transmit);
        Ok(())
    }

    /// Looks whether both queues of `pair` work.
    ///
    /// # Errors
    ///
    /// [`PairError::Quarantined`] where one did not say so in time.
    pub fn poll_claim(&mut self, pair: u8, now: Instant) -> Poll<Result<(), PairError>> {
        let deadline = match self.slot(pair).map(|slot| slot.0) {
            Ok(Step::Claiming(deadline)) => deadline,
            Ok(Step::Active) => return Poll::Ready(Ok(())),
            Ok(_) => return Poll::Ready(Err(PairError::WrongState)),
            Err(error) => return Poll::Ready(Err(error)),
        };
        let on = self.sides(pair);
        if self.is_gone() {
            return Poll::Ready(Err(PairError::Removed));
        }
        if on.receive && on.transmit {
            return self.settle(pair, Step::Active, Ok(()));
        }
        self.wait_for(pair, deadline, now)
    }

    /// Whether the port has sent all that `pair` was given. It may never have where the link is down.
    ///
    /// # Errors
    ///
    /// Where there is no such pair, it is not active, or the port is gone.
    pub fn poll_drain(&mut self, pair: u8) -> Poll<Result<(), PairError>> {
        match self.slot(pair).map(|slot| slot.0) {
            Ok(Step::Active) => {}
            Ok(_) => return Poll::Ready(Err(PairError::WrongState)),
            Err(error) => return Poll::Ready(Err(error)),
        }
        if self.is_gone() {
            return Poll::Ready(Err(PairError::Removed));
        }
        let is_empty = self
            .tx_queue(pair)
            .is_some_and(|queue| queue.read::<Tdh>().bits() == queue.read::<Tdt>().bits());
        if is_empty {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Stops the queues of `pair`; no process uses them any more, and nothing is steered to them.
    ///
    /// # Errors
    ///
    /// Where there is no such pair, or it is not active.
    pub fn begin_release(&mut self, pair: u8, now: Instant) -> Result<(), PairError> {
        let slot = self.slot(pair)?;
        if !matches!(slot.0, Step::Active) {
            return Err(PairError::WrongState);
        }
        slot.0 = Step::Stopping(Deadline::after(now, QUEUE_LIMIT));
        self.set_vector(pair, None);
        if let (Some(rx), Some(tx)) = (self.rx_queue(pair), self.tx_queue(pair)) {
            rx.modify(|rxdctl: Rxdctl| rxdctl.with(Rxdctl::ENABLE, 0));
            tx.modify(|txdctl: Txdctl| txdctl.with(Txdctl::ENABLE, 0));
        }
        Ok(())
    }

    /// Looks whether the port has let go of the rings and buffers of `pair`, its grace time included.
    ///
    /// # Errors
    ///
    /// [`PairError::Quarantined`] where it did not confirm that in time: the memory stays with it. The same for a port that
    /// is gone, as [`PairError::Removed`].
    pub fn poll_release(&mut self, pair: u8, now: Instant) -> Poll<Result<(), PairError>> {
        let deadline = match self.slot(pair).map(|slot| slot.0) {
            Ok(Step::Stopping(deadline)) => deadline,
            Ok(Step::Grace(deadline)) => return self.poll_grace(pair, deadline, now),
            Ok(_) => return Poll::Ready(Err(PairError::WrongState)),
            Err(error) => return Poll::Ready(Err(error)),
        };
        if self.is_gone() {
            return self.settle(pair, Step::Free, Err(PairError::Removed));
        }
        let on = self.sides(pair);
        if !on.receive && !on.transmit {
            let grace = Deadline::after(now, GRACE);
            return self.slot(pair).map_or_else(
                |error| Poll::Ready(Err(error)),
                |slot| {
                    slot.0 = Step::Grace(grace);
                    Poll::Pending
                },
            );
        }
        self.wait_for(pair, deadline, now)
    }

    /// After the grace time a read makes sure that all writes have arrived.
    fn poll_grace(
        &mut self,
        pair: u8,
        deadline: Deadline,
        now: Instant,
    ) -> Poll<Result<(), PairError>> {
        if deadline.check(now).is_ok() {
            return Poll::Pending;
        }
        let result = if self.is_gone() {
            Err(PairError::Removed)
        } else {
            Ok(())
        };
        self.settle(pair, Step::Free, result)
    }

    /// A read that comes back only after all that the port wrote to memory before it.
    pub fn flush(&self) {
        let _status = self.port().read::<Status>();
    }

    /// Which queues of `pair` say that they are on.
    #[must_use]
    pub fn sides(&self, pair: u8) -> Sides {
        let receive = self.rx_queue(pair);
        let transmit = self.tx_queue(pair);
        Sides {
            receive: receive.is_some_and(|it| it.read::<Rxdctl>().is_set(Rxdctl::ENABLE)),
            transmit: transmit.is_some_and(|it| it.read::<Txdctl>().is_set(Txdctl::ENABLE)),
        }
    }

    fn slot(&mut self, pair: u8) -> Result<&mut Pair, PairError> {
        if pair >= self.pairs() {
            return Err(PairError::NoSuchPair(pair));
        }
        let slot = self.pairs.get_mut(usize::from(pair));
        slot.ok_or(PairError::NoSuchPair(pair))
    }

    /// Takes note of how an operation ended.
    fn settle(
        &mut self,
        pair: u8,
        done: Step,
        result: Result<(), PairError>,
    ) -> Poll<Result<(), PairError>> {
        let step = if result.is_ok() {
            done
        } else {
            Step::Quarantined
        };
        Poll::Ready(self.slot(pair).and_then(|slot| {
            slot.0 = step;
            result
        }))
    }

    /// Waits on, unless it is late.
    fn wait_for(
        &mut self,
        pair: u8,
        deadline: Deadline,
        now: Instant,
    ) -> Poll<Result<(), PairError>> {
        match deadline.check(now) {
            Ok(()) => Poll::Pending,
            Err(timeout) => self.settle(
                pair,
                Step::Quarantined,
                Err(PairError::Quarantined(timeout)),
            ),
        }
    }

    /// §4.6.7.1, without the last step: the tail is the data half's.
    fn start_receive(&self, pair: u8, ring: &ReceiveRing) {
        let Some(queue) = self.rx_queue(pair) else {
            return;
        };
        let (low, high) = halves(ring.bus);
        // SAFETY: the ring is a whole block, which is the queue's until it was released (`ReceiveRing`, `DmaBlock`); it is
        // off now, and its length is written before it goes on.
        unsafe { queue.write_address(Rdbal::from_bits(low)) };
        // SAFETY: as above.
        unsafe { queue.write_address(Rdbah::from_bits(high)) };
        queue.write(Rdlen::from_bits(bytes(ring.size)));
        queue.write(Rdh::default());
        queue.write(Rdt::default());
        queue.write(
            Srrctl::default()
                .with(Srrctl::BSIZEPACKET, ring.size_kib.into())
                .with(Srrctl::DESCTYPE, 1)
                .with(Srrctl::DROP_EN, 1),
        );
        queue.modify(|dca: DcaRxctrl| {
            dca.with(DcaRxctrl::RESERVED_12, 0)
                .with(DcaRxctrl::RX_DESC_READ_RO_EN, 0)
                .with(DcaRxctrl::RX_DATA_WRITE_RO_EN, 0)
                .with(DcaRxctrl::RX_REP_HEADER_RO_EN, 0)
        });
        let strip = u64::from(ring.tags == Tags::Stripped);
        queue.modify(|it: Rxdctl| it.with(Rxdctl::VME, strip).with(Rxdctl::ENABLE, 1));
    }

    /// §4.6.8, a queue's part of it.
    fn start_transmit(&self, pair: u8, ring: &TransmitRing) {
        let Some(queue) = self.tx_queue(pair) else {
            return;
        };
        let (low, high) = halves(ring.bus);
        let (head_low, head_high) = halves(ring.head);
        let head_low = Tdwbal::from_bits(head_low).with(Tdwbal::HEAD_WB_EN, 1);
        // SAFETY: the ring is a whole block, which is the queue's until it was released (`TransmitRing`, `DmaBlock`); it is
        // off now, and its length is written before it goes on.
        unsafe { queue.write_address(Tdbal::from_bits(low)) };
        // SAFETY: as above.
        unsafe { queue.write_address(Tdbah::from_bits(high)) };
        queue.write(Tdlen::from_bits(bytes(ring.size)));
        queue.write(Tdh::default());
        queue.write(Tdt::default());
        // SAFETY: four bytes of a block that is the queue's too.
        unsafe { queue.write_address(head_low) };
        // SAFETY: as above.
        unsafe { queue.write_address(Tdwbah::from_bits(head_high)) };
        queue.modify(|dca: DcaTxctrl| {
            dca.with(DcaTxctrl::TX_DESC_READ_RO_EN, 0)
                .with(DcaTxctrl::TX_DESC_WB_RO_EN, 0)
                .with(DcaTxctrl::TX_DATA_READ_RO_EN, 0)
        });
        // Fetched ahead by lines; with head write-back nothing is written back by number (§7.2.3.5.2).
        let txdctl = Txdctl::default()
            .with(Txdctl::PTHRESH, 36)
            .with(Txdctl::HTHRESH, 8)
            .with(Txdctl::WTHRESH, 0);
        queue.write(txdctl.with(Txdctl::ENABLE, 1));
    }
}

/// Low and high half of an address.
fn halves(address: BusAddress) -> (u64, u64) {
    let address = address.as_u64();
    (address & 0xFFFF_FFFF, address >> 32)
}

/// Bytes of a ring.
fn bytes(size: RingSize) -> u64 {
    u64::from(size.entries()) * DESCRIPTOR as u64
}
