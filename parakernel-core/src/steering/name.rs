//! Names: what frames are addressed to.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Every station.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the address names a group of stations, all of them included.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A VLAN, 1 to 4094.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Vlan(u16);

impl Vlan {
    /// The VLAN with this id; `None` for 0, which means untagged, and for 4095, which is reserved.
    #[must_use]
    pub const fn new(id: u16) -> Option<Self> {
        if id == 0 || id > 4094 {
            None
        } else {
            Some(Self(id))
        }
    }

    /// The id.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.0
    }
}

/// Declares the prefixes of one version of IP. Not a generic type, because its functions could then not be `const`.
macro_rules! prefix {
    ($(#[$doc:meta])* $Prefix:ident of $Address:ident, $bits:ident, at most $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub struct $Prefix {
            address: $Address,
            len: u8,
        }

        impl $Prefix {
            #[doc = concat!("The addresses that share their first `len` bits, at most ", $max, ", with `address`; `None` where `len` is larger.")]
            #[must_use]
            pub const fn new(address: $Address, len: u8) -> Option<Self> {
                if len > $max {
                    return None;
                }
                let address = $Address::from_bits(address.to_bits() & Self::mask(len));
                Some(Self { address, len })
            }

            /// One address.
            #[must_use]
            pub const fn host(address: $Address) -> Self {
                Self { address, len: $max }
            }

            /// The first address.
            #[must_use]
            pub const fn address(self) -> $Address {
                self.address
            }

            /// The number of bits that the addresses share.
            #[must_use]
            pub const fn len(self) -> u8 {
                self.len
            }

            /// Whether the prefix has no bit, so that it covers every address.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.len == 0
            }

            /// Whether `address` is one of the addresses.
            #[must_use]
            pub const fn contains(self, address: $Address) -> bool {
                (address.to_bits() ^ self.address.to_bits()) & Self::mask(self.len) == 0
            }

            /// Whether all addresses of `other` are among these.
            #[must_use]
            pub const fn covers(self, other: Self) -> bool {
                self.len <= other.len && self.contains(other.address)
            }

            /// Whether an address is in both.
            #[must_use]
            pub const fn overlaps(self, other: Self) -> bool {
                self.covers(other) || other.covers(self)
            }

            const fn mask(len: u8) -> $bits {
                match $bits::MAX.checked_shl($max - len as u32) {
                    Some(mask) => mask,
                    None => 0,
                }
            }
        }

        impl fmt::Display for $Prefix {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.address, self.len)
            }
        }
    };
}

prefix! {
    /// The IPv4 addresses that begin with the same bits.
    Ipv4Prefix of Ipv4Addr, u32, at most 32
}

prefix! {
    /// The IPv6 addresses that begin with the same bits.
    Ipv6Prefix of Ipv6Addr, u128, at most 128
}

/// Addresses of either version that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IpPrefix {
    /// IPv4.
    V4(Ipv4Prefix),
    /// IPv6.
    V6(Ipv6Prefix),
}

impl IpPrefix {
    /// Whether `address` is one of the addresses.
    #[must_use]
    pub const fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(prefix), IpAddr::V4(address)) => prefix.contains(address),
            (Self::V6(prefix), IpAddr::V6(address)) => prefix.contains(address),
            (Self::V4(_), IpAddr::V6(_)) | (Self::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether an address is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::V4(a), Self::V4(b)) => a.overlaps(b),
            (Self::V6(a), Self::V6(b)) => a.overlaps(b),
            (Self::V4(_), Self::V6(_)) | (Self::V6(_), Self::V4(_)) => false,
        }
    }
}

/// TCP or UDP ports, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port, and what has no ports too.
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// The ports from `first` to `last`; `None` where there is none.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first > last {
            None
        } else {
            Some(Self { first, last })
        }
    }

    /// One port.
    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// The first port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether these are all ports.
    #[must_use]
    pub const fn is_all(self) -> bool {
        self.first == 0 && self.last == u16::MAX
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether all of `other` are among these.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether a port is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Prefixes compared bit by bit, as the text of the address in binary.
        #[test]
        fn ipv4_prefixes_agree_with_their_bits(a: u32, flip in 0_u32..33, b_len in 0_u8..=32, a_len in 0_u8..=32) {
            // Addresses that share about `flip` bits.
            let b = a ^ 1_u32.checked_shl(31_u32.wrapping_sub(flip)).unwrap_or(0);
            let bits = |address: u32, len: u8| format!("{address:032b}")[..usize::from(len)].to_owned();
            let prefix = |address, len| Ipv4Prefix::new(Ipv4Addr::from_bits(address), len).unwrap();
            let (first, second) = (prefix(a, a_len), prefix(b, b_len));
            prop_assert_eq!(first.contains(Ipv4Addr::from_bits(b)), bits(b, 32).starts_with(&bits(a, a_len)));
            prop_assert_eq!(first.covers(second), bits(b, b_len).starts_with(&bits(a, a_len)));
            let shorter = a_len.min(b_len);
            prop_assert_eq!(first.overlaps(second), bits(a, shorter) == bits(b, shorter));
        }

        #[test]
        fn ipv6_prefixes_agree_with_their_bits(a: u128, flip in 0_u32..129, b_len in 0_u8..=128, a_len in 0_u8..=128) {
            let b = a ^ 1_u128.checked_shl(127_u32.wrapping_sub(flip)).unwrap_or(0);
            let bits = |address: u128, len: u8| format!("{address:0128b}")[..usize::from(len)].to_owned();
            let prefix = |address, len| Ipv6Prefix::new(Ipv6Addr::from_bits(address), len).unwrap();
            let (first, second) = (prefix(a, a_len), prefix(b, b_len));
            prop_assert_eq!(first.contains(Ipv6Addr::from_bits(b)), bits(b, 128).starts_with(&bits(a, a_len)));
            prop_assert_eq!(first.covers(second), bits(b, b_len).starts_with(&bits(a, a_len)));
            let shorter = a_len.min(b_len);
            prop_assert_eq!(first.overlaps(second), bits(a, shorter) == bits(b, shorter));
        }

        #[test]
        fn port_ranges_agree_with_their_ports(a in 0_u16..9, b in 0_u16..9, c in 0_u16..9, d in 0_u16..9) {
            if let (Some(first), Some(second)) = (PortRange::new(a, b), PortRange::new(c, d)) {
                prop_assert_eq!(first.covers(second), (c..=d).all(|port| (a..=b).contains(&port)));
                prop_assert_eq!(first.overlaps(second), (c..=d).any(|port| (a..=b).contains(&port)));
                prop_assert!((0..9).all(|port| first.contains(port) == (a..=b).contains(&port)));
            } else {
                prop_assert!(a > b || c > d);
            }
        }
    }

    #[test]
    fn lengths_and_ids_out_of_range_are_refused() {
        assert_eq!(Ipv4Prefix::new(Ipv4Addr::LOCALHOST, 33), None);
        assert_eq!(Ipv6Prefix::new(Ipv6Addr::LOCALHOST, 129), None);
        let valid = (0..=u16::MAX).filter(|&id| Vlan::new(id).is_some());
        assert!(valid.eq(1..4095));
    }
}
