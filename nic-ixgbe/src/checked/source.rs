use parakernel_core::{
    address::BusAddress,
    steering::{NameGrant, SOURCE_HEADERS, Way},
    validate::SpoofedField,
};

/// What a process may send, beside what its regions hold.
pub trait SourceCheck {
    /// Whether frames are looked at at all; where not, the other functions are never called.
    const LOOKS: bool;

    /// Copies bytes of a process's memory, which the kernel reaches by their bus address; `false` where it does not.
    fn read(&self, from: BusAddress, into: &mut [u8]) -> bool;

    /// Checks the first bytes of a frame, [`SOURCE_HEADERS`] of them or all.
    ///
    /// # Errors
    ///
    /// The part of the frame that is not the process's own.
    fn check(&self, head: &[u8]) -> Result<(), SpoofedField>;
}

/// Anything may be sent: policy `integrity`.
#[derive(Clone, Copy, Debug)]
pub struct AnySource;

impl SourceCheck for AnySource {
    const LOOKS: bool = false;

    fn read(&self, _from: BusAddress, _into: &mut [u8]) -> bool {
        false
    }

    fn check(&self, _head: &[u8]) -> Result<(), SpoofedField> {
        Ok(())
    }
}

/// The kernel's view of the memory that processes registered.
pub trait FrameMemory {
    /// Copies the bytes at `from`; `false` where the kernel has no view of them. The process may change them meanwhile.
    fn read(&self, from: BusAddress, into: &mut [u8]) -> bool;
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
    fn read(&self, from: BusAddress, into: &mut [u8]) -> bool {
        self.memory.read(from, into)
    }

    fn check(&self, head: &[u8]) -> Result<(), SpoofedField> {
        NameGrant::check_any(self.grants, head, Way::Hardware)
    }
}

/// The first bytes of a frame, gathered from its parts.
#[derive(Debug)]
pub(super) struct Head {
    bytes: [u8; SOURCE_HEADERS],
    len: usize,
}

impl Head {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; SOURCE_HEADERS],
            len: 0,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Copies the first bytes of `len` at `from`, as many as are still missing; their number, or `None` where they
    /// cannot be read.
    pub(super) fn gather(
        &mut self,
        source: &impl SourceCheck,
        from: BusAddress,
        len: u32,
    ) -> Option<u32> {
        let missing = self.bytes.get_mut(self.len..)?;
        let count = missing.len().min(len as usize);
        let into = missing.get_mut(..count)?;
        if count > 0 && !source.read(from, into) {
            return None;
        }
        self.len += count;
        u32::try_from(count).ok()
    }
}
