use parakernel_core::{
    address::{BusAddress, Direction, Iova},
    memory::{RegionTable, RegionWindow},
    ring::Position,
    steering::{IpVersion, Layers, Protocol},
    validate::{DescriptorValidator, Validated, Violation},
};

use super::Seal;
use crate::{
    descriptor::{Command, Context, Headers, Ip, L4, Offloads, RawDescriptor},
    slot,
    tx::{MAX_DESCRIPTORS, MIN_LEN},
};

/// The least payload of a segment, in bytes: a process must not make the device cut a packet into crumbs.
pub const MIN_SEGMENT: u16 = 64;

/// The longest packet that segmentation takes, headers included, in bytes. The device would take more; no driver asks.
pub const MAX_SEGMENTED: u32 = 0xFFFF;

/// The longest headers that segmentation takes, in bytes, an inserted tag included: the device keeps them in a buffer of so
/// many, once for all segments (§7.2.4).
const MAX_SEGMENTED_HEADERS: u32 = 240;

/// The longest headers of other packets, in bytes, an inserted tag included: their lengths add up to less than 512 (§7.2.3.2.3).
const MAX_HEADERS: u32 = 511;

/// What packets of a queue may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest frame on the wire, in bytes, its CRC and an inserted tag not counted; at least 17.
    pub max_frame: u32,
    /// The VLAN whose tag the device may insert, if any; priority is the process's to choose.
    pub vlan: Option<u16>,
}

/// An entry of the hardware ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A part of a packet.
    Data {
        /// Its first byte, on the bus.
        address: BusAddress,
        /// The command, without a request for a report: when to ask for one is the kernel's to say.
        command: Command,
    },
    /// What offloads of the packet behind it go by.
    Context(Context),
}

impl Entry {
    /// What no entry is yet.
    const NOTHING: Self = Self::Data {
        address: BusAddress::new(0),
        command: Command::from_bits(0),
    };

    /// Whether the packet ends here; only then may anything of it be posted.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        match self {
            Self::Data { command, .. } => command.is_last(),
            Self::Context(_) => false,
        }
    }
}

/// How much of a packet was accepted so far.
#[derive(Clone, Copy, Debug, Default)]
struct Begun {
    /// Descriptors, its context included.
    descriptors: u32,
    bytes: u32,
    /// What all its data descriptors say alike.
    common: Option<u64>,
}

/// Checks the entries of a transmit ring, one after the other.
///
/// A packet is one context descriptor or none, and one data descriptor for each of its buffers. All of them say the same
/// but for length and end. Only advanced descriptors, and of these only what a process may ask for: the rest is refused.
#[derive(Debug)]
pub struct TransmitValidator<const N: usize> {
    /// Where the next entry is read.
    next: Position,
    /// The oldest entry that the device may have.
    oldest: Position,
    begun: Begun,
    /// What the device's context 0 will be when it comes to the next packet.
    context: Option<Context>,
    limits: Limits,
}

impl<const N: usize> TransmitValidator<N> {
    /// The most descriptors that the device may have: a tail that equals the head says that there are none (§7.2.3.3).
    #[expect(clippy::cast_possible_truncation, reason = "rings are that short")]
    const MOST: u32 = N as u32 - 1;
    #[expect(clippy::cast_possible_truncation, reason = "39")]
    const LONGEST: u32 = MAX_DESCRIPTORS as u32;

