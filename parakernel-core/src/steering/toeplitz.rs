//! Exact steering by a hash: Toeplitz, and the keys that make it a plain copy of header bits.
//!
//! A device that offers nothing but receive-side scaling can still be partitioned. With a key of a single one bit the
//! hash's low seven bits are seven bits of the header, in reversed order: 128 *classes* that the sender cannot choose
//! between, because they depend on the receiver's own name only.

use core::net::Ipv4Addr;

use super::NameGrant;

/// The Toeplitz hash of `input` under `key`, as receive-side scaling uses it.
///
/// For each one bit of the input, in order, the 32 bits of the key at its place are added, modulo 2. Key bits beyond the
/// key's end are zero.
#[must_use]
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let mut following = key.iter().copied();
    let mut next = || following.next().unwrap_or(0);
    let mut window = u64::from_be_bytes([0, 0, 0, next(), next(), next(), next(), next()]);
    let mut hash = 0;
    for byte in input {
        for bit in 0..8 {
            if byte << bit & 0x80 != 0 {
                // The window holds 40 bits of the key; the 32 of this input bit end 8 - `bit` before its end.
                hash ^= window >> (8 - bit);
            }
        }
        window = window << 8 | u64::from(next());
    }
    (hash & 0xffff_ffff) as u32
}

/// A key with one bit set, by what it makes the hash a copy of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum OneBitKey {
    /// The low seven bits of the IPv4 destination address, for every IPv4 packet.
    ///
    /// Hash types for IPv6 must be off: there the same bits of the input are the source's.
    Ipv4Destination,
    /// The low seven bits of the destination port, for TCP and UDP over IPv4.
    ///
    /// What has no ports, ICMP and fragments among it, is in class 0. Hash types for IPv6 must be off.
    DestinationPort,
}

impl OneBitKey {
    /// Number of classes, and of entries that the indirection table must have or be repeated to.
    pub const CLASSES: usize = 128;

    /// The key, in `N` bytes: 40 for most devices.
    #[must_use]
    pub fn key<const N: usize>(self) -> [u8; N] {
        let mut key = [0; N];
        if let Some(byte) = key.get_mut(self.bit() / 8) {
            *byte = 0x80 >> (self.bit() % 8);
        }
        key
    }

    /// The class of packets to an address.
    ///
    /// `None` where the key does not look at addresses.
    #[must_use]
    pub const fn class_of_address(self, address: Ipv4Addr) -> Option<u8> {
        match self {
            Self::Ipv4Destination => Some(reversed(address.octets()[3])),
            Self::DestinationPort => None,
        }
    }

    /// The class of TCP and UDP packets to a port.
    ///
    /// `None` where the key does not look at ports.
    #[must_use]
    pub const fn class_of_port(self, port: u16) -> Option<u8> {
        match self {
            Self::Ipv4Destination => None,
            Self::DestinationPort => Some(reversed(port.to_be_bytes()[1])),
        }
    }

    /// The classes that packets to the names of a grant are in.
    ///
    /// Steering by classes is a partition only where these sets are disjoint for all grants on the device, and the
    /// classes of none lead to the kernel.
    #[must_use]
    pub fn classes(self, names: &NameGrant) -> ClassSet {
        let (first, count) = match (self, names.ipv4) {
            (_, None) => return ClassSet::EMPTY,
            (Self::Ipv4Destination, Some(prefix)) => {
                let count = 1_u64 << (32 - prefix.len());
                (u64::from(prefix.address().to_bits()), count)
            }
            (Self::DestinationPort, Some(_)) => {
                let ports = u64::from(names.ports.first())..=u64::from(names.ports.last());
                (*ports.start(), ports.end() - ports.start() + 1)
            }
        };
        let lowest = |n: u64| reversed((first.wrapping_add(n) & 0x7f) as u8);
        let mut classes = ClassSet::EMPTY;
        for n in 0..count.min(Self::CLASSES as u64) {
            classes = classes.with(lowest(n));
        }
        if self == Self::DestinationPort && names.ports.is_all() {
            // What has no ports belongs to the grant too.
            classes = classes.with(0);
        }
        classes
    }

    /// Number of the key's one bit, counted from the first byte's top bit.
    ///
    /// An input bit *i* turns hash bit 31 - (bit - *i*). The input is source and destination address, then ports.
    const fn bit(self) -> usize {
        match self {
            Self::Ipv4Destination => 88,
            Self::DestinationPort => 120,
        }
    }
}

/// The low seven bits in reversed order.
const fn reversed(byte: u8) -> u8 {
    (byte << 1).reverse_bits()
}

/// A set of the 128 classes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ClassSet(u128);

impl ClassSet {
    /// No class.
    pub const EMPTY: Self = Self(0);

    /// The set and `class`, taken modulo 128.
    #[must_use]
    pub const fn with(self, class: u8) -> Self {
        Self(self.0 | 1 << (class & 0x7f))
    }

    /// The classes of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether a class is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether `class` is in the set.
    #[must_use]
    pub const fn contains(self, class: u8) -> bool {
        class < 128 && self.0 >> class & 1 != 0
    }

