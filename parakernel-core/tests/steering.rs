//! Steering against an independent parser: etherparse reads every frame too.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may panic as the test itself"
)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpNumber, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice, PacketBuilder,
    TransportSlice, VlanId,
};
use parakernel_core::{
    device::DeviceId,
    handle::{ProcessId, Slot},
    steering::{
        GrantTable, Ipv4Prefix, Ipv6Prefix, Mac, NameGrant, OwnedGrant, PortRange, Recipient,
        SOURCE_HEADERS, Vlan, Way,
    },
    validate::SpoofedField,
};
use proptest::prelude::*;

const NIC: DeviceId = DeviceId::new(0);
const MACS: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0xff; 6]];

/// One process with both versions, two that share an address and differ in ports, one in a VLAN, one with some ports.
fn grants() -> Vec<(u32, NameGrant)> {
    let names = |mac: usize,
                 vlan,
                 v4: Option<([u8; 4], u8)>,
                 v6: Option<(u128, u8)>,
                 ports: (u16, u16)| NameGrant {
        mac: Mac(MACS[mac]),
        vlan: Vlan::new(vlan),
        ipv4: v4.and_then(|(address, len)| Ipv4Prefix::new(address.into(), len)),
        ipv6: v6.and_then(|(address, len)| Ipv6Prefix::new(Ipv6Addr::from_bits(address), len)),
        ports: PortRange::new(ports.0, ports.1).unwrap(),
    };
    vec![
        (
            1,
            names(
                0,
                0,
                Some(([10, 0, 0, 1], 32)),
                Some((0xfd00 << 112 | 1, 128)),
                (0, u16::MAX),
            ),
        ),
        (
            2,
            names(0, 0, Some(([10, 0, 0, 2], 32)), None, (1000, 1999)),
        ),
        (
            3,
            names(0, 0, Some(([10, 0, 0, 2], 32)), None, (2000, 2999)),
        ),
        (
            4,
            names(
                1,
                5,
                Some(([10, 0, 0, 0], 24)),
                Some((0xfd00 << 112, 64)),
                (0, u16::MAX),
            ),
        ),
        (
            5,
            names(0, 0, Some(([10, 0, 0, 3], 32)), None, (1000, 1999)),
        ),
    ]
}

fn classify(bytes: &[u8]) -> Recipient {
    let mut slots = [const { Slot::EMPTY }; 8];
    let mut table = GrantTable::new(&mut slots);
    for (owner, names) in grants() {
        let owner = ProcessId::new(owner, 0);
        table
            .insert(OwnedGrant {
                owner,
                device: NIC,
                names,
            })
            .unwrap();
    }
    table.classify(NIC, bytes)
}

/// A frame as etherparse sees it.
#[derive(Clone, Debug, Default)]
struct Seen {
    macs: Option<(Mac, Mac)>,
    vlans: Vec<u16>,
    addresses: Option<(IpAddr, IpAddr)>,
    ports: Option<(u16, u16)>,
    /// The source port where only the lengths around it are wrong, so that no receiver accepts it.
    claimed_source_port: Option<u16>,
    is_icmp: bool,
    is_fragment: bool,
}

fn see(bytes: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes) else {
        return seen;
    };
    if let Some(LinkSlice::Ethernet2(link)) = &packet.link {
        seen.macs = Some((Mac(link.source()), Mac(link.destination())));
    }
    for extension in &packet.link_exts {
        if let LaxLinkExtSlice::Vlan(tag) = extension {
            seen.vlans.push(tag.vlan_identifier().value());
        }
    }
    let payload = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            seen.addresses = Some((
                header.source_addr().into(),
                header.destination_addr().into(),
            ));
            ip.payload()
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            seen.addresses = Some((
                header.source_addr().into(),
                header.destination_addr().into(),
            ));
            ip.payload()
        }
        Some(LaxNetSlice::Arp(_)) | None => return seen,
    };
    seen.is_fragment = payload.fragmented;
    seen.is_icmp = matches!(payload.ip_number, IpNumber::ICMP | IpNumber::IPV6_ICMP);
    if let (IpNumber::TCP | IpNumber::UDP, [a, b, ..]) = (payload.ip_number, payload.payload) {
        seen.claimed_source_port = Some(u16::from_be_bytes([*a, *b]));
    }
    seen.ports = match &packet.transport {
        Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
        Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_))
        | None => None,
    };
    seen
}

