//! Which frames are accepted, and to which queues they go (82599, 7.1.1 and 7.1.2).

use core::time::Duration;

use super::{
    device::{Device, QUEUES},
    director::Match,
    packet::{L3, L4, Packet},
};
use crate::frame::{big16, toeplitz};

/// Registers.
const FCTRL: usize = 0x0_5080;
const VLNCTRL: usize = 0x0_5088;
const MCSTCTRL: usize = 0x0_5090;
const MTA: usize = 0x0_5200;
const RAL: usize = 0x0_a200;
const VFTA: usize = 0x0_a000;
const MRQC: usize = 0x0_5818;
const RETA: usize = 0x0_5c00;
const RSSRK: usize = 0x0_5c80;
const ETQF: usize = 0x0_5128;
const ETQS: usize = 0x0_ec00;
const SYNQF: usize = 0x0_ec30;
const SAQF: usize = 0x0_e000;
const DAQF: usize = 0x0_e200;
const SDPQF: usize = 0x0_e400;
const FTQF: usize = 0x0_e600;
const L34TIMIR: usize = 0x0_e800;

/// FCTRL: all multicast, all unicast, broadcast.
const MPE: u32 = 1 << 8;
const UPE: u32 = 1 << 9;
const BAM: u32 = 1 << 10;

/// Where a frame goes, and what its descriptor says of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Target {
    pub(super) queue: usize,
    pub(super) hash: u32,
    pub(super) hash_type: u8,
    /// Status bits of the descriptor that its way here sets.
    pub(super) status: u64,
    /// The pools that it is for, a bit each, if there are pools: `queue` is one of each pool's queues then.
    pub(super) pools: u64,
    pub(super) queues_of_pool: usize,
    /// The pools in which the low bit of `queue` counts, and the next one; elsewhere it is 0.
    pub(super) masks: [u64; 2],
}

impl Target {
    /// A Flow Director filter matched: `hash` is what it reports.
    pub(super) const BY_DIRECTOR: u64 = 1 << 2;
    /// It passed by a hash of its address only.
    pub(super) const INEXACT: u64 = 1 << 7;
    /// It came from another pool, not from the wire.
    pub(super) const LOOPED: u64 = 1 << 18;

    /// Which of its queues a pool gets it in.
    fn queue_in(self, pool: usize) -> usize {
        let [low, high] = self.masks.map(|mask| usize::from(mask >> pool & 1 == 1));
        self.queue & (low | high << 1)
    }

    /// The queues that it goes to, each below [`QUEUES`].
    pub(super) fn queues(self) -> impl Iterator<Item = usize> {
        let alone = (self.queues_of_pool == 0).then_some(self.queue);
        let pools = (0..QUEUES.checked_div(self.queues_of_pool).unwrap_or(0))
            .filter(move |pool| self.pools >> pool & 1 == 1);
        alone
            .into_iter()
            .chain(pools.map(move |pool| pool * self.queues_of_pool + self.queue_in(pool)))
    }
}

impl Device {
    /// The type of VLAN tags in received frames.
    pub(super) fn vlan_ether_type(&self) -> u16 {
        u16::try_from(self.regs.word(VLNCTRL) & 0xffff).unwrap_or(0)
    }

    /// Layer 2 and VLAN filters (7.1.1.1, 7.1.1.2).
    pub(super) fn accepts(&self, packet: &Packet) -> bool {
        let control = self.regs.word(FCTRL);
        if self.has_pools() {
            return self.vlan_passes(packet) && self.pools(packet) != 0;
        }
        let address = if packet.is_broadcast() {
            control & BAM != 0
        } else if packet.is_multicast() {
            control & MPE != 0 || self.is_listed(packet) || self.is_in_table(packet)
        } else {
            control & UPE != 0 || self.is_listed(packet)
        };
        address && self.vlan_passes(packet)
    }

    fn vlan_passes(&self, packet: &Packet) -> bool {
        let Some(id) = packet.vlan() else {
            return true;
        };
        if self.regs.word(VLNCTRL) & 1 << 30 == 0 {
            return true;
        }
        let word = self.regs.word(VFTA + 4 * usize::from(id >> 5));
        word >> (id & 31) & 1 == 1
    }

    /// Whether one of the 128 addresses is the frame's.
    fn is_listed(&self, packet: &Packet) -> bool {
        self.entry_of(packet.destination).is_some()
    }

