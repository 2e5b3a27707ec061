//! Name grants: what a process may be called, and the table that keeps names apart.

use core::fmt;

use super::{IpPrefix, Ipv4Prefix, Ipv6Prefix, Mac, Matches, PortRange, Vlan};
use crate::{
    device::DeviceId,
    error::{Error, ErrorKind},
    handle::{GrantId, HandleTable, ProcessId, Slot},
};

/// Names that a process may receive under and send from.
///
/// A grant covers the packets to (or from) its MAC address in its VLAN whose IP address is in one of the prefixes and
/// whose port is in the range. Without ports (ICMP, for one) a packet is covered where the addresses are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameGrant {
    /// The MAC address; several grants may have the same.
    pub mac: Mac,
    /// The VLAN; `None` for untagged frames.
    pub vlan: Option<Vlan>,
    /// The IPv4 addresses, if any.
    pub ipv4: Option<Ipv4Prefix>,
    /// The IPv6 addresses, if any.
    pub ipv6: Option<Ipv6Prefix>,
    /// The ports at these addresses.
    pub ports: PortRange,
}

impl NameGrant {
    /// Whether a packet could be covered by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let both =
            |prefix: Option<(Ipv4Prefix, Ipv4Prefix)>| prefix.is_some_and(|(a, b)| a.overlaps(b));
        let both6 =
            |prefix: Option<(Ipv6Prefix, Ipv6Prefix)>| prefix.is_some_and(|(a, b)| a.overlaps(b));
        self.mac == other.mac
            && self.vlan == other.vlan
            && self.ports.overlaps(other.ports)
            && (both(self.ipv4.zip(other.ipv4)) || both6(self.ipv6.zip(other.ipv6)))
    }

    /// Whether all packets that a rule would match are covered.
    #[inline]
    #[must_use]
    pub fn covers(&self, matches: &Matches) -> bool {
        let addresses = match matches.address {
            Some(IpPrefix::V4(prefix)) => self.ipv4.is_some_and(|own| own.covers(prefix)),
            Some(IpPrefix::V6(prefix)) => self.ipv6.is_some_and(|own| own.covers(prefix)),
            None => false,
        };
        self.mac == matches.mac
            && self.vlan == matches.vlan
            && addresses
            && self.ports.covers(matches.ports)
    }
}

/// A grant in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnedGrant {
    /// Who has it.
    pub owner: ProcessId,
    /// The NIC whose network the names are for.
    pub device: DeviceId,
    /// The names.
    pub names: NameGrant,
}

/// Why names were not granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum GrantError {
    /// Another process has names that overlap.
    Overlap {
        /// That process's grant.
        other: GrantId,
        /// That process.
        owner: ProcessId,
    },
    /// A group address is nobody's name.
    GroupAddress,
    /// The table is full.
    Full,
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlap { other, owner } => {
                write!(f, "the names overlap grant {other} of process {owner}")
            }
            Self::GroupAddress => f.write_str("a group address is nobody's name"),
            Self::Full => f.write_str("the grant table is full"),
        }
    }
}

impl core::error::Error for GrantError {}

impl Error for GrantError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Overlap { .. } => ErrorKind::Denied,
            Self::GroupAddress => ErrorKind::InvalidArgument,
            Self::Full => ErrorKind::Exhausted,
        }
    }
}

/// All grants; those of different processes on one NIC do not overlap.
#[derive(Debug)]
pub struct GrantTable<'a> {
    grants: HandleTable<'a, GrantId, OwnedGrant>,
}

impl<'a> GrantTable<'a> {
    /// An empty table in the caller's memory.
    #[must_use]
    pub fn new(slots: &'a mut [Slot<OwnedGrant>]) -> Self {
        Self {
            grants: HandleTable::new(slots),
        }
    }

    /// Grants names to a process.
    ///
    /// # Errors
    ///
    /// [`GrantError`]; the table is then as before.
    pub fn insert(&mut self, grant: OwnedGrant) -> Result<GrantId, GrantError> {
        if grant.names.mac.is_group() {
            return Err(GrantError::GroupAddress);
        }
        let clashes = |other: &OwnedGrant| {
            other.owner != grant.owner
                && other.device == grant.device
                && other.names.overlaps(&grant.names)
        };
        if let Some((other, &OwnedGrant { owner, .. })) = self.iter().find(|(_, it)| clashes(it)) {
            return Err(GrantError::Overlap { other, owner });
        }
        self.grants.insert(grant).map_err(|_| GrantError::Full)
    }

    /// Takes all names of a process back. Only after its last lease has been reclaimed.
    pub fn remove_all(&mut self, owner: ProcessId) {
        for index in 0..self.grants.capacity() {
            if let Some((id, grant)) = self.grants.at(index)
                && grant.owner == owner
            {
                self.grants.remove(id);
            }
        }
    }

    /// Whether one of the process's grants covers all that a rule would match.
    #[must_use]
    pub fn covers(&self, owner: ProcessId, device: DeviceId, matches: &Matches) -> bool {
        self.of(owner, device).any(|names| names.covers(matches))
    }

    /// The names of a process on one NIC.
    pub fn of(&self, owner: ProcessId, device: DeviceId) -> impl Iterator<Item = &NameGrant> {
        let own = move |grant: &OwnedGrant| grant.owner == owner && grant.device == device;
        self.iter()
            .filter(move |(_, grant)| own(grant))
            .map(|(_, grant)| &grant.names)
    }