/// Whether a packet with this MAC address, IP address and port is covered, by the words of the grant.
fn covers(names: &NameGrant, seen: &Seen, mac: Mac, address: IpAddr, port: Option<u16>) -> bool {
    let vlan: Vec<_> = names.vlan.iter().map(|vlan| vlan.id()).collect();
    let in_prefix = match address {
        IpAddr::V4(address) => names.ipv4.is_some_and(|own| own.contains(address)),
        IpAddr::V6(address) => names.ipv6.is_some_and(|own| own.contains(address)),
    };
    let in_range = match port {
        Some(port) if !seen.is_fragment => names.ports.contains(port),
        _ => names.ports.is_all() || seen.is_icmp,
    };
    names.mac == mac && vlan == seen.vlans && in_prefix && in_range
}

/// The processes that a unicast frame is covered by.
fn covering(seen: &Seen) -> Vec<u32> {
    let (Some((_, mac)), Some((_, address))) = (seen.macs, seen.addresses) else {
        return Vec::new();
    };
    let port = seen.ports.map(|(_, destination)| destination);
    let all = grants().into_iter();
    all.filter(|(_, names)| covers(names, seen, mac, address, port))
        .map(|(owner, _)| owner)
        .collect()
}

/// A frame that etherparse builds.
#[derive(Clone, Debug)]
struct Built {
    source_mac: usize,
    mac: usize,
    vlan: Option<u16>,
    source: IpAddr,
    destination: IpAddr,
    /// TCP, UDP or ICMP echo.
    transport: u8,
    ports: (u16, u16),
}

impl Built {
    fn bytes(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(MACS[self.source_mac], MACS[self.mac]);
        let v6 = |address| match address {
            IpAddr::V6(address) => address.octets(),
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        };
        let ip =
            match (self.vlan, self.source, self.destination) {
                (None, IpAddr::V4(source), IpAddr::V4(to)) => {
                    ethernet.ipv4(source.octets(), to.octets(), 64)
                }
                (Some(vlan), IpAddr::V4(source), IpAddr::V4(to)) => ethernet
                    .single_vlan(VlanId::try_new(vlan).unwrap())
                    .ipv4(source.octets(), to.octets(), 64),
                (None, source, to) => ethernet.ipv6(v6(source), v6(to), 64),
                (Some(vlan), source, to) => ethernet
                    .single_vlan(VlanId::try_new(vlan).unwrap())
                    .ipv6(v6(source), v6(to), 64),
            };
        let (mut bytes, payload) = (Vec::new(), [7; 5]);
        let (source, to) = self.ports;
        match self.transport {
            0 => ip
                .tcp(source, to, 1, 1)
                .write(&mut bytes, &payload)
                .unwrap(),
            1 => ip.udp(source, to).write(&mut bytes, &payload).unwrap(),
            _ if self.destination.is_ipv4() => ip
                .icmpv4_echo_request(1, 2)
                .write(&mut bytes, &payload)
                .unwrap(),
            _ => ip
                .icmpv6_echo_request(1, 2)
                .write(&mut bytes, &payload)
                .unwrap(),
        }
        bytes
    }
}

fn address() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let v4 = (0_u8..4).prop_map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
    let v6 = (0_u128..3).prop_map(|last| IpAddr::V6(Ipv6Addr::from_bits(0xfd00 << 112 | last)));
    prop_oneof![(v4.clone(), v4), (v6.clone(), v6)]
}

fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(&[0, 999, 1000, 1999, 2000, 2999, 3000, u16::MAX][..])
}

