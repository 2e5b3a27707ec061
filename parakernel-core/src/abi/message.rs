//! Requests and outcomes as messages, and back.
//!
//! Word 0 is the kind, word 1 the request's tag, the others are as the kind says. Words that a kind does not use are 0.
//! Decoding believes nothing: a message that is not exactly one that [`encode`](Codec::encode) makes is refused.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::{MESSAGE_WORDS, Message};
use crate::{
    access::AccessMode,
    address::{Direction, Iova, NodeId},
    control::{ClaimWish, MemoryWish, Outcome, PageSize, Placement, Refusal, Request, Tag, Wake},
    device::{DeviceId, Epoch, Vector},
    error::ErrorKind,
    handle::{LeaseId, MemoryId, RuleId, VolumeId},
    lease::Step,
    ring::RingSize,
    steering::{
        FlowRule, IpPrefix, Ipv4Prefix, Ipv6Prefix, Mac, Matches, PortRange, Protocol, Vlan,
    },
};

/// What crosses the boundary in a [`Message`].
pub trait Codec: Sized {
    /// The message of `self`, under `tag`.
    fn encode(&self, tag: Option<Tag>) -> Message;

    /// What `message` says, and its tag; `None` where it is malformed.
    fn decode(message: &Message) -> Option<(Option<Tag>, Self)>;
}

/// Words in the order in which a message has them.
struct Writer {
    message: Message,
    at: usize,
}

impl Writer {
    fn new(kind: u64, tag: Option<Tag>) -> Self {
        let mut writer = Self {
            message: Message::default(),
            at: 0,
        };
        writer.put(kind | u64::from(tag.is_some()) << 32);
        writer.put(tag.map_or(0, |Tag(tag)| tag));
        writer
    }

    fn put(&mut self, word: u64) {
        if let Some(place) = self.message.words.get_mut(self.at) {
            *place = word;
        }
        self.at += 1;
        debug_assert!(self.at <= MESSAGE_WORDS, "a message is too short");
    }
}

/// The words of a message, one after the other.
struct Reader<'m> {
    words: core::slice::Iter<'m, u64>,
}

impl<'m> Reader<'m> {
    /// A reader behind kind and tag, which it returns.
    fn new(message: &'m Message) -> Option<(u64, Option<Tag>, Self)> {
        let mut reader = Self {
            words: message.words.iter(),
        };
        let (head, tag) = (reader.take()?, reader.take()?);
        let (kind, tagged) = (head & 0xffff_ffff, head >> 32);
        let tag = match (tagged, tag) {
            (0, 0) => None,
            (1, tag) => Some(Tag(tag)),
            _ => return None,
        };
        Some((kind, tag, reader))
    }

    fn take(&mut self) -> Option<u64> {
        self.words.next().copied()
    }

    /// A word that must fit a smaller type.
    fn narrow<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.take()?).ok()
    }

    /// Nothing but zeroes may follow.
    fn end<T>(mut self, value: T) -> Option<T> {
        self.words.all(|&word| word == 0).then_some(value)
    }
}

/// Numbers for the values of an enumeration: the index in a list of all of them.
fn number<T: PartialEq>(all: &[T], value: &T) -> u64 {
    all.iter()
        .position(|other| other == value)
        .map_or(u64::MAX, |index| index as u64)
}

fn named<T: Copy>(all: &[T], number: u64) -> Option<T> {
    all.get(usize::try_from(number).ok()?).copied()
}

const DIRECTIONS: [Direction; 3] = [
    Direction::ToDevice,
    Direction::FromDevice,
    Direction::Bidirectional,
];
const PAGE_SIZES: [PageSize; 2] = [PageSize::Base, PageSize::Huge];
const WAKES: [Wake; 2] = [Wake::Poll, Wake::Interrupt];
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
const PLACEMENTS: [Placement; 2] = [Placement::Hardware, Placement::Software];
const KINDS: [ErrorKind; 10] = [
    ErrorKind::Timeout,
    ErrorKind::Protocol,
    ErrorKind::Device,
    ErrorKind::Removed,
    ErrorKind::Unsupported,
    ErrorKind::InvalidArgument,
    ErrorKind::Exhausted,
    ErrorKind::Denied,
    ErrorKind::Revoked,
    ErrorKind::Other,
];
const PLAIN_REFUSALS: [Refusal; 10] = [
    Refusal::NoSuchHandle,
    Refusal::NoSuchDevice,
    Refusal::NotGranted,
    Refusal::Quota,
    Refusal::Exhausted,
    Refusal::Unsupported,
    Refusal::OutOfRange,
    Refusal::InUse,
    Refusal::WrongState,
    Refusal::DeviceDown,
];

