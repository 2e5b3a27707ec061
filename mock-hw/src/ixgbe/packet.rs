//! What the parser finds in a frame (82599, 7.1.1 and 7.1.5): strictly within its bytes.

use crate::{
    bytes::array_at,
    frame::{big16, fold, sum},
};

/// A transport header that the device knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum L4 {
    Tcp,
    Udp,
    Sctp,
}

/// What is behind the Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum L3 {
    V4 {
        /// Whether the checksum of the header is right.
        sound: bool,
        options: bool,
        fragment: bool,
    },
    V6 {
        extensions: bool,
    },
}

/// A frame, read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Packet {
    pub(super) destination: [u8; 6],
    /// The tag with its priority, if there is one.
    pub(super) tag: Option<u16>,
    pub(super) kind: u16,
    pub(super) l3: Option<L3>,
    /// Source address, then destination address.
    pub(super) addresses: Vec<u8>,
    pub(super) protocol: u8,
    pub(super) l4: Option<L4>,
    /// Source port, then destination port.
    pub(super) ports: [u8; 4],
    /// Where the transport header starts, and where the packet ends.
    pub(super) transport: usize,
    pub(super) end: usize,
    pub(super) syn: bool,
}

impl Packet {
    /// Reads `frame`, whose VLAN tags have the type `vlan`.
    pub(super) fn parse(frame: &[u8], vlan: u16) -> Self {
        let mut packet = Self {
            destination: array_at(frame, 0),
            ..Self::default()
        };
        let mut at = 12;
        if frame.len() >= 18 && big16(frame, at) == vlan {
            packet.tag = Some(big16(frame, at + 2));
            at += 4;
        }
        packet.kind = big16(frame, at);
        match packet.kind {
            0x0800 => packet.ipv4(frame, at + 2),
            0x86dd => packet.ipv6(frame, at + 2),
            _ => {}
        }
        packet
    }

    pub(super) fn vlan(&self) -> Option<u16> {
        self.tag.map(|tag| tag & 0xfff)
    }

    pub(super) fn is_broadcast(&self) -> bool {
        self.destination == [0xff; 6]
    }

    pub(super) const fn is_multicast(&self) -> bool {
        self.destination[0] & 1 == 1
    }

    pub(super) fn is_fragment(&self) -> bool {
        matches!(self.l3, Some(L3::V4 { fragment: true, .. }))
    }

    fn ipv4(&mut self, frame: &[u8], start: usize) {
        let Some(fixed) = frame.get(start..start + 20) else {
            return;
        };
        let len = usize::from(fixed[0] & 0xf) * 4;
        let total = usize::from(big16(fixed, 2));
        let Some(header) = frame.get(start..start + len.max(20)) else {
            return;
        };
        if fixed[0] >> 4 != 4 || len < 20 || total < len || start + total > frame.len() {
            return;
        }
        let fragment = big16(header, 6) & 0x3fff != 0;
        self.l3 = Some(L3::V4 {
            sound: fold(sum(header)) == 0xffff,
            options: len > 20,
            fragment,
        });
        self.addresses = header[12..20].to_vec();
        self.protocol = header[9];
        (self.transport, self.end) = (start + len, start + total);
        if !fragment {
            self.transport_header(frame);
        }
    }

    fn ipv6(&mut self, frame: &[u8], start: usize) {
        let Some(header) = frame.get(start..start + 40) else {
            return;
        };
        let end = start + 40 + usize::from(big16(header, 4));
        if header[0] >> 4 != 6 || end > frame.len() {
            return;
        }
        self.addresses = header[8..40].to_vec();
        self.protocol = header[6];
        (self.transport, self.end) = (start + 40, end);
        let extensions = matches!(self.protocol, 0 | 43 | 44 | 51 | 60);
        self.l3 = Some(L3::V6 { extensions });
        if !extensions {
            self.transport_header(frame);
        }
    }

    fn transport_header(&mut self, frame: &[u8]) {
        let (l4, len) = match self.protocol {
            6 => (L4::Tcp, 20),
            17 => (L4::Udp, 8),
            132 => (L4::Sctp, 12),
            _ => return,
        };
        if self.transport + len > self.end {
            return;
        }
        self.l4 = Some(l4);
        self.ports = array_at(frame, self.transport);
        self.syn = l4 == L4::Tcp && frame.get(self.transport + 13).is_some_and(|b| b & 2 != 0);
    }

    /// Whether the checksum of the transport is right; `None` where there is none, or it is not looked at.
    pub(super) fn transport_is_sound(&self, frame: &[u8]) -> Option<bool> {
        let segment = frame.get(self.transport..self.end)?;
        match self.l4? {
            L4::Udp if big16(segment, 6) == 0 => None,
            L4::Tcp | L4::Udp => {
                let len = u32::try_from(segment.len()).ok()?;
                let pseudo = sum(&self.addresses) + u32::from(self.protocol) + len;
                Some(fold(pseudo + sum(segment)) == 0xffff)
            }
            L4::Sctp => {
                let mut zeroed = segment.to_vec();
                zeroed[8..12].fill(0);
                let found: [u8; 4] = array_at(segment, 8);
                Some(crc32c(&zeroed).to_le_bytes() == found)
            }
        }
    }
}

/// CRC-32C (RFC 9260, appendix A).
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc(bytes, 0x82f6_3b78)
}

/// The frame check sequence of Ethernet (IEEE 802.3, 3.2.9), as it is sent: least significant byte first.
pub(super) fn frame_check(bytes: &[u8]) -> [u8; 4] {
    crc(bytes, 0xedb8_8320).to_le_bytes()
}

/// A reflected CRC that begins and ends with all ones.
fn crc(bytes: &[u8], polynomial: u32) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (polynomial * (crc & 1));
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), step)
    });
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_crcs_give_the_published_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(frame_check(b"123456789"), 0xcbf4_3926_u32.to_le_bytes());
    }

    #[test]
    fn a_cut_frame_has_no_headers_beyond_its_end() {
        let mut frame = vec![0; 18 + 20 + 20];
        frame[12..16].copy_from_slice(&[0x81, 0x00, 0x20, 0x05]);
        frame[16] = 0x08;
        frame[18] = 0x45;
        frame[21] = 40;
        frame[27] = 6;
        let whole = Packet::parse(&frame, 0x8100);
        assert_eq!((whole.tag, whole.vlan()), (Some(0x2005), Some(5)));
        assert_eq!((whole.l4, whole.transport), (Some(L4::Tcp), 38));
        for len in 0..frame.len() {
            let cut = Packet::parse(&frame[..len], 0x8100);
            assert_eq!(cut.l4, None, "{len}");
            assert_eq!(cut.transport_is_sound(&frame[..len]), None);
        }
    }
}