    /// The entry of the receive addresses that holds `address`.
    pub(super) fn entry_of(&self, address: [u8; 6]) -> Option<usize> {
        let [a, b, c, d, e, f] = address;
        let low = u32::from_le_bytes([a, b, c, d]);
        let high = u32::from(u16::from_le_bytes([e, f])) | 1 << 31;
        (0..128).find(|n| {
            let place = RAL + 8 * n;
            self.regs.word(place) == low && self.regs.word(place + 4) & 0x8000_ffff == high
        })
    }

    /// The multicast table: 12 bits of the address, which 12 is for MCSTCTRL to say (8.2.3.7.7).
    pub(super) fn is_in_table(&self, packet: &Packet) -> bool {
        if self.regs.word(MCSTCTRL) & 4 == 0 {
            return false;
        }
        let bits = self.table_bits(packet);
        self.regs.word(MTA + 4 * (bits >> 5)) >> (bits & 31) & 1 == 1
    }

    /// The 12 bits of the destination that the tables are looked up by.
    pub(super) fn table_bits(&self, packet: &Packet) -> usize {
        let [.., e, f] = packet.destination;
        let shift = 4 - (self.regs.word(MCSTCTRL) & 3);
        usize::from(u16::from_le_bytes([e, f]) >> shift & 0xfff)
    }

    /// Whether it is a PAUSE frame that the MAC keeps (3.7.7.3).
    pub(super) fn swallow_pause(&mut self, frame: &[u8]) -> bool {
        const ADDRESS: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 1];
        const MFLCN: usize = 0x0_4294;

