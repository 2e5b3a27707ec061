//! The contract of a transmit ring, written out field by field.

use parakernel_core::address::Direction;

use crate::{input::Input, regions::Regions};

/// Bytes of headers, with their tag, that the device has room for while it cuts a packet into segments.
const HEADER_BUFFER: u64 = 240;

/// Where the sum of a context's header lengths must stay below, the tag's four bytes included.
const HEADER_LIMIT: u64 = 512;

/// What a packet may be, and what the device's context will be.
#[derive(Clone, Debug)]
pub(super) struct Contract {
    max_frame: u32,
    vlan: Option<u16>,
    context: Option<[u64; 2]>,
    /// Entries of the process's ring up to the last report.
    pub(super) reported: u32,
}

/// A packet that may leave.
#[derive(Debug)]
pub(super) struct Packet {
    /// Entries that it takes in the process's ring.
    pub(super) entries: u32,
    pub(super) context: Option<[u64; 2]>,
    /// What its data descriptors say alike.
    pub(super) common: u64,
    /// Bus address and length of each part.
    pub(super) parts: Vec<(u64, u64)>,
}

/// The fields of a data descriptor's second word.
#[expect(
    clippy::struct_excessive_bools,
    reason = "one for each bit of the format"
)]
struct Data {
    len: u64,
    payload: u64,
    inserts_tag: bool,
    segments: bool,
    looks_at_context: bool,
    ip_checksum: bool,
    l4_checksum: bool,
}

fn bit(word: u64, number: u32) -> bool {
    word >> number & 1 == 1
}

impl Data {
    /// `None` where a field that a process may not choose is not what it must be.
    fn decode(word: u64) -> Option<Self> {
        let fixed = word >> 20 & 0xf == 3 && bit(word, 25) && bit(word, 29);
        let zero = word >> 16 & 0xf == 0
            && !bit(word, 26)
            && !bit(word, 28)
            && word >> 32 & 0x7f == 0
            && word >> 42 & 0xf == 0;
        (fixed && zero).then_some(Self {
            len: word & 0xffff,
            payload: word >> 46,
            inserts_tag: bit(word, 30),
            segments: bit(word, 31),
            looks_at_context: bit(word, 39),
            ip_checksum: bit(word, 40),
            l4_checksum: bit(word, 41),
        })
    }

    fn asks(&self) -> bool {
        self.inserts_tag || self.segments || self.ip_checksum || self.l4_checksum
    }
}

impl Contract {
    pub(super) const fn new(max_frame: u32, vlan: Option<u16>) -> Self {
        Self {
            max_frame,
            vlan,
            context: None,
            reported: 0,
        }
    }

    /// The packet at the front of `entries`, and what kind of packet that was to be.
    pub(super) fn read(
        &mut self,
        entries: Vec<[u64; 2]>,
        regions: &Regions<'_>,
    ) -> (&'static str, Option<Packet>) {
        let is_context = |entry: &[u64; 2]| entry[1] >> 20 & 0xf == 2;
        let has_context = entries.first().is_some_and(is_context);
        let data = &entries[usize::from(has_context)..];
        let shape = match data.first() {
            Some(&[_, word]) if bit(word, 31) => "packet in segments",
            Some(&[_, word]) if word & (3 << 40 | 1 << 30) != 0 => "packet with offloads",
            Some(&[_, word]) if bit(word, 24) => "plain frame",
            Some(_) | None => "frame in parts",
        };
        let context = has_context.then(|| entries[0]);
        (shape, self.packet_of(context, data, regions))
    }

    fn packet_of(
        &mut self,
        context: Option<[u64; 2]>,
        data: &[[u64; 2]],
        regions: &Regions<'_>,
    ) -> Option<Packet> {
        if let Some([first, second]) = context {
            // Nothing but VLAN, MACLEN, IPLEN; and IPv4, TCP or UDP, L4LEN, MSS.
            let is_right = first >> 32 == 0
                && second & 0x3ff == 0
                && second >> 12 & 0xff == 0
                && second >> 20 & 0xf == 2
                && second >> 24 & 0xff == 1 << 5
                && second >> 32 & 0xff == 0;
            if !is_right {
                return None;
            }
            self.context = context;
        }
        let first = Data::decode(data.first()?[1])?;
        let end = data.iter().position(|&[_, word]| bit(word, 24))? + 1;
        let same = |word: u64| word & !0xffff & !(1 << 24) & !(1 << 27);
        let common = same(data[0][1]);
        let (mut parts, mut bytes) = (Vec::new(), 0);
        for &[address, word] in &data[..end] {
            let part = Data::decode(word)?;
            let is_right = same(word) == common && (1..=15_872).contains(&part.len);
            let bus = regions.contiguous(address, part.len, Direction::ToDevice)?;
            if !is_right {
                return None;
            }
            bytes += part.len;
            parts.push((bus, part.len));
        }
        let entries = end + usize::from(context.is_some());
        let fits = entries <= 39 && bytes <= 0xffff && self.is_allowed(&first, bytes);
        fits.then_some(Packet {
            entries: u32::try_from(entries).expect("few"),
            context,
            common,
            parts,
        })
    }

