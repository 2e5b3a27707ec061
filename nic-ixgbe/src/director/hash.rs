//! Which bucket a flow is in: the hash of §7.1.2.7.

use super::{Flow, command::kind};

/// The key of buckets, the one that all drivers use.
pub(super) const KEY: u32 = 0x3DAD_14E2;

/// The bits of a bucket: 8,192 buckets in the largest table, and smaller ones leave the high bits out themselves.
const BUCKETS: u16 = 0x1FFF;

/// The bucket of a flow, in which what is ignored is 0.
///
/// The device folds 350 bits under windows of the key, which repeats every 32 bits; so the words can be added up first. The
/// first word (protocol and VLAN) lies at the stream's end and beginning: it counts in both halves, but in the low one not
/// for the key's first bit.
pub(super) fn bucket(flow: &Flow) -> u16 {
    let first = u32::from(flow.protocol.map_or(0, kind)) << 16 | u32::from(flow.vlan);
    let ports = u32::from(flow.source_port) << 16 | u32::from(flow.port);
    let flex = u32::from(u16::from_be_bytes(flow.flex)) << 16;
    let rest = flow.destination.to_bits() ^ flow.source.to_bits() ^ ports ^ flex;
    let high = rest ^ first ^ first >> 16;
    let low = rest.rotate_left(16);
    let low_with_first = low ^ first ^ first << 16;
    let mut hash = 0;
    for bit in 0..16 {
        let low = if bit == 0 { low } else { low_with_first };
        if KEY >> bit & 1 == 1 {
            hash ^= low >> bit;
        }
        if KEY >> (bit + 16) & 1 == 1 {
            hash ^= high >> bit;
        }
    }
    let [a, b, ..] = hash.to_le_bytes();
    u16::from_le_bytes([a, b]) & BUCKETS
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::director::L4;

    /// One bit of the hash, as the sum of single bits of the flow's words, each under its bit of the key.
    fn bit(words: &[u32], number: usize) -> bool {
        let key = |n: usize| 0x3DAD_14E2_u32 >> n & 1 == 1;
        let of = |word: u32, n: usize| n < 32 && word >> n & 1 == 1;
        let rest = |n: usize| words[1..].iter().filter(|&&word| of(word, n)).count() % 2 == 1;
        (0..16).fold(false, |sum, n| {
            let at = n + number;
            let first = of(words[0], at);
            let high = rest(at) ^ first ^ of(words[0] >> 16, at);
            let mut low = rest((at + 16) % 32);
            if n > 0 {
                low ^= first ^ (at >= 16 && of(words[0], at - 16));
            }
            sum ^ (key(n) & low) ^ (key(n + 16) & high)
        })
    }

    proptest! {
        /// The folded hash is the one of single bits, and within the buckets.
        #[test]
        fn words_hash_as_their_bits_do(vlan in 0..4096_u16, l4 in 0..4_u32, destination: u32, source: u32, port: u16, source_port: u16, flex: [u8; 2]) {
            let protocol = [None, Some(L4::Udp), Some(L4::Tcp), Some(L4::Sctp)][l4 as usize];
            let flow = Flow {
                vlan,
                protocol,
                destination: Ipv4Addr::from_bits(destination),
                source: Ipv4Addr::from_bits(source),
                port,
                source_port,
                flex,
            };
            let words = [
                l4 << 16 | u32::from(vlan),
                destination,
                source,
                u32::from(source_port) << 16 | u32::from(port),
                u32::from(flex[0]) << 24 | u32::from(flex[1]) << 16,
            ];
            let expected = (0..13).fold(0, |sum, n| sum | u16::from(bit(&words, n)) << n);
            prop_assert_eq!(bucket(&flow), expected);
        }
    }
}
