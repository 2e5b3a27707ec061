//! Frames as etherparse makes and reads them: a second opinion about checksums, tags and segments.

use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, PacketBuilder,
    SlicedPacket, TcpHeader, TransportSlice, VlanSlice,
};
use parakernel_nic_ixgbe::{
    descriptor::{Headers, Ip, L4},
    offload::Request,
};

use crate::rig::checksum;

/// The network layer of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Net {
    V4,
    V6,
}

/// The transport layer of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// A packet from port 1000 to `port`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Packet {
    /// Source and destination.
    pub(crate) macs: [[u8; 6]; 2],
    pub(crate) net: Net,
    /// The same; IPv6 addresses end with them.
    pub(crate) addresses: [[u8; 4]; 2],
    pub(crate) transport: Transport,
    pub(crate) port: u16,
    pub(crate) payload: Vec<u8>,
}

const SEQUENCE: u32 = 0xFFFF_F000;
const IDENTIFICATION: u16 = 0xFFFE;

impl Packet {
    /// The frame, its checksums right.
    pub(crate) fn frame(&self) -> Vec<u8> {
        self.part((0, 0), &self.payload, true)
    }

    /// The frame with the `number`-th piece of the payload, which begins at `start`.
    fn part(&self, (number, start): (usize, usize), piece: &[u8], is_last: bool) -> Vec<u8> {
        let [from, to] = self.macs;
        let builder = PacketBuilder::ethernet2(from, to).ip(self.ip(number));
        let mut frame = Vec::new();
        match self.transport {
            Transport::Udp => builder.udp(1000, self.port).write(&mut frame, piece),
            Transport::Tcp => {
                let mut header =
                    TcpHeader::new(1000, self.port, SEQUENCE.wrapping_add(start as u32), 512);
                header.ack = true;
                header.acknowledgment_number = 77;
                header.psh = is_last;
                builder.tcp_header(header).write(&mut frame, piece)
            }
        }
        .unwrap();
        frame
    }

    fn ip(&self, number: usize) -> IpHeaders {
        let [source, destination] = self.addresses;
        match self.net {
            Net::V4 => {
                let mut header =
                    Ipv4Header::new(0, 64, IpNumber::UDP, source, destination).unwrap();
                header.identification = IDENTIFICATION.wrapping_add(number as u16);
                IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
            }
            Net::V6 => {
                let long = |short: [u8; 4]| {
                    let mut long = [0xFD; 16];
                    long[12..].copy_from_slice(&short);
                    long
                };
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: 0,
                    next_header: IpNumber::UDP,
                    hop_limit: 64,
                    source: long(source),
                    destination: long(destination),
                };
                IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
            }
        }
    }

    const fn headers(&self) -> Headers {
        let (ip, ip_len) = match self.net {
            Net::V4 => (Ip::V4, 20),
            Net::V6 => (Ip::V6, 40),
        };
        let (l4, l4_len) = match self.transport {
            Transport::Udp => (L4::Udp, 8),
            Transport::Tcp => (L4::Tcp, 20),
        };
        Headers {
            mac_len: 14,
            ip,
            ip_len,
            l4,
            l4_len,
        }
    }
}

/// What the card is asked to do to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offload {
    /// Nothing: the frame is whole.
    None,
    /// Its checksums.
    Sums,
    /// Segments of so many bytes, of TCP.
    Segments(u16),
}

/// A packet that is sent, and what is asked for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outgoing {
    pub(crate) packet: Packet,
    pub(crate) offload: Offload,
    pub(crate) tag: Option<u16>,
}

impl Outgoing {
    /// What the driver is given: bytes, and the header that says what is to be done.
    pub(crate) fn given(&self) -> (Vec<u8>, [u8; 16]) {
        let headers = self.packet.headers();
        let request = match (self.offload, self.tag) {
            (Offload::None, _) => return (self.packet.frame(), [0; 16]),
            (Offload::Sums, _) => Request::checksums(headers),
            (Offload::Segments(len), _) => Request::segments(headers, len),
        };
        let request = self.tag.map_or(request, |tag| request.with_vlan(tag));
        (self.unsummed(), request.to_bytes())
    }