fn built() -> impl Strategy<Value = Built> {
    let vlan = prop::sample::select(&[None, Some(5), Some(6)][..]);
    (
        0_usize..2,
        0_usize..2,
        vlan,
        address(),
        0_u8..3,
        (port(), port()),
    )
        .prop_map(
            |(source_mac, mac, vlan, (source, destination), transport, ports)| Built {
                source_mac,
                mac,
                vlan,
                source,
                destination,
                transport,
                ports,
            },
        )
}

/// A built frame, with some bytes changed and the end cut off.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((12_usize..60, any::<u8>()), 0..4);
    (built(), changes, prop::option::weighted(0.3, 0_usize..80)).prop_map(
        |(built, changes, len)| {
            let mut bytes = built.bytes();
            for (place, byte) in changes {
                if let Some(old) = bytes.get_mut(place) {
                    *old = byte;
                }
            }
            bytes.truncate(len.unwrap_or(usize::MAX));
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A well-formed unicast frame goes to the one process that covers it, or to the kernel.
    #[test]
    fn well_formed_frames_reach_who_is_named(built in built()) {
        let bytes = built.bytes();
        let expected = match covering(&see(&bytes))[..] {
            [owner] => Recipient::One(ProcessId::new(owner, 0)),
            _ => Recipient::Kernel,
        };
        prop_assert_eq!(classify(&bytes), expected);
    }

    /// Whatever the frame, it never goes to a process that the other parser would not give it to.
    #[test]
    fn no_frame_reaches_a_process_that_is_not_named(bytes in damaged()) {
        match classify(&bytes) {
            Recipient::One(owner) => {
                let seen = see(&bytes);
                prop_assert_eq!(covering(&seen), [u32::try_from(owner.index()).unwrap()], "{:?}", seen);
            }
            Recipient::Everyone(_) => prop_assert!(bytes[0] & 1 == 1),
            Recipient::Kernel => {}
        }
    }

    /// A frame that passes is sent from names of the grant, as the other parser sees it; also where the kernel saw its
    /// first bytes only.
    #[test]
    fn no_spoofed_frame_passes(bytes in damaged(), grant in 0_usize..5) {
        let (_, names) = grants()[grant];
        let head = &bytes[..bytes.len().min(SOURCE_HEADERS)];
        for passed in [names.check_source(&bytes, Way::Virtual), names.check_source(head, Way::Hardware)] {
            if passed.is_ok() {
                let seen = see(&bytes);
                let (source, _) = seen.macs.unwrap();
                prop_assert!(seen.addresses.is_some(), "{:?}", seen);
                let (address, _) = seen.addresses.unwrap();
                let port = seen.claimed_source_port;
                prop_assert!(covers(&names, &seen, source, address, port), "{:?}", seen);
            }
        }
    }

    /// A well-formed frame passes exactly where the grant covers its source.
    #[test]
    fn own_frames_pass(built in built(), grant in 0_usize..5) {
        let (_, names) = grants()[grant];
        let bytes = built.bytes();
        let seen = see(&bytes);
        let port = seen.ports.map(|(source, _)| source);
        let own = covers(&names, &seen, Mac(MACS[built.source_mac]), built.source, port);
        let head = &bytes[..bytes.len().min(SOURCE_HEADERS)];
        prop_assert_eq!(names.check_source(head, Way::Hardware).is_ok(), own);
        prop_assert_eq!(names.check_source(&bytes, Way::Virtual).is_ok(), own);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let recipient = classify(&bytes);
        prop_assert!(bytes.len() >= 14 || recipient == Recipient::Kernel);
        for (_, names) in grants() {
            prop_assert!(bytes.len() >= 14 || names.check_source(&bytes, Way::Virtual) == Err(SpoofedField::Truncated));
        }
    }
}

fn ethernet(destination: [u8; 6], source: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [
        &destination[..],
        &source,
        &ether_type.to_be_bytes(),
        payload,
    ]
    .concat()
}

fn arp(operation: u8, sender_mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let fixed = [0, 1, 8, 0, 6, 4, 0, operation];
    [&fixed[..], &sender_mac, &sender, &[0; 6], &target].concat()
}

/// An `ICMPv6` message in an IPv6 packet; nobody looks at the checksum.
fn icmpv6(source: u128, destination: u128, message: &[u8]) -> Vec<u8> {
    let len = u8::try_from(message.len()).unwrap();
    let header = [0x60, 0, 0, 0, 0, len, 58, 255];
    [
        &header[..],
        &source.to_be_bytes(),
        &destination.to_be_bytes(),
        message,
    ]
    .concat()
}

const PROCESS: ProcessId = ProcessId::new(1, 0);
const OWN_V6: u128 = 0xfd00 << 112 | 1;
const PEER_V6: u128 = 0xfd00 << 112 | 9;
const SOLICITED: u128 = 0xff02 << 112 | 0x1_ff00_0001;
const ALL_NODES: u128 = 0xff02 << 112 | 1;

fn neighbour(kind: u8, target: u128, link_address: Option<[u8; 6]>) -> Vec<u8> {
    let option = link_address.map_or(Vec::new(), |mac| [&[2 - kind % 2, 1][..], &mac].concat());
    [
        &[kind, 0, 0, 0, 0, 0, 0, 0][..],
        &target.to_be_bytes(),
        &option,
    ]
    .concat()
}

#[test]
fn arp_goes_to_the_owner_of_the_address_asked_for() {
    let peer = [2, 0, 0, 0, 0, 9];
    let ask = |target| {
        ethernet(
            [0xff; 6],
            peer,
            0x0806,
            &arp(1, peer, [10, 0, 0, 9], target),
        )
    };
    assert_eq!(classify(&ask([10, 0, 0, 1])), Recipient::One(PROCESS));
    assert_eq!(classify(&ask([10, 0, 0, 7])), Recipient::Kernel);
    // Two processes share this one.
    assert_eq!(classify(&ask([10, 0, 0, 2])), Recipient::Kernel);
    assert_eq!(classify(&ask([10, 0, 0, 9])), Recipient::Everyone(None));
    let answer = ethernet(
        MACS[0],
        peer,
        0x0806,
        &arp(2, peer, [10, 0, 0, 9], [10, 0, 0, 1]),
    );
    assert_eq!(classify(&answer), Recipient::One(PROCESS));
    let elsewhere = ethernet(
        MACS[1],
        peer,
        0x0806,
        &arp(2, peer, [10, 0, 0, 9], [10, 0, 0, 1]),
    );
    assert_eq!(classify(&elsewhere), Recipient::Kernel);
    assert_eq!(classify(&answer[..41]), Recipient::Kernel);
}

#[test]
fn neighbour_discovery_goes_to_the_owner_of_the_target() {
    let peer = [2, 0, 0, 0, 0, 9];
    let group = [0x33, 0x33, 0xff, 0, 0, 1];
    let ask = icmpv6(PEER_V6, SOLICITED, &neighbour(135, OWN_V6, Some(peer)));
    assert_eq!(
        classify(&ethernet(group, peer, 0x86dd, &ask)),
        Recipient::One(PROCESS)
    );
    let other = icmpv6(PEER_V6, SOLICITED, &neighbour(135, PEER_V6, Some(peer)));
    assert_eq!(
        classify(&ethernet(group, peer, 0x86dd, &other)),
        Recipient::Kernel
    );
    let announce = icmpv6(PEER_V6, ALL_NODES, &neighbour(136, PEER_V6, Some(peer)));
    assert_eq!(
        classify(&ethernet(group, peer, 0x86dd, &announce)),
        Recipient::Everyone(None)
    );
    assert_eq!(
        classify(&ethernet(MACS[0], peer, 0x86dd, &announce)),
        Recipient::Kernel
    );
}

#[test]
fn what_may_hide_something_is_the_kernel_s() {
    let peer = [2, 0, 0, 0, 0, 9];
    let plain = Built {
        source_mac: 1,
        mac: 0,
        vlan: None,
        source: Ipv4Addr::new(10, 0, 0, 9).into(),
        destination: Ipv4Addr::new(10, 0, 0, 3).into(),
        transport: 1,
        ports: (1, 1000),
    };
    let bytes = plain.bytes();
    assert_eq!(classify(&bytes), Recipient::One(ProcessId::new(5, 0)));
    let with = |place: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[place] = value;
        classify(&bytes)
    };
    assert_eq!(with(14, 0x46), Recipient::Kernel, "options");
    assert_eq!(
        with(20, 0x20),
        Recipient::Kernel,
        "first fragment, for a grant of some ports"
    );
    assert_eq!(with(21, 0x01), Recipient::Kernel, "later fragment");
    assert_eq!(with(17, 0xff), Recipient::Kernel, "longer than the frame");
    assert_eq!(
        with(0, 0x03),
        Recipient::Kernel,
        "one host's packet to a group of stations"
    );
    let tags = [&[0, 5, 0x81, 0, 0, 6, 8, 0][..], &bytes[14..]].concat();
    assert_eq!(
        classify(&ethernet(MACS[0], peer, 0x8100, &tags)),
        Recipient::Kernel
    );
    let hop_by_hop = {
        let mut packet = icmpv6(PEER_V6, OWN_V6, &[58, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0]);
        packet[6] = 0;
        packet
    };
    assert_eq!(
        classify(&ethernet(MACS[0], peer, 0x86dd, &hop_by_hop)),
        Recipient::Kernel
    );
}

