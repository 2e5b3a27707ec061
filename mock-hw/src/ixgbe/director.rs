//! Flow Director: filters that tables in the packet buffer hold (82599, 7.1.2.7).

use alloc::collections::BTreeMap;

use super::{
    device::Device,
    packet::{L4, Packet},
};
use crate::bytes::array_at;

/// Registers.
const FDIRCTRL: usize = 0x0_ee00;
const FDIRSIPV6: usize = 0x0_ee0c;
const FDIRIPSA: usize = 0x0_ee18;
const FDIRIPDA: usize = 0x0_ee1c;
const FDIRPORT: usize = 0x0_ee20;
const FDIRVLAN: usize = 0x0_ee24;
const FDIRHASH: usize = 0x0_ee28;
const FDIRCMD: usize = 0x0_ee2c;
const FDIRDIP4M: usize = 0x0_ee3c;
const FDIRSIP4M: usize = 0x0_ee40;
const FDIRTCPM: usize = 0x0_ee44;
const FDIRUDPM: usize = 0x0_ee48;
const FDIRUSTAT: usize = 0x0_ee50;
const FDIRFSTAT: usize = 0x0_ee54;
const FDIRMATCH: usize = 0x0_ee58;
const FDIRMISS: usize = 0x0_ee5c;
const FDIRHKEY: usize = 0x0_ee68;
const FDIRSKEY: usize = 0x0_ee6c;
const FDIRM: usize = 0x0_ee70;

/// FDIRCTRL: the tables were set up; filters are perfect ones.
const INIT_DONE: u32 = 1 << 3;
const PERFECT: u32 = 1 << 4;

/// FDIRCMD: a filter was found; it is to be replaced; the tables are cleared; its frames are dropped; the queue counts.
const VALID: u32 = 1 << 2;
const CLEAR: u32 = 1 << 8;
const DROP: u32 = 1 << 9;
const QUEUE: u32 = 1 << 15;

/// The bits of the hash that choose one of the 8,192 places.
const BUCKETS: u32 = 0x1fff;

#[derive(Debug, Default)]
pub(super) struct Director {
    /// By the bits of the hash that choose the place.
    filters: BTreeMap<u32, Vec<Filter>>,
    count: usize,
    limit: usize,
    /// The tables were cleared since they were set up: they may be set up again.
    cleared: bool,
}

/// What a filter compares, and where its frames go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Filter {
    flow: Flow,
    /// The hash that the driver computed: place in the table, and signature or number.
    hash: u32,
    command: u32,
}

/// The fields of a flow, as the registers hold them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Flow {
    /// 0 none, 1 UDP, 2 TCP, 3 SCTP; with 4 for IPv6.
    kind: u8,
    vlan: u16,
    flex: u16,
    source: [u32; 4],
    destination: [u32; 4],
    source_port: u16,
    destination_port: u16,
}

/// A filter that matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Match {
    pub(super) queue: usize,
    /// What goes to the place of the hash in the descriptor.
    pub(super) report: u32,
}

impl Director {
    /// FDIRFREE: how many filters there is room for.
    pub(super) fn free(&self) -> u32 {
        u32::try_from(self.limit.saturating_sub(self.count)).unwrap_or(0)
    }

    fn clear(&mut self) {
        self.filters.clear();
        self.count = 0;
    }

    /// The filters at the place that `hash` chooses.
    fn at(&self, hash: u32) -> &[Filter] {
        self.filters
            .get(&(hash & BUCKETS))
            .map_or(&[], Vec::as_slice)
    }
}

impl Device {
    /// Sets the tables up, of the size that the low bits say: 64, 128 or 256 KiB, 8 filters in each of them KiB.
    pub(super) fn write_fdirctrl(&mut self, value: u32) {
        let value = value & !INIT_DONE;
        let size = value & 3;
        self.director.clear();
        if size == 0 {
            self.regs.set(FDIRCTRL, value);
            return;
        }
        let perfect = usize::from(value & PERFECT != 0);
        // A perfect filter takes four times the room of a signature (7.1.2.7).
        self.director.limit = (8192 << (size - 1)) >> (2 * perfect);
        self.director.limit -= 2;
        self.director.cleared = false;
        self.regs.set(FDIRCTRL, value | INIT_DONE);
    }

