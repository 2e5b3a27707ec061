//! Frames, byte by byte: ARP (RFC 826), IPv4 (RFC 791) with UDP (RFC 768) and ICMP (RFC 792) in it.

use core::{net::Ipv4Addr, ops::Range};

/// Bytes of a frame: enough for what is sent here, and no more than a card's shortest buffer.
pub(crate) const LEN: usize = 128;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
/// Headers of UDP and of an ICMP echo request.
const TRANSPORT: usize = 8;
const BROADCAST: [u8; 6] = [0xff; 6];
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where the last two bytes of the sender's IPv4 address are.
pub(crate) const LAST_OF_SOURCE: usize = ETHERNET + 14;

/// A frame.
pub(crate) type Frame = [u8; LEN];

/// Who sends, and to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parties {
    /// The sender's Ethernet address. Frames go to everybody's.
    pub(crate) mac: [u8; 6],
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
}

impl Parties {
    /// The same, with another address.
    pub(crate) const fn from(self, from: Ipv4Addr) -> Self {
        Self { from, ..self }
    }

    /// The address of another process: the first, or the second.
    pub(crate) const fn other(self) -> Ipv4Addr {
        let [a, b, c, last] = self.from.octets();
        Ipv4Addr::new(a, b, c, if last == 2 { 3 } else { 2 })
    }

    /// An address that nobody has.
    pub(crate) const fn nobody(self) -> Ipv4Addr {
        let [a, b, c, _] = self.from.octets();
        Ipv4Addr::new(a, b, c, 252)
    }

    /// Asks the other end of the wire to stop for as long as can be said: IEEE 802.3 annex 31B.
    pub(crate) fn pause(self) -> Frame {
        let mut frame = self.ethernet([0x88, 0x08]);
        put(&mut frame, 0, &[0x01, 0x80, 0xc2, 0, 0, 1]);
        put(&mut frame, ETHERNET, &[0, 1, 0xff, 0xff]);
        frame
    }

    /// Says that a machine of this name is here: IEEE 802.1AB, a chassis, a port, a time to live and the end.
    pub(crate) fn lldp(self) -> Frame {
        const UNITS: [u8; 18] = [
            0x02, 4, 7, b'b', b'a', b'd', 0x04, 2, 7, b'1', 0x06, 2, 0, 120, 0, 0, 0, 0,
        ];
        let mut frame = self.ethernet([0x88, 0xcc]);
        put(&mut frame, 0, &[0x01, 0x80, 0xc2, 0, 0, 0x0e]);
        put(&mut frame, ETHERNET, &UNITS);
        frame
    }

    /// A segment of a connection that there is not, to the discard port.
    pub(crate) fn tcp(self) -> Frame {
        const DISCARD: [u8; 4] = [0x80, 0, 0, 9];
        /// A header without options; an acknowledgement.
        const LEN_AND_FLAGS: [u8; 2] = [0x50, 0x10];
        let mut frame = self.ipv4(TCP);
        put(&mut frame, ETHERNET + IPV4, &DISCARD);
        put(&mut frame, ETHERNET + IPV4 + 12, &LEN_AND_FLAGS);
        frame
    }

    /// A datagram with this process's address, which gets that of another process where a checksum of `range` is inserted
    /// behind it: the word at `free`, in `range`, is such that the checksum is the last half of that address.
    pub(crate) fn mask(self, range: Range<usize>, free: usize) -> Frame {
        let mut frame = self.from(self.other()).udp();
        let [_, _, c, d] = self.other().octets();
        let mut summed = frame;
        put(&mut summed, free, &[0, 0]);
        if range.contains(&LAST_OF_SOURCE) {
            put(&mut summed, LAST_OF_SOURCE, &[0, 0]);
        }
        let rest = checksum(summed.get(range).unwrap_or_default());
        // The sum has to be the address's complement, and the rest's complement is what lacks of nothing.
        let word = add(u16::from_be_bytes(rest), !u16::from_be_bytes([c, d]));
        put(&mut frame, free, &word.to_be_bytes());
        let [_, _, c, d] = self.from.octets();
        put(&mut frame, LAST_OF_SOURCE, &[c, d]);
        frame
    }

    /// Asks for `to`'s Ethernet address, which tells it the sender's.
    pub(crate) fn arp(self) -> Frame {
        const REQUEST: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 1];
        let mut frame = self.ethernet([0x08, 0x06]);
        put(&mut frame, ETHERNET, &REQUEST);
        put(&mut frame, ETHERNET + 8, &self.mac);
        put(&mut frame, ETHERNET + 14, &self.from.octets());
        put(&mut frame, ETHERNET + 24, &self.to.octets());
        frame
    }

    /// A datagram full of the pattern, to the discard port (RFC 863).
    pub(crate) fn udp(self) -> Frame {
        const DISCARD: [u8; 4] = [0x80, 0, 0, 9];
        let mut frame = self.ipv4(UDP);
        put(&mut frame, ETHERNET + IPV4, &DISCARD);
        put(&mut frame, ETHERNET + IPV4 + 4, &length(ETHERNET + IPV4));
        // No checksum, which IPv4 allows.
        frame
    }

    /// An echo request full of the pattern: the answer brings it back.
    pub(crate) fn ping(self) -> Frame {
        const REQUEST: [u8; 2] = [8, 0];
        let mut frame = self.ipv4(ICMP);
        put(&mut frame, ETHERNET + IPV4, &REQUEST);
        let sum = checksum(frame.get(ETHERNET + IPV4..).unwrap_or_default());
        put(&mut frame, ETHERNET + IPV4 + 2, &sum);
        frame
    }

    fn ethernet(self, kind: [u8; 2]) -> Frame {
        let mut frame = [0; LEN];
        put(&mut frame, 0, &BROADCAST);
        put(&mut frame, 6, &self.mac);
        put(&mut frame, 12, &kind);
        frame
    }

    /// A packet with the pattern behind an empty transport header.
    fn ipv4(self, protocol: u8) -> Frame {
        let mut frame = self.ethernet([0x08, 0x00]);
        put(&mut frame, ETHERNET, &[0x45]);
        put(&mut frame, ETHERNET + 2, &length(ETHERNET));
        put(&mut frame, ETHERNET + 8, &[64, protocol]);
        put(&mut frame, ETHERNET + 12, &self.from.octets());
        put(&mut frame, ETHERNET + 16, &self.to.octets());
        let header = frame.get(ETHERNET..ETHERNET + IPV4).unwrap_or_default();
        let sum = checksum(header);
        put(&mut frame, ETHERNET + 10, &sum);
        let payload = frame.iter_mut().skip(ETHERNET + IPV4 + TRANSPORT);
        for (byte, mark) in payload.zip(b"ROGUE".iter().cycle()) {
            *byte = *mark;
        }
        frame
    }
}

/// Copies `bytes` to `at`.
fn put(frame: &mut Frame, at: usize, bytes: &[u8]) {
    for (place, byte) in frame.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

/// The number of bytes from `start` to the end.
#[expect(clippy::cast_possible_truncation, reason = "at most 128")]
const fn length(start: usize) -> [u8; 2] {
    ((LEN - start) as u16).to_be_bytes()
}

/// A sum of ones' complements.
#[expect(clippy::cast_possible_truncation, reason = "folded")]
const fn add(one: u16, other: u16) -> u16 {
    let sum = one as u32 + other as u32;
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The Internet checksum, RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let (words, _) = bytes.as_chunks();
    let sum: u32 = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "folded")]
    let sum = !(folded as u16);
    sum.to_be_bytes()
}
