//! Which frame goes to which queue: receive-side scaling, made exact by a key with one bit.
//!
//! RSS picks a queue by a hash over the addresses of a frame, and whoever sends can pick its source address: with a
//! common key that would be a lottery. A key with a single bit set makes the hash's low bits a copy of seven bits of
//! the header, so each of 128 classes of destination addresses has exactly one queue, whatever the source.
//!
//! The hash is Toeplitz's (§5.1.6.4.3): bit *i* of it, counted from the top, is the parity of the input bits *j* at
//! which bit *i + j* of the key is set. With bit 88 of the key alone, bit *i* is input bit *88 - i*, and the low seven
//! bits, *i* = 25 to 31, are input bits 63 to 57: of an IPv4 packet, whose input begins with source (bits 0 to 31) and
//! destination address (bits 32 to 63), the last seven bits of the destination, in reverse.

use bitflags::bitflags;

bitflags! {
    /// What is hashed, §5.1.6.4.3.1.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct HashTypes: u32 {
        /// Source and destination address of IPv4 packets.
        const IPV4 = 1 << 0;
        /// The same and the ports, of TCP over IPv4.
        const TCP_V4 = 1 << 1;
        /// The same and the ports, of UDP over IPv4.
        const UDP_V4 = 1 << 2;
        /// Source and destination address of IPv6 packets.
        const IPV6 = 1 << 3;
        /// The same and the ports, of TCP over IPv6.
        const TCP_V6 = 1 << 4;
        /// The same and the ports, of UDP over IPv6.
        const UDP_V6 = 1 << 5;
    }
}

/// Number of classes: entries of the table. Every device allows as many (§5.1.4).
pub const CLASSES: usize = 128;

/// Length of the key in bytes. Every device allows as many (§5.1.4).
pub const KEY_LEN: usize = 40;

/// The bit of the key that makes classes of IPv4 destination addresses.
const DESTINATION_V4_BIT: usize = 88;

/// The key that makes classes of IPv4 destination addresses.
pub const DESTINATION_V4_KEY: [u8; KEY_LEN] = one_bit_key(DESTINATION_V4_BIT);

/// A key with one bit set, counted from the top bit of the first byte.
const fn one_bit_key(bit: usize) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key[bit / 8] = 0x80 >> (bit % 8);
    key
}

/// The class of an IPv4 destination address, given in network order: its low seven bits, in reverse.
///
/// Addresses that are equal modulo 128 share a class.
#[must_use]
pub const fn class_of(address: [u8; 4]) -> u8 {
    (address[3] & 0x7F).reverse_bits() >> 1
}

/// Where frames go: one receive queue for each class, and one for all that is not hashed.
///
/// Hashed are IPv4 packets, TCP, UDP and all others alike, fragments included; everything else (ARP, IPv6) goes to the
/// default queue. IPv6 has to stay out: under this key it would be steered by its source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Classes {
    /// Receive queue of each class: the number of its pair.
    pub pairs: [u16; CLASSES],
    /// The pair that gets frames which are not hashed.
    pub default: u16,
}

impl Classes {
    /// What is hashed. IPv4 alone: with the types for ports, the ports would be hashed too, behind the bits that count.
    pub const HASH_TYPES: HashTypes = HashTypes::IPV4;

    /// All classes to `pair`, which also gets what is not hashed.
    #[must_use]
    pub const fn all_to(pair: u16) -> Self {
        Self {
            pairs: [pair; CLASSES],
            default: pair,
        }
    }

    /// Sends the class of `address` to `pair`.
    pub fn set(&mut self, address: [u8; 4], pair: u16) {
        self.pairs[usize::from(class_of(address))] = pair;
    }

    /// Sends all classes of `pair` to `other`.
    pub fn replace(&mut self, pair: u16, other: u16) {
        for entry in &mut self.pairs {
            if *entry == pair {
                *entry = other;
            }
        }
    }

    /// The largest pair named.
    pub(crate) fn largest(&self) -> u16 {
        self.pairs.iter().copied().fold(self.default, u16::max)
    }
}

/// The Toeplitz hash of `input` under `key`: what devices compute.
///
/// Bit by bit, as the definition says: for tests and software steering, not for a data path.
#[must_use]
pub fn toeplitz(key: &[u8; KEY_LEN], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], index: usize| {
        bytes
            .get(index / 8)
            .is_some_and(|byte| byte & (0x80 >> (index % 8)) != 0)
    };
    let mut hash = 0;
    for index in (0..input.len() * 8).filter(|&index| bit(input, index)) {
        let window = (0..32).fold(0, |word, n| word << 1 | u32::from(bit(key, index + n)));
        hash ^= window;
    }
    hash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The verification suite published with the hash's definition: key, and one of its IPv4 examples.
    #[test]
    fn the_hash_agrees_with_the_published_example() {
        const KEY: [u8; KEY_LEN] = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        // 66.9.149.187:2794 to 161.142.100.80:1766.
        let addresses = [66, 9, 149, 187, 161, 142, 100, 80];
        assert_eq!(toeplitz(&KEY, &addresses), 0x323e_8fc2);
        let mut with_ports = [0; 12];
        with_ports[..8].copy_from_slice(&addresses);
        with_ports[8..10].copy_from_slice(&2794_u16.to_be_bytes());
        with_ports[10..].copy_from_slice(&1766_u16.to_be_bytes());
        assert_eq!(toeplitz(&KEY, &with_ports), 0x51cc_c178);
    }

    proptest! {
        #[test]
        fn the_class_is_the_hash_whatever_the_source(source: [u8; 4], destination: [u8; 4], ports: [u8; 4]) {
            let mut input = [0; 12];
            input[..4].copy_from_slice(&source);
            input[4..8].copy_from_slice(&destination);
            input[8..].copy_from_slice(&ports);
            let class = u32::from(class_of(destination));
            prop_assert_eq!(toeplitz(&DESTINATION_V4_KEY, &input[..8]) & 127, class);
            prop_assert_eq!(toeplitz(&DESTINATION_V4_KEY, &input) & 127, class);
        }
    }

    #[test]
    fn every_class_has_one_residue() {
        let mut seen = [false; CLASSES];
        for low in 0..128 {
            seen[usize::from(class_of([10, 0, 0, low]))] = true;
            assert_eq!(
                class_of([10, 0, 0, low]),
                class_of([192, 168, 7, low | 128])
            );
        }
        assert_eq!(seen, [true; CLASSES]);
    }
}