    /// Adds, removes or asks for a filter; done at once: the command reads 0.
    pub(super) fn write_fdircmd(&mut self, value: u32) {
        let mut result = value & !(3 | VALID);
        if value & CLEAR != 0 {
            self.director.clear();
            self.director.cleared = true;
        }
        if value & 3 != 0 && self.regs.word(FDIRCTRL) & INIT_DONE == 0 {
            let text = format_args!("a filter before the tables were set up");
            self.violation("82599, 7.1.2.7.1", text);
            return;
        }
        match value & 3 {
            1 => self.add_filter(value),
            2 => self.remove_filter(),
            3 if self.numbered(self.regs.word(FDIRHASH)).is_some() => result |= VALID,
            _ => {}
        }
        self.regs.set(FDIRCMD, result);
    }

    /// The filter that the registers describe.
    fn programmed(&self, command: u32) -> Filter {
        let perfect = self.regs.word(FDIRCTRL) & PERFECT != 0;
        let half = |word: u32, shift: u32| u16::try_from(word >> shift & 0xffff).unwrap_or(0);
        let port = self.regs.word(FDIRPORT);
        let vlan = self.regs.word(FDIRVLAN);
        let mut flow = Flow::default();
        if perfect {
            let kind = command >> 5 & 7;
            flow = Flow {
                kind: u8::try_from(kind).unwrap_or(0),
                vlan: half(vlan, 0),
                flex: half(vlan, 16).swap_bytes(),
                source: [self.regs.word(FDIRIPSA).swap_bytes(), 0, 0, 0],
                destination: [self.regs.word(FDIRIPDA).swap_bytes(), 0, 0, 0],
                source_port: half(port, 0),
                destination_port: half(port, 16),
            };
            if kind & 4 != 0 {
                self.function
                    .left_out(format_args!("a perfect filter for IPv6"));
                flow.source[1] = self.regs.word(FDIRSIPV6);
            }
        }
        Filter {
            flow,
            hash: self.regs.word(FDIRHASH),
            command,
        }
    }

    /// Whether two filters are for the same flow.
    fn same(&self, one: &Filter, other: &Filter) -> bool {
        if self.regs.word(FDIRCTRL) & PERFECT != 0 {
            one.flow == other.flow && one.hash & BUCKETS == other.hash & BUCKETS
        } else {
            one.hash & 0x7fff_7fff == other.hash & 0x7fff_7fff
        }
    }

    /// The place of the filter for the flow that the registers describe.
    fn position(&self, wanted: &Filter) -> Option<usize> {
        let mut filters = self.director.at(wanted.hash).iter();
        filters.position(|filter| self.same(filter, wanted))
    }

    fn add_filter(&mut self, command: u32) {
        let filter = self.programmed(command);
        let found = self.position(&filter);
        let place = self.director.filters.entry(filter.hash & BUCKETS);
        if let Some(n) = found {
            place.or_default()[n] = filter;
        } else if self.director.count < self.director.limit {
            place.or_default().push(filter);
            self.director.count += 1;
            self.regs.count(FDIRUSTAT, 1);
        } else {
            self.regs.count(FDIRFSTAT, 1);
            self.function
                .note(format_args!("Flow Director tables are full"));
        }
    }

    /// The place of the filter with this hash: the bucket, and the number or signature beside it. Drivers write no more of a
    /// filter that they remove or ask for (7.1.2.7.8).
    fn numbered(&self, hash: u32) -> Option<usize> {
        let mut filters = self.director.at(hash).iter();
        filters.position(|filter| filter.hash & 0x7fff_7fff == hash & 0x7fff_7fff)
    }

    fn remove_filter(&mut self) {
        let hash = self.regs.word(FDIRHASH);
        let Some(n) = self.numbered(hash) else {
            self.regs.count(FDIRFSTAT, 1 << 8);
            return;
        };
        if let Some(filters) = self.director.filters.get_mut(&(hash & BUCKETS)) {
            filters.swap_remove(n);
            self.director.count -= 1;
            self.regs.count(FDIRUSTAT, 1 << 16);
        }
    }

