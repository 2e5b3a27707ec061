//! Descriptors as memory shared with the device: atomics with a few verbs, and what the device wrote into them.
//!
//! Advanced formats only (§7.1.6, §7.2.3.2.3, §7.2.3.2.4). Byte order, bit numbers and memory order stay in here.
#![expect(
    unsafe_code,
    reason = "descriptors are memory that a device writes too"
)]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parakernel_core::memory::Shared;

/// A receive descriptor, §7.1.6.
#[derive(Debug, Default)]
#[repr(C, align(16))]
pub struct RxDescriptor {
    /// Armed: packet buffer address. Completed: packet type and hash.
    address: AtomicU64,
    /// Armed: header buffer address, always 0. Completed: status, errors, length and VLAN tag.
    status: AtomicU64,
}

const _: () = assert!(size_of::<RxDescriptor>() == 16);

// SAFETY: two atomics without padding, valid for every bit pattern.
unsafe impl Shared for RxDescriptor {}

impl RxDescriptor {
    /// Writes the address of an empty buffer, and no header buffer: its address would overlap the done bit (§7.1.6.1).
    #[inline]
    pub fn arm(&self, address: u64) {
        self.address.store(address.to_le(), Relaxed);
        self.status.store(0, Relaxed);
    }

    /// The address that was armed, as long as the device has not written here.
    #[inline]
    #[must_use]
    pub fn address(&self) -> u64 {
        u64::from_le(self.address.load(Relaxed))
    }

    /// What the device says of the buffer, in one load.
    #[inline]
    #[must_use]
    pub fn completion(&self) -> Completion {
        Completion(u64::from_le(self.status.load(Relaxed)))
    }

    /// Packet type and hash; of meaning once the descriptor is done.
    #[inline]
    #[must_use]
    pub fn classification(&self) -> Classification {
        Classification(u64::from_le(self.address.load(Relaxed)))
    }
}

/// What the device wrote about a buffer: the second word of the write-back format, §7.1.6.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion(u64);

impl Completion {
    const DD: u64 = 1 << 0;
    const EOP: u64 = 1 << 1;
    const VP: u64 = 1 << 3;
    const L4I: u64 = 1 << 5;
    const IPCS: u64 = 1 << 6;
    const RXE: u64 = 1 << 29;
    const L4E: u64 = 1 << 30;
    const IPE: u64 = 1 << 31;
    const LENGTH: u32 = 32;

    /// The completion with these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Descriptor Done: the device has let go of the buffer.
    #[inline]
    #[must_use]
    pub const fn is_done(self) -> bool {
        self.0 & Self::DD != 0
    }

    /// End Of Packet: the frame ends in this buffer.
    #[inline]
    #[must_use]
    pub const fn is_last(self) -> bool {
        self.0 & Self::EOP != 0
    }

    /// The MAC found the frame damaged. Such frames come only where bad packets are stored.
    #[inline]
    #[must_use]
    pub const fn is_damaged(self) -> bool {
        self.0 & Self::RXE != 0
    }

    /// Bytes in the buffer.
    #[inline]
    #[must_use]
    pub const fn len(self) -> u32 {
        (self.0 >> Self::LENGTH) as u32 & 0xFFFF
    }

    /// Whether the buffer has no byte.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The length, where the buffer is a whole good frame of 1 to `posted` bytes.
    #[inline]
    #[must_use]
    pub const fn whole_frame(self, posted: u32) -> Option<u32> {
        let len = self.len();
        // Differences are gathered, so that there is one branch; an empty frame's length wraps.
        let state = self.0 & (Self::DD | Self::EOP | Self::RXE) ^ (Self::DD | Self::EOP);
        if state == 0 && len.wrapping_sub(1) < posted {
            Some(len)
        } else {
            None
        }
    }

    /// The VLAN tag that was stripped.
    #[must_use]
    pub const fn vlan(self) -> Option<u16> {
        if self.0 & Self::VP != 0 {
            Some((self.0 >> 48) as u16)
        } else {
            None
        }
    }

    /// Whether the IPv4 header's checksum is right; `None` where the device did not look.
    #[must_use]
    pub const fn ip_checksum(self) -> Option<bool> {
        if self.0 & Self::IPCS != 0 {
            Some(self.0 & Self::IPE == 0)
        } else {
            None
        }
    }

    /// Whether the TCP or UDP checksum is right; `None` where the device did not look.
    ///
    /// Erratum (specification update): a UDP packet without a checksum may be called wrong.
    #[must_use]
    pub const fn l4_checksum(self) -> Option<bool> {
        if self.0 & Self::L4I != 0 {
            Some(self.0 & Self::L4E == 0)
        } else {
            None
        }
    }
}

/// What the device found in the frame: the first word of the write-back format, §7.1.6.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Classification(u64);

