//! The first bytes of a frame that a process wants to send, copied to where it cannot change them, and checked.
#![expect(
    unsafe_code,
    reason = "has memory read by its bus address, which whoever calls has translated"
)]

use super::{Layers, NameGrant, SOURCE_HEADERS, Way};
use crate::{address::BusAddress, validate::SpoofedField};

/// What a process may send, beside what its regions hold.
pub trait SourceCheck {
    /// Whether frames are looked at at all; where not, the other functions are never called.
    const LOOKS: bool;

    /// Copies bytes of a process's memory, which the kernel reaches by their bus address; `false` where it does not.
    ///
    /// # Safety
    ///
    /// As for [`FrameMemory::read`].
    unsafe fn read(&self, from: BusAddress, into: &mut [u8]) -> bool;

    /// Checks the first bytes of a frame, [`SOURCE_HEADERS`] of them or all, and where the device writes into them, if it does.
    ///
    /// # Errors
    ///
    /// The part of the frame that is not the process's own.
    fn check(&self, head: &[u8], written: Option<Layers>) -> Result<(), SpoofedField>;
}

/// Anything may be sent: policy `integrity`.
#[derive(Clone, Copy, Debug)]
pub struct AnySource;

impl SourceCheck for AnySource {
    const LOOKS: bool = false;

    unsafe fn read(&self, _from: BusAddress, _into: &mut [u8]) -> bool {
        false
    }

    fn check(&self, _head: &[u8], _written: Option<Layers>) -> Result<(), SpoofedField> {
        Ok(())
    }
}

/// The kernel's view of the memory that processes registered.
pub trait FrameMemory {
    /// Copies the bytes at `from`; `false` where the kernel has no view of them. The process may change them meanwhile.
    ///
    /// # Safety
    ///
    /// As many bytes from `from` on as `into` has must lie in memory that a process has registered, and stay registered while this runs: the
    /// address is one that a [`RegionTable`](crate::memory::RegionTable), still borrowed, has translated for that many bytes.
    /// Everything else that has an address on the bus is somebody's own.
    unsafe fn read(&self, from: BusAddress, into: &mut [u8]) -> bool;
}

/// Frames leave with names of these grants only: policy `no-spoof`.
#[derive(Clone, Copy, Debug)]
pub struct GrantedSource<'g, M> {
    /// What the process was granted.
    pub grants: &'g [NameGrant],
    /// Where its frames are read.
    pub memory: M,
}

impl<M: FrameMemory> SourceCheck for GrantedSource<'_, M> {
    const LOOKS: bool = true;

    #[inline]
    unsafe fn read(&self, from: BusAddress, into: &mut [u8]) -> bool {
        // SAFETY: the contract is the same.
        unsafe { self.memory.read(from, into) }
    }

    fn check(&self, head: &[u8], written: Option<Layers>) -> Result<(), SpoofedField> {
        NameGrant::check_any(self.grants, head, Way::Hardware)?;
        written.map_or(Ok(()), |layers| layers.check(head))
    }
}

/// The first bytes of a frame, gathered from its parts: [`SOURCE_HEADERS`] of them at most.
#[derive(Debug)]
pub struct Head {
    bytes: [u8; SOURCE_HEADERS],
    len: usize,
}

impl Head {
    /// Nothing yet.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; SOURCE_HEADERS],
            len: 0,
        }
    }

    /// What was gathered so far.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Copies the first bytes of `len` at `from`, as many as are still missing; their number, or `None` where they
    /// cannot be read.
    ///
    /// # Safety
    ///
    /// The `len` bytes at `from` must be such as [`FrameMemory::read`] may read.
    pub unsafe fn gather(
        &mut self,
        source: &impl SourceCheck,
        from: BusAddress,
        len: u32,
    ) -> Option<u32> {
        let missing = self.bytes.get_mut(self.len..)?;
        let count = missing.len().min(len as usize);
        let into = missing.get_mut(..count)?;
        // SAFETY: the first of the bytes that the caller answers for.
        if count > 0 && !unsafe { source.read(from, into) } {
            return None;
        }
        self.len += count;
        u32::try_from(count).ok()
    }
}

impl Default for Head {
    fn default() -> Self {
        Self::new()
    }
}
