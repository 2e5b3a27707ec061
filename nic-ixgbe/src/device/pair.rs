//! One queue pair: claimed, drained, given back; of a port, or of a virtual function.
#![expect(unsafe_code, reason = "gives the port the addresses of rings")]

use core::{task::Poll, time::Duration};

use parakernel_core::{
    address::BusAddress,
    mmio::{Register, Registers, Window},
    ring::RingSize,
    time::{Deadline, Instant},
};

use super::ring::{DESCRIPTOR, ReceiveRing, Tags, TransmitRing};
use crate::{
    error::PairError,
    regs::{
        DcaRxctrl, DcaTxctrl, Rdbah, Rdbal, Rdh, Rdlen, Rdt, RxQueueBlock, Rxdctl, Srrctl, Tdbah,
        Tdbal, Tdh, Tdlen, Tdt, Tdwbah, Tdwbal, TxQueueBlock, Txdctl,
    },
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
    /// The port or the function is being reset: whatever the pair was, its memory is the port's until that has ended.
    Resetting,
    /// It did not start, or did not stop, or a reset failed: its memory stays with the port until that is reset.
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
    Resetting,
    Quarantined,
}

impl Pair {
    /// Room for one pair, to fill the slice with that [`Setup`](super::Setup) takes.
    pub const EMPTY: Self = Self(Step::Free);

    pub(crate) const fn state(&self) -> PairState {
        match self.0 {
            Step::Free => PairState::Free,
            Step::Claiming(_) => PairState::Claiming,
            Step::Active => PairState::Active,
            Step::Stopping(_) | Step::Grace(_) => PairState::Releasing,
            Step::Resetting => PairState::Resetting,
            Step::Quarantined => PairState::Quarantined,
        }
    }

    /// A reset begins: queues are on until it has ended.
    pub(crate) fn begin_reset(pairs: &mut [Self]) {
        pairs.fill(Self(Step::Resetting));
    }

    /// A reset has ended: all pairs are free, or where it failed, nobody may have them.
    pub(crate) fn end_reset(pairs: &mut [Self], is_done: bool) {
        pairs.fill(Self(if is_done {
            Step::Free
        } else {
            Step::Quarantined
        }));
    }

    /// Gives the pair its rings.
    pub(crate) fn begin_claim<R: Registers>(
        &mut self,
        queues: &Queues<'_, R>,
        rings: &PairRings,
        now: Instant,
    ) -> Result<(), PairError> {
        if !matches!(self.0, Step::Free) {
            return Err(PairError::WrongState);
        }
        self.0 = Step::Claiming(Deadline::after(now, QUEUE_LIMIT));
        queues.start_receive(&rings.receive);
        queues.start_transmit(&rings.transmit);
        Ok(())
    }

    /// Looks whether both queues work.
    pub(crate) fn poll_claim<R: Registers>(
        &mut self,
        queues: &Queues<'_, R>,
        now: Instant,
    ) -> Poll<Result<(), PairError>> {
        let deadline = match self.0 {
            Step::Claiming(deadline) => deadline,
            Step::Active => return Poll::Ready(Ok(())),
            Step::Free
            | Step::Stopping(_)
            | Step::Grace(_)
            | Step::Resetting
            | Step::Quarantined => {
                return Poll::Ready(Err(PairError::WrongState));
            }
        };
        let on = queues.sides();
        if queues.is_gone {
            return Poll::Ready(Err(PairError::Removed));
        }
        if on.receive && on.transmit {
            return self.settle(Step::Active, Ok(()));
        }
        self.wait_for(deadline, now)
    }