    /// A validator for packets within `limits`.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            next: Position::START,
            oldest: Position::START,
            begun: Begun {
                descriptors: 0,
                bytes: 0,
                common: None,
            },
            context: None,
            limits,
        }
    }

    /// Where the next entry is read.
    #[inline]
    #[must_use]
    pub const fn next(&self) -> Position {
        self.next
    }

    /// The oldest entry that the device may have.
    #[inline]
    #[must_use]
    pub const fn oldest(&self) -> Position {
        self.oldest
    }

    /// Entries that can be accepted before one is met that the device may still have.
    #[inline]
    #[must_use]
    pub const fn free(&self) -> u32 {
        Self::MOST - self.next.since(self.oldest)
    }

    /// Takes note that the device is done with the entries before `until`; `false` where it did not have as many.
    #[inline]
    pub fn take_back(&mut self, until: Position) -> bool {
        let is_outstanding = until.since(self.oldest) <= self.next.since(self.oldest);
        if is_outstanding {
            self.oldest = until;
        }
        is_outstanding
    }

    /// Checks the entries in `run`, `L` at a time with where they go, and hands them to `write`, up to the first `L` that
    /// are not all a whole packet that asks for nothing else and lies well inside `window`. There must be free slots for
    /// all. Returns their number.
    #[inline]
    pub(crate) fn check_run<const L: usize, W>(
        &mut self,
        run: impl Iterator<Item = ([RawDescriptor; L], W)>,
        window: &RegionWindow,
        write: impl Fn(W, [Validated<Self>; L]),
    ) -> u32 {
        let max_frame = self.limits.max_frame;
        let window = window.narrowed(max_frame.into());
        let span = u64::from(max_frame - MIN_LEN);
        let mut at = self.next;
        for (raw, to) in run {
            let Some(line) = whole_packets(raw, span, &window) else {
                break;
            };
            write(to, line.map(|entry| Validated::new(entry, Seal(()))));
            #[expect(clippy::cast_possible_truncation, reason = "a line")]
            let count = L as u32;
            at = at.advanced(count);
        }
        let count = at.since(self.next);
        self.next = at;
        count
    }

    /// The headers by which the device writes into a packet with this command, which was accepted; `None` where it does not.
    pub(crate) fn written(&self, command: Command) -> Option<Layers> {
        let offloads = command.offloads();
        let asks = |offload| offloads.contains(offload);
        if !asks(Offloads::IP_CHECKSUM) && !asks(Offloads::L4_CHECKSUM) && !asks(Offloads::SEGMENT)
        {
            return None;
        }
        let headers = self.context?.headers();
        let transport = match headers.l4 {
            L4::Tcp => Protocol::Tcp,
            L4::Udp => Protocol::Udp,
        };
        Some(Layers {
            link_len: headers.mac_len.into(),
            ip: match headers.ip {
                Ip::V4 => IpVersion::V4,
                Ip::V6 => IpVersion::V6,
            },
            ip_len: headers.ip_len.into(),
            transport: asks(Offloads::L4_CHECKSUM).then_some(transport),
        })
    }

    /// Checks the next entry.
    #[cold]
    pub(crate) fn check(
        &mut self,
        raw: RawDescriptor,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        let index = u32::try_from(slot(self.next, N)).unwrap_or(u32::MAX);
        if self.free() == 0 {
            return Err(Violation::Busy { id: index });
        }
        if self.begun.descriptors == Self::LONGEST {
            return Err(Violation::Chain { head: index });
        }
        let entry = if Context::is_meant(raw) {
            self.check_context(raw)?
        } else {
            self.check_data(raw, regions)?
        };
        self.next = self.next.after();
        self.begun.descriptors += 1;
        if entry.is_last() {
            self.begun = Begun::default();
        }
        Ok(Validated::new(entry, Seal(())))
    }

    /// A context stands before its packet, alone.
    fn check_context(&mut self, raw: RawDescriptor) -> Result<Entry, Violation> {
        let forbidden = Violation::Forbidden { field: raw.0[1] };
        let context = Context::parse(raw).ok_or(forbidden)?;
        if self.begun.descriptors != 0 {
            return Err(forbidden);
        }
        self.context = Some(context);
        Ok(Entry::Context(context))
    }

    fn check_data(
        &mut self,
        RawDescriptor([address, bits]): RawDescriptor,
        regions: &RegionTable<'_>,
    ) -> Result<Entry, Violation> {
        let command = Command::from_bits(bits);
        let common = command.common();
        if !command.is_allowed() || self.begun.common.is_some_and(|first| first != common) {
            return Err(Violation::Forbidden { field: bits });
        }
        if self.begun.common.is_none() {
            self.check_offloads(command)?;
        }
        let bytes = self.begun.bytes + command.len();
        if command.is_empty() || command.len() > Command::MAX_LEN || bytes > MAX_SEGMENTED {
            return Err(Violation::Length {
                len: command.len().into(),
            });
        }
        if command.is_last() {
            self.check_packet(command, bytes)?;
        }
        let len = command.len().into();
        let address = regions.translate(Iova::new(address), len, Direction::ToDevice)?;
        self.begun.bytes = bytes;
        self.begun.common = Some(common);
        let command = command.without_report();
        Ok(Entry::Data { address, command })
    }

    /// Whether offloads fit each other and their context.
    fn check_offloads(&self, command: Command) -> Result<(), Violation> {
        let offloads = command.offloads();
        if offloads.is_none() {
            return Ok(());
        }
        let forbidden = Err(Violation::Forbidden {
            field: command.bits(),
        });
        let Some(context) = self.context else {
            return forbidden;
        };
        let headers = context.headers();
        let asks = |offload| offloads.contains(offload);
        let tag = context.vlan() & 0xFFF;
        let is_right = asks(Offloads::CONTEXT)
            && header_bytes(offloads, headers).is_some()
            && (!asks(Offloads::IP_CHECKSUM) || headers.ip == Ip::V4)
            && (!asks(Offloads::VLAN) || self.limits.vlan == Some(tag))
            && (!asks(Offloads::SEGMENT) || self.may_segment(offloads, context));
        if is_right { Ok(()) } else { forbidden }
    }

    /// §7.2.4: segments are TCP's, with their checksums inserted, and fit a frame.
    fn may_segment(&self, offloads: Offloads, context: Context) -> bool {
        let headers = context.headers();
        let frame = headers.len() + u32::from(context.segment_len());
        headers.l4 == L4::Tcp
            && offloads.contains(Offloads::L4_CHECKSUM)
            && offloads.contains(Offloads::IP_CHECKSUM) == (headers.ip == Ip::V4)
            && context.segment_len() >= MIN_SEGMENT
            && frame <= self.limits.max_frame
    }

    /// Whether a packet of `bytes` has the length that it says, and one that it may have.
    fn check_packet(&self, command: Command, bytes: u32) -> Result<(), Violation> {
        let offloads = command.offloads();
        let headers = self.context.map(Context::headers);
        let headers = headers.and_then(|headers| header_bytes(offloads, headers));
        // Where offloads are asked for there is a context, and it is right: `check_offloads`.
        let headers = headers.unwrap_or(0);
        let is_segmented = offloads.contains(Offloads::SEGMENT);
        let (payload, max) = if is_segmented {
            (bytes.saturating_sub(headers), MAX_SEGMENTED)
        } else {
            (bytes, self.limits.max_frame)
        };
        let is_right = payload == command.payload()
            && (MIN_LEN..=max).contains(&bytes)
            && bytes >= headers + u32::from(is_segmented);
        if is_right {
            Ok(())
        } else {
            Err(Violation::Length { len: bytes.into() })
        }
    }
}

