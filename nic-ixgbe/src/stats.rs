//! Counters: the port's clear themselves when they are read and stop at their end, so they are added up here.

use parakernel_core::mmio::{Register, Registers};

use crate::{
    device::Device,
    regs::table::{
        CounterBlock, CounterMapBlock, QbrcH, QbrcL, Qprc, Qprdc, Qptc, Rqsmr, Rxmpc, Tqsm,
        TrafficClassBlock,
    },
};

/// How many counters of queues there are: 128 queues share them.
pub const COUNTERS: u8 = 16;

/// What a counter of queues says since it was cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct QueueStatistics {
    /// Frames that reached memory.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames dropped for want of buffers.
    pub dropped: u64,
    /// Packets taken to be sent.
    pub transmitted: u64,
}

impl<R: Registers> Device<'_, R> {
    /// Has `queue` counted by `counter`, in both directions.
    pub fn set_counter(&self, queue: u8, counter: u8) {
        let shift = 8 * u64::from(queue % 4);
        let place = |word: u64| word & !(0xFF << shift) | u64::from(counter % COUNTERS) << shift;
        if let Some(base) = CounterMapBlock::base(queue / 4) {
            let row = self.row(base);
            row.modify(|rqsmr: Rqsmr| Rqsmr::from_bits(place(rqsmr.bits())));
            row.modify(|tqsm: Tqsm| Tqsm::from_bits(place(tqsm.bits())));
        }
    }

    /// Adds what `counter` has counted since the last look to `sum`. To be called before 2³² frames have passed: every
    /// minute.
    pub fn add_statistics(&self, counter: u8, sum: &mut QueueStatistics) {
        let Some(base) = CounterBlock::base(counter) else {
            return;
        };
        let row = self.row::<CounterBlock>(base);
        // The low part first: reading it holds the high one.
        let low = row.read::<QbrcL>().bits();
        let bytes = row.read::<QbrcH>().field(QbrcH::HIGH) << 32 | low;
        let add = |sum: &mut u64, seen: u64| *sum = sum.saturating_add(seen);
        add(&mut sum.received, row.read::<Qprc>().bits());
        add(&mut sum.received_bytes, bytes);
        add(&mut sum.dropped, row.read::<Qprdc>().bits());
        add(&mut sum.transmitted, row.read::<Qptc>().bits());
    }

    /// Frames that the port lost because its own packet buffer was full, since the last look.
    #[must_use]
    pub fn take_missed(&self) -> u64 {
        TrafficClassBlock::base(0).map_or(0, |base| self.row(base).read::<Rxmpc>().bits())
    }

    /// Begins to count, §4.6.5: reading clears.
    pub(crate) fn clear_statistics(&self) {
        for counter in 0..COUNTERS {
            self.add_statistics(counter, &mut QueueStatistics::default());
        }
        let _missed = self.take_missed();
        for queue in 0..crate::regs::QUEUES {
            self.set_counter(queue, 0);
        }
    }
}
