#![expect(
    unsafe_code,
    reason = "descriptors are memory that a device writes too"
)]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parakernel_core::memory::Shared;

/// A transmit descriptor, §7.2.3.2.3 and §7.2.3.2.4.
#[derive(Debug, Default)]
#[repr(C, align(16))]
pub struct TxDescriptor {
    words: [AtomicU64; 2],
}

const _: () = assert!(size_of::<TxDescriptor>() == 16);

// SAFETY: two atomics without padding, valid for every bit pattern.
unsafe impl Shared for TxDescriptor {}

impl TxDescriptor {
    /// Writes a data descriptor.
    #[inline]
    pub fn write(&self, address: u64, command: Command) {
        self.words[0].store(address.to_le(), Relaxed);
        self.words[1].store(command.0.to_le(), Relaxed);
    }

    /// Writes the command again.
    #[inline]
    pub fn write_command(&self, command: Command) {
        self.words[1].store(command.0.to_le(), Relaxed);
    }

    /// Writes a context descriptor.
    #[inline]
    pub fn write_context(&self, context: Context) {
        self.words[0].store(context.0[0].to_le(), Relaxed);
        self.words[1].store(context.0[1].to_le(), Relaxed);
    }

    /// Both words, each in one load: once read they cannot change any more.
    #[inline]
    #[must_use]
    pub fn copy(&self) -> RawDescriptor {
        let [first, second] = &self.words;
        RawDescriptor([
            u64::from_le(first.load(Relaxed)),
            u64::from_le(second.load(Relaxed)),
        ])
    }
}

/// A copy of a transmit descriptor, of which nothing is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawDescriptor(pub [u64; 2]);

/// The second word of a data descriptor, §7.2.3.2.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command(u64);

impl Command {
    /// The longest buffer of one descriptor, in bytes: 15.5 KiB (§7.2.3.2.2).
    pub const MAX_LEN: u32 = 15_872;

    const DTALEN: u64 = 0xFFFF;
    const DTYP_DATA: u64 = 3 << 20;
    const EOP: u64 = 1 << 24;
    const IFCS: u64 = 1 << 25;
    const RS: u64 = 1 << 27;
    const DEXT: u64 = 1 << 29;
    const VLE: u64 = 1 << 30;
    const TSE: u64 = 1 << 31;
    const CC: u64 = 1 << 39;
    const IXSM: u64 = 1 << 40;
    const TXSM: u64 = 1 << 41;
    const PAYLEN: u32 = 46;

    /// What every data descriptor says: advanced, and the device appends the CRC.
    const FIXED: u64 = Self::DTYP_DATA | Self::DEXT | Self::IFCS;
    /// What the length of a frame of one buffer adds: once as the buffer's, once as the packet's.
    const UNIT: u64 = 1 | 1 << Self::PAYLEN;

    /// The descriptor of a frame of `len` bytes in one buffer.
    #[inline]
    #[must_use]
    pub const fn whole(len: u32) -> Self {
        Self(len as u64 * Self::UNIT + (Self::FIXED | Self::EOP))
    }

    /// That of a frame of one buffer that is `more` bytes longer.
    #[inline]
    pub(crate) const fn lengthened(self, more: u32) -> Self {
        Self(self.0 + more as u64 * Self::UNIT)
    }

    /// The length of the frame whose descriptor this is, if it is one that [`whole`](Self::whole) makes, whether it asks
    /// for a report or not; else a number beyond all lengths. And what `whole` makes of the length that this one says.
    #[inline]
    #[must_use]
    pub const fn as_whole(self) -> (u64, Self) {
        let len = self.0 & Self::DTALEN;
        let whole = Self(len * Self::UNIT + (Self::FIXED | Self::EOP));
        // All flags are an allow-list at once: whatever differs makes the number huge.
        (len | whole.0 ^ (self.0 & !Self::RS), whole)
    }

    /// The descriptor of a part of `len` bytes of a packet of `payload` bytes.
    #[inline]
    #[must_use]
    pub const fn part(len: u32, payload: u32, place: Place) -> Self {
        let eop = match place {
            Place::Last => Self::EOP,
            Place::Further => 0,
        };
        Self(len as u64 | (payload as u64) << Self::PAYLEN | Self::FIXED | eop)
    }

    /// The same with a report of the head once the descriptor is done.
    #[inline]
    #[must_use]
    pub const fn with_report(self) -> Self {
        Self(self.0 | Self::RS)
    }

    /// The same without one.
    #[inline]
    #[must_use]
    pub const fn without_report(self) -> Self {
        Self(self.0 & !Self::RS)
    }

    /// The same with another length of the buffer.
    #[inline]
    #[must_use]
    pub const fn with_len(self, len: u32) -> Self {
        Self(self.0 & !Self::DTALEN | len as u64 & Self::DTALEN)
    }

    /// The same at another place of its packet.
    #[inline]
    #[must_use]
    pub const fn ending(self, place: Place) -> Self {
        match place {
            Place::Further => Self(self.0 & !Self::EOP),
            Place::Last => Self(self.0 | Self::EOP),
        }
    }

    /// What all descriptors of a packet say alike: everything but their lengths, the end and reports.
    #[inline]
    #[must_use]
    pub const fn common(self) -> u64 {
        self.0 & !(Self::DTALEN | Self::EOP | Self::RS)
    }

    /// The same with offloads.
    #[inline]
    #[must_use]
    pub const fn with_offloads(self, offloads: Offloads) -> Self {
        Self(self.0 | offloads.0)
    }

    /// The bits.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The command with these bits.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Bytes of the buffer.
    #[inline]
    #[must_use]
    pub const fn len(self) -> u32 {
        (self.0 & Self::DTALEN) as u32
    }