    /// Whether all that the pair was given was sent.
    pub(crate) fn poll_drain<R: Registers>(
        &self,
        queues: &Queues<'_, R>,
    ) -> Poll<Result<(), PairError>> {
        if !matches!(self.0, Step::Active) {
            return Poll::Ready(Err(PairError::WrongState));
        }
        if queues.is_gone {
            return Poll::Ready(Err(PairError::Removed));
        }
        if queues.is_drained() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Stops both queues.
    pub(crate) fn begin_release<R: Registers>(
        &mut self,
        queues: &Queues<'_, R>,
        now: Instant,
    ) -> Result<(), PairError> {
        if !matches!(self.0, Step::Active) {
            return Err(PairError::WrongState);
        }
        self.0 = Step::Stopping(Deadline::after(now, QUEUE_LIMIT));
        queues.stop();
        Ok(())
    }

    /// Looks whether the device has let go of the pair's memory, the grace time included.
    pub(crate) fn poll_release<R: Registers>(
        &mut self,
        queues: &Queues<'_, R>,
        now: Instant,
    ) -> Poll<Result<(), PairError>> {
        let removed = || Err(PairError::Removed);
        match self.0 {
            Step::Stopping(_) if queues.is_gone => self.settle(Step::Free, removed()),
            Step::Stopping(deadline) => {
                let on = queues.sides();
                if on.receive || on.transmit {
                    return self.wait_for(deadline, now);
                }
                self.0 = Step::Grace(Deadline::after(now, GRACE));
                Poll::Pending
            }
            Step::Grace(deadline) if deadline.check(now).is_ok() => Poll::Pending,
            // A read after the grace time makes sure that all writes have arrived: the one that says whether it is gone.
            Step::Grace(_) if queues.is_gone => self.settle(Step::Free, removed()),
            Step::Grace(_) => self.settle(Step::Free, Ok(())),
            Step::Free | Step::Claiming(_) | Step::Active | Step::Resetting | Step::Quarantined => {
                Poll::Ready(Err(PairError::WrongState))
            }
        }
    }

    /// Takes note of how an operation ended.
    fn settle(&mut self, done: Step, result: Result<(), PairError>) -> Poll<Result<(), PairError>> {
        self.0 = if result.is_ok() {
            done
        } else {
            Step::Quarantined
        };
        Poll::Ready(result)
    }

    /// Waits on, unless it is late.
    fn wait_for(&mut self, deadline: Deadline, now: Instant) -> Poll<Result<(), PairError>> {
        match deadline.check(now) {
            Ok(()) => Poll::Pending,
            Err(timeout) => self.settle(Step::Quarantined, Err(PairError::Quarantined(timeout))),
        }
    }
}

/// The registers of a pair's queues.
#[derive(Debug)]
pub(crate) struct Queues<'r, R> {
    pub(crate) receive: Window<&'r R, RxQueueBlock>,
    pub(crate) transmit: Window<&'r R, TxQueueBlock>,
    /// Whether the device is gone, as a read of just now says.
    pub(crate) is_gone: bool,
}

impl<R: Registers> Queues<'_, R> {
    /// Which of them say that they are on.
    pub(crate) fn sides(&self) -> Sides {
        Sides {
            receive: self.receive.read::<Rxdctl>().is_set(Rxdctl::ENABLE),
            transmit: self.transmit.read::<Txdctl>().is_set(Txdctl::ENABLE),
        }
    }

    /// Head and tail of the transmit queue.
    pub(crate) fn positions(&self) -> (u64, u64) {
        let head = self.transmit.read::<Tdh>().bits();
        (head, self.transmit.read::<Tdt>().bits())
    }

    pub(crate) fn is_drained(&self) -> bool {
        let (head, tail) = self.positions();
        head == tail
    }

    pub(crate) fn stop(&self) {
        self.receive
            .modify(|rxdctl: Rxdctl| rxdctl.with(Rxdctl::ENABLE, 0));
        self.transmit
            .modify(|txdctl: Txdctl| txdctl.with(Txdctl::ENABLE, 0));
    }

    /// §4.6.7.1, without the last step: the tail is the data half's.
    fn start_receive(&self, ring: &ReceiveRing) {
        let queue = &self.receive;
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
        let strip = u64::from(ring.tags == Tags::Stripped);
        queue.modify(|it: Rxdctl| it.with(Rxdctl::VME, strip).with(Rxdctl::ENABLE, 1));
    }

    /// §4.6.8, a queue's part of it.
    fn start_transmit(&self, ring: &TransmitRing) {
        let queue = &self.transmit;
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
        // Fetched ahead by lines; with head write-back nothing is written back by number (§7.2.3.5.2).
        let txdctl = Txdctl::default()
            .with(Txdctl::PTHRESH, 36)
            .with(Txdctl::HTHRESH, 8)
            .with(Txdctl::WTHRESH, 0);
        queue.write(txdctl.with(Txdctl::ENABLE, 1));
    }

    /// What is the same for whoever uses the queues, so once after a reset: no relaxed order (§8.2.3.11.1, §8.2.3.11.2).
    pub(crate) fn keep_order(&self) {
        self.receive.modify(|dca: DcaRxctrl| {
            dca.with(DcaRxctrl::RESERVED_12, 0)
                .with(DcaRxctrl::RX_DESC_READ_RO_EN, 0)
                .with(DcaRxctrl::RX_DATA_WRITE_RO_EN, 0)
                .with(DcaRxctrl::RX_REP_HEADER_RO_EN, 0)
        });
        self.transmit.modify(|dca: DcaTxctrl| {
            dca.with(DcaTxctrl::TX_DESC_READ_RO_EN, 0)
                .with(DcaTxctrl::TX_DESC_WB_RO_EN, 0)
                .with(DcaTxctrl::TX_DATA_READ_RO_EN, 0)
        });
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