#[test]
fn a_broadcast_reaches_each_process_of_the_vlan_once() {
    let mut slots = [const { Slot::EMPTY }; 8];
    let mut table = GrantTable::new(&mut slots);
    for (owner, names) in grants().into_iter().chain([grants()[0]]) {
        let owner = ProcessId::new(owner, 0);
        table
            .insert(OwnedGrant {
                owner,
                device: NIC,
                names,
            })
            .unwrap();
    }
    let everyone = |vlan| {
        table
            .everyone(NIC, vlan)
            .map(ProcessId::index)
            .collect::<Vec<_>>()
    };
    assert_eq!(everyone(None), [1, 2, 3, 5]);
    assert_eq!(everyone(Vlan::new(5)), [4]);
    assert_eq!(everyone(Vlan::new(6)), [0; 0]);
    let dhcp = Built {
        source_mac: 1,
        mac: 2,
        vlan: None,
        source: Ipv4Addr::UNSPECIFIED.into(),
        destination: Ipv4Addr::BROADCAST.into(),
        transport: 1,
        ports: (67, 68),
    };
    assert_eq!(
        table.classify(NIC, &dhcp.bytes()),
        Recipient::Everyone(None)
    );
    let other_nic = table.classify(DeviceId::new(1), &dhcp.bytes());
    assert_eq!(other_nic, Recipient::Everyone(None));
    assert_eq!(table.everyone(DeviceId::new(1), None).count(), 0);
}

