//! Steering in software, and what may be sent: every byte of a frame comes from a peer or from a process.
//!
//! `etherparse` reads each frame too. A frame that goes to one process is, for etherparse, one to names that only this
//! process was granted; a frame that may leave is one from names of its sender. Plain frames must not be refused.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Slice, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, SingleVlanSlice,
    TcpSlice, UdpSlice,
};
use parakernel_core::{
    device::DeviceId,
    handle::{ProcessId, Slot},
    steering::{
        GrantTable, Ipv4Prefix, Ipv6Prefix, Mac, NameGrant, OwnedGrant, PortRange, Recipient, Vlan,
        Way,
    },
};

use crate::{Report, Target, input::Input};

pub(super) const TARGET: Target = Target {
    name: "frame",
    run,
    is_validator: true,
    max_len: 128,
};

const OWN: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const NIC: DeviceId = DeviceId::new(0);

fn run(bytes: &[u8]) -> Report {
    let input = &mut Input::new(bytes);
    let mut slots = [const { Slot::EMPTY }; 8];
    let mut table = GrantTable::new(&mut slots);
    let mut grants = Vec::new();
    for owner in 0..4 {
        let grant = grant(input, owner);
        if table.insert(grant).is_ok() {
            grants.push(grant);
        }
    }
    let (frame, is_plain) = frame(input);
    let mut report = Report::default();
    let seen = Seen::parse(&frame);
    receive(
        &table,
        &grants,
        (&frame, is_plain),
        seen.as_ref(),
        &mut report,
    );
    for grant in &grants {
        send(&grant.names, (&frame, is_plain), seen.as_ref(), &mut report);
    }
    report
}

/// One of few names, so that frames meet them.
fn grant(input: &mut Input<'_>, owner: u32) -> OwnedGrant {
    let last = input.byte() % 4;
    let address = Ipv4Addr::new(10, 0, 0, last);
    let len = input.choose(&[32, 32, 31, 24, 0]);
    let network = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into());
    let network_len = input.choose(&[128, 128, 127, 64, 0]);
    let ports = input.choose(&[(0, u16::MAX), (0, u16::MAX), (7000, 7000), (0, 1023)]);
    OwnedGrant {
        owner: ProcessId::new(owner, 0),
        device: NIC,
        names: NameGrant {
            mac: Mac(input.choose(&OWN)),
            vlan: Vlan::new(input.choose(&[0, 0, 5])),
            ipv4: Ipv4Prefix::new(address, len),
            ipv6: Ipv6Prefix::new(network, network_len),
            ports: PortRange::new(ports.0, ports.1).expect("a range"),
        },
    }
}

/// What etherparse finds in a frame with an IP packet.
struct Seen {
    destination: [u8; 6],
    source: [u8; 6],
    vlan: Option<u16>,
    from: IpAddr,
    to: IpAddr,
    /// IPv4 options, or extension headers.
    has_options: bool,
    carries: Carried,
}

/// What a packet carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carried {
    /// TCP or UDP, from one port to another.
    Ports(u16, u16),
    Icmp,
    /// Fragments, which may have ports that are not to be seen, and protocols that may have something of the kind.
    Other,
}

impl Seen {
    fn parse(frame: &[u8]) -> Option<Self> {
        let link = Ethernet2Slice::from_slice_without_fcs(frame).ok()?;
        let (mut ether_type, mut payload) = (link.ether_type(), link.payload_slice());
        let mut vlan = None;
        if ether_type == EtherType::VLAN_TAGGED_FRAME {
            let tag = SingleVlanSlice::from_slice(payload).ok()?;
            vlan = Some(tag.vlan_identifier().value());
            (ether_type, payload) = (tag.ether_type(), tag.payload_slice());
        }
        let seen = |(from, to), has_options, carries| Self {
            destination: link.destination(),
            source: link.source(),
            vlan,
            from,
            to,
            has_options,
            carries,
        };
        match ether_type {
            EtherType::IPV4 => {
                let header = Ipv4HeaderSlice::from_slice(payload).ok()?;
                let payload = payload.get(header.slice().len()..header.total_len().into())?;
                let carries = match header.protocol() {
                    _ if header.is_fragmenting_payload() => Carried::Other,
                    IpNumber::ICMP => Carried::Icmp,
                    protocol => Carried::parse(protocol, payload)?,
                };
                let addresses = (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                );
                Some(seen(addresses, !header.options().is_empty(), carries))
            }
            EtherType::IPV6 => {
                let header = Ipv6HeaderSlice::from_slice(payload).ok()?;
                let end = 40 + usize::from(header.payload_length());
                let carries = match header.next_header() {
                    IpNumber::IPV6_ICMP => Carried::Icmp,
                    protocol => Carried::parse(protocol, payload.get(40..end)?)?,
                };
                let addresses = (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                );
                let has_extensions = EXTENSIONS.contains(&header.next_header().0);
                Some(seen(addresses, has_extensions, carries))
            }
            _ => None,
        }
    }