    /// The filter that a frame matches.
    pub(super) fn direct(&mut self, frame: &[u8], packet: &Packet) -> Option<Match> {
        let control = self.regs.word(FDIRCTRL);
        if control & INIT_DONE == 0 || self.director.count == 0 {
            return None;
        }
        let flow = self.flow(frame, packet)?;
        let (bucket, found) = if control & PERFECT != 0 {
            let masked = self.masked(flow);
            let bucket = u32::from(hash(self.regs.word(FDIRHKEY), &masked));
            let mut filters = self.director.at(bucket).iter();
            let found = filters.find(|filter| self.masked(filter.flow) == masked);
            (bucket, found)
        } else {
            let bucket = u32::from(hash(self.regs.word(FDIRHKEY), &flow));
            let signature = u32::from(hash(self.regs.word(FDIRSKEY), &flow));
            let mut filters = self.director.at(bucket).iter();
            let wanted = bucket | signature << 16;
            let found = filters.find(|filter| filter.hash & 0x7fff_7fff == wanted);
            (bucket, found)
        };
        let found = found.copied();
        let counter = if found.is_some() { FDIRMATCH } else { FDIRMISS };
        self.regs.count(counter, 1);
        let filter = found.filter(|filter| filter.command & QUEUE != 0)?;
        let queue = if filter.command & DROP != 0 {
            (control >> 8 & 0x7f) as usize
        } else {
            (filter.command >> 16 & 0x7f) as usize
        };
        let report = bucket | filter.hash & 0xffff_0000;
        Some(Match { queue, report })
    }

    /// The fields of a frame; `None` for one that the Flow Director does not look at: fragments, other than IP.
    fn flow(&self, frame: &[u8], packet: &Packet) -> Option<Flow> {
        let v6 = packet.addresses.len() == 32;
        if packet.addresses.is_empty() || packet.is_fragment() {
            return None;
        }
        let kind = match packet.l4 {
            None => 0,
            Some(L4::Udp) => 1,
            Some(L4::Tcp) => 2,
            Some(L4::Sctp) => 3,
        };
        let half = packet.addresses.len() / 2;
        let words = |from: usize| -> [u32; 4] {
            core::array::from_fn(|n| {
                let word = array_at(&packet.addresses[..from + half], from + 4 * n);
                u32::from_be_bytes(word)
            })
        };
        let [a, b, c, d] = packet.ports;
        let flex = 2 * (self.regs.word(FDIRCTRL) >> 16 & 0x1f) as usize;
        Some(Flow {
            kind: kind | u8::from(v6) << 2,
            vlan: packet.tag.unwrap_or(0),
            flex: u16::from_be_bytes(array_at(frame, flex)),
            source: words(0),
            destination: words(half),
            source_port: u16::from_be_bytes([a, b]),
            destination_port: u16::from_be_bytes([c, d]),
        })
    }

    /// A flow without what the masks leave out (8.2.3.21.10 and following): a set bit is not compared.
    fn masked(&self, mut flow: Flow) -> Flow {
        let mask = self.regs.word(FDIRM);
        let on = |bit: u32| mask >> bit & 1 == 1;
        if on(0) {
            flow.vlan &= 0xf000;
        }
        if on(1) {
            flow.vlan &= 0x0fff;
        }
        if on(3) {
            flow.kind &= 4;
        }
        if on(4) {
            flow.flex = 0;
        }
        flow.source[0] &= !self.regs.word(FDIRSIP4M).swap_bytes();
        flow.destination[0] &= !self.regs.word(FDIRDIP4M).swap_bytes();
        let ports = match flow.kind & 3 {
            1 => self.regs.word(FDIRUDPM),
            2 => self.regs.word(FDIRTCPM),
            // Those of SCTP only its successors compare, and have FDIRSCTPM for it.
            _ => u32::MAX,
        };
        // The masks of ports count their bits from the other end (8.2.3.21.13).
        let port = |shift: u32| {
            u16::try_from(ports >> shift & 0xffff)
                .unwrap_or(0)
                .reverse_bits()
        };
        flow.source_port &= !port(0);
        flow.destination_port &= !port(16);
        flow
    }
}

/// The hash of a flow under a key: 15 bits (7.1.2.7.16).
///
/// The key repeats every 32 bits, so the words of the flow can be added up first. Of the low half, its first bit is
/// hashed without kind and VLAN.
fn hash(key: u32, flow: &Flow) -> u16 {
    let first = u32::from(flow.kind) << 16 | u32::from(flow.vlan);
    let ports = u32::from(flow.source_port) << 16 | u32::from(flow.destination_port);
    let rest = flow
        .source
        .iter()
        .chain(&flow.destination)
        .chain([&ports, &(u32::from(flow.flex) << 16)])
        .fold(0, |sum, word| sum ^ word);
    let high = rest ^ first ^ first >> 16;
    let plain = rest.rotate_left(16);
    let low = plain ^ first ^ first << 16;
    let hash = (0..16).fold(0, |hash, n| {
        let low = if n == 0 { plain } else { low };
        let low = if key >> n & 1 == 1 { low >> n } else { 0 };
        let high = if key >> (n + 16) & 1 == 1 {
            high >> n
        } else {
            0
        };
        hash ^ low ^ high
    });
    u16::try_from(hash & 0x7fff).unwrap_or(0)
}