        if frame[..6] != ADDRESS || big16(frame, 12) != 0x8808 {
            return false;
        }
        if self.regs.word(MFLCN) & 8 != 0 {
            let quanta = big16(frame, 16);
            let counter = if quanta == 0 { 0x41a4 } else { 0x41a8 };
            self.regs.count(counter, 1);
            // In units of 512 bit times; none lets the transmitter go on.
            let pause = Duration::from_nanos(u64::from(quanta) * 512 / 10);
            self.paused_until = self.later(pause);
        }
        // Without the bit that passes MAC control frames they go no further.
        self.regs.word(MFLCN) & 1 == 0
    }

    /// The queue of an accepted frame: filters of types, SYN and five-tuples, Flow Director, RSS (7.1.2).
    pub(super) fn target(&mut self, frame: &[u8], packet: &Packet) -> Target {
        let (target, filtered) = self.queue_of(frame, packet);
        if self.has_pools() {
            self.spread(target, self.pools(packet), filtered)
        } else {
            target
        }
    }

    /// The queue of a frame where there are no pools, and whether a filter chose it.
    fn queue_of(&mut self, frame: &[u8], packet: &Packet) -> (Target, bool) {
        let (hash, hash_type) = self.rss_hash(packet);
        let inexact = packet.is_multicast() && !packet.is_broadcast() && !self.is_listed(packet);
        let mut target = Target {
            hash,
            hash_type,
            status: if inexact { Target::INEXACT } else { 0 },
            ..Target::default()
        };
        let mut filtered = true;
        if let Some(queue) = self.by_filter(packet) {
            target.queue = queue;
        } else if let Some(found) = self.direct(frame, packet) {
            let Match { queue, report } = found;
            target.queue = queue;
            target.status |= Target::BY_DIRECTOR;
            target.hash = report;
            target.hash_type = 0;
        } else if hash_type != 0 {
            target.queue = self.indirect(hash);
            filtered = false;
        } else {
            filtered = false;
        }
        (target, filtered)
    }

    /// By type; then by SYN and by five-tuple, in the order that the SYN filter says (7.1.2.6).
    fn by_filter(&self, packet: &Packet) -> Option<usize> {
        let filter = self.regs.word(SYNQF);
        let by_syn = (filter & 1 != 0 && packet.syn).then_some((filter >> 1 & 0x7f) as usize);
        let by_five_tuple = || self.by_five_tuple(packet);
        let by_kind = self.by_ether_type(packet);
        by_kind.or_else(|| match by_syn {
            Some(_) if filter >> 31 == 1 => by_syn,
            _ => by_five_tuple().or(by_syn),
        })
    }

    fn by_ether_type(&self, packet: &Packet) -> Option<usize> {
        (0..8).find_map(|n| {
            let filter = self.regs.word(ETQF + 4 * n);
            let select = self.regs.word(ETQS + 4 * n);
            let matches = filter >> 31 == 1 && filter & 0xffff == u32::from(packet.kind);
            (matches && select >> 31 == 1).then_some((select >> 16 & 0x7f) as usize)
        })
    }

    /// The matching five-tuple filter of the highest priority (7.1.2.5).
    fn by_five_tuple(&self, packet: &Packet) -> Option<usize> {
        if packet.addresses.len() != 8 || packet.is_fragment() {
            return None;
        }
        let matching = (0..128).filter(|n| self.five_tuple_matches(*n, packet));
        let priority = |n: &usize| self.regs.word(FTQF + 4 * n) >> 2 & 7;
        // Of equals the first counts.
        let best = matching.rev().max_by_key(priority)?;
        Some((self.regs.word(L34TIMIR + 4 * best) >> 21 & 0x7f) as usize)
    }

    fn five_tuple_matches(&self, n: usize, packet: &Packet) -> bool {
        let filter = self.regs.word(FTQF + 4 * n);
        if filter >> 31 == 0 {
            return false;
        }
        let ignores = |bit: u32| filter >> bit & 1 == 1;
        let word = |place: usize, n: usize| self.regs.word(place + 4 * n).to_le_bytes();
        let protocol = match packet.l4 {
            Some(L4::Tcp) => 0,
            Some(L4::Udp) => 1,
            Some(L4::Sctp) => 2,
            None => 3,
        };
        // Where there are pools, a filter may be one pool's only (8.2.3.7.19).
        let pool = filter >> 8 & 0x3f;
        if self.has_pools() && !ignores(30) && self.pools(packet) >> pool & 1 == 0 {
            return false;
        }
        let ports = word(SDPQF, n);
        (ignores(25) || word(SAQF, n) == packet.addresses[..4])
            && (ignores(26) || word(DAQF, n) == packet.addresses[4..])
            && (ignores(27) || ports[..2] == packet.ports[..2])
            && (ignores(28) || ports[2..] == packet.ports[2..])
            && (ignores(29) || filter & 3 == protocol)
    }

    /// The hash of receive side scaling, and its type in the descriptor; type 0 where there is none (7.1.2.8).
    fn rss_hash(&self, packet: &Packet) -> (u32, u8) {
        let control = self.regs.word(MRQC);
        if !self.has_rss() {
            return (0, 0);
        }
        let on = |bit: u32| control >> bit & 1 == 1;
        let v4 = packet.addresses.len() == 8;
        let with_ports = match (packet.l3, packet.l4) {
            (Some(L3::V4 { .. }), Some(L4::Tcp)) if on(16) => Some(1),
            (Some(L3::V4 { .. }), Some(L4::Udp)) if on(22) => Some(7),
            (Some(L3::V6 { .. }), Some(L4::Tcp)) if on(21) => Some(3),
            (Some(L3::V6 { .. }), Some(L4::Udp)) if on(23) => Some(8),
            _ => None,
        };
        let mut input = packet.addresses.clone();
        let kind = if let Some(kind) = with_ports {
            input.extend(packet.ports);
            kind
        } else {
            match packet.l3 {
                Some(L3::V4 { .. }) if on(17) && v4 => 2,
                Some(L3::V6 { .. }) if on(20) => 5,
                _ => return (0, 0),
            }
        };
        let key: Vec<u8> = (0..10)
            .flat_map(|n| self.regs.word(RSSRK + 4 * n).to_le_bytes())
            .collect();
        (toeplitz(&key, &input), kind)
    }

    /// Whether MRQC says that hashes choose queues.
    fn has_rss(&self) -> bool {
        match self.regs.word(MRQC) & 0xf {
            1 | 0xa | 0xb => true,
            4 | 5 | 0xc | 0xd => {
                self.function
                    .left_out(format_args!("traffic classes in MRQC"));
                true
            }
            _ => false,
        }
    }

    /// The entry of the redirection table that the low seven bits of the hash choose.
    pub(super) fn indirect(&self, hash: u32) -> usize {
        let index = (hash & 0x7f) as usize;
        let word = self.regs.word(RETA + index / 4 * 4);
        (word >> (8 * (index % 4)) & 0xf) as usize
    }
}
