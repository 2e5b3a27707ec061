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
        match self.whole_frame_over::<1>(posted) {
            Some(over) => Some(over + 1),
            None => None,
        }
    }

    /// How many bytes it has more than `LEAST`, where the buffer is a whole good frame of `LEAST` to `most` bytes.
    #[inline]
    pub(crate) const fn whole_frame_over<const LEAST: u32>(self, most: u32) -> Option<u32> {
        const LOOKED_AT: u64 =
            Completion::DD | Completion::EOP | Completion::RXE | 0xFFFF << Completion::LENGTH;
        let least = Self::DD | Self::EOP | (LEAST as u64) << Self::LENGTH;
        // One compare for all: of a good frame the lower half becomes 0 and the upper one what it has more than `LEAST`; with
        // the halves exchanged anything else in the lower half, and what is shorter, is a huge number.
        let over = (self.0 & LOOKED_AT)
            .wrapping_sub(least)
            .rotate_right(Self::LENGTH);
        if over < (most + 1 - LEAST) as u64 {
            #[expect(clippy::cast_possible_truncation, reason = "below `most`")]
            Some(over as u32)
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