    /// Whether a packet of `bytes` that asks for what `first` asks for may leave.
    fn is_allowed(&self, first: &Data, bytes: u64) -> bool {
        if first.looks_at_context != first.asks() && first.asks() {
            return false;
        }
        if first.looks_at_context && !first.asks() && self.context.is_none() {
            return false;
        }
        let max = u64::from(self.max_frame);
        if !first.asks() {
            return first.payload == bytes && (17..=max).contains(&bytes);
        }
        let Some([lengths, rest]) = self.context else {
            return false;
        };
        let (ip_len, mac_len, tag) = (lengths & 0x1ff, lengths >> 9 & 0x7f, lengths >> 16 & 0xfff);
        let (is_v4, is_tcp) = (bit(rest, 10), bit(rest, 11));
        let (l4_len, segment) = (rest >> 40 & 0xff, rest >> 48);
        if first.inserts_tag && self.vlan.map(u64::from) != Some(tag) {
            return false;
        }
        if first.ip_checksum && !is_v4 {
            return false;
        }
        let looks_at_headers = first.ip_checksum || first.l4_checksum || first.segments;
        let is_ip_right = if is_v4 {
            (20..=60).contains(&ip_len)
        } else {
            ip_len >= 40
        };
        if looks_at_headers && (mac_len < 14 || !is_ip_right) {
            return false;
        }
        let tag_len = if first.inserts_tag { 4 } else { 0 };
        if first.segments {
            let headers = mac_len + ip_len + l4_len;
            return is_tcp
                && headers + tag_len <= HEADER_BUFFER
                && first.l4_checksum
                && first.ip_checksum == is_v4
                && (20..=60).contains(&l4_len)
                && segment >= 64
                && headers + segment <= max
                && bytes > headers
                && first.payload == bytes - headers
                && bytes >= 17;
        }
        let transport = match (first.l4_checksum, is_tcp) {
            (true, true) => 20,
            (true, false) => 8,
            (false, _) => 0,
        };
        let needed = if looks_at_headers {
            mac_len + ip_len + transport
        } else {
            0
        };
        let are_short = !looks_at_headers || needed + tag_len < HEADER_LIMIT;
        first.payload == bytes && (17..=max).contains(&bytes) && bytes >= needed && are_short
    }

    /// A packet as a process writes it, mostly a right one.
    pub(super) fn packet(&self, input: &mut Input<'_>, regions: &Regions<'_>) -> Vec<[u64; 2]> {
        const TSE: u64 = 1 << 31 | 1 << 39 | 1 << 41;
        let kind = input.byte() & 7;
        let (is_v4, is_tcp) = (input.byte() & 1 == 0, kind > 6 || input.byte() & 1 == 0);
        let offloads = match kind {
            0..=3 => 0,
            4 => 1 << 39 | 1 << 41 | u64::from(is_v4) << 40,
            5 if self.vlan.is_some() => 1 << 39 | 1 << 30,
            5 | 6 => 1 << 39 | u64::from(is_v4) << 40 | u64::from(!is_v4) << 41,
            _ => TSE | u64::from(is_v4) << 40,
        };
        let headers = [14 + 4 * (input.below(2)), if is_v4 { 20 } else { 40 }, 20];
        let header_len: u64 = headers.iter().sum();
        let max = u64::from(self.max_frame);
        let bytes = match kind {
            7 => header_len + 1 + input.below(4000),
            _ => 80 + input.below(max - 79),
        };
        let mut packet = Vec::new();
        if offloads != 0 {
            let tag = self.vlan.unwrap_or(0).into();
            packet.push(context(
                headers,
                (is_v4, is_tcp),
                tag,
                64 + input.below(max - 160),
            ));
        }
        let payload = if kind == 7 { bytes - header_len } else { bytes };
        let common = 3 << 20 | 1 << 25 | 1 << 29 | payload << 46 | offloads;
        let parts = if input.one_in(3) {
            2 + input.below(6)
        } else {
            1
        };
        let (mut left, mut number) = (bytes, 0);
        while left > 0 {
            number += 1;
            let len = if number == parts {
                left
            } else {
                (left / (parts - number + 1)).max(1)
            };
            left -= len;
            let end = u64::from(left == 0) << 24 | u64::from(input.byte() & 1) << 27;
            let address = regions.address(input, Direction::ToDevice, len.min(15_000));
            packet.push([address, common | end | len]);
        }
        spoil(&mut packet, input);
        packet
    }
}

fn context(headers: [u64; 3], (is_v4, is_tcp): (bool, bool), tag: u64, segment: u64) -> [u64; 2] {
    let [mac_len, ip_len, l4_len] = headers;
    let kind = u64::from(is_v4) << 10 | u64::from(is_tcp) << 11;
    [
        ip_len | mac_len << 9 | tag << 16,
        kind | 2 << 20 | 1 << 29 | l4_len << 40 | segment << 48,
    ]
}

/// Breaks a packet here and there.
fn spoil(packet: &mut Vec<[u64; 2]>, input: &mut Input<'_>) {
    if !input.one_in(16) {
        return;
    }
    let entry = usize::from(input.byte()) % packet.len();
    match input.byte() % 8 {
        0 => packet[entry][1] ^= 1 << (input.byte() & 63),
        1 => packet[entry][0] ^= 1 << (input.byte() & 63),
        2 => {
            packet[entry][1] = packet[entry][1].wrapping_add(input.choose(&[1, u64::MAX, 1 << 46]));
        }
        3 => packet.truncate(entry.max(1)),
        4 => packet.insert(entry, packet[0]),
        5 => packet[entry] = [input.word(), input.word()],
        6 => packet[entry][1] = packet[entry][1] & !(0xff << 40) | u64::from(input.byte()) << 40,
        _ => packet[entry][0] = packet[entry][0] & !0xffff | input.below(65_536),
    }
}
