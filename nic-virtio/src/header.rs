//! The header before each frame, §5.1.6.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U16};

/// `virtio_net_hdr` of a device with `VERSION_1` and without hash reports.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// [`NEEDS_CHECKSUM`](Self::NEEDS_CHECKSUM) and [`DATA_VALID`](Self::DATA_VALID).
    pub flags: u8,
    /// How the device is to cut the frame into segments: 0, as that is never agreed on here.
    pub gso_type: u8,
    /// Length of the frame's headers, a hint for segmentation.
    pub header_len: U16,
    /// Payload bytes of a segment.
    pub gso_size: U16,
    /// Where the checksummed bytes begin, counted from the frame's first byte.
    pub checksum_start: U16,
    /// Where the checksum goes, counted from `checksum_start`.
    pub checksum_offset: U16,
    /// Received: number of buffers that the frame spans. Sent: 0.
    pub buffers: U16,
}

const _: () = assert!(size_of::<Header>() == Header::LEN);

impl Header {
    /// Length in bytes.
    pub const LEN: usize = 12;
    /// Where `buffers` lies.
    pub const BUFFERS: usize = 10;
    /// In `flags`: the checksum still has to be computed, over the bytes from `checksum_start` on; with `CSUM` sent,
    /// with `GUEST_CSUM` received.
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// In `flags`: the device found the checksum right; received with `GUEST_CSUM`.
    pub const DATA_VALID: u8 = 2;

    /// What a received header says about the frame's checksum; `None` where the header is cut short.
    ///
    /// `bytes` is what [`Arena::header`](parakernel_core::memory::Arena::header) returns for the frame's first segment.
    #[must_use]
    pub fn checksum(bytes: &[u8]) -> Option<Checksum> {
        let (header, _) = Self::read_from_prefix(bytes).ok()?;
        Some(if header.flags & Self::NEEDS_CHECKSUM != 0 {
            Checksum::Partial {
                start: header.checksum_start.get(),
                offset: header.checksum_offset.get(),
            }
        } else if header.flags & Self::DATA_VALID != 0 {
            Checksum::Valid
        } else {
            Checksum::Unknown
        })
    }

    /// The header of a frame to send whose checksum is left to the device.
    #[must_use]
    pub fn with_partial_checksum(start: u16, offset: u16) -> Self {
        Self {
            flags: Self::NEEDS_CHECKSUM,
            checksum_start: start.into(),
            checksum_offset: offset.into(),
            ..Self::default()
        }
    }

    /// Whether the header is one that a device may be given for a frame of `len` bytes: nothing but a checksum is asked
    /// for, and that lies inside the frame (§5.1.6.2).
    #[must_use]
    pub fn is_sendable(&self, len: usize) -> bool {
        let start = usize::from(self.checksum_start.get());
        let end = start + usize::from(self.checksum_offset.get()) + 2;
        let plain = Self {
            flags: self.flags & Self::NEEDS_CHECKSUM,
            checksum_start: self.checksum_start,
            checksum_offset: self.checksum_offset,
            ..Self::default()
        };
        if self.flags == 0 {
            *self == Self::default()
        } else {
            *self == plain && end <= len
        }
    }
}

/// What is known about the checksum of a received frame's TCP or UDP part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Checksum {
    /// Nothing: it is there, and unchecked.
    Unknown,
    /// It is right.
    Valid,
    /// It is that of the pseudo-header only: the frame never was on a wire. To be completed over the bytes from
    /// `start` on, and stored `offset` bytes behind that; the numbers are the device's, unchecked.
    Partial {
        /// Where the bytes begin, counted from the frame's first.
        start: u16,
        /// Where the sum goes, counted from `start`.
        offset: u16,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_is_known_of_the_checksum() {
        assert_eq!(Header::checksum(&[0; 12]), Some(Checksum::Unknown));
        assert_eq!(Header::checksum(&[0; 11]), None);
        let header = Header::with_partial_checksum(34, 6);
        let partial = Checksum::Partial {
            start: 34,
            offset: 6,
        };
        assert_eq!(Header::checksum(header.as_bytes()), Some(partial));
        let valid = Header {
            flags: Header::DATA_VALID,
            ..Header::default()
        };
        assert_eq!(Header::checksum(valid.as_bytes()), Some(Checksum::Valid));
    }

    #[test]
    fn only_a_checksum_inside_the_frame_may_be_asked_for() {
        assert!(Header::default().is_sendable(60));
        let partial = Header::with_partial_checksum(34, 6);
        assert!(partial.is_sendable(42));
        assert!(!partial.is_sendable(41));
        for (byte, value) in [(0, 3), (0, 2), (1, 1), (2, 1), (4, 1), (10, 1)] {
            let mut bytes = [0; 12];
            bytes.copy_from_slice(partial.as_bytes());
            bytes[byte] = value;
            let header = Header::read_from_bytes(&bytes).unwrap();
            assert!(!header.is_sendable(1000), "byte {byte} = {value}");
        }
    }
}