/// An optional word, one more than its value: 0 for none.
fn optional(value: Option<u64>) -> u64 {
    value.map_or(0, |value| value + 1)
}

impl Codec for Request {
    fn encode(&self, tag: Option<Tag>) -> Message {
        let mut writer = Writer::new(self.kind(), tag);
        match self {
            Self::RegisterMemory(wish) => {
                writer.put(wish.pages);
                writer.put(number(&PAGE_SIZES, &wish.page_size));
                writer.put(number(&DIRECTIONS, &wish.direction));
                writer.put(optional(wish.node.map(|node| node.index() as u64)));
            }
            Self::ReleaseMemory(memory) => writer.put(memory.to_bits()),
            Self::Claim(wish) => {
                writer.put(wish.device.as_u32().into());
                writer.put(number(&AccessMode::ALL, &wish.at_least));
                writer.put(wish.first_ring.entries().into());
                writer.put(wish.second_ring.entries().into());
                writer.put(number(&WAKES, &wish.wake));
                writer.put(wish.volume.is_some().into());
                writer.put(wish.volume.map_or(0, VolumeId::to_bits));
            }
            Self::Release(lease) => writer.put(lease.to_bits()),
            Self::AddRule(rule) => put_rule(&mut writer, rule),
            Self::RemoveRule(rule) => writer.put(rule.to_bits()),
            Self::Acknowledge { lease, epoch } => {
                writer.put(lease.to_bits());
                writer.put(epoch.as_u32().into());
            }
        }
        writer.message
    }

    fn decode(message: &Message) -> Option<(Option<Tag>, Self)> {
        let (kind, tag, mut reader) = Reader::new(message)?;
        let request = match kind {
            1 => Self::RegisterMemory(MemoryWish {
                pages: reader.take()?,
                page_size: named(&PAGE_SIZES, reader.take()?)?,
                direction: named(&DIRECTIONS, reader.take()?)?,
                node: match reader.narrow::<u32>()? {
                    0 => None,
                    more => Some(NodeId::new(more - 1)),
                },
            }),
            2 => Self::ReleaseMemory(MemoryId::from_bits(reader.take()?)),
            3 => Self::Claim(take_claim(&mut reader)?),
            4 => Self::Release(LeaseId::from_bits(reader.take()?)),
            5 => Self::AddRule(take_rule(&mut reader)?),
            6 => Self::RemoveRule(RuleId::from_bits(reader.take()?)),
            7 => Self::Acknowledge {
                lease: LeaseId::from_bits(reader.take()?),
                epoch: Epoch::new(reader.narrow()?),
            },
            _ => return None,
        };
        reader.end((tag, request))
    }
}

impl Request {
    const fn kind(&self) -> u64 {
        match self {
            Self::RegisterMemory(_) => 1,
            Self::ReleaseMemory(_) => 2,
            Self::Claim(_) => 3,
            Self::Release(_) => 4,
            Self::AddRule(_) => 5,
            Self::RemoveRule(_) => 6,
            Self::Acknowledge { .. } => 7,
        }
    }
}

fn take_claim(reader: &mut Reader<'_>) -> Option<ClaimWish> {
    Some(ClaimWish {
        device: DeviceId::new(reader.narrow()?),
        at_least: named(&AccessMode::ALL, reader.take()?)?,
        first_ring: RingSize::new(reader.narrow()?)?,
        second_ring: RingSize::new(reader.narrow()?)?,
        wake: named(&WAKES, reader.take()?)?,
        volume: match (reader.take()?, reader.take()?) {
            (0, 0) => None,
            (1, bits) => Some(VolumeId::from_bits(bits)),
            _ => return None,
        },
    })
}

/// A rule takes nine words: MAC and VLAN, protocol, two addresses of two words and a length each, ports, lease.
fn put_rule(writer: &mut Writer, rule: &FlowRule) {
    let matches = &rule.matches;
    let [a, b, c, d, e, f] = matches.mac.0;
    let mac = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    let vlan = matches.vlan.map_or(0, Vlan::id);
    writer.put(mac | u64::from(vlan) << 48);
    let (address, source) = (Prefix::of(matches.address), Prefix::of(matches.source));
    let protocol = optional(matches.protocol.map(|it| number(&PROTOCOLS, &it)));
    writer.put(protocol | address.shape << 8 | source.shape << 24);
    for word in address.words.into_iter().chain(source.words) {
        writer.put(word);
    }
    let ports = [
        matches.ports.first(),
        matches.ports.last(),
        matches.source_ports.first(),
        matches.source_ports.last(),
    ];
    writer.put(
        ports
            .into_iter()
            .rev()
            .fold(0, |word, port| word << 16 | u64::from(port)),
    );
    writer.put(rule.to.to_bits());
}

