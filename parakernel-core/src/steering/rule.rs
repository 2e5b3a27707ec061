//! Flow rules, and the table that keeps them from contradicting each other.

use core::fmt;

use super::{
    IpPrefix, Mac, PortRange, Vlan,
    shape::{Link, RuleBucket, Shape, place},
};
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

/// Room for a rule in a [`RuleTable`].
#[derive(Debug)]
pub struct RuleEntry<S = ()> {
    installed: InstalledRule<S>,
    /// The next rule of the same bucket.
    next: Link,
}

/// All rules; no frame can match two on one NIC.
///
/// Rules are found by what they are exact about. A rule can only contradict one that agrees with it where both are exact;
/// so among those that are exact about nothing more than the new one is, looking into one bucket for each combination of
/// exact fields is enough: that takes the same time however many rules there are. Only a rule that is wider than some in
/// the table is compared with all.
#[derive(Debug)]
pub struct RuleTable<'a, S = ()> {
    rules: HandleTable<'a, RuleId, RuleEntry<S>>,
    buckets: &'a mut [RuleBucket],
    /// How many rules there are of each shape, and the shapes of which there are some.
    counts: [u32; Shape::COUNT],
    shapes: u32,
}

impl<'a, S> RuleTable<'a, S> {
    /// An empty table in the caller's memory: room for `slots.len()` rules, and buckets to find them by, best as many.
    #[must_use]
    pub fn new(slots: &'a mut [Slot<RuleEntry<S>>], buckets: &'a mut [RuleBucket]) -> Self {
        buckets.fill(RuleBucket::EMPTY);
        Self {
            rules: HandleTable::new(slots),
            buckets,
            counts: [0; Shape::COUNT],
            shapes: 0,
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
        let shape = Shape::of(&rule.matches);
        let place = place(self.buckets.len(), device, shape, &rule.matches);
        if let Some(other) = self.conflict(device, &rule.matches, (shape, place)) {
            return Err(RuleError::Conflict { other });
        }
        let installed = InstalledRule {
            device,
            rule,
            state,
        };
        let entry = RuleEntry {
            installed,
            next: self.first(place),
        };
        let id = self.rules.insert(entry).map_err(|_| RuleError::Full)?;
        if let Some(bucket) = place.and_then(|place| self.buckets.get_mut(place)) {
            bucket.0 = Link::to(id);
        }
        self.counts[shape.index()] += 1;
        self.shapes |= shape.bit();
        Ok(id)
    }

    /// Takes a rule out. Only after the device no longer leads its frames anywhere but to the drop queue.
    pub fn remove(&mut self, id: RuleId) -> Option<InstalledRule<S>> {
        let RuleEntry { installed, next } = self.rules.remove(id)?;
        let matches = &installed.rule.matches;
        let shape = Shape::of(matches);
        self.counts[shape.index()] -= 1;
        if self.counts[shape.index()] == 0 {
            self.shapes &= !shape.bit();
        }
        let place = place(self.buckets.len(), installed.device, shape, matches);
        self.unlink(place, Link::to(id), next);
        Some(installed)
    }

    /// The rule, unless the handle is stale.
    #[must_use]
    pub fn get(&self, id: RuleId) -> Option<&InstalledRule<S>> {
        self.rules.get(id).map(|entry| &entry.installed)
    }

    /// The rule, unless the handle is stale.
    #[must_use]
    pub fn get_mut(&mut self, id: RuleId) -> Option<&mut InstalledRule<S>> {
        self.rules.get_mut(id).map(|entry| &mut entry.installed)
    }

    /// The rules of a lease.
    pub fn of(&self, lease: LeaseId) -> impl Iterator<Item = (RuleId, &InstalledRule<S>)> {
        self.iter()
            .filter(move |(_, installed)| installed.rule.to == lease)
    }

    /// All rules, to change what is kept about them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (RuleId, &mut InstalledRule<S>)> {
        self.rules
            .iter_mut()
            .map(|(id, entry)| (id, &mut entry.installed))
    }

