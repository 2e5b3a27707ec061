//! A function as a model sees it that works on its behalf: a virtual one, as its card does.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use parakernel_core::address::BusAddress;

use crate::memory::{Bus, DmaError};

/// How much of a function is there. A virtual function comes and goes with its physical one's capability.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Presence {
    /// Nothing.
    Absent,
    /// Its configuration space, but no registers.
    Configurable,
    /// All of it.
    Whole,
}

/// The part of a function that is reached without it.
#[derive(Debug)]
pub(super) struct Shared {
    /// It may transfer.
    pub(super) open: AtomicBool,
    /// Vectors to be signalled, a bit each.
    pub(super) raised: AtomicU64,
    /// A [`Presence`].
    presence: AtomicU8,
    /// It was absent since the function was last reset.
    pub(super) was_absent: AtomicBool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            open: AtomicBool::default(),
            raised: AtomicU64::default(),
            presence: AtomicU8::new(Presence::Whole as u8),
            was_absent: AtomicBool::default(),
        }
    }
}

impl Shared {
    pub(super) fn has(&self, least: Presence) -> bool {
        self.presence.load(Ordering::Acquire) >= least as u8
    }
}

/// A function's way to memory, and to its vectors, for a model that works on its behalf. Clones are the same way.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(super) bus: Bus,
    pub(super) shared: Arc<Shared>,
}

impl Port {
    /// Reads memory by DMA.
    pub(crate) fn read(&self, address: BusAddress, bytes: &mut [u8]) -> Result<(), DmaError> {
        self.may_transfer(address)?;
        self.bus.read(address, bytes)
    }

    /// Writes memory by DMA.
    pub(crate) fn write(&self, address: BusAddress, bytes: &[u8]) -> Result<(), DmaError> {
        self.may_transfer(address)?;
        self.bus.write(address, bytes)
    }

    /// Lets the function signal `vector`, less than 64, at its next turn.
    pub(crate) fn raise(&self, vector: u16) {
        self.shared.raised.fetch_or(1 << vector, Ordering::AcqRel);
    }

    /// Lets the function come or go.
    pub(crate) fn set_presence(&self, presence: Presence) {
        if presence == Presence::Absent {
            self.shared.open.store(false, Ordering::Release);
            self.shared.was_absent.store(true, Ordering::Release);
            self.shared.raised.store(0, Ordering::Release);
        }
        self.shared
            .presence
            .store(presence as u8, Ordering::Release);
    }

    fn may_transfer(&self, address: BusAddress) -> Result<(), DmaError> {
        let open = self.shared.open.load(Ordering::Acquire);
        open.then_some(()).ok_or(DmaError::NotMaster(address))
    }
}