    /// All grants.
    pub fn iter(&self) -> impl Iterator<Item = (GrantId, &OwnedGrant)> {
        self.grants.iter()
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::steering::Protocol;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn grant(owner: u32, names: NameGrant) -> OwnedGrant {
        OwnedGrant {
            owner: ProcessId::new(owner, 0),
            device: DeviceId::new(0),
            names,
        }
    }

    fn host(last: u8) -> NameGrant {
        NameGrant {
            mac: MAC,
            vlan: None,
            ipv4: Some(Ipv4Prefix::host(Ipv4Addr::new(10, 0, 0, last))),
            ipv6: None,
            ports: PortRange::ALL,
        }
    }

    #[test]
    fn an_overlap_names_the_other() {
        let mut slots = [const { Slot::EMPTY }; 2];
        let mut table = GrantTable::new(&mut slots);
        let first = table.insert(grant(1, host(1))).unwrap();
        let overlap = GrantError::Overlap {
            other: first,
            owner: ProcessId::new(1, 0),
        };
        let wider = NameGrant {
            ipv4: Ipv4Prefix::new(Ipv4Addr::new(10, 0, 0, 0), 24),
            ..host(0)
        };
        assert_eq!(table.insert(grant(2, wider)), Err(overlap));
        let elsewhere = OwnedGrant {
            device: DeviceId::new(1),
            ..grant(2, wider)
        };
        table.insert(elsewhere).unwrap();
        assert_eq!(table.insert(grant(3, host(3))), Err(GrantError::Full));
        table.remove_all(ProcessId::new(1, 0));
        assert!(table.insert(grant(2, wider)).is_ok());
    }

    #[test]
    fn group_addresses_are_nobody_s() {
        let mut slots = [const { Slot::EMPTY }; 2];
        let mut table = GrantTable::new(&mut slots);
        let mac = Mac::BROADCAST;
        let refused = table.insert(grant(1, NameGrant { mac, ..host(1) }));
        assert_eq!(refused, Err(GrantError::GroupAddress));
    }

    /// One of few names, so that they meet.
    fn names() -> impl Strategy<Value = NameGrant> {
        let v4 = prop::option::of((0_u32..8, 29_u8..=32));
        let v6 = prop::option::of((0_u128..8, 125_u8..=128));
        (0_u8..2, 0_u16..2, v4, v6, 0_u16..4, 0_u16..4).prop_map(
            |(mac, vlan, v4, v6, first, more)| NameGrant {
                mac: Mac([2, 0, 0, 0, 0, mac]),
                vlan: Vlan::new(vlan),
                ipv4: v4
                    .and_then(|(address, len)| Ipv4Prefix::new(Ipv4Addr::from_bits(address), len)),
                ipv6: v6
                    .and_then(|(address, len)| Ipv6Prefix::new(Ipv6Addr::from_bits(address), len)),
                ports: PortRange::new(first, first + more).unwrap(),
            },
        )
    }

    /// Every packet that names of the strategy tell apart.
    fn packets() -> impl Iterator<Item = (Mac, Option<Vlan>, IpPrefix, u16)> {
        let v4 = (0..8).map(|address| IpPrefix::V4(Ipv4Prefix::host(Ipv4Addr::from_bits(address))));
        let v6 = (0..8).map(|address| IpPrefix::V6(Ipv6Prefix::host(Ipv6Addr::from_bits(address))));
        let addresses: Vec<_> = v4.chain(v6).collect();
        (0..2_u8).flat_map(move |mac| {
            let addresses = addresses.clone();
            (0..2_u16).flat_map(move |vlan| {
                addresses.clone().into_iter().flat_map(move |address| {
                    (0..8).map(move |port| {
                        (Mac([2, 0, 0, 0, 0, mac]), Vlan::new(vlan), address, port)
                    })
                })
            })
        })
    }

    fn has(
        names: &NameGrant,
        (mac, vlan, address, port): (Mac, Option<Vlan>, IpPrefix, u16),
    ) -> bool {
        let in_prefix = match address {
            IpPrefix::V4(host) => names.ipv4.is_some_and(|own| own.contains(host.address())),
            IpPrefix::V6(host) => names.ipv6.is_some_and(|own| own.contains(host.address())),
        };
        names.mac == mac && names.vlan == vlan && in_prefix && names.ports.contains(port)
    }

    proptest! {
        /// Grants overlap exactly when there is a packet that both cover.
        #[test]
        fn overlap_agrees_with_looking_at_every_packet(a in names(), b in names()) {
            let expected = packets().any(|packet| has(&a, packet) && has(&b, packet));
            prop_assert_eq!(a.overlaps(&b), expected);
        }

        /// A rule is covered exactly when each packet that it matches is.
        #[test]
        fn coverage_agrees_with_looking_at_every_packet(own in names(), rule in names()) {
            let addresses = rule.ipv4.map(IpPrefix::V4).into_iter().chain(rule.ipv6.map(IpPrefix::V6));
            for address in addresses {
                let matches = Matches {
                    vlan: rule.vlan,
                    protocol: Some(Protocol::Udp),
                    ports: rule.ports,
                    ..Matches::to(rule.mac, address)
                };
                let one_version = match address {
                    IpPrefix::V4(_) => NameGrant { ipv6: None, ..rule },
                    IpPrefix::V6(_) => NameGrant { ipv4: None, ..rule },
                };
                let mut matched = packets().filter(|packet| has(&one_version, *packet));
                prop_assert_eq!(own.covers(&matches), matched.all(|packet| has(&own, packet)));
            }
        }
    }
}
