//! Queue pairs: claimed one by one, drained, and given back one by one.

use core::task::Poll;

use parakernel_core::{
    mmio::{Register, Registers, Window},
    time::Instant,
};

use super::{
    Device,
    pair::{Pair, PairRings, PairState, Queues, Sides, Vector},
};
use crate::{
    error::PairError,
    regs::{QUEUES, Rdt, RxQueueBlock, Status, Tdt, TxQueueBlock},
    steering::DROP_QUEUE,
};

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
        slot.filter(|_| (2 * self.functions()..self.pairs()).contains(&pair))
            .map(Pair::state)
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
        if !self.start.is_done() {
            return Err(self
                .slot(pair)
                .map_or_else(|it| it, |_| PairError::WrongState));
        }
        if self.pair_state(pair) == Some(PairState::Free) {
            self.set_vector(pair, vector);
        }
        let (slot, queues) = self.slot(pair)?;
        slot.begin_claim(&queues, &rings, now)
    }

    /// Looks whether both queues of `pair` work.
    ///
    /// # Errors
    ///
    /// [`PairError::Quarantined`] where one did not say so in time.
    pub fn poll_claim(&mut self, pair: u8, now: Instant) -> Poll<Result<(), PairError>> {
        match self.slot(pair) {
            Ok((slot, queues)) => slot.poll_claim(&queues, now),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Whether the port has sent all that `pair` was given. It may never have where the link is down.
    ///
    /// # Errors
    ///
    /// Where there is no such pair, it is not active, or the port is gone.
    pub fn poll_drain(&mut self, pair: u8) -> Poll<Result<(), PairError>> {
        match self.slot(pair) {
            Ok((slot, queues)) => slot.poll_drain(&queues),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Stops the queues of `pair`; no process uses them any more, and nothing is steered to them.
    ///
    /// # Errors
    ///
    /// Where there is no such pair, or it is not active.
    pub fn begin_release(&mut self, pair: u8, now: Instant) -> Result<(), PairError> {
        if self.pair_state(pair) == Some(PairState::Active) {
            self.set_vector(pair, None);
        }
        let (slot, queues) = self.slot(pair)?;
        slot.begin_release(&queues, now)
    }

    /// Looks whether the port has let go of the rings and buffers of `pair`, its grace time included.
    ///
    /// # Errors
    ///
    /// [`PairError::Quarantined`] where it did not confirm that in time: the memory stays with it. The same for a port that
    /// is gone, as [`PairError::Removed`].
    pub fn poll_release(&mut self, pair: u8, now: Instant) -> Poll<Result<(), PairError>> {
        match self.slot(pair) {
            Ok((slot, queues)) => slot.poll_release(&queues, now),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// A read that comes back only after all that the port wrote to memory before it.
    pub fn flush(&self) {
        let _status = self.port().read::<Status>();
    }

    /// Which queues of `pair` say that they are on.
    #[must_use]
    pub fn sides(&self, pair: u8) -> Sides {
        let off = Sides {
            receive: false,
            transmit: false,
        };
        queues(&self.registers, pair).map_or(off, |queues| queues.sides())
    }

    /// What is the same for whoever uses the queues, for all of them.
    pub(super) fn keep_order(&self) {
        for queues in (0..self.pairs()).filter_map(|pair| queues(&self.registers, pair)) {
            queues.keep_order();
        }
    }

    /// Head and tail of a pair's transmit queue; `None` where there is no such pair, or the port is gone.
    pub(crate) fn transmit_positions(&self, pair: u8) -> Option<(u64, u64)> {
        let queues = queues(&self.registers, pair)?;
        let positions = queues.positions();
        (!self.is_gone()).then_some(positions)
    }

    /// The state of a pair, and its registers.
    fn slot(&mut self, pair: u8) -> Result<(&mut Pair, Queues<'_, R>), PairError> {
        let missing = PairError::NoSuchPair(pair);
        // Those of virtual functions are theirs.
        if pair >= self.pairs() || pair < 2 * self.functions() {
            return Err(missing);
        }
        let is_gone = self.is_gone();
        let slot = self.pairs.get_mut(usize::from(pair)).ok_or(missing)?;
        let queues = queues(&self.registers, pair).ok_or(missing)?;
        Ok((slot, Queues { is_gone, ..queues }))
    }
}

/// The registers of a pair's queues.
fn queues<R: Registers>(registers: &R, pair: u8) -> Option<Queues<'_, R>> {
    Some(Queues {
        receive: Window::new(registers, RxQueueBlock::base(pair)?),
        transmit: Window::new(registers, TxQueueBlock::base(pair)?),
        is_gone: false,
    })
}