    /// Whether `names` cover the frame's receiver.
    fn is_to(&self, names: &NameGrant) -> bool {
        self.destination == names.mac.0
            && self.vlan == names.vlan.map(Vlan::id)
            && contains(names, self.to)
            && self.has_port(names, |(_, to)| to)
    }

    /// Whether `names` cover the frame's sender.
    fn is_from(&self, names: &NameGrant) -> bool {
        self.source == names.mac.0
            && self.vlan == names.vlan.map(Vlan::id)
            && contains(names, self.from)
            && self.has_port(names, |(from, _)| from)
    }

    fn has_port(&self, names: &NameGrant, which: impl Fn((u16, u16)) -> u16) -> bool {
        match self.carries {
            Carried::Ports(from, to) => {
                (names.ports.first()..=names.ports.last()).contains(&which((from, to)))
            }
            Carried::Icmp => true,
            // Only to, or from, who has all ports.
            Carried::Other => names.ports == PortRange::ALL,
        }
    }
}

/// Next headers that are extensions, behind which anything may hide (RFC 7045 §4).
const EXTENSIONS: [u8; 9] = [0, 43, 44, 50, 51, 60, 135, 139, 140];

impl Carried {
    fn parse(protocol: IpNumber, payload: &[u8]) -> Option<Self> {
        Some(match protocol {
            IpNumber::UDP => {
                let udp = UdpSlice::from_slice(payload).ok()?;
                Self::Ports(udp.source_port(), udp.destination_port())
            }
            IpNumber::TCP => {
                let tcp = TcpSlice::from_slice(payload).ok()?;
                Self::Ports(tcp.source_port(), tcp.destination_port())
            }
            _ => Self::Other,
        })
    }
}

/// Whether an address is one of a grant's, compared bit by bit.
fn contains(names: &NameGrant, address: IpAddr) -> bool {
    let shares = |a: u128, b: u128, bits: u8, width: u8| {
        (width - bits..width).all(|bit| a >> bit & 1 == b >> bit & 1)
    };
    match address {
        IpAddr::V4(address) => names.ipv4.is_some_and(|own| {
            let (own_bits, bits) = (own.address().to_bits(), address.to_bits());
            shares(own_bits.into(), bits.into(), own.len(), 32)
        }),
        IpAddr::V6(address) => names
            .ipv6
            .is_some_and(|own| shares(own.address().to_bits(), address.to_bits(), own.len(), 128)),
    }
}

/// Whether a frame is about addresses itself, and goes by what it says, which etherparse's slices do not have: ARP, and
/// messages of neighbour discovery.
fn is_about_addresses(frame: &[u8]) -> bool {
    let behind_tag = if frame.get(12..14) == Some(&[0x81, 0]) {
        4
    } else {
        0
    };
    let at = |offset: usize| frame.get(behind_tag + offset).copied();
    match (at(12), at(13)) {
        (Some(8), Some(6)) => true,
        (Some(0x86), Some(0xdd)) => at(20) == Some(58) && matches!(at(54), Some(133..=137)),
        _ => false,
    }
}

fn receive(
    table: &GrantTable<'_>,
    grants: &[OwnedGrant],
    (frame, is_plain): (&[u8], bool),
    seen: Option<&Seen>,
    report: &mut Report,
) {
    let recipient = table.classify(NIC, frame);
    if let Recipient::One(owner) = recipient
        && !is_about_addresses(frame)
    {
        expect_named(grants, owner, (frame, seen));
    }
    let Some(seen) = seen.filter(|_| is_plain) else {
        return;
    };
    let mut owners: Vec<_> = grants
        .iter()
        .filter(|grant| seen.is_to(&grant.names))
        .map(|grant| grant.owner)
        .collect();
    owners.dedup();
    let expected = match owners.as_slice() {
        [owner] => Recipient::One(*owner),
        _ => Recipient::Kernel,
    };
    assert_eq!(recipient, expected);
    if !owners.is_empty() {
        report.note(
            "plain frame to somebody",
            matches!(recipient, Recipient::One(_)),
        );
    }
}

/// A frame that goes to `owner` is to names of its own, and of nobody else's.
fn expect_named(grants: &[OwnedGrant], owner: ProcessId, (frame, seen): (&[u8], Option<&Seen>)) {
    let Some(seen) = seen else {
        panic!("an independent parser refuses {frame:x?}");
    };
    let is_ambiguous = seen.has_options || seen.to.is_multicast();
    assert!(!is_ambiguous, "an ambiguous frame: {frame:x?}");
    let named = grants.iter().filter(|grant| seen.is_to(&grant.names));
    assert!(named.clone().count() > 0, "another's frame: {frame:x?}");
    let is_only = named.into_iter().all(|grant| grant.owner == owner);
    assert!(is_only, "two processes could be meant: {frame:x?}");
}

