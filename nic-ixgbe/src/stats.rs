//! Counters: the port's clear themselves when they are read and stop at their end, so they are added up here.

use parakernel_core::mmio::{Register, Registers};

use crate::{
    device::Device,
    regs::{
        counter::{
            Bprc, Bptc, Crcerrs, Errbc, GorcH, GorcL, GotcH, GotcL, Gprc, Gptc, Illerrc,
            Lxoffrxcnt, Lxofftxc, Lxonrxcnt, Lxontxc, Mlfc, Mprc, Mptc, Mrfc, Rfc, Rjc, Rlec, Roc,
            Ruc, Ssvpc, Tpr,
        },
        table::{
            CounterBlock, CounterMapBlock, QbrcH, QbrcL, Qprc, Qprdc, Qptc, Rqsmr, Rxmpc, Tqsm,
            TrafficClassBlock,
        },
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

/// What the port as a whole has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct PortStatistics {
    /// Frames that arrived, whatever they were for.
    pub arrived: u64,
    /// Good frames that filters let in; those that were missed are among them.
    pub let_in: u64,
    /// Their bytes, CRC included.
    pub let_in_bytes: u64,
    /// Of them broadcasts.
    pub broadcasts: u64,
    /// Of them multicasts.
    pub multicasts: u64,
    /// Of them lost, because the port's packet buffer was full.
    pub missed: u64,
    /// Frames sent.
    pub sent: u64,
    /// Their bytes, CRC included.
    pub sent_bytes: u64,
    /// Of them broadcasts.
    pub sent_broadcasts: u64,
    /// Of them multicasts.
    pub sent_multicasts: u64,
    /// Frames that anti-spoofing kept from leaving.
    pub spoofed: u64,
    /// Frames with a wrong CRC.
    pub bad_crc: u64,
    /// Symbols that are none, and bytes with an error.
    pub bad_bytes: u64,
    /// Frames that are shorter or longer than they say, than 64 bytes, or than the longest.
    pub bad_length: u64,
    /// Faults of the link, here and at the peer.
    pub faults: u64,
    /// Pauses that the peer asked for.
    pub pauses: u64,
    /// Pauses that the peer was asked for.
    pub sent_pauses: u64,
}

impl PortStatistics {
    /// Frames that reached a queue, or were dropped there for want of buffers. The port's own count of good frames has those
    /// in it that found no packet buffer.
    #[must_use]
    pub const fn received(&self) -> u64 {
        self.let_in.saturating_sub(self.missed)
    }
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

    /// Adds what the port as a whole has counted since the last look to `sum`. To be called before 2³² frames have passed:
    /// every minute, as the counters stop at their end. [`take_missed`](Self::take_missed) and this take from the same.
    pub fn add_port_statistics(&self, sum: &mut PortStatistics) {
        let port = self.port();
        let add = |sum: &mut u64, seen: u64| *sum = sum.saturating_add(seen);
        // The low part first: reading it holds the high one.
        let low = port.read::<GorcL>().bits();
        add(
            &mut sum.let_in_bytes,
            port.read::<GorcH>().field(GorcH::HIGH) << 32 | low,
        );
        let low = port.read::<GotcL>().bits();
        add(
            &mut sum.sent_bytes,
            port.read::<GotcH>().field(GotcH::HIGH) << 32 | low,
        );
        add(&mut sum.arrived, port.read::<Tpr>().bits());
        add(&mut sum.let_in, port.read::<Gprc>().bits());
        add(&mut sum.broadcasts, port.read::<Bprc>().bits());
        add(&mut sum.multicasts, port.read::<Mprc>().bits());
        add(&mut sum.missed, self.take_missed());
        add(&mut sum.sent, port.read::<Gptc>().bits());
        add(&mut sum.sent_broadcasts, port.read::<Bptc>().bits());
        add(&mut sum.sent_multicasts, port.read::<Mptc>().bits());
        add(&mut sum.spoofed, port.read::<Ssvpc>().bits());
        self.add_errors(sum);
    }

    fn add_errors(&self, sum: &mut PortStatistics) {
        let port = self.port();
        let add = |sum: &mut u64, seen: u64| *sum = sum.saturating_add(seen);
        add(&mut sum.bad_crc, port.read::<Crcerrs>().bits());
        add(&mut sum.bad_bytes, port.read::<Illerrc>().bits());
        add(&mut sum.bad_bytes, port.read::<Errbc>().bits());
        add(&mut sum.bad_length, port.read::<Rlec>().bits());
        add(&mut sum.bad_length, port.read::<Ruc>().bits());
        add(&mut sum.bad_length, port.read::<Rfc>().bits());
        add(&mut sum.bad_length, port.read::<Roc>().bits());
        add(&mut sum.bad_length, port.read::<Rjc>().bits());
        add(&mut sum.faults, port.read::<Mlfc>().bits());
        add(&mut sum.faults, port.read::<Mrfc>().bits());
        add(&mut sum.pauses, port.read::<Lxonrxcnt>().bits());
        add(&mut sum.pauses, port.read::<Lxoffrxcnt>().bits());
        add(&mut sum.sent_pauses, port.read::<Lxontxc>().bits());
        add(&mut sum.sent_pauses, port.read::<Lxofftxc>().bits());
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
        self.add_port_statistics(&mut PortStatistics::default());
        for queue in 0..crate::regs::QUEUES {
            self.set_counter(queue, 0);
        }
    }
}
