//! Queue pairs of a virtual function: as those of a port.

use core::task::Poll;

use parakernel_core::{
    mmio::{Register, Registers, Window},
    time::Instant,
};

use super::Function;
use crate::{
    device::{Pair, PairRings, PairState, Queues, Vector},
    error::PairError,
    regs::{Rdt, RxQueueBlock, Tdt, TxQueueBlock},
};

impl<R: Registers> Function<'_, R> {
    /// Number of pairs that can be claimed: as many as there is room for, and as the port's driver gives.
    #[must_use]
    pub fn pairs(&self) -> u8 {
        let count = u8::try_from(self.pairs.len()).unwrap_or(u8::MAX);
        count.min(self.queues)
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
        match RxQueueBlock::function_base(queue) {
            Some(base) => Some(base + Rdt::OFFSET),
            None => None,
        }
    }

    /// Byte offset of a transmit queue's tail register, for its doorbell; `None` beyond the last queue.
    #[must_use]
    pub const fn transmit_tail(queue: u8) -> Option<usize> {
        match TxQueueBlock::function_base(queue) {
            Some(base) => Some(base + Tdt::OFFSET),
            None => None,
        }
    }

    /// Gives `pair` its rings, and has it told by `vector`, below [`VECTORS`](super::VECTORS); as
    /// [`Device::begin_claim`](crate::device::Device::begin_claim).
    ///
    /// # Errors
    ///
    /// Where there is no such pair, it is not free, or the function is not in service.
    pub fn begin_claim(
        &mut self,
        pair: u8,
        rings: PairRings,
        vector: Option<Vector>,
        now: Instant,
    ) -> Result<(), PairError> {
        if !self.start.is_done() {
            return Err(PairError::WrongState);
        }
        let is_free = self.pair_state(pair) == Some(PairState::Free);
        if is_free {
            self.set_vector(pair, vector);
        }
        let (slot, queues) = self.slot(pair)?;
        if is_free {
            queues.keep_order();
        }
        slot.begin_claim(&queues, &rings, now)
    }

    /// Looks whether both queues of `pair` work.
    ///
    /// # Errors
    ///
    /// As [`Device::poll_claim`](crate::device::Device::poll_claim).
    pub fn poll_claim(&mut self, pair: u8, now: Instant) -> Poll<Result<(), PairError>> {
        match self.slot(pair) {
            Ok((slot, queues)) => slot.poll_claim(&queues, now),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Whether all that `pair` was given was sent.
    ///
    /// # Errors
    ///
    /// As [`Device::poll_drain`](crate::device::Device::poll_drain).
    pub fn poll_drain(&mut self, pair: u8) -> Poll<Result<(), PairError>> {
        match self.slot(pair) {
            Ok((slot, queues)) => slot.poll_drain(&queues),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Stops the queues of `pair`.
    ///
    /// # Errors
    ///
    /// As [`Device::begin_release`](crate::device::Device::begin_release).
    pub fn begin_release(&mut self, pair: u8, now: Instant) -> Result<(), PairError> {
        if self.pair_state(pair) == Some(PairState::Active) {
            self.set_vector(pair, None);
        }
        let (slot, queues) = self.slot(pair)?;
        slot.begin_release(&queues, now)
    }

    /// Looks whether the device has let go of the rings and buffers of `pair`, its grace time included.
    ///
    /// # Errors
    ///
    /// As [`Device::poll_release`](crate::device::Device::poll_release).
    pub fn poll_release(&mut self, pair: u8, now: Instant) -> Poll<Result<(), PairError>> {
        match self.slot(pair) {
            Ok((slot, queues)) => slot.poll_release(&queues, now),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// The state of a pair, and its registers.
    fn slot(&mut self, pair: u8) -> Result<(&mut Pair, Queues<'_, R>), PairError> {
        let missing = PairError::NoSuchPair(pair);
        if pair >= self.pairs() {
            return Err(missing);
        }
        let is_gone = self.is_gone();
        let slot = self.pairs.get_mut(usize::from(pair)).ok_or(missing)?;
        let receive = RxQueueBlock::function_base(pair).ok_or(missing)?;
        let transmit = TxQueueBlock::function_base(pair).ok_or(missing)?;
        let queues = Queues {
            receive: Window::new(&self.registers, receive),
            transmit: Window::new(&self.registers, transmit),
            is_gone,
        };
        Ok((slot, queues))
    }
}
