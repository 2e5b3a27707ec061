//! Receive: the packet buffer, queues, descriptors (82599, 7.1).

mod status;

use alloc::collections::VecDeque;
use core::time::Duration;

use parakernel_core::{address::BusAddress, time::Instant};

use super::{
    device::Device,
    filter::Target,
    interrupt::{Cause, RX_MISS},
    packet::{Packet, frame_check},
    registers::rx,
};
use crate::{fault::Fault, memory::DmaError};

/// Registers.
const RXCTRL: usize = 0x0_3000;
const RDRXCTL: usize = 0x0_2f00;
const RXPBSIZE: usize = 0x0_3c00;
const FCCFG: usize = 0x0_3d00;
const HLREG0: usize = 0x0_4240;
const MAXFRS: usize = 0x0_4268;
const SECRXCTRL: usize = 0x0_8d00;
const LXOFFTXC: usize = 0x0_3f68;
const MPC: usize = 0x0_3fa0;
const RNBC: usize = 0x0_3fc0;
const ROC: usize = 0x0_40ac;

const ENABLE: u32 = 1 << 25;
const LOOPBACK: u32 = 1 << 15;
const VLAN_STRIP: u32 = 1 << 30;
const DROP: u32 = 1 << 28;

/// How long a queue that was disabled may still write (4.6.7.1.2).
const GRACE: Duration = Duration::from_micros(100);
/// How long its enable bit still reads 1.
const STOPPING: Duration = Duration::from_micros(5);

#[derive(Debug, Default)]
pub(super) struct Receiver {
    /// Frames in the packet buffer, with the queues that they go to.
    waiting: VecDeque<Arrived>,
    bytes: usize,
    /// How many of its queues the first frame is done with.
    copies: usize,
    /// The first frame waits for a descriptor, and was counted.
    starved: bool,
    /// The other side was told to pause.
    paused: bool,
}

/// A frame in the packet buffer.
#[derive(Clone, Debug)]
struct Arrived {
    frame: Vec<u8>,
    packet: Packet,
    target: Target,
}

/// What becomes of the first frame in the packet buffer.
#[derive(Debug)]
enum Fate {
    Delivered,
    Dropped,
    /// It waits for descriptors.
    Waits,
}

/// The descriptor ring of a queue, as its registers say.
#[derive(Clone, Copy, Debug)]
struct Ring {
    base: u64,
    count: usize,
    head: usize,
    tail: usize,
    control: u32,
    split: u32,
}

impl Ring {
    const fn free(&self) -> usize {
        (self.tail + self.count - self.head) % self.count
    }

    fn slot(&self, n: usize) -> BusAddress {
        let slot = (self.head + n) % self.count;
        BusAddress::new(self.base.wrapping_add(16 * slot as u64))
    }

    /// Bytes of a buffer: SRRCTL, in units of 1 KiB.
    const fn buffer(&self) -> usize {
        1024 * (self.split & 0x1f) as usize
    }

    const fn is_legacy(&self) -> bool {
        self.split >> 25 & 7 == 0
    }
}

impl Device {
    pub(super) fn write_rdt(&mut self, n: usize, value: u32) {
        self.regs.set(rx(n) + 0x18, value & 0xffff);
    }

    pub(super) fn read_rxdctl(&self, n: usize) -> u32 {
        let ends = self.stopping.iter().find(|(queue, _)| *queue == n);
        let still = ends.is_some_and(|(_, end)| {
            self.now().saturating_add(GRACE) < end.saturating_add(STOPPING)
        });
        self.regs.word(rx(n) + 0x28) | if still { ENABLE } else { 0 }
    }

    pub(super) fn write_rxdctl(&mut self, n: usize, value: u32) {
        let place = rx(n) + 0x28;
        let before = self.regs.word(place);
        let value = self.switched(n, before, value);
        self.regs.set(place, value & 0x4600_ffff);
        if before & ENABLE != 0 && value & ENABLE == 0 {
            self.stopping.push((n, self.later(GRACE)));
        } else if before & ENABLE == 0 && value & ENABLE != 0 {
            if self.stopping.iter().any(|(queue, _)| *queue == n) {
                let text = format_args!("receive queue {n} enabled while it stops");
                self.violation("82599, 4.6.7.1.2", text);
            }
            self.stopping.retain(|(queue, _)| *queue != n);
        }
    }

    /// What a queue's control becomes when `value` is written over `before`: one that is stuck neither starts nor stops.
    pub(super) fn switched(&self, n: usize, before: u32, value: u32) -> u32 {
        let queue = u16::try_from(n).unwrap_or(0);
        let switches = (before ^ value) & ENABLE != 0;
        if switches && self.function.faults().fires(Fault::StuckQueue(queue)) {
            self.function
                .fault(format_args!("queue {n} neither starts nor stops"));
            return value ^ ENABLE;
        }
        value
    }

    /// Queues whose time to stop is over.
    pub(super) fn finish_stopping(&mut self, now: Instant) {
        self.stopping.retain(|(_, end)| *end > now);
    }