impl Classification {
    /// The classification with these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The RSS hash; `None` where the frame was not hashed.
    #[must_use]
    pub const fn rss_hash(self) -> Option<u32> {
        if self.0 & 0xF == 0 {
            None
        } else {
            Some((self.0 >> 32) as u32)
        }
    }
}

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

    /// The length of the frame whose descriptor this is, if it is one that [`whole`](Self::whole) makes, whether it asks
    /// for a report or not; else a number beyond all lengths.
    #[inline]
    #[must_use]
    pub const fn whole_len(self) -> u64 {
        let len = self.0 & Self::DTALEN;
        // All flags are an allow-list at once: whatever differs makes the number huge.
        let differs = (len * Self::UNIT + (Self::FIXED | Self::EOP)) ^ (self.0 & !Self::RS);
        len | differs
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The words of §7.2.3.2.4 and §7.2.3.2.3 and of §7.1.6, written out as literals.
    #[test]
    fn words_have_the_datasheets_bits() {
        assert_eq!(Command::whole(64).bits(), 0x0010_0000_2330_0040);
        assert_eq!(
            Command::whole(64).with_report().bits(),
            0x0010_0000_2B30_0040
        );
        let part = Command::part(100, 300, Place::Further);
        assert_eq!(part.bits(), 300 << 46 | 0x2230_0064);
        let offloads = Offloads::IP_CHECKSUM
            .and(Offloads::L4_CHECKSUM)
            .and(Offloads::SEGMENT);
        assert_eq!(offloads.0, 0x0000_0380_8000_0000);
        assert_eq!(Offloads::VLAN.0, 0x0000_0080_4000_0000);
        let headers = Headers {
            mac_len: 14,
            ip: Ip::V4,
            ip_len: 20,
            l4: L4::Tcp,
            l4_len: 32,
        };
        let context = Context::new(headers, 0x1234, 1460);
        assert_eq!(context.words(), [0x1234_1C14, 0x05B4_2000_2020_0C00]);
        let done = Completion::from_bits(0x1234_05EA_0000_006B);
        assert!(done.is_done() && done.is_last() && !done.is_damaged());
        assert_eq!((done.len(), done.vlan()), (1514, Some(0x1234)));
        assert_eq!(
            (done.ip_checksum(), done.l4_checksum()),
            (Some(true), Some(true))
        );
        assert_eq!(
            Completion::from_bits(0x8000_0040).ip_checksum(),
            Some(false)
        );
        assert_eq!(
            Completion::from_bits(0x4000_0020).l4_checksum(),
            Some(false)
        );
        assert_eq!(
            Classification::from_bits(0xABCD_1234_0000_0001).rss_hash(),
            Some(0xABCD_1234)
        );
    }

    proptest! {
        /// A whole frame is done, ends, is not damaged, and has 1 to `posted` bytes.
        #[test]
        fn a_whole_frame_agrees_with_its_bits(low in 0_u64..4, error in 0_u64..2, len in 0_u64..4096, posted in 1_u32..4096) {
            let completion = Completion::from_bits(low | error << 29 | len << 32);
            let expected = (low == 3 && error == 0 && len > 0 && len <= u64::from(posted)).then_some(len);
            prop_assert_eq!(completion.whole_frame(posted).map(u64::from), expected);
        }

        /// Exactly the words of whole frames have a length, and no other word has one below 2¹⁶.
        #[test]
        fn only_whole_frames_have_a_length(len in 0_u32..0x1_0000, flip in 0_u32..64) {
            let word = Command::whole(len).bits();
            prop_assert_eq!(Command::from_bits(word).whole_len(), u64::from(len));
            let other = Command::from_bits(word ^ 1 << flip);
            if flip == 27 {
                prop_assert_eq!(other.whole_len(), u64::from(len));
            } else {
                prop_assert!(other.whole_len() > 0xFFFF);
            }
        }

        /// What is made is allowed, and comes back the same.
        #[test]
        fn a_context_comes_back(mac_len in 0_u8..128, v4: bool, ip_len in 0_u16..512, tcp: bool, l4_len: u8, vlan: u16, segment_len: u16) {
            let headers = Headers {
                mac_len,
                ip: if v4 { Ip::V4 } else { Ip::V6 },
                ip_len,
                l4: if tcp { L4::Tcp } else { L4::Udp },
                l4_len,
            };
            let context = Context::new(headers, vlan, segment_len);
            let parsed = Context::parse(RawDescriptor(context.words())).unwrap();
            prop_assert_eq!((parsed.headers(), parsed.vlan(), parsed.segment_len()), (headers, vlan, segment_len));
        }

        /// Each bit beyond those that a process may choose makes a descriptor one that is refused.
        #[test]
        fn every_other_bit_is_refused(bit in 0_u32..64, word in 0_usize..2) {
            let headers = Headers { mac_len: 14, ip: Ip::V4, ip_len: 20, l4: L4::Tcp, l4_len: 20 };
            let mut words = Context::new(headers, 0, 1000).words();
            words[word] ^= 1 << bit;
            let free = match word {
                0 => bit < 32,
                _ => bit == 10 || bit == 11 || bit >= 40,
            };
            prop_assert_eq!(Context::parse(RawDescriptor(words)).is_some(), free);
            let command = Command::from_bits(Command::part(100, 200, Place::Last).bits() ^ 1 << bit);
            let free = matches!(bit, 0..16 | 24 | 27 | 30 | 31 | 39 | 40 | 41 | 46..64);
            prop_assert_eq!(command.is_allowed(), free);
        }
    }
}
