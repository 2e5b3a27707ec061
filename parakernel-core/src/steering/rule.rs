//! Flow rules, and the table that keeps them from contradicting each other.

use core::fmt;

use super::{IpPrefix, Mac, PortRange, Vlan};
use crate::{
    device::DeviceId,
    error::{Error, ErrorKind},
    handle::{HandleTable, LeaseId, RuleId, Slot},
};

/// A protocol with ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which frames a rule is about. A frame must match all of it.
///
/// Where a protocol or ports other than [`PortRange::ALL`] are given, fragments do not match: they have no ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Matches {
    /// The destination's MAC address.
    pub mac: Mac,
    /// The VLAN; `None` for untagged frames.
    pub vlan: Option<Vlan>,
    /// The destination's IP address; `None` for any frame.
    pub address: Option<IpPrefix>,
    /// The protocol; `None` for any.
    pub protocol: Option<Protocol>,
    /// The destination port.
    pub ports: PortRange,
    /// The source's IP address; `None` for any.
    pub source: Option<IpPrefix>,
    /// The source port.
    pub source_ports: PortRange,
}

impl Matches {
    /// Everything to the addresses at `mac`, untagged.
    #[must_use]
    pub const fn to(mac: Mac, address: IpPrefix) -> Self {
        Self {
            mac,
            vlan: None,
            address: Some(address),
            protocol: None,
            ports: PortRange::ALL,
            source: None,
            source_ports: PortRange::ALL,
        }
    }

    /// Whether a frame could match both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let addresses =
            |a: Option<IpPrefix>, b| a.zip(b).is_none_or(|(a, b): (IpPrefix, _)| a.overlaps(b));
        let protocols = self
            .protocol
            .zip(other.protocol)
            .is_none_or(|(a, b)| a == b);
        self.mac == other.mac
            && self.vlan == other.vlan
            && protocols
            && addresses(self.address, other.address)
            && addresses(self.source, other.source)
            && self.ports.overlaps(other.ports)
            && self.source_ports.overlaps(other.source_ports)
    }
}

/// Leads frames to the queue of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowRule {
    /// Which frames.
    pub matches: Matches,
    /// To the queue of this lease.
    pub to: LeaseId,
}

/// A rule in the table, with what its owner keeps about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InstalledRule<S = ()> {
    /// The NIC that receives the frames.
    pub device: DeviceId,
    /// The rule.
    pub rule: FlowRule,
    /// Whatever the table's owner keeps.
    pub state: S,
}

/// Why a rule was not installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RuleError {
    /// A frame could match both this rule and another.
    Conflict {
        /// The other.
        other: RuleId,
    },
    /// The table is full.
    Full,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { other } => write!(f, "a frame could match rule {other} too"),
            Self::Full => f.write_str("the rule table is full"),
        }
    }
}

impl core::error::Error for RuleError {}

impl Error for RuleError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Conflict { .. } => ErrorKind::Denied,
            Self::Full => ErrorKind::Exhausted,
        }
    }
}

/// All rules; no frame can match two on one NIC.
#[derive(Debug)]
pub struct RuleTable<'a, S = ()> {
    rules: HandleTable<'a, RuleId, InstalledRule<S>>,
}

impl<'a, S> RuleTable<'a, S> {
    /// An empty table in the caller's memory.
    #[must_use]
    pub fn new(slots: &'a mut [Slot<InstalledRule<S>>]) -> Self {
        Self {
            rules: HandleTable::new(slots),
        }
    }

    /// Takes a rule in. That a grant covers it is the caller's to check.
    ///
    /// # Errors
    ///
    /// [`RuleError`]; the table is then as before.
    pub fn insert(
        &mut self,
        device: DeviceId,
        rule: FlowRule,
        state: S,
    ) -> Result<RuleId, RuleError> {
        let clashes = |other: &InstalledRule<S>| {
            other.device == device && other.rule.matches.overlaps(&rule.matches)
        };
        if let Some((other, _)) = self.iter().find(|(_, other)| clashes(other)) {
            return Err(RuleError::Conflict { other });
        }
        let installed = InstalledRule {
            device,
            rule,
            state,
        };
        self.rules.insert(installed).map_err(|_| RuleError::Full)
    }

    /// Takes a rule out. Only after the device no longer leads its frames anywhere but to the drop queue.
    pub fn remove(&mut self, id: RuleId) -> Option<InstalledRule<S>> {
        self.rules.remove(id)
    }