    pub(super) fn write_rdrxctl(&mut self, value: u32) {
        /// The DMA unit is ready, whatever is written.
        const DONE: u32 = 1 << 3;
        self.regs.set(RDRXCTL, value | DONE);
    }

    pub(super) fn write_rxctrl(&mut self, value: u32) {
        self.regs.set(RXCTRL, value & 1);
    }

    /// SECRXSTAT: ready, once the path was closed and is empty.
    pub(super) fn secrxstat(&self) -> u32 {
        let closed = self.regs.word(SECRXCTRL) & 2 != 0;
        u32::from(closed || self.receiver.waiting.is_empty())
    }

    /// Takes one frame from the wire, or delivers one; whether there was something to do.
    pub(super) fn receive(&mut self) -> bool {
        if self.deliver_first() {
            return true;
        }
        if !self.link.up || self.is_paused() {
            return false;
        }
        let Some(frame) = self.wire.receive() else {
            return false;
        };
        // While what is sent comes back, nothing else is heard.
        if self.regs.word(HLREG0) & LOOPBACK == 0 {
            self.arrive(frame);
        }
        true
    }

    /// Whether the receive unit is on, and its path open.
    pub(super) fn hears(&self) -> bool {
        self.regs.word(RXCTRL) & 1 != 0 && self.regs.word(SECRXCTRL) & 2 == 0
    }

    /// A frame comes from the wire, or back from the transmitter.
    pub(super) fn arrive(&mut self, mut frame: Vec<u8>) {
        // A shorter one does not exist on a wire.
        if frame.len() < 60 {
            frame.resize(60, 0);
        }
        if !self.hears() || self.swallow_pause(&frame) {
            return;
        }
        let packet = Packet::parse(&frame, self.vlan_ether_type());
        if frame.len() + 4 > self.longest(&packet) {
            self.regs.count(ROC, 1);
            return;
        }
        self.count_arrived(&frame);
        if !self.accepts(&packet) {
            self.counts.filtered += 1;
            return;
        }
        let target = self.target(&frame, &packet);
        self.keep(Arrived {
            frame,
            packet,
            target,
        });
    }

    /// A frame that a pool sent to other pools.
    pub(super) fn arrive_inside(&mut self, frame: Vec<u8>, pools: u64) {
        if self.regs.word(RXCTRL) & 1 == 0 {
            return;
        }
        let packet = Packet::parse(&frame, self.vlan_ether_type());
        let mut target = self.target(&frame, &packet);
        target.pools = pools;
        target.status |= Target::LOOPED;
        target.queues_of_pool = self.queues_of_pool();
        self.keep(Arrived {
            frame,
            packet,
            target,
        });
    }

    /// Puts a frame into the packet buffer, if there is room.
    fn keep(&mut self, arrived: Arrived) {
        let Arrived { frame, packet, .. } = &arrived;
        let room = (self.regs.word(RXPBSIZE) & 0x000f_fc00) as usize;
        if self.receiver.bytes + frame.len() > room {
            self.regs.count(MPC, 1);
            self.counts.dropped += 1;
            self.other_event(RX_MISS);
            return;
        }
        self.count_received(frame, packet);
        self.receiver.bytes += frame.len();
        self.receiver.waiting.push_back(arrived);
    }

    /// The longest frame with its check sequence (8.2.3.22.13); a tag does not count.
    fn longest(&self, packet: &Packet) -> usize {
        let jumbo = self.regs.word(HLREG0) & 4 != 0;
        let max = (self.regs.word(MAXFRS) >> 16) as usize;
        let longest = if jumbo { max } else { 1518 };
        longest + if packet.tag.is_some() { 4 } else { 0 }
    }

    /// Whether the other side was told to pause: with link flow control, frames wait on the wire (3.7.7).
    fn is_paused(&mut self) -> bool {
        if self.regs.word(FCCFG) & 8 == 0 {
            return false;
        }
        let threshold = |word: u32| (word & 0x0007_fff0) as usize;
        let [low, high] = [0x0_3220, 0x0_3260].map(|offset| self.regs.word(offset));
        let enabled = high >> 31 == 1;
        let [low, high] = [low, high].map(threshold);
        if !self.receiver.paused && enabled && self.receiver.bytes > high {
            self.receiver.paused = true;
            self.regs.count(LXOFFTXC, 1);
        } else if self.receiver.paused && self.receiver.bytes <= low {
            self.receiver.paused = false;
            self.regs.count(LXOFFTXC - 8, 1);
        }
        self.receiver.paused
    }

    /// Delivers, or drops, the first frame in the packet buffer; whether it could.
    fn deliver_first(&mut self) -> bool {
        if !self.is_master() {
            return false;
        }
        let Some(first) = self.receiver.waiting.front() else {
            return false;
        };
        let arrived = first.clone();
        let queues: Vec<usize> = arrived.target.queues().skip(self.receiver.copies).collect();
        for n in queues {
            match self.deliver(n, &arrived) {
                Fate::Delivered => self.count_delivered(n, &arrived.frame),
                Fate::Dropped => self.count_dropped(n),
                Fate::Waits => {
                    self.count_starved();
                    return false;
                }
            }
            self.receiver.copies += 1;
        }
        self.receiver.copies = 0;
        self.receiver.starved = false;
        self.receiver.bytes -= arrived.frame.len();
        self.receiver.waiting.pop_front();
        true
    }

