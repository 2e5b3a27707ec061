//! Strategies for property tests: frames, block operations, faults, and bytes for devices that lie.

use core::ops::Range;

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof},
    sample::select,
};

use crate::fault::{Fault, When};

/// The protocol above IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Tcp,
    Udp,
    Other,
}

/// An Ethernet frame of 14 to about 1,514 bytes: any addresses and payload, IPv4, IPv6, ARP or none of them, with or
/// without a VLAN tag, some of them fragments or cut short.
pub fn frame() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        6 => packet(4),
        3 => packet(6),
        1 => vec(any::<u8>(), 28..60).prop_map(|bytes| (0x0806, bytes)),
        1 => (any::<u16>(), vec(any::<u8>(), 0..1500)),
    ];
    let vlan = prop_oneof![4 => Just(None), 1 => (0..4096_u16).prop_map(Some)];
    let cut = prop_oneof![9 => Just(usize::MAX), 1 => 14..80_usize];
    (any::<[u8; 6]>(), any::<[u8; 6]>(), vlan, body, cut).prop_map(
        |(to, from, vlan, (kind, bytes), cut)| {
            let mut frame = [to, from].concat();
            if let Some(vlan) = vlan {
                frame.extend(0x8100_u16.to_be_bytes());
                frame.extend(vlan.to_be_bytes());
            }
            frame.extend(kind.to_be_bytes());
            frame.extend(bytes);
            frame.truncate(cut.min(1514));
            frame
        },
    )
}

/// An IP packet of `version` behind its `EtherType`, its checksums right.
fn packet(version: u8) -> impl Strategy<Value = (u16, Vec<u8>)> {
    let addresses = vec(any::<u8>(), if version == 4 { 8 } else { 32 });
    let transport = select(vec![
        Transport::Tcp,
        Transport::Udp,
        Transport::Udp,
        Transport::Other,
    ]);
    let fragment = prop_oneof![7 => Just(0_u16), 1 => 1..0x2000_u16];
    let payload = vec(any::<u8>(), 0..1400);
    (addresses, any::<[u8; 4]>(), transport, fragment, payload).prop_map(
        move |(addresses, ports, transport, fragment, payload)| {
            let (protocol, segment) = segment(transport, ports, &payload, &addresses);
            if version == 4 {
                (0x0800, ipv4(&addresses, protocol, fragment, &segment))
            } else {
                (0x86dd, ipv6(&addresses, protocol, &segment))
            }
        },
    )
}

/// Protocol number and bytes of a segment.
fn segment(
    transport: Transport,
    ports: [u8; 4],
    payload: &[u8],
    addresses: &[u8],
) -> (u8, Vec<u8>) {
    let mut bytes = ports.to_vec();
    let (protocol, place) = match transport {
        Transport::Tcp => {
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0x10, 0, 0, 0, 0, 0]);
            (6, 16)
        }
        Transport::Udp => {
            let len = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
            bytes.extend(len.to_be_bytes());
            bytes.extend([0, 0]);
            (17, 6)
        }
        Transport::Other => return (1, payload.to_vec()),
    };
    bytes.extend(payload);
    let mut pseudo = addresses.to_vec();
    pseudo.extend([0, protocol]);
    pseudo.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    pseudo.extend(&bytes);
    bytes[place..place + 2].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    (protocol, bytes)
}

fn ipv4(addresses: &[u8], protocol: u8, fragment: u16, segment: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + segment.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0x45, 0];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 7]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(addresses);
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(segment);
    bytes
}

fn ipv6(addresses: &[u8], protocol: u8, segment: &[u8]) -> Vec<u8> {
    let len = u16::try_from(segment.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(len.to_be_bytes());
    bytes.extend([protocol, 64]);
    bytes.extend(addresses);
    bytes.extend(segment);
    bytes
}

/// The internet checksum, never 0: that means "none" in UDP.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match u16::try_from(!sum & 0xffff).unwrap_or(0) {
        0 => 0xffff,
        value => value,
    }
}

/// What a test does to a block device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BlockStep {
    /// Writes `blocks` from `lba` on, filled from `seed`.
    Write {
        /// First block.
        lba: u64,
        /// How many, at least 1.
        blocks: u64,
        /// What to fill them with.
        seed: u8,
    },
    /// Reads `blocks` from `lba` on.
    Read {
        /// First block.
        lba: u64,
        /// How many, at least 1.
        blocks: u64,
    },
    /// Makes `blocks` from `lba` on zero.
    Zero {
        /// First block.
        lba: u64,
        /// How many, at least 1.
        blocks: u64,
    },
    /// Makes what was written survive a loss of power.
    Flush,
    /// Takes power away and gives it back.
    PowerCycle,
}

/// Steps on the blocks of `range`, each on at most `most` of them.
pub fn block_step(range: Range<u64>, most: u64) -> impl Strategy<Value = BlockStep> {
    let place = (range.clone(), 1..most + 1)
        .prop_map(move |(lba, blocks)| (lba, blocks.min(range.end - lba)));
    prop_oneof![
        5 => (place.clone(), any::<u8>()).prop_map(|((lba, blocks), seed)| BlockStep::Write { lba, blocks, seed }),
        5 => place.clone().prop_map(|(lba, blocks)| BlockStep::Read { lba, blocks }),
        2 => place.prop_map(|(lba, blocks)| BlockStep::Zero { lba, blocks }),
        2 => Just(BlockStep::Flush),
        1 => Just(BlockStep::PowerCycle),
    ]
}

/// One of `faults`, and when: soon, at random, or always.
pub fn fault(faults: &[Fault]) -> impl Strategy<Value = (Fault, When)> {
    let when = prop_oneof![
        4 => (0..200_u64).prop_map(When::After),
        2 => (1..300_u16).prop_map(When::Chance),
        1 => Just(When::Always),
    ];
    (select(faults.to_vec()), when)
}

/// Bytes for [`Faults::lie`](crate::fault::Faults::lie), most of which let the truth pass.
pub fn lies() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![9 => Just(0_u8), 1 => any::<u8>()], 0..4000)
}