    /// All rules.
    pub fn iter(&self) -> impl Iterator<Item = (RuleId, &InstalledRule<S>)> {
        self.rules.iter().map(|(id, entry)| (id, &entry.installed))
    }

    /// Number of rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// A rule that a frame could match too, where rules of that shape with these values have that place.
    fn conflict(
        &self,
        device: DeviceId,
        matches: &Matches,
        (shape, own): (Shape, Option<usize>),
    ) -> Option<RuleId> {
        let clashes = |other: &InstalledRule<S>| {
            other.device == device && other.rule.matches.overlaps(matches)
        };
        let is_wider = Shape::in_set(self.shapes).any(|other| !other.is_within(shape));
        if is_wider || self.buckets.is_empty() {
            return self.iter().find(|(_, it)| clashes(it)).map(|(id, _)| id);
        }
        let place_of = |other| {
            if other == shape {
                own
            } else {
                place(self.buckets.len(), device, other, matches)
            }
        };
        Shape::in_set(self.shapes)
            .flat_map(|other| self.chain(self.first(place_of(other))))
            .find(|(_, entry)| clashes(&entry.installed))
            .map(|(id, _)| id)
    }

    /// The first rule at a place.
    fn first(&self, place: Option<usize>) -> Link {
        let bucket = place.and_then(|place| self.buckets.get(place));
        bucket.map_or(Link::END, |bucket| bucket.0)
    }

    /// The rules from `link` on.
    fn chain(&self, mut link: Link) -> impl Iterator<Item = (RuleId, &RuleEntry<S>)> {
        core::iter::from_fn(move || {
            let (id, entry) = self.rules.at(link.0 as usize)?;
            link = entry.next;
            Some((id, entry))
        })
    }

    /// Makes what leads to `gone`, in the chain at a place, lead to `next`.
    fn unlink(&mut self, place: Option<usize>, gone: Link, next: Link) {
        let first = self.first(place);
        if first == gone {
            if let Some(bucket) = place.and_then(|place| self.buckets.get_mut(place)) {
                bucket.0 = next;
            }
            return;
        }
        let before = self.chain(first).find(|(_, entry)| entry.next == gone);
        let before = before.map(|(id, _)| id);
        if let Some(entry) = before.and_then(|id| self.rules.get_mut(id)) {
            entry.next = next;
        }
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
            let mut buckets = [RuleBucket::EMPTY; 4];
            let mut table = RuleTable::new(&mut slots, &mut buckets);
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

        /// The index says what comparing with every rule says, after whatever was added and removed, however few buckets
        /// there are.
        #[test]
        fn the_index_agrees_with_comparing_all(
            steps in prop::collection::vec((matches(), 0_u32..2, prop::option::of(0_usize..8)), 0..60),
            buckets in 0_usize..6,
        ) {
            let mut slots = [const { Slot::EMPTY }; 12];
            let mut buckets = vec![RuleBucket::EMPTY; buckets];
            let mut table = RuleTable::new(&mut slots, &mut buckets);
            for (matches, device, removed) in steps {
                let device = DeviceId::new(device);
                if let Some(id) = removed.and_then(|nth| table.iter().nth(nth).map(|(id, _)| id)) {
                    prop_assert!(table.remove(id).is_some() && table.remove(id).is_none());
                }
                let clashes = |other: &InstalledRule| other.device == device && other.rule.matches.overlaps(&matches);
                let all: Vec<_> = table.iter().filter(|(_, it)| clashes(it)).map(|(id, _)| id).collect();
                let before = table.len();
                match table.insert(device, FlowRule { matches, to: LeaseId::new(0, 0) }, ()) {
                    Ok(id) => prop_assert!(all.is_empty() && table.get(id).is_some() && table.len() == before + 1),
                    Err(RuleError::Conflict { other }) => prop_assert!(all.contains(&other)),
                    Err(RuleError::Full) => prop_assert!(all.is_empty() && before == 12),
                }
            }
        }
    }
}