/// The entries that are written for `L` whole packets with up to `span` bytes more than the least; `None` where one is
/// something else, or does not begin in `window`.
#[inline]
fn whole_packets<const L: usize>(
    raw: [RawDescriptor; L],
    span: u64,
    window: &RegionWindow,
) -> Option<[Entry; L]> {
    let mut entries = [Entry::NOTHING; L];
    for (entry, RawDescriptor([address, command])) in entries.iter_mut().zip(raw) {
        let (len, command) = Command::from_bits(command).as_whole();
        // A length below the shortest wraps to a huge one, and what is no whole frame has a huge one.
        if len.wrapping_sub(MIN_LEN.into()) > span {
            return None;
        }
        let address = window.translate(Iova::new(address), 1)?;
        *entry = Entry::Data { address, command };
    }
    Some(entries)
}

/// Bytes of the headers that the device looks at for `offloads`; `None` where they have lengths that such headers cannot
/// have, or that the device cannot do with.
fn header_bytes(offloads: Offloads, headers: Headers) -> Option<u32> {
    let asks = |offload| offloads.contains(offload);
    let transport = match headers.l4 {
        _ if asks(Offloads::SEGMENT) => {
            Some(headers.l4_len).filter(|len| (20..=60).contains(len))?
        }
        L4::Udp if asks(Offloads::L4_CHECKSUM) => 8,
        L4::Tcp if asks(Offloads::L4_CHECKSUM) => 20,
        L4::Udp | L4::Tcp if asks(Offloads::IP_CHECKSUM) => 0,
        // A tag alone goes by no length.
        L4::Udp | L4::Tcp => return Some(0),
    };
    let ip = match headers.ip {
        Ip::V4 => 20..=60,
        Ip::V6 => 40..=511,
    };
    let is_right = headers.mac_len >= 14 && ip.contains(&headers.ip_len);
    let len = u32::from(headers.mac_len) + u32::from(headers.ip_len) + u32::from(transport);
    let tag = if asks(Offloads::VLAN) { 4 } else { 0 };
    let max = if asks(Offloads::SEGMENT) {
        MAX_SEGMENTED_HEADERS
    } else {
        MAX_HEADERS
    };
    (is_right && len + tag <= max).then_some(len)
}

impl<const N: usize> DescriptorValidator for TransmitValidator<N> {
    /// The next entry of the ring, copied. Only what belongs to a whole packet may be posted: see [`Entry::is_last`].
    type Submission = RawDescriptor;
    type Accepted = Entry;
    type Seal = Seal;

    fn validate(
        &mut self,
        raw: RawDescriptor,
        regions: &RegionTable<'_>,
    ) -> Result<Validated<Self>, Violation> {
        self.check(raw, regions)
    }
}
