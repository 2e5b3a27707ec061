//! What flow rules are exact about: by that they are found.

use super::{IpPrefix, Matches, PortRange, Vlan};
use crate::{device::DeviceId, handle::RuleId};

/// Where a chain of rules goes on: an index into the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link(pub(super) u32);

impl Link {
    /// Nowhere: no table has so many entries.
    pub(super) const END: Self = Self(u32::MAX);

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a handle's index has 32 bits"
    )]
    pub(super) const fn to(rule: RuleId) -> Self {
        Self(rule.index() as u32)
    }
}

/// Where rules that agree in all that they are exact about are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleBucket(pub(super) Link);

impl RuleBucket {
    /// A bucket without rules, to fill a table's memory with.
    pub const EMPTY: Self = Self(Link::END);
}

/// Of which of five fields a rule takes one value only: destination, source, protocol, destination port, source port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape(u8);

impl Shape {
    /// Number of shapes.
    pub(super) const COUNT: usize = 1 << 5;

    const DESTINATION: u8 = 1 << 0;
    const SOURCE: u8 = 1 << 1;
    const PROTOCOL: u8 = 1 << 2;
    const PORT: u8 = 1 << 3;
    const SOURCE_PORT: u8 = 1 << 4;

    /// The shape of a rule.
    pub(super) fn of(matches: &Matches) -> Self {
        let bit = |is_exact: bool, bit: u8| if is_exact { bit } else { 0 };
        let is_port = |range: PortRange| range.first() == range.last();
        Self(
            bit(is_host(matches.address), Self::DESTINATION)
                | bit(is_host(matches.source), Self::SOURCE)
                | bit(matches.protocol.is_some(), Self::PROTOCOL)
                | bit(is_port(matches.ports), Self::PORT)
                | bit(is_port(matches.source_ports), Self::SOURCE_PORT),
        )
    }

    /// The shapes whose [`bit`](Self::bit) is set.
    pub(super) fn in_set(mut set: u32) -> impl Iterator<Item = Self> {
        core::iter::from_fn(move || {
            let last = set.checked_ilog2()?;
            set &= !(1 << last);
            u8::try_from(last).ok().map(Self)
        })
    }

    /// The shape's bit in a set.
    pub(super) const fn bit(self) -> u32 {
        1 << self.0
    }

    /// The shape as an index below [`COUNT`](Self::COUNT).
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether `other` is exact in all that this shape is exact in.
    pub(super) const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// Of `buckets`, the one of rules of that shape on one NIC that agree with `matches`, which is exact in all that the shape is
/// exact in, in all of that. `None` where there is no bucket.
pub(super) fn place(
    buckets: usize,
    device: DeviceId,
    shape: Shape,
    matches: &Matches,
) -> Option<usize> {
    let mut hash = Hash::new(device, shape);
    let [a, b, c, d, e, f] = matches.mac.0;
    let vlan = matches.vlan.map_or(0, Vlan::id);
    let [high, low] = vlan.to_be_bytes();
    hash.add(u64::from_be_bytes([high, low, a, b, c, d, e, f]));
    if shape.has(Shape::DESTINATION) {
        hash.add_address(matches.address);
    }
    if shape.has(Shape::SOURCE) {
        hash.add_address(matches.source);
    }
    let mut small = 0;
    if shape.has(Shape::PROTOCOL) {
        small |= matches.protocol.map_or(0, |protocol| 1 + protocol as u64);
    }
    if shape.has(Shape::PORT) {
        small |= u64::from(matches.ports.first()) << 16;
    }
    if shape.has(Shape::SOURCE_PORT) {
        small |= u64::from(matches.source_ports.first()) << 32;
    }
    hash.add(small);
    hash.below(buckets)
}

/// Whether a prefix is one address.
fn is_host(prefix: Option<IpPrefix>) -> bool {
    match prefix {
        Some(IpPrefix::V4(prefix)) => prefix.len() == 32,
        Some(IpPrefix::V6(prefix)) => prefix.len() == 128,
        None => false,
    }
}

/// A sum of words in which each bit counts. Nothing rests on it but time: who crowds a bucket makes a look into it as slow as
/// comparing with all its rules, of which it has a quota.
struct Hash(u64);

impl Hash {
    fn new(device: DeviceId, shape: Shape) -> Self {
        Self((device.index() as u64) << 8 | u64::from(shape.0))
    }

    fn add(&mut self, word: u64) {
        // The fraction of the golden ratio: odd, and without a pattern.
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn add_address(&mut self, prefix: Option<IpPrefix>) {
        match prefix {
            Some(IpPrefix::V4(prefix)) => self.add(prefix.address().to_bits().into()),
            Some(IpPrefix::V6(prefix)) => {
                let bits = prefix.address().to_bits();
                #[expect(clippy::cast_possible_truncation, reason = "takes the two halves")]
                let (high, low) = ((bits >> 64) as u64, bits as u64);
                self.add(high);
                self.add(low);
            }
            None => {}
        }
    }

    /// A number below `count`, from the upper bits, to which all others have been carried.
    fn below(self, count: usize) -> Option<usize> {
        let index = (u128::from(self.0) * count as u128) >> 64;
        usize::try_from(index).ok().filter(|_| count > 0)
    }
}
