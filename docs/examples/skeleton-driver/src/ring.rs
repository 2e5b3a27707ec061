//! An entry of the ring: atomics and a few verbs. Byte order and bit numbers stay in here.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parakernel_core::memory::Shared;

/// An entry of the ring, §2.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct Descriptor {
    /// Where the frame is.
    address: AtomicU64,
    /// Its length, and whether the device is done with it.
    state: AtomicU64,
}

const _: () = assert!(size_of::<Descriptor>() == 16);

#[expect(unsafe_code, reason = "lets shared memory be viewed as entries")]
// SAFETY: two atomics without padding.
unsafe impl Shared for Descriptor {}

/// A copy of an entry, as it was at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copied {
    /// Where the frame is; a bus address or an I/O address, depending on whose ring it is.
    pub address: u64,
    /// Length and flags.
    pub state: u64,
}

impl Copied {
    /// The bits of the length.
    pub const LENGTH: u64 = 0xffff;
    /// Set by the device.
    pub const DONE: u64 = 1 << 63;
}

impl Descriptor {
    /// Writes an entry for a frame of `len` bytes, not done.
    #[inline]
    pub fn arm(&self, address: u64, len: u16) {
        self.address.store(address.to_le(), Relaxed);
        self.state.store(u64::from(len).to_le(), Relaxed);
    }

    /// The frame's length, once the device is done with it.
    #[inline]
    #[must_use]
    pub fn completed(&self) -> Option<u16> {
        let state = u64::from_le(self.state.load(Relaxed));
        let len = (state & Copied::LENGTH) as u16;
        (state & Copied::DONE != 0).then_some(len)
    }

    /// Loads each word once.
    #[inline]
    #[must_use]
    pub fn copy(&self) -> Copied {
        Copied {
            address: u64::from_le(self.address.load(Relaxed)),
            state: u64::from_le(self.state.load(Relaxed)),
        }
    }
}