    /// A frame has to wait, as its queue has no descriptor and does not drop.
    fn count_starved(&mut self) {
        if !self.receiver.starved {
            self.receiver.starved = true;
            self.regs.count(RNBC, 1);
        }
    }

    fn ring(&self, n: usize) -> Ring {
        let place = rx(n);
        Ring {
            base: self.regs.wide(place),
            count: (self.regs.word(place + 0x08) / 16) as usize,
            head: self.regs.word(place + 0x10) as usize,
            tail: self.regs.word(place + 0x18) as usize,
            control: self.read_rxdctl(n),
            split: self.regs.word(place + 0x14),
        }
    }

    fn deliver(&mut self, n: usize, arrived: &Arrived) -> Fate {
        let ring = self.ring(n);
        let stopping = self.stopping.iter().any(|(queue, _)| *queue == n);
        if ring.control & ENABLE == 0 && !stopping {
            return Fate::Dropped;
        }
        let queue = u16::try_from(n).unwrap_or(0);
        let stuck = self.function.faults().fires(Fault::StuckQueue(queue));
        if stuck {
            self.function
                .fault(format_args!("receive queue {n} not served"));
            return Fate::Dropped;
        }
        if ring.count == 0 || ring.tail >= ring.count || ring.head >= ring.count {
            let text = format_args!("receive queue {n}: {ring:?}");
            self.violation("82599, 8.2.3.8.5", text);
            return Fate::Dropped;
        }
        let frame = self.as_stored(arrived, &ring);
        let buffers = if ring.buffer() == 0 {
            let text = format_args!("receive queue {n}: SRRCTL.BSIZEPACKET is 0");
            self.violation("82599, 8.2.3.8.7", text);
            return Fate::Dropped;
        } else {
            frame.len().div_ceil(ring.buffer())
        };
        if ring.free() < buffers {
            let dropping = ring.split & DROP != 0 || self.queues_that_drop >> n & 1 == 1;
            let drops = dropping || stopping;
            return if drops { Fate::Dropped } else { Fate::Waits };
        }
        if let Err(error) = self.store(n, &ring, &frame, arrived) {
            let text = format_args!("receive queue {n}: {error}");
            self.function.note(text);
            return Fate::Dropped;
        }
        let head = u32::try_from((ring.head + buffers) % ring.count).unwrap_or(0);
        self.regs.set(rx(n) + 0x10, head);
        self.queue_event(Cause::Receive(n));
        Fate::Delivered
    }

    /// The bytes that go to memory: without the tag where it is stripped, with the check sequence where it stays.
    fn as_stored(&self, arrived: &Arrived, ring: &Ring) -> Vec<u8> {
        let mut frame = arrived.frame.clone();
        if self.strips(arrived, ring) {
            frame.drain(12..16);
        }
        if self.regs.word(HLREG0) & 2 == 0 {
            let check = frame_check(&arrived.frame);
            frame.extend_from_slice(&check);
        }
        frame
    }

    fn strips(&self, arrived: &Arrived, ring: &Ring) -> bool {
        let _ = self;
        ring.control & VLAN_STRIP != 0 && arrived.packet.tag.is_some()
    }

    /// Writes the frame to its buffers, then the descriptors.
    fn store(
        &self,
        n: usize,
        ring: &Ring,
        frame: &[u8],
        arrived: &Arrived,
    ) -> Result<(), DmaError> {
        let split = ring.split >> 25 & 7;
        if split > 1 {
            let text = format_args!("receive queue {n}: descriptor type {split}, as one buffer");
            self.function.left_out(text);
        }
        let parts = frame.chunks(ring.buffer());
        let last = parts.len().saturating_sub(1);
        let mut done = Vec::with_capacity(last + 1);
        for (index, part) in parts.enumerate() {
            let address = ring.slot(index);
            let mut words = [0; 16];
            self.fetch(n, address, &mut words)?;
            let buffer = u64::from_le_bytes(crate::bytes::array_at(&words, 0));
            self.deposit(n, BusAddress::new(buffer), part)?;
            let is_last = index == last;
            let words = if ring.is_legacy() {
                [
                    buffer,
                    self.legacy_status(ring, part.len(), is_last, arrived),
                ]
            } else {
                self.status_words(ring, part.len(), is_last, arrived)
            };
            done.push((address, words));
        }
        if self.function.faults().fires(Fault::StuckDone) {
            self.function
                .fault(format_args!("receive queue {n} not written back"));
            return Ok(());
        }
        for (address, [low, high]) in done {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&low.to_le_bytes());
            bytes[8..].copy_from_slice(&high.to_le_bytes());
            self.function.faults().corrupt(&mut bytes);
            self.deposit(n, address, &bytes)?;
        }
        Ok(())
    }
}