    /// The frame as the card wants it: no IP checksum, the pseudo header's sum for the other; without lengths where these
    /// are the card's to fill in (82599, 7.2.4.1).
    fn unsummed(&self) -> Vec<u8> {
        let mut frame = self.packet.frame();
        let is_cut = matches!(self.offload, Offload::Segments(_));
        let (start, addresses) = match self.packet.net {
            Net::V4 => {
                frame[24..26].fill(0);
                (34, 26..34)
            }
            Net::V6 => (54, 22..54),
        };
        let (protocol, at) = match self.packet.transport {
            Transport::Udp => (17, start + 6),
            Transport::Tcp => (6, start + 16),
        };
        let len = if is_cut { 0 } else { frame.len() - start };
        let mut pseudo = frame[addresses].to_vec();
        pseudo.extend((len as u16).to_be_bytes());
        pseudo.extend([0, protocol]);
        let sum = !checksum(&pseudo);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        if is_cut {
            let len = match self.packet.net {
                Net::V4 => 16..18,
                Net::V6 => 18..20,
            };
            frame[len].fill(0);
        }
        frame
    }

    /// The frames that are to be on the wire.
    pub(crate) fn expected(&self) -> Vec<Vec<u8>> {
        let packet = &self.packet;
        let mut frames = match self.offload {
            Offload::None | Offload::Sums => vec![packet.frame()],
            Offload::Segments(len) => {
                let pieces: Vec<&[u8]> = packet.payload.chunks(len.into()).collect();
                let last = pieces.len() - 1;
                let pieces = pieces.into_iter().enumerate();
                pieces
                    .map(|(number, piece)| {
                        let start = number * usize::from(len);
                        packet.part((number, start), piece, number == last)
                    })
                    .collect()
            }
        };
        for frame in &mut frames {
            if let (Some(tag), true) = (self.tag, self.offload != Offload::None) {
                let tag = u32::from(tag) | 0x8100_0000;
                frame.splice(12..12, tag.to_be_bytes());
            }
            // The MAC pads what is too short.
            frame.resize(frame.len().max(60), 0);
        }
        frames
    }
}

/// What etherparse reads in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    /// The tag, all 16 bits.
    pub(crate) tag: Option<u16>,
    /// IPv4 source and destination.
    pub(crate) addresses: Option<[[u8; 4]; 2]>,
    pub(crate) is_udp: bool,
    pub(crate) is_tcp: bool,
    pub(crate) port: u16,
    /// Whether the checksums are right; `None` where there are none.
    pub(crate) ip_sum: Option<bool>,
    pub(crate) l4_sum: Option<bool>,
}

/// Reads a frame that is whole.
pub(crate) fn look(frame: &[u8]) -> Seen {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let mut seen = Seen::default();
    if let Some(VlanSlice::SingleVlan(tag)) = sliced.vlan() {
        let slice = tag.slice();
        seen.tag = Some(u16::from_be_bytes([slice[0], slice[1]]));
    }
    if let Some(NetSlice::Ipv4(ip)) = &sliced.net {
        let header = ip.header().to_header();
        seen.addresses = Some([header.source, header.destination]);
        seen.ip_sum = Some(header.calc_header_checksum() == header.header_checksum);
    }
    match (&sliced.transport, &sliced.net) {
        (Some(TransportSlice::Udp(udp)), Some(net)) => {
            let header = udp.to_header();
            seen.is_udp = true;
            seen.port = header.destination_port;
            let sum = match net {
                NetSlice::Ipv4(ip) => {
                    let ip = ip.header().to_header();
                    header.calc_checksum_ipv4_raw(ip.source, ip.destination, udp.payload())
                }
                NetSlice::Ipv6(ip) => {
                    let ip = ip.header().to_header();
                    header.calc_checksum_ipv6_raw(ip.source, ip.destination, udp.payload())
                }
                NetSlice::Arp(_) => return seen,
            };
            seen.l4_sum = (header.checksum != 0).then_some(sum.unwrap() == header.checksum);
        }
        (Some(TransportSlice::Tcp(tcp)), Some(net)) => {
            seen.is_tcp = true;
            seen.port = tcp.destination_port();
            let sum = match net {
                NetSlice::Ipv4(ip) => {
                    let ip = ip.header().to_header();
                    tcp.calc_checksum_ipv4(ip.source, ip.destination)
                }
                NetSlice::Ipv6(ip) => {
                    let ip = ip.header().to_header();
                    tcp.calc_checksum_ipv6(ip.source, ip.destination)
                }
                NetSlice::Arp(_) => return seen,
            };
            seen.l4_sum = Some(sum.unwrap() == tcp.checksum());
        }
        _ => {}
    }
    seen
}