#[test]
fn only_own_arp_leaves_and_only_by_the_virtual_queue() {
    let (_, names) = grants()[0];
    let (own, peer) = (MACS[0], [2, 0, 0, 0, 0, 9]);
    let send =
        |message: &[u8], way| names.check_source(&ethernet([0xff; 6], own, 0x0806, message), way);
    let honest = arp(1, own, [10, 0, 0, 1], [10, 0, 0, 9]);
    assert_eq!(send(&honest, Way::Virtual), Ok(()));
    assert_eq!(send(&honest, Way::Hardware), Err(SpoofedField::Arp));
    let probe = arp(1, own, [0; 4], [10, 0, 0, 1]);
    assert_eq!(send(&probe, Way::Virtual), Ok(()));
    for forged in [
        arp(2, own, [0; 4], [10, 0, 0, 9]),
        arp(2, own, [10, 0, 0, 9], [10, 0, 0, 9]),
        arp(1, peer, [10, 0, 0, 1], [10, 0, 0, 9]),
    ] {
        assert_eq!(send(&forged, Way::Virtual), Err(SpoofedField::Arp));
    }
    assert_eq!(
        send(&honest[..20], Way::Virtual),
        Err(SpoofedField::Truncated)
    );
}

#[test]
fn only_own_neighbour_discovery_leaves_and_only_by_the_virtual_queue() {
    let (_, names) = grants()[0];
    let (own, peer) = (MACS[0], [2, 0, 0, 0, 0, 9]);
    let send = |source, message: &[u8], way| {
        let packet = icmpv6(source, ALL_NODES, message);
        names.check_source(
            &ethernet([0x33, 0x33, 0, 0, 0, 1], own, 0x86dd, &packet),
            way,
        )
    };
    let honest = [
        (OWN_V6, neighbour(136, OWN_V6, Some(own))),
        (OWN_V6, neighbour(135, PEER_V6, Some(own))),
        (0, neighbour(135, OWN_V6, None)),
        (0, vec![133, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (source, message) in honest {
        assert_eq!(send(source, &message, Way::Virtual), Ok(()));
        assert_eq!(
            send(source, &message, Way::Hardware),
            Err(SpoofedField::Arp)
        );
    }
    let forged = [
        (OWN_V6, neighbour(136, PEER_V6, Some(own))),
        (OWN_V6, neighbour(136, OWN_V6, Some(peer))),
        (OWN_V6, neighbour(135, PEER_V6, Some(peer))),
        (PEER_V6, neighbour(135, OWN_V6, Some(own))),
        (0, neighbour(135, PEER_V6, None)),
        (
            OWN_V6,
            vec![134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (OWN_V6, vec![137, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (source, message) in forged {
        assert_eq!(send(source, &message, Way::Virtual), Err(SpoofedField::Arp));
    }
}

#[test]
fn nothing_leaves_behind_extension_headers() {
    let (_, names) = grants()[0];
    let group = [0x33, 0x33, 0, 0, 0, 1];
    for extension in [0, 43, 44, 50, 51, 60, 135] {
        let forged = neighbour(136, PEER_V6, Some(MACS[0]));
        let hidden = [&[58, 0, 0, 0, 0, 0, 0, 0][..], &forged].concat();
        let mut packet = icmpv6(OWN_V6, ALL_NODES, &hidden);
        packet[6] = extension;
        for way in [Way::Hardware, Way::Virtual] {
            let sent = names.check_source(&ethernet(group, MACS[0], 0x86dd, &packet), way);
            assert_eq!(sent, Err(SpoofedField::Ipv6), "{extension}");
        }
    }
}

#[test]
fn pause_and_lldp_never_leave() {
    let (_, names) = grants()[0];
    for ether_type in [0x8808, 0x88cc, 0x8809, 0x888e, 0x0026, 0x88e5] {
        let bytes = ethernet([1, 0x80, 0xc2, 0, 0, 1], MACS[0], ether_type, &[0; 60]);
        for way in [Way::Hardware, Way::Virtual] {
            assert_eq!(
                names.check_source(&bytes, way),
                Err(SpoofedField::EtherType)
            );
        }
    }
}

#[test]
fn one_of_several_grants_is_enough() {
    let all: Vec<_> = grants().into_iter().map(|(_, names)| names).collect();
    let bytes = Built {
        source_mac: 0,
        mac: 1,
        vlan: None,
        source: Ipv4Addr::new(10, 0, 0, 2).into(),
        destination: Ipv4Addr::new(10, 0, 0, 9).into(),
        transport: 0,
        ports: (1500, 80),
    };
    assert_eq!(
        NameGrant::check_any(&all, &bytes.bytes(), Way::Hardware),
        Ok(())
    );
    assert_eq!(
        NameGrant::check_any(&all[..1], &bytes.bytes(), Way::Hardware),
        Err(SpoofedField::Ipv4)
    );
    let none: [NameGrant; 0] = [];
    assert_eq!(
        NameGrant::check_any(none, &bytes.bytes(), Way::Hardware),
        Err(SpoofedField::Mac)
    );
}
