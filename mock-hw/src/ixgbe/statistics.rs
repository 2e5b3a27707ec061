//! Counters (82599, 8.2.3.23): they end at their largest value, and reading one clears it.

use super::{device::Device, interrupt::Cause, packet::Packet};

const PRC: usize = 0x0_405c;
const GPRC: usize = 0x0_4074;
const BPRC: usize = 0x0_4078;
const MPRC: usize = 0x0_407c;
const GPTC: usize = 0x0_4080;
const GORC: usize = 0x0_4088;
const GOTC: usize = 0x0_4090;
const TOR: usize = 0x0_40c0;
const TPR: usize = 0x0_40d0;
const TPT: usize = 0x0_40d4;
const PTC: usize = 0x0_40d8;
const MPTC: usize = 0x0_40f0;
const BPTC: usize = 0x0_40f4;
const TXDGPC: usize = 0x0_87a0;
const RQSMR: usize = 0x0_2300;
const TQSM: usize = 0x0_8600;
const QPRC: usize = 0x0_1030;
const QPRDC: usize = 0x0_1430;
const QBRC: usize = 0x0_1034;
const QPTC: usize = 0x0_6030;
const QBTC: usize = 0x0_8700;

impl Device {
    /// A frame arrived, whatever becomes of it.
    pub(super) fn count_arrived(&mut self, frame: &[u8]) {
        self.regs.count(TPR, 1);
        self.regs.count_wide(TOR, on_the_wire(frame));
    }

    /// A frame passed the filters and is in the packet buffer.
    pub(super) fn count_received(&mut self, frame: &[u8], packet: &Packet) {
        self.regs.count(GPRC, 1);
        self.regs.count_wide(GORC, on_the_wire(frame));
        self.regs.count(PRC + 4 * class(frame), 1);
        if packet.is_broadcast() {
            self.regs.count(BPRC, 1);
        } else if packet.is_multicast() {
            self.regs.count(MPRC, 1);
        }
    }

    /// A frame is in the memory of queue `n`.
    pub(super) fn count_delivered(&mut self, n: usize, frame: &[u8]) {
        self.counts.received += 1;
        self.count_virtual(Cause::Receive(n), frame);
        let counter = self.mapped(RQSMR, n);
        self.regs.count(QPRC + 0x40 * counter, 1);
        self.regs
            .count_wide(QBRC + 0x40 * counter, on_the_wire(frame));
    }

    /// A frame found no descriptor in queue `n`.
    pub(super) fn count_dropped(&mut self, n: usize) {
        self.counts.dropped += 1;
        let counter = self.mapped(RQSMR, n);
        self.regs.count(QPRDC + 0x40 * counter, 1);
    }

    /// A frame left queue `n`.
    pub(super) fn count_sent(&mut self, n: usize, frame: &[u8]) {
        self.counts.sent += 1;
        self.count_virtual(Cause::Transmit(n), frame);
        self.regs.count(GPTC, 1);
        self.regs.count(TPT, 1);
        self.regs.count(TXDGPC, 1);
        self.regs.count_wide(GOTC, on_the_wire(frame));
        self.regs.count(PTC + 4 * class(frame), 1);
        if frame[..6] == [0xff; 6] {
            self.regs.count(BPTC, 1);
        } else if frame[0] & 1 == 1 {
            self.regs.count(MPTC, 1);
        }
        let counter = self.mapped(TQSM, n);
        self.regs.count(QPTC + 0x40 * counter, 1);
        self.regs.count_wide(QBTC + 8 * counter, on_the_wire(frame));
    }

    /// Which of the 16 counters queue `n` has.
    fn mapped(&self, map: usize, n: usize) -> usize {
        (self.regs.word(map + n / 4 * 4) >> (8 * (n % 4)) & 0xf) as usize
    }
}

/// Bytes with the check sequence.
const fn on_the_wire(frame: &[u8]) -> u64 {
    frame.len() as u64 + 4
}

/// Which of the six counters of lengths a frame belongs to.
const fn class(frame: &[u8]) -> usize {
    match frame.len() + 4 {
        ..=64 => 0,
        65..=127 => 1,
        128..=255 => 2,
        256..=511 => 3,
        512..=1023 => 4,
        1024.. => 5,
    }
}