    /// Whether the buffer has no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Bytes of the packet, or of its payload with segmentation.
    #[must_use]
    pub const fn payload(self) -> u32 {
        (self.0 >> Self::PAYLEN) as u32
    }

    /// Whether the packet ends here.
    #[must_use]
    pub const fn is_last(self) -> bool {
        self.0 & Self::EOP != 0
    }

    /// The offloads that are asked for.
    #[must_use]
    pub const fn offloads(self) -> Offloads {
        Offloads(self.0 & Offloads::ALL.0)
    }

    /// Whether this is a data descriptor with nothing in it that no process may say: its bits are those of a length, a
    /// payload, an end, a report and offloads with context 0, and what every data descriptor says.
    #[must_use]
    pub const fn is_allowed(self) -> bool {
        let free = Self::DTALEN | Self::EOP | Self::RS | Offloads::ALL.0 | 0x3_FFFF << Self::PAYLEN;
        self.0 & !free == Self::FIXED
    }
}

/// Where in its packet a buffer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Others follow.
    Further,
    /// The packet ends here.
    Last,
}

/// What a data descriptor asks of the device beyond sending, each with the lengths in context 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offloads(u64);

impl Offloads {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Look at the context; with every other offload.
    pub const CONTEXT: Self = Self(Command::CC);
    /// Insert the IPv4 header's checksum.
    pub const IP_CHECKSUM: Self = Self(Command::IXSM | Command::CC);
    /// Insert the TCP or UDP checksum.
    pub const L4_CHECKSUM: Self = Self(Command::TXSM | Command::CC);
    /// Cut the payload into segments.
    pub const SEGMENT: Self = Self(Command::TSE | Command::CC);
    /// Insert the context's VLAN tag.
    pub const VLAN: Self = Self(Command::VLE | Command::CC);
    /// All of them.
    pub const ALL: Self =
        Self(Self::IP_CHECKSUM.0 | Self::L4_CHECKSUM.0 | Self::SEGMENT.0 | Self::VLAN.0);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is asked for.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a context is needed.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// A context descriptor, §7.2.3.2.3: the lengths and the tag that offloads of later packets go by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context([u64; 2]);

/// The transport protocol whose checksum is inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L4 {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// The version of IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ip {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

impl Context {
    const DTYP: u64 = 0xF << 20;
    const DTYP_CONTEXT: u64 = 2 << 20;
    const DEXT: u64 = 1 << 29;
    const IPV4: u64 = 1 << 10;
    const L4T: u64 = 3 << 11;
    const L4T_TCP: u64 = 1 << 11;

    /// The context of packets with these headers; all lengths in bytes, cut to their fields of 7, 9 and 8 bits.
    #[must_use]
    pub const fn new(headers: Headers, vlan: u16, segment_len: u16) -> Self {
        let ip = match headers.ip {
            Ip::V4 => Self::IPV4,
            Ip::V6 => 0,
        };
        let l4 = match headers.l4 {
            L4::Udp => 0,
            L4::Tcp => Self::L4T_TCP,
        };
        let first = headers.ip_len as u64 & 0x1FF
            | (headers.mac_len as u64 & 0x7F) << 9
            | (vlan as u64) << 16;
        let second = ip
            | l4
            | Self::DTYP_CONTEXT
            | Self::DEXT
            | (headers.l4_len as u64) << 40
            | (segment_len as u64) << 48;
        Self([first, second])
    }

    /// The context that these words are, where they are one with nothing in it that no process may say: context 0, nothing
    /// of security, storage or SCTP.
    #[must_use]
    pub const fn parse(raw: RawDescriptor) -> Option<Self> {
        let [first, second] = raw.0;
        let free = Self::IPV4 | Self::L4T_TCP | 0xFF << 40 | 0xFFFF << 48;
        if first >> 32 == 0 && second & !free == Self::DTYP_CONTEXT | Self::DEXT {
            Some(Self(raw.0))
        } else {
            None
        }
    }

    /// Whether these words say that they are a context descriptor, allowed or not.
    #[must_use]
    pub const fn is_meant(raw: RawDescriptor) -> bool {
        raw.0[1] & Self::DTYP == Self::DTYP_CONTEXT
    }

    /// Both words.
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        self.0
    }

    /// The headers.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields of fewer bits")]
    pub const fn headers(self) -> Headers {
        let [first, second] = self.0;
        Headers {
            mac_len: (first >> 9) as u8 & 0x7F,
            ip: if second & Self::IPV4 != 0 {
                Ip::V4
            } else {
                Ip::V6
            },
            ip_len: first as u16 & 0x1FF,
            l4: if second & Self::L4T == Self::L4T_TCP {
                L4::Tcp
            } else {
                L4::Udp
            },
            l4_len: (second >> 40) as u8,
        }
    }

    /// The VLAN tag.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a field of 16 bits")]
    pub const fn vlan(self) -> u16 {
        (self.0[0] >> 16) as u16
    }

    /// The most payload of one segment, in bytes.
    #[must_use]
    pub const fn segment_len(self) -> u16 {
        (self.0[1] >> 48) as u16
    }
}

/// The headers of a packet, as offloads need to know them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Bytes of the Ethernet header, tags in the frame included, at most 127.
    pub mac_len: u8,
    /// The version of IP.
    pub ip: Ip,
    /// Bytes of the IP header, extensions included, at most 511.
    pub ip_len: u16,
    /// The transport protocol.
    pub l4: L4,
    /// Bytes of the transport header; with segmentation only.
    pub l4_len: u8,
}

impl Headers {
    /// Bytes of all of them.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "headers are never empty")]
    pub const fn len(&self) -> u32 {
        self.mac_len as u32 + self.ip_len as u32 + self.l4_len as u32
    }
}
