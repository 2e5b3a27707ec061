//! What filters are about: how many there are, what all of them compare, and what each one says.

use core::net::Ipv4Addr;

use parakernel_core::steering::{IpPrefix, Ipv4Prefix, Matches, PortRange, Protocol, Vlan};

/// How much of the receive packet buffer the filters take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Capacity {
    /// 2,046 filters in 64 KiB.
    Small,
    /// 4,094 filters in 128 KiB.
    Medium,
    /// 8,190 filters in 256 KiB, half the buffer.
    Large,
}

impl Capacity {
    /// How many filters there is room for (§7.1.2.7): 32 in each KiB, and two are the port's.
    #[must_use]
    pub const fn filters(self) -> u16 {
        self.kib() * 32 - 2
    }

    /// What the filters take, in KiB.
    #[must_use]
    pub const fn kib(self) -> u16 {
        match self {
            Self::Small => 64,
            Self::Medium => 128,
            Self::Large => 256,
        }
    }
}

/// Whether filters look at something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Field {
    /// No: whatever a frame has there matches.
    Ignored,
    /// Yes.
    Compared,
}

impl Field {
    const fn is_compared(self) -> bool {
        matches!(self, Self::Compared)
    }
}

/// What filters compare, all of them the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Masks {
    /// The VLAN. Where it is compared, VLANs [can be let in](crate::device::Device::set_vlan), and five-tuple filters, which
    /// do not look at it, are not used.
    pub vlan: Field,
    /// The protocol.
    pub protocol: Field,
    /// How many leading bits of the destination's address, up to 32.
    pub destination_bits: u8,
    /// How many leading bits of the source's address, up to 32.
    pub source_bits: u8,
    /// The destination port; only with the protocol.
    pub port: Field,
    /// The source port; only with the protocol.
    pub source_port: Field,
    /// Two bytes of the frame, that many bytes from its beginning: even, up to 62. `None` where they are ignored.
    pub flex: Option<u8>,
}

impl Masks {
    /// Protocol, both addresses, both ports: one connection for each filter.
    pub const CONNECTION: Self = Self {
        vlan: Field::Ignored,
        protocol: Field::Compared,
        destination_bits: 32,
        source_bits: 32,
        port: Field::Compared,
        source_port: Field::Compared,
        flex: None,
    };

    /// The destination's address only.
    pub const DESTINATION: Self = Self {
        vlan: Field::Ignored,
        protocol: Field::Ignored,
        destination_bits: 32,
        source_bits: 0,
        port: Field::Ignored,
        source_port: Field::Ignored,
        flex: None,
    };

    /// Whether a port can have them.
    pub(crate) fn are_valid(&self) -> bool {
        let has_ports = self.port.is_compared() || self.source_port.is_compared();
        let flex = self.flex.unwrap_or(0);
        (self.protocol.is_compared() || !has_ports)
            && self.destination_bits <= 32
            && self.source_bits <= 32
            && flex.is_multiple_of(2)
            && flex <= 62
    }

    /// The masks under which a rule is a filter; `None` where there are none.
    pub(crate) fn of(matches: &Matches) -> Option<Self> {
        let bits = |prefix| match prefix {
            Some(IpPrefix::V4(prefix)) => Some(prefix.len()),
            Some(IpPrefix::V6(_)) | None => None,
        };
        let field = |is_compared| {
            if is_compared {
                Field::Compared
            } else {
                Field::Ignored
            }
        };
        let port = |range: PortRange| {
            let is_one = range.first() == range.last();
            (is_one || range.is_all()).then(|| field(!range.is_all()))
        };
        let masks = Self {
            vlan: field(matches.vlan.is_some()),
            protocol: field(matches.protocol.is_some()),
            // Frames that are not IP match no filter, so a rule without an address is none.
            destination_bits: bits(matches.address)?,
            source_bits: match matches.source {
                None => 0,
                some => bits(some)?,
            },
            port: port(matches.ports)?,
            source_port: port(matches.source_ports)?,
            flex: None,
        };
        masks.are_valid().then_some(masks)
    }

    /// The filter of a rule under these masks; `None` where it needs others.
    ///
    /// INTERPRETATION(missing): an untagged frame has VLAN 0; listed in `ASSUMPTIONS.md`.
    pub(crate) fn flow(&self, matches: &Matches) -> Option<Flow> {
        let mut needed = Self::of(matches)?;
        if matches.vlan.is_none() {
            needed.vlan = self.vlan;
        }
        let address = |prefix| match prefix {
            Some(IpPrefix::V4(prefix)) => Ipv4Prefix::address(prefix),
            Some(IpPrefix::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
        };
        let port = |range: PortRange, field: Field| match field {
            Field::Compared => range.first(),
            Field::Ignored => 0,
        };
        (needed == *self).then(|| Flow {
            vlan: matches.vlan.map_or(0, Vlan::id),
            protocol: matches.protocol.map(|protocol| match protocol {
                Protocol::Tcp => L4::Tcp,
                Protocol::Udp => L4::Udp,
            }),
            destination: address(matches.address),
            source: address(matches.source),
            port: port(matches.ports, self.port),
            source_port: port(matches.source_ports, self.source_port),
            flex: [0; 2],
        })
    }

    /// Whether a flow says something exactly where these masks look.
    pub(super) fn fit(&self, flow: &Flow) -> bool {
        let says = |field: Field, is_said: bool| field.is_compared() || !is_said;
        let within = |bits: u8, address| {
            Ipv4Prefix::new(address, bits).is_some_and(|prefix| prefix.address() == address)
        };
        let has_ports = self.port.is_compared() || self.source_port.is_compared();
        flow.protocol.is_some() == self.protocol.is_compared()
            // Ports of SCTP are not looked at.
            && !(has_ports && flow.protocol == Some(L4::Sctp))
            && says(self.vlan, flow.vlan != 0)
            && flow.vlan < 1 << 12
            && says(self.port, flow.port != 0)
            && says(self.source_port, flow.source_port != 0)
            && within(self.destination_bits, flow.destination)
            && within(self.source_bits, flow.source)
            && (self.flex.is_some() || flow.flex == [0; 2])
    }
}

/// A Flow Director that is to be set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Config {
    /// How many filters.
    pub capacity: Capacity,
    /// What they compare.
    pub masks: Masks,
}

/// A protocol that a filter can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum L4 {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// SCTP; only where no port is compared.
    Sctp,
}

/// The IPv4 packets that a filter is about. What the [`Masks`] ignore is 0 here, or `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The VLAN; 0 for untagged.
    pub vlan: u16,
    /// The protocol.
    pub protocol: Option<L4>,
    /// The destination's address; bits beyond those compared are 0.
    pub destination: Ipv4Addr,
    /// The source's address; bits beyond those compared are 0.
    pub source: Ipv4Addr,
    /// The destination port.
    pub port: u16,
    /// The source port.
    pub source_port: u16,
    /// The two bytes of the frame.
    pub flex: [u8; 2],
}