fn take_rule(reader: &mut Reader<'_>) -> Option<FlowRule> {
    let [a, b, c, d, e, f, vlan @ ..] = reader.take()?.to_le_bytes();
    let vlan = match u16::from_le_bytes(vlan) {
        0 => None,
        id => Some(Vlan::new(id)?),
    };
    let shape = reader.take()?;
    if shape >> 40 != 0 {
        return None;
    }
    let protocol = match shape & 0xff {
        0 => None,
        more => Some(named(&PROTOCOLS, more - 1)?),
    };
    let mut prefix = |shape| {
        let words = [reader.take()?, reader.take()?];
        Prefix { shape, words }.into_prefix()
    };
    let address = prefix(shape >> 8 & 0xffff)?;
    let source = prefix(shape >> 24 & 0xffff)?;
    let ports = reader.take()?;
    #[expect(clippy::cast_possible_truncation, reason = "takes the word apart")]
    let port = |index: u32| (ports >> (16 * index)) as u16;
    Some(FlowRule {
        matches: Matches {
            mac: Mac([a, b, c, d, e, f]),
            vlan,
            address,
            protocol,
            ports: PortRange::new(port(0), port(1))?,
            source,
            source_ports: PortRange::new(port(2), port(3))?,
        },
        to: LeaseId::from_bits(reader.take()?),
    })
}

/// An address prefix as a message has it: family (0 for none) and length, and the address.
struct Prefix {
    shape: u64,
    words: [u64; 2],
}

impl Prefix {
    fn of(prefix: Option<IpPrefix>) -> Self {
        match prefix {
            None => Self {
                shape: 0,
                words: [0; 2],
            },
            Some(IpPrefix::V4(prefix)) => Self {
                shape: 4 | u64::from(prefix.len()) << 8,
                words: [prefix.address().to_bits().into(), 0],
            },
            Some(IpPrefix::V6(prefix)) => {
                let bits = prefix.address().to_bits();
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "takes the two halves apart"
                )]
                let words = [bits as u64, (bits >> 64) as u64];
                Self {
                    shape: 6 | u64::from(prefix.len()) << 8,
                    words,
                }
            }
        }
    }

    /// The prefix; the outer `None` where it is malformed, bits behind its length included.
    fn into_prefix(self) -> Option<Option<IpPrefix>> {
        let len = u8::try_from(self.shape >> 8).ok()?;
        let [low, high] = self.words;
        match self.shape & 0xff {
            0 if self.shape == 0 && self.words == [0; 2] => Some(None),
            4 if high == 0 => {
                let address = Ipv4Addr::from_bits(u32::try_from(low).ok()?);
                let prefix = Ipv4Prefix::new(address, len)?;
                (prefix.address() == address).then_some(Some(IpPrefix::V4(prefix)))
            }
            6 => {
                let address = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
                let prefix = Ipv6Prefix::new(address, len)?;
                (prefix.address() == address).then_some(Some(IpPrefix::V6(prefix)))
            }
            _ => None,
        }
    }
}

impl Codec for Outcome {
    fn encode(&self, tag: Option<Tag>) -> Message {
        let mut writer = Writer::new(self.kind(), tag);
        match self {
            Self::Registered {
                memory,
                iova,
                pages,
            } => {
                writer.put(memory.to_bits());
                writer.put(iova.as_u64());
                writer.put(*pages);
            }
            Self::Released { memory } => writer.put(memory.to_bits()),
            Self::Claimed {
                lease,
                first_mode,
                second_mode,
                vector,
            } => {
                writer.put(lease.to_bits());
                writer.put(number(&AccessMode::ALL, first_mode));
                writer.put(number(&AccessMode::ALL, second_mode));
                put_vector(&mut writer, *vector);
            }
            Self::Revoked { lease } | Self::Rearmed { lease } => writer.put(lease.to_bits()),
            Self::Quarantined { lease, step } => {
                writer.put(lease.to_bits());
                writer.put(number(&Step::ORDER, step));
            }
            Self::Lost { lease, epoch } => {
                writer.put(lease.to_bits());
                writer.put(epoch.as_u32().into());
            }
            Self::RuleAdded { rule, placement } => {
                writer.put(rule.to_bits());
                writer.put(number(&PLACEMENTS, placement));
            }
            Self::RuleRemoved { rule } => writer.put(rule.to_bits()),
            Self::Refused(refusal) => put_refusal(&mut writer, refusal),
        }
        writer.message
    }

