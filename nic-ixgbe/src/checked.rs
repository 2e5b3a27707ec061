//! The kernel's side of `Checked` queues: what a process wrote becomes what the device reads.
//!
//! A process's data half writes its own rings, in memory that it can change at any time. Once per batch the kernel looks
//! what the device has returned, copies each new entry, hands the *copy* to the validator, and writes what that accepted
//! into rings that no process can write. Of receive rings the process reads the device's own, on pages mapped read-only;
//! of transmit rings the word that tells how far the device came.

use core::fmt;

use parakernel_core::validate::Violation;

use crate::error::RingError;

mod receive;
mod transmit;

pub use parakernel_core::steering::{AnySource, FrameMemory, GrantedSource, SourceCheck};
pub use receive::CheckedReceiver;
pub use transmit::{CheckedSender, Counts, Heads, Progress};

/// Why a queue is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Fault {
    /// The process did what it may not: it is stopped, and its queue with it.
    Process(Violation),
    /// The device broke the ring's rules: the device is not to be trusted any more.
    Device(RingError),
}

impl From<Violation> for Fault {
    fn from(violation: Violation) -> Self {
        Self::Process(violation)
    }
}

impl From<RingError> for Fault {
    fn from(error: RingError) -> Self {
        Self::Device(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(violation) => violation.fmt(f),
            Self::Device(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Fault {}

impl parakernel_core::error::Error for Fault {
    fn kind(&self) -> parakernel_core::error::ErrorKind {
        match self {
            Self::Process(_) => parakernel_core::error::ErrorKind::Denied,
            Self::Device(error) => error.kind(),
        }
    }
}
