//! The kernel's side of `Checked` and `Sealed` queues: what a process wrote becomes what the device reads.
//!
//! A process's data half writes its own rings, in memory that it can change at any time. Once per batch the kernel
//! looks what the device has returned, copies each new entry, hands the *copy* to the validator, and writes what that
//! accepted into rings that no process can write. Descriptors keep their place: entry *i* of the process's ring is
//! buffer *i* of the device's, so the process reads the device's own completions, on pages mapped read-only.
//!
//! The kernel takes each completion for that of one buffer, so [`IN_ORDER`](crate::features::Features::IN_ORDER), with which
//! one may stand for several, must not have been agreed on.
//!
//! Of a frame to be sent the device never sees the header that the process wrote. It gets a table of two entries that
//! the kernel owns: a header of the kernel's, with a checked copy of the frame's first bytes where the policy asks for
//! that, and the rest of the process's frame.

use core::fmt;

use parakernel_core::{ring::Position, validate::Violation};

use crate::error::RingError;

mod receive;
mod transmit;

pub use parakernel_core::steering::{AnySource, FrameMemory, GrantedSource, SourceCheck};
pub use receive::{CheckedReceiver, seal};
pub use transmit::{CheckedSender, Tables};

/// Why a queue is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Fault {
    /// The process did what it may not: it is stopped, and its queue reset.
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

/// How many entries lie between what was accepted and what the process claims.
///
/// A claim can lower what there is to do, never raise it above the ring: more than `entries`, or less than nothing,
/// is a jump.
#[inline]
fn claimed(claim: Position, accepted: Position, entries: usize) -> Result<u32, Violation> {
    let count = claim.since(accepted);
    if count as usize > entries {
        return Err(Violation::TailJump {
            claimed: claim.as_u32(),
            accepted: accepted.as_u32(),
        });
    }
    Ok(count)
}