    fn decode(message: &Message) -> Option<(Option<Tag>, Self)> {
        let (kind, tag, mut reader) = Reader::new(message)?;
        let first = reader.take()?;
        let lease = LeaseId::from_bits(first);
        let outcome = match kind {
            1 => Self::Registered {
                memory: MemoryId::from_bits(first),
                iova: Iova::new(reader.take()?),
                pages: reader.take()?,
            },
            2 => Self::Released {
                memory: MemoryId::from_bits(first),
            },
            3 => Self::Claimed {
                lease,
                first_mode: named(&AccessMode::ALL, reader.take()?)?,
                second_mode: named(&AccessMode::ALL, reader.take()?)?,
                vector: take_vector(&mut reader)?,
            },
            4 => Self::Revoked { lease },
            5 => Self::Quarantined {
                lease,
                step: named(&Step::ORDER, reader.take()?)?,
            },
            6 => Self::Lost {
                lease,
                epoch: Epoch::new(reader.narrow()?),
            },
            7 => Self::Rearmed { lease },
            8 => Self::RuleAdded {
                rule: RuleId::from_bits(first),
                placement: named(&PLACEMENTS, reader.take()?)?,
            },
            9 => Self::RuleRemoved {
                rule: RuleId::from_bits(first),
            },
            10 => Self::Refused(take_refusal(first, &mut reader)?),
            _ => return None,
        };
        reader.end((tag, outcome))
    }
}

impl Outcome {
    const fn kind(&self) -> u64 {
        match self {
            Self::Registered { .. } => 1,
            Self::Released { .. } => 2,
            Self::Claimed { .. } => 3,
            Self::Revoked { .. } => 4,
            Self::Quarantined { .. } => 5,
            Self::Lost { .. } => 6,
            Self::Rearmed { .. } => 7,
            Self::RuleAdded { .. } => 8,
            Self::RuleRemoved { .. } => 9,
            Self::Refused(_) => 10,
        }
    }
}

fn put_vector(writer: &mut Writer, vector: Vector) {
    let kind = match vector {
        Vector::None => 0,
        Vector::Own(_) => 1,
        Vector::Shared(_) => 2,
    };
    writer.put(kind);
    writer.put(vector.number().unwrap_or(0).into());
}

fn take_vector(reader: &mut Reader<'_>) -> Option<Vector> {
    let (kind, number) = (reader.take()?, reader.narrow::<u32>()?);
    match kind {
        0 => (number == 0).then_some(Vector::None),
        1 => Some(Vector::Own(number)),
        2 => Some(Vector::Shared(number)),
        _ => None,
    }
}

/// What a refusal's first word is where it carries more than its name.
const CONFLICT: u64 = PLAIN_REFUSALS.len() as u64;
const DEVICE: u64 = CONFLICT + 1;

fn put_refusal(writer: &mut Writer, refusal: &Refusal) {
    if let Refusal::Conflict { other } = refusal {
        writer.put(CONFLICT);
        writer.put(other.to_bits());
    } else if let Refusal::Device(kind) = refusal {
        writer.put(DEVICE);
        writer.put(number(&KINDS, kind));
    } else {
        writer.put(number(&PLAIN_REFUSALS, refusal));
    }
}

