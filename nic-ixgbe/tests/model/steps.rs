//! What may happen in [`properties`](crate::properties): steps, and how likely each is.

use parakernel_core::steering::{IpPrefix, Ipv4Prefix, Mac, Matches, PortRange, Protocol};
use proptest::prelude::*;

use crate::packets::{Net, Offload, Seen, Transport};
use crate::rig::MAC;

/// Pairs, the kernel's among them.
pub(crate) const PAIRS: usize = 5;
pub(crate) const KERNEL: usize = 0;
/// Addresses that rules are about, and one more.
pub(crate) const HOSTS: u8 = 4;
/// The port that rules are about, and the source.
pub(crate) const PORT: u16 = 2000;
pub(crate) const SOURCE: [u8; 4] = [10, 9, 9, 9];
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Host,
    Udp,
    Tcp,
    Source,
}

/// What is wrong with a frame that arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    None,
    IpSum,
    L4Sum,
    /// No VLAN is let in.
    Tagged,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Arrive {
        host: u8,
        net: Net,
        transport: Transport,
        is_port: bool,
        is_source: bool,
        len: usize,
        flaw: Flaw,
    },
    /// So many long frames to one host.
    Burst(u8, usize),
    Send {
        pair: usize,
        net: Net,
        transport: Transport,
        offload: Offload,
        tag: Option<u16>,
        len: usize,
        part: usize,
    },
    /// The card does so much.
    Work(u64),
    Check(usize),
    Add {
        host: u8,
        kind: Kind,
        pair: usize,
    },
    Remove(u8),
    Claim(usize),
    Drain(usize),
    Release(usize),
    Stick(usize),
    Link(bool),
    Reset,
}

fn net() -> impl Strategy<Value = Net> {
    prop_oneof![4 => Just(Net::V4), 1 => Just(Net::V6)]
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)]
}

/// Lengths of payloads: mostly of one buffer, some of several.
fn len() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 18..1400_usize, 1 => 1400..8900_usize]
}

fn arrive() -> impl Strategy<Value = Step> {
    let flaw = prop_oneof![
        8 => Just(Flaw::None),
        1 => Just(Flaw::IpSum),
        1 => Just(Flaw::L4Sum),
        1 => Just(Flaw::Tagged)
    ];
    let flags = (any::<bool>(), any::<bool>());
    (0..=HOSTS, net(), transport(), flags, len(), flaw).prop_map(
        |(host, net, transport, (is_port, is_source), len, flaw)| Step::Arrive {
            host,
            net,
            transport,
            is_port,
            is_source,
            len,
            flaw,
        },
    )
}

fn send() -> impl Strategy<Value = Step> {
    let offload = prop_oneof![
        2 => Just(Offload::None),
        3 => Just(Offload::Sums),
        2 => (100..1400_u16).prop_map(Offload::Segments)
    ];
    let rest = (prop::option::of(any::<u16>()), len(), 200..2048_usize);
    (0..PAIRS, net(), transport(), offload, rest).prop_map(
        |(pair, net, transport, offload, (tag, len, part))| Step::Send {
            pair,
            net,
            // Only TCP is cut here.
            transport: if matches!(offload, Offload::Segments(_)) {
                Transport::Tcp
            } else {
                transport
            },
            offload,
            tag,
            len,
            part,
        },
    )
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        Just(Kind::Host),
        Just(Kind::Udp),
        Just(Kind::Tcp),
        Just(Kind::Source)
    ];
    prop_oneof![
        12 => arrive(),
        2 => (0..=HOSTS, 4..16_usize).prop_map(|(host, count)| Step::Burst(host, count)),
        12 => send(),
        8 => (1..200_u64).prop_map(Step::Work),
        6 => (0..PAIRS).prop_map(Step::Check),
        6 => (0..HOSTS, kind, 1..PAIRS).prop_map(|(host, kind, pair)| Step::Add { host, kind, pair }),
        3 => (0..HOSTS).prop_map(Step::Remove),
        5 => (1..PAIRS).prop_map(Step::Claim),
        1 => (0..PAIRS).prop_map(Step::Drain),
        3 => (1..PAIRS).prop_map(Step::Release),
        1 => (1..PAIRS).prop_map(Step::Stick),
        2 => any::<bool>().prop_map(Step::Link),
        1 => Just(Step::Reset),
    ]
}

impl Kind {
    pub(crate) fn matches(self, host: u8) -> Matches {
        let address = IpPrefix::V4(Ipv4Prefix::host([10, 0, 0, host].into()));
        let mut matches = Matches::to(Mac(MAC), address);
        match self {
            Self::Host => {}
            Self::Udp | Self::Tcp => {
                matches.ports = PortRange::new(PORT, PORT).unwrap();
                matches.protocol = Some(if self == Self::Udp {
                    Protocol::Udp
                } else {
                    Protocol::Tcp
                });
            }
            Self::Source => matches.source = Some(IpPrefix::V4(Ipv4Prefix::host(SOURCE.into()))),
        }
        matches
    }

    /// Whether a frame to the host is one that a rule of this kind is about.
    pub(crate) fn is_about(self, seen: &Seen) -> bool {
        let source = seen.addresses.map(|[source, _]| source);
        match self {
            Self::Host => true,
            Self::Udp => seen.is_udp && seen.port == PORT,
            Self::Tcp => seen.is_tcp && seen.port == PORT,
            Self::Source => source == Some(SOURCE),
        }
    }

    /// Whether some frame is of both kinds.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        !matches!(
            (self, other),
            (Self::Udp, Self::Tcp) | (Self::Tcp, Self::Udp)
        )
    }
}
