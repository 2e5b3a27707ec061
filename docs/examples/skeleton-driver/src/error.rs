//! What the device failed to do: one enum per operation.

use core::fmt;

use parakernel_core::{
    error::{Error, ErrorKind},
    time::Timeout,
};

/// Why the device was not brought up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BringUpError {
    /// The register file is shorter than the specification says.
    RegisterFile {
        /// Its length in bytes.
        len: usize,
    },
    /// It is another device.
    Identity {
        /// What ID held.
        id: u64,
    },
    /// The ring's memory has no room for this number of entries, or the device cannot have so many.
    Ring {
        /// The number.
        entries: usize,
    },
    /// It did not become idle after a reset.
    Reset(Timeout),
}

/// Why an operation was not begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BeginError {
    /// There is no queue with this number, or it cannot have such a ring.
    NoSuchQueue,
    /// The queue works already.
    Claimed,
}

/// What a queue met that must not be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum QueueError {
    /// A frame that the queue can never send: of several segments, too short or too long.
    Frame {
        /// Bytes of its first segment.
        len: usize,
    },
    /// The device returned more bytes than it was given.
    Length {
        /// What it said.
        returned: u16,
        /// What it was given.
        given: usize,
    },
    /// The device returned an entry that it did not have.
    NotArmed,
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RegisterFile { len } => write!(f, "the register file has only {len} bytes"),
            Self::Identity { id } => write!(f, "the device says that it is {id:#010x}"),
            Self::Ring { entries } => write!(f, "no ring of {entries} entries can be made"),
            Self::Reset(_) => f.write_str("the device did not come out of reset"),
        }
    }
}

impl fmt::Display for BeginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchQueue => "there is no such queue",
            Self::Claimed => "the queue works already",
        })
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame { len } => write!(f, "a frame of {len} bytes or more cannot be sent"),
            Self::Length { returned, given } => {
                write!(
                    f,
                    "the device returned {returned} of the {given} bytes it had"
                )
            }
            Self::NotArmed => f.write_str("the device returned an entry that it did not have"),
        }
    }
}

impl core::error::Error for BringUpError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Reset(timeout) => Some(timeout),
            Self::RegisterFile { .. } | Self::Identity { .. } | Self::Ring { .. } => None,
        }
    }
}

impl core::error::Error for BeginError {}
impl core::error::Error for QueueError {}

impl Error for BringUpError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::RegisterFile { .. } => ErrorKind::Protocol,
            Self::Identity { .. } => ErrorKind::Unsupported,
            Self::Ring { .. } => ErrorKind::InvalidArgument,
            Self::Reset(timeout) => timeout.kind(),
        }
    }
}

impl Error for BeginError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchQueue | Self::Claimed => ErrorKind::InvalidArgument,
        }
    }
}

impl Error for QueueError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Frame { .. } => ErrorKind::InvalidArgument,
            Self::Length { .. } | Self::NotArmed => ErrorKind::Protocol,
        }
    }
}