    /// The rule, unless the handle is stale.
    #[must_use]
    pub fn get(&self, id: RuleId) -> Option<&InstalledRule<S>> {
        self.rules.get(id)
    }

    /// The rule, unless the handle is stale.
    #[must_use]
    pub fn get_mut(&mut self, id: RuleId) -> Option<&mut InstalledRule<S>> {
        self.rules.get_mut(id)
    }

    /// The rules of a lease.
    pub fn of(&self, lease: LeaseId) -> impl Iterator<Item = (RuleId, &InstalledRule<S>)> {
        self.iter()
            .filter(move |(_, installed)| installed.rule.to == lease)
    }

    /// All rules, to change what is kept about them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (RuleId, &mut InstalledRule<S>)> {
        self.rules.iter_mut()
    }

    /// All rules.
    pub fn iter(&self) -> impl Iterator<Item = (RuleId, &InstalledRule<S>)> {
        self.rules.iter()
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::steering::Ipv4Prefix;

    fn prefix() -> impl Strategy<Value = Option<IpPrefix>> {
        prop::option::of((0_u32..4, 30_u8..=32)).prop_map(|it| {
            it.and_then(|(bits, len)| Ipv4Prefix::new(Ipv4Addr::from_bits(bits), len))
                .map(IpPrefix::V4)
        })
    }

    fn ports() -> impl Strategy<Value = PortRange> {
        (0_u16..2, 0_u16..2).prop_map(|(first, more)| PortRange::new(first, first + more).unwrap())
    }

    fn protocol() -> impl Strategy<Value = Option<Protocol>> {
        prop::option::of(prop::sample::select(&[Protocol::Tcp, Protocol::Udp][..]))
    }

    fn matches() -> impl Strategy<Value = Matches> {
        let mac = (0_u8..2).prop_map(|last| Mac([2, 0, 0, 0, 0, last]));
        let vlan = (0_u16..2).prop_map(Vlan::new);
        (mac, vlan, prefix(), protocol(), ports(), prefix(), ports()).prop_map(
            |(mac, vlan, address, protocol, ports, source, source_ports)| Matches {
                mac,
                vlan,
                address,
                protocol,
                ports,
                source,
                source_ports,
            },
        )
    }

    /// A packet by its fields: destination, source, protocol, destination port, source port.
    type Packet = (u32, u32, Protocol, u16, u16);

    fn packets() -> impl Iterator<Item = Packet> {
        (0..4_u32 * 4 * 2 * 4 * 4).map(|n| {
            let protocol = if n & 1 == 0 {
                Protocol::Tcp
            } else {
                Protocol::Udp
            };
            let port = |shift: u32| u16::try_from(n >> shift & 3).unwrap();
            (n >> 1 & 3, n >> 3 & 3, protocol, port(5), port(7))
        })
    }

    fn is_matched(rule: &Matches, (to, from, protocol, port, source_port): Packet) -> bool {
        let within = |prefix: Option<IpPrefix>, address| {
            prefix.is_none_or(|it| it.contains(Ipv4Addr::from_bits(address).into()))
        };
        within(rule.address, to)
            && within(rule.source, from)
            && rule.protocol.is_none_or(|it| it == protocol)
            && rule.ports.contains(port)
            && rule.source_ports.contains(source_port)
    }

    fn both_match(a: &Matches, b: &Matches) -> bool {
        let common = packets().any(|packet| is_matched(a, packet) && is_matched(b, packet));
        a.mac == b.mac && a.vlan == b.vlan && common
    }

    proptest! {
        /// Rules overlap exactly when there is a packet that both match.
        #[test]
        fn overlap_agrees_with_looking_at_every_packet(a in matches(), b in matches()) {
            prop_assert_eq!(a.overlaps(&b), both_match(&a, &b));
        }

        /// No packet ever matches two rules in the table.
        #[test]
        fn a_table_is_free_of_conflicts(rules in prop::collection::vec(matches(), 0..10)) {
            let mut slots = [const { Slot::EMPTY }; 8];
            let mut table = RuleTable::new(&mut slots);
            for matches in rules {
                let rule = FlowRule { matches, to: LeaseId::new(0, 0) };
                let clash = table.iter().any(|(_, other)| both_match(&other.rule.matches, &matches));
                match table.insert(DeviceId::new(0), rule, ()) {
                    Ok(_) => prop_assert!(!clash),
                    Err(RuleError::Conflict { .. }) => prop_assert!(clash),
                    Err(RuleError::Full) => prop_assert_eq!(table.iter().count(), 8),
                }
            }
        }
    }
}