    /// The classes, in order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..128).filter(move |class| self.contains(*class))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::steering::{Ipv4Prefix, Mac, PortRange};

    /// The hash as its definition: the key shifted left by one bit for each input bit.
    fn by_definition(key: &[u8], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], n: usize| {
            bytes
                .get(n / 8)
                .is_some_and(|byte| byte >> (7 - n % 8) & 1 == 1)
        };
        (0..32).fold(0, |hash, place| {
            let terms = (0..input.len() * 8).filter(|&n| bit(input, n) && bit(key, n + place));
            hash << 1 | u32::from(terms.count() % 2 == 1)
        })
    }

    fn input(source: u32, destination: u32, ports: Option<(u16, u16)>) -> Vec<u8> {
        let mut input = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        if let Some((source, destination)) = ports {
            input.extend(source.to_be_bytes());
            input.extend(destination.to_be_bytes());
        }
        input
    }

    fn names(ipv4: Ipv4Prefix, ports: PortRange) -> NameGrant {
        NameGrant {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            vlan: None,
            ipv4: Some(ipv4),
            ipv6: None,
            ports,
        }
    }

    /// The published verification suite of receive-side scaling: key, and two of its packets.
    #[test]
    fn the_published_examples_come_out() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let address = |a, b, c, d| Ipv4Addr::new(a, b, c, d).to_bits();
        let first = (address(66, 9, 149, 187), address(161, 142, 100, 80));
        assert_eq!(toeplitz(&key, &input(first.0, first.1, None)), 0x323e_8fc2);
        assert_eq!(
            toeplitz(&key, &input(first.0, first.1, Some((2794, 1766)))),
            0x51cc_c178
        );
        let second = (address(199, 92, 111, 2), address(65, 69, 140, 83));
        assert_eq!(
            toeplitz(&key, &input(second.0, second.1, None)),
            0xd718_262a
        );
        assert_eq!(
            toeplitz(&key, &input(second.0, second.1, Some((14230, 4739)))),
            0xc626_b0ea
        );
    }

    proptest! {
        #[test]
        fn the_hash_agrees_with_its_definition(
            key in prop::collection::vec(any::<u8>(), 0..56),
            input in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            prop_assert_eq!(toeplitz(&key, &input), by_definition(&key, &input));
        }

        /// Whatever the sender picks, the class is that of the receiver's name.
        #[test]
        fn the_sender_cannot_choose_a_class(source: u32, destination: u32, source_port: u16, port: u16) {
            let class = |key: OneBitKey, ports| {
                let hash = toeplitz(&key.key::<40>(), &input(source, destination, ports));
                u8::try_from(hash % 128).ok()
            };
            let ports = Some((source_port, port));
            let by_address = OneBitKey::Ipv4Destination;
            let expected = by_address.class_of_address(Ipv4Addr::from_bits(destination));
            prop_assert_eq!(class(by_address, None), expected);
            prop_assert_eq!(class(by_address, ports), expected);
            let by_port = OneBitKey::DestinationPort;
            prop_assert_eq!(class(by_port, ports), by_port.class_of_port(port));
            prop_assert_eq!(class(by_port, None), Some(0));
        }

        /// The classes of a grant are those of its addresses, or ports.
        #[test]
        fn classes_are_those_of_every_name(address: u32, len in 20_u8..=32, first: u16, more in 0_u16..300) {
            let prefix = Ipv4Prefix::new(Ipv4Addr::from_bits(address), len).unwrap();
            let ports = PortRange::new(first, first.saturating_add(more)).unwrap();
            let of_addresses = (0..1_u32 << (32 - len)).fold(ClassSet::EMPTY, |set, n| {
                let address = Ipv4Addr::from_bits(prefix.address().to_bits() + n);
                set.with(OneBitKey::Ipv4Destination.class_of_address(address).unwrap())
            });
            prop_assert_eq!(OneBitKey::Ipv4Destination.classes(&names(prefix, ports)), of_addresses);
            let of_ports = (ports.first()..=ports.last()).fold(ClassSet::EMPTY, |set, port| {
                set.with(OneBitKey::DestinationPort.class_of_port(port).unwrap())
            });
            prop_assert_eq!(OneBitKey::DestinationPort.classes(&names(prefix, ports)), of_ports);
        }
    }

    #[test]
    fn addresses_equal_modulo_128_share_their_class() {
        let host = |last| {
            names(
                Ipv4Prefix::host(Ipv4Addr::new(10, 0, 0, last)),
                PortRange::ALL,
            )
        };
        let classes = |last| OneBitKey::Ipv4Destination.classes(&host(last));
        assert!(classes(1).overlaps(classes(129)));
        assert!(!classes(1).overlaps(classes(2)));
        assert_eq!(classes(1).iter().collect::<Vec<_>>(), [64]);
        assert_eq!(
            classes(1).union(classes(2)).iter().collect::<Vec<_>>(),
            [32, 64]
        );
    }
}