fn take_refusal(first: u64, reader: &mut Reader<'_>) -> Option<Refusal> {
    match first {
        CONFLICT => Some(Refusal::Conflict {
            other: RuleId::from_bits(reader.take()?),
        }),
        DEVICE => Some(Refusal::Device(named(&KINDS, reader.take()?)?)),
        plain => named(&PLAIN_REFUSALS, plain),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix() -> impl Strategy<Value = Option<IpPrefix>> {
        let v4 = (any::<Ipv4Addr>(), 0_u8..=32)
            .prop_map(|(address, len)| Ipv4Prefix::new(address, len).map(IpPrefix::V4));
        let v6 = (any::<Ipv6Addr>(), 0_u8..=128)
            .prop_map(|(address, len)| Ipv6Prefix::new(address, len).map(IpPrefix::V6));
        prop_oneof![Just(None), v4, v6]
    }

    fn ports() -> impl Strategy<Value = PortRange> {
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap())
    }

    fn rule() -> impl Strategy<Value = FlowRule> {
        let names = (any::<[u8; 6]>(), prop::option::of(1_u16..=4094));
        let protocol = prop::option::of(prop::sample::select(&PROTOCOLS[..]));
        (
            names,
            prefix(),
            protocol,
            ports(),
            prefix(),
            ports(),
            any::<u64>(),
        )
            .prop_map(
                |((mac, vlan), address, protocol, ports, source, source_ports, to)| FlowRule {
                    matches: Matches {
                        mac: Mac(mac),
                        vlan: vlan.and_then(Vlan::new),
                        address,
                        protocol,
                        ports,
                        source,
                        source_ports,
                    },
                    to: LeaseId::from_bits(to),
                },
            )
    }

    fn request() -> impl Strategy<Value = Request> {
        let memory = (
            any::<u64>(),
            prop::sample::select(&PAGE_SIZES[..]),
            prop::sample::select(&DIRECTIONS[..]),
            prop::option::of(0..u32::MAX),
        );
        let claim = (
            any::<u32>(),
            prop::sample::select(&AccessMode::ALL[..]),
            (0_u32..32, 0_u32..32),
            prop::sample::select(&WAKES[..]),
            prop::option::of(any::<u64>()),
        );
        prop_oneof![
            memory.prop_map(
                |(pages, page_size, direction, node)| Request::RegisterMemory(MemoryWish {
                    pages,
                    page_size,
                    direction,
                    node: node.map(NodeId::new),
                })
            ),
            any::<u64>().prop_map(|bits| Request::ReleaseMemory(MemoryId::from_bits(bits))),
            claim.prop_map(
                |(device, at_least, (first, second), wake, volume)| Request::Claim(ClaimWish {
                    device: DeviceId::new(device),
                    at_least,
                    first_ring: RingSize::new(1 << first).unwrap(),
                    second_ring: RingSize::new(1 << second).unwrap(),
                    wake,
                    volume: volume.map(VolumeId::from_bits),
                })
            ),
            any::<u64>().prop_map(|bits| Request::Release(LeaseId::from_bits(bits))),
            rule().prop_map(Request::AddRule),
            any::<u64>().prop_map(|bits| Request::RemoveRule(RuleId::from_bits(bits))),
            (any::<u64>(), any::<u32>()).prop_map(|(lease, epoch)| Request::Acknowledge {
                lease: LeaseId::from_bits(lease),
                epoch: Epoch::new(epoch),
            }),
        ]
    }

    fn outcomes() -> Vec<Outcome> {
        let (lease, rule) = (LeaseId::new(1, 2), RuleId::new(3, 4));
        let memory = MemoryId::new(5, 6);
        let mut all = vec![
            Outcome::Registered {
                memory,
                iova: Iova::new(7),
                pages: 8,
            },
            Outcome::Released { memory },
            Outcome::Revoked { lease },
            Outcome::Rearmed { lease },
            Outcome::Lost {
                lease,
                epoch: Epoch::new(9),
            },
            Outcome::RuleRemoved { rule },
            Outcome::Refused(Refusal::Conflict { other: rule }),
        ];
        for vector in [Vector::None, Vector::Own(10), Vector::Shared(0)] {
            let (first_mode, second_mode) = (AccessMode::Sealed, AccessMode::Checked);
            all.push(Outcome::Claimed {
                lease,
                first_mode,
                second_mode,
                vector,
            });
        }
        all.extend(PLACEMENTS.map(|placement| Outcome::RuleAdded { rule, placement }));
        all.extend(Step::ORDER.map(|step| Outcome::Quarantined { lease, step }));
        all.extend(PLAIN_REFUSALS.map(Outcome::Refused));
        all.extend(KINDS.map(|kind| Outcome::Refused(Refusal::Device(kind))));
        all
    }

    #[test]
    fn every_outcome_comes_back_from_its_message() {
        for outcome in outcomes() {
            for tag in [None, Some(Tag(0)), Some(Tag(u64::MAX))] {
                assert_eq!(Outcome::decode(&outcome.encode(tag)), Some((tag, outcome)));
            }
        }
    }

    proptest! {
        #[test]
        fn every_request_comes_back_from_its_message(request in request(), tag in prop::option::of(any::<u64>().prop_map(Tag))) {
            prop_assert_eq!(Request::decode(&request.encode(tag)), Some((tag, request)));
        }

        /// What decodes is exactly what encodes: there is one message for each request.
        #[test]
        fn a_changed_message_is_refused_or_means_something_else(request in request(), word in 0..MESSAGE_WORDS, change in 1_u64..) {
            let mut message = request.encode(Some(Tag(1)));
            message.words[word] ^= change;
            if let Some((tag, other)) = Request::decode(&message) {
                prop_assert_ne!((tag, other), (Some(Tag(1)), request));
                prop_assert_eq!(other.encode(tag), message);
            }
        }
    }
}
