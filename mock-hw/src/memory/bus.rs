//! A device's way to memory.

use core::{fmt, num::NonZeroUsize};

use parakernel_core::address::{BusAddress, Direction};

use super::{Dma, Fault, Memory, Outcome, PAGE, RequesterId, offset};
use crate::sync::lock;

/// Why a device's transfer did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DmaError {
    /// The IOMMU has no mapping, or none in this direction.
    Translation(Fault),
    /// No lease covers it, and escapes are blocked.
    Escape(BusAddress),
    /// No memory answers at this address.
    NoMemory(BusAddress),
    /// The device is gone, asleep, or may not master the bus.
    NotMaster(BusAddress),
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Translation(fault) => write!(f, "IOMMU fault at {:#x}", fault.address),
            Self::Escape(address) => write!(f, "no lease covers {address:#x}"),
            Self::NoMemory(address) => write!(f, "no memory at {address:#x}"),
            Self::NotMaster(address) => write!(f, "the device may not reach {address:#x}"),
        }
    }
}

impl core::error::Error for DmaError {}

/// A device's way to memory: translated, audited, and done by atomics.
///
/// A transfer is done page by page, in ascending order; where one page fails, those before it have been moved.
#[derive(Clone, Debug)]
pub struct Bus {
    memory: Memory,
    requester: RequesterId,
}

impl Bus {
    pub(super) const fn new(memory: Memory, requester: RequesterId) -> Self {
        Self { memory, requester }
    }

    /// The device's identity on the bus.
    #[must_use]
    pub const fn requester(&self) -> RequesterId {
        self.requester
    }

    /// Reads memory at `address`.
    ///
    /// # Errors
    ///
    /// [`DmaError`], with the first byte that could not be read; bytes from there on are all ones.
    pub fn read(&self, address: BusAddress, bytes: &mut [u8]) -> Result<(), DmaError> {
        if let Some(host) = &self.memory.0.host {
            let there = host.read(address, bytes);
            if !there {
                bytes.fill(0xff);
            }
            return there.then_some(()).ok_or(DmaError::NoMemory(address));
        }
        let mut done = 0;
        while let Some(len) = piece(address, done, bytes.len()) {
            let rest = &mut bytes[done..];
            let moved = self
                .locate(address, done, len.get(), Direction::ToDevice)
                .and_then(|(at, offset)| {
                    let there = self.memory.0.ram.load(offset, &mut rest[..len.get()]);
                    there.then_some(()).ok_or(DmaError::NoMemory(at))
                });
            if let Err(error) = moved {
                rest.fill(0xff);
                return Err(error);
            }
            done += len.get();
        }
        Ok(())
    }

    /// Writes memory at `address`.
    ///
    /// # Errors
    ///
    /// [`DmaError`], with the first byte that could not be written; bytes from there on are not.
    pub fn write(&self, address: BusAddress, bytes: &[u8]) -> Result<(), DmaError> {
        if let Some(host) = &self.memory.0.host {
            let there = host.write(address, bytes);
            return there.then_some(()).ok_or(DmaError::NoMemory(address));
        }
        let mut done = 0;
        while let Some(len) = piece(address, done, bytes.len()) {
            let (at, offset) = self.locate(address, done, len.get(), Direction::FromDevice)?;
            let there = self
                .memory
                .0
                .ram
                .store(offset, &bytes[done..done + len.get()]);
            there.then_some(()).ok_or(DmaError::NoMemory(at))?;
            done += len.get();
        }
        Ok(())
    }

    /// Reads `N` bytes at `address`.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn read_array<const N: usize>(&self, address: BusAddress) -> Result<[u8; N], DmaError> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Notes a translation that failed, as an injected fault.
    pub(crate) fn refuse(&self, address: BusAddress) -> DmaError {
        let inner = &*self.memory.0;
        let mut state = lock(&inner.state);
        state.iommu.fail_next(self.requester, 1);
        let direction = Direction::Bidirectional;
        let refused = state
            .iommu
            .translate(self.requester, address, direction, inner.clock.now());
        refused.map_or_else(DmaError::Translation, |_| DmaError::NoMemory(address))
    }

    /// Translates and audits `len` bytes, `done` bytes into a transfer at `address`; gives their offset in memory.
    fn locate(
        &self,
        address: BusAddress,
        done: usize,
        len: usize,
        direction: Direction,
    ) -> Result<(BusAddress, usize), DmaError> {
        let at = BusAddress::new(address.as_u64().wrapping_add(done as u64));
        let inner = &*self.memory.0;
        let now = inner.clock.now();
        let mut state = lock(&inner.state);
        let memory = state
            .iommu
            .translate(self.requester, at, direction, now)
            .map_err(DmaError::Translation)?;
        let dma = Dma {
            requester: self.requester,
            address: at,
            memory,
            len,
            direction,
            at: now,
            outcome: Outcome::Escaped,
        };
        if !state.audit.admit(dma) {
            return Err(DmaError::Escape(at));
        }
        offset(memory)
            .map(|offset| (at, offset))
            .ok_or(DmaError::NoMemory(at))
    }
}

/// How much of a transfer of `len` bytes at `address` lies in one page, `done` bytes into it; `None` at its end.
fn piece(address: BusAddress, done: usize, len: usize) -> Option<NonZeroUsize> {
    let at = address.as_u64().wrapping_add(done as u64);
    let in_page = usize::try_from(at % PAGE as u64).unwrap_or(0);
    NonZeroUsize::new((len - done).min(PAGE - in_page))
}