fn send(
    names: &NameGrant,
    (frame, is_plain): (&[u8], bool),
    seen: Option<&Seen>,
    report: &mut Report,
) {
    for way in [Way::Hardware, Way::Virtual] {
        let may_leave = names.check_source(frame, way).is_ok();
        let is_arp = is_about_addresses(frame);
        assert!(
            !(may_leave && is_arp && way == Way::Hardware),
            "ARP or neighbour discovery on a hardware queue"
        );
        if may_leave && !is_arp {
            assert_eq!(frame.get(6..12), Some(names.mac.0.as_slice()));
            // Of the hardware's frames only the first bytes were looked at, so the rest may be missing.
            if let Some(seen) = seen {
                assert!(seen.is_from(names), "a frame in another's name");
            }
            assert!(
                seen.is_some() || way == Way::Hardware,
                "an independent parser refuses {frame:x?}"
            );
        }
        if let Some(seen) = seen.filter(|seen| {
            is_plain && seen.source == names.mac.0 && seen.vlan == names.vlan.map(Vlan::id)
        }) {
            let expected = seen.is_from(names);
            assert_eq!(may_leave, expected);
            report.note("plain frame from the MAC address granted", may_leave);
        }
    }
}

/// A frame, and whether nothing was changed about it after it was built.
fn frame(input: &mut Input<'_>) -> (Vec<u8>, bool) {
    let mut frame = Vec::with_capacity(128);
    frame.extend(input.choose(&[OWN[0], OWN[1], [0xff; 6]]));
    frame.extend(input.choose(&OWN));
    let is_tagged = input.one_in(3);
    if is_tagged {
        frame.extend([0x81, 0, 0, input.choose(&[5, 5, 0, 6])]);
    }
    let protocol = input.choose(&[17, 6, 17, 6, 1, 47]);
    let payload = transport(input, protocol);
    if input.one_in(16) {
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1 + (input.byte() & 1)]);
        frame.extend(OWN[0]);
        frame.extend([
            10,
            0,
            0,
            input.byte() % 4,
            0,
            0,
            0,
            0,
            0,
            0,
            10,
            0,
            0,
            input.byte() % 4,
        ]);
    } else if input.one_in(3) {
        frame.extend([0x86, 0xdd]);
        ipv6(input, &mut frame, protocol, payload);
    } else {
        frame.extend([8, 0]);
        ipv4(input, &mut frame, protocol, &payload);
    }
    let is_plain = !input.one_in(2)
        && frame[0] & 1 == 0
        && (!is_tagged || frame[15] != 0)
        && !is_about_addresses(&frame);
    if !is_plain {
        for _ in 0..1 + input.below(4) {
            let place = usize::from(input.byte()) % frame.len();
            frame[place] = match input.byte() & 3 {
                0 => frame[place] ^ 1 << input.below(8),
                1 => 0xff,
                _ => input.byte(),
            };
        }
        if input.one_in(4) {
            frame.truncate(usize::from(input.byte()));
        }
    }
    (frame, is_plain)
}

fn ipv4(input: &mut Input<'_>, frame: &mut Vec<u8>, protocol: u8, payload: &[u8]) {
    let total = u16::try_from(20 + payload.len()).expect("small");
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend([10, 0, 0, input.byte() % 4]);
    frame.extend([10, 0, 0, input.byte() % 4]);
    frame.extend(payload);
}

fn ipv6(input: &mut Input<'_>, frame: &mut Vec<u8>, protocol: u8, mut payload: Vec<u8>) {
    let len = u16::try_from(payload.len()).expect("small");
    // An echo request has another number here, and so has ICMP.
    let next = if protocol == 1 { 58 } else { protocol };
    if next == 58 {
        payload[0] = input.choose(&[128, 128, 128, 129, 135]);
    }
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([next, 64]);
    for _ in 0..2 {
        frame.extend([
            0xfd,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            input.byte() % 4,
        ]);
    }
    frame.extend(payload);
}

fn transport(input: &mut Input<'_>, protocol: u8) -> Vec<u8> {
    let port = |input: &mut Input<'_>| input.choose(&[7000_u16, 80, 7001, 1023]).to_be_bytes();
    let mut bytes = Vec::new();
    match protocol {
        17 => {
            bytes.extend(port(input));
            bytes.extend(port(input));
            bytes.extend([0, 12, 0, 0, 1, 2, 3, 4]);
        }
        6 => {
            bytes.extend(port(input));
            bytes.extend(port(input));
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 16, 0, 0, 0, 0, 0]);
        }
        1 => bytes.extend([8, 0, 0, 0, 0, 1, 0, 1]),
        _ => bytes.extend([0; 8]),
    }
    bytes
}
