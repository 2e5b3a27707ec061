//! What is said about a frame beyond its bytes, in a header before them that no wire sees.
//!
//! An arena whose layout has a header of [`HEADER_LEN`] bytes carries it: a receive queue writes there what the device
//! found, a transmit queue reads there what the device is to do. Without it, frames are only moved, which is faster.

use parakernel_core::memory::ArenaLayout;

use crate::descriptor::{Classification, Completion, Context, Headers, Offloads, RawDescriptor};

/// Bytes of the header.
pub const HEADER_LEN: usize = 16;

/// Whether frames have a header with what is said about them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Metadata {
    /// No: frames are only moved.
    None,
    /// In the arena's header, of [`HEADER_LEN`] bytes.
    Header,
}

impl Metadata {
    /// A layout for `count` buffers of 2 KiB for frames, with room for the header or without it.
    #[must_use]
    pub const fn layout(self, count: u16) -> ArenaLayout {
        #[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
        let header = match self {
            Self::None => 0,
            Self::Header => HEADER_LEN as u32,
        };
        ArenaLayout {
            // An odd number of cache lines.
            stride: 2112,
            headroom: 64,
            header,
            count,
        }
    }
}

/// What the device found in a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Packet type and hash.
    pub classification: Classification,
    /// Checksums and VLAN tag, of the frame's last descriptor.
    pub completion: Completion,
}

impl Received {
    /// The header that says so.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        join([self.classification.bits(), self.completion.bits()])
    }

    /// What a header says.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        let [classification, completion] = split(bytes);
        Self {
            classification: Classification::from_bits(classification),
            completion: Completion::from_bits(completion),
        }
    }
}

/// What the device is to do to a frame that is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What.
    pub offloads: Offloads,
    /// By which lengths and which tag.
    pub context: Context,
}

impl Request {
    const IP_CHECKSUM: u64 = 1 << 32;
    const L4_CHECKSUM: u64 = 1 << 33;
    const SEGMENT: u64 = 1 << 34;
    const VLAN: u64 = 1 << 35;
    const NAMES: [(u64, Offloads); 4] = [
        (Self::IP_CHECKSUM, Offloads::IP_CHECKSUM),
        (Self::L4_CHECKSUM, Offloads::L4_CHECKSUM),
        (Self::SEGMENT, Offloads::SEGMENT),
        (Self::VLAN, Offloads::VLAN),
    ];

    /// Checksums of the headers given.
    #[must_use]
    pub const fn checksums(headers: Headers) -> Self {
        let ip = match headers.ip {
            crate::descriptor::Ip::V4 => Offloads::IP_CHECKSUM,
            crate::descriptor::Ip::V6 => Offloads::NONE,
        };
        Self {
            offloads: ip.and(Offloads::L4_CHECKSUM),
            context: Context::new(headers, 0, 0),
        }
    }

    /// The same, and the payload cut into segments of `segment_len` bytes.
    #[must_use]
    pub const fn segments(headers: Headers, segment_len: u16) -> Self {
        let Self { offloads, .. } = Self::checksums(headers);
        Self {
            offloads: offloads.and(Offloads::SEGMENT),
            context: Context::new(headers, 0, segment_len),
        }
    }

    /// The same, with a VLAN tag inserted.
    #[must_use]
    pub const fn with_vlan(self, tag: u16) -> Self {
        Self {
            offloads: self.offloads.and(Offloads::VLAN),
            context: Context::new(self.context.headers(), tag, self.context.segment_len()),
        }
    }

    /// The header that asks for it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [first, second] = self.context.words();
        let names = Self::NAMES
            .iter()
            .filter(|(_, offload)| self.offloads.contains(*offload));
        join([names.fold(first, |word, (bit, _)| word | bit), second])
    }

    /// What a header asks for; `None` for nothing, as zeroes do, and for what is no context.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let [first, second] = split(bytes);
        let names = Self::NAMES.iter().filter(|(bit, _)| first & bit != 0);
        let offloads = names.fold(Offloads::NONE, |all, (_, offload)| all.and(*offload));
        let context = Context::parse(RawDescriptor([first & 0xFFFF_FFFF, second]))?;
        (!offloads.is_none()).then_some(Self { offloads, context })
    }
}

fn join([first, second]: [u64; 2]) -> [u8; HEADER_LEN] {
    (u128::from(second) << 64 | u128::from(first)).to_le_bytes()
}

#[expect(clippy::cast_possible_truncation, reason = "takes the halves apart")]
fn split(bytes: &[u8; HEADER_LEN]) -> [u64; 2] {
    let both = u128::from_le_bytes(*bytes);
    [both as u64, (both >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{Ip, L4};

    #[test]
    fn a_request_comes_back_from_its_header() {
        let headers = Headers {
            mac_len: 14,
            ip: Ip::V4,
            ip_len: 20,
            l4: L4::Tcp,
            l4_len: 20,
        };
        for request in [
            Request::checksums(headers),
            Request::segments(headers, 1460),
            Request::segments(headers, 1460).with_vlan(5),
        ] {
            assert_eq!(Request::from_bytes(&request.to_bytes()), Some(request));
        }
        assert_eq!(Request::from_bytes(&[0; HEADER_LEN]), None);
    }
}
