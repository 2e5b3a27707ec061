//! What the device failed to do.

use core::fmt;

use parakernel_core::{
    error::{Error, ErrorKind},
    queue::BlockRequest,
    time::Timeout,
    validate::Violation,
};

/// Why the device did not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BringUpError {
    /// The register file has fewer bytes than §1 says.
    Registers(usize),
    /// ID holds something else.
    Identity(u64),
    /// A ring is too short, or not where the device can find it.
    Rings,
    /// It did not stop.
    Reset(Timeout),
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperationError {
    /// There is no such queue, or none of that size.
    NoSuchQueue,
    /// The queue is not stopped yet.
    Running,
    /// The device reports a failure.
    Failed,
    /// The registers read as all ones.
    Removed,
}

/// Why a queue is of no more use.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// A request that the device can never carry out: here it is again.
    Request(BlockRequest),
    /// An answer to a command that is not in flight.
    NotInFlight(u16),
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// There is no such block.
    NoBlock,
    /// The medium failed.
    Medium,
    /// The data could not be moved.
    Transfer,
    /// A status that §3 does not know.
    Unknown(u8),
}

impl Status {
    /// What an answer's status means.
    ///
    /// # Errors
    ///
    /// Everything but 0.
    pub const fn check(status: u8) -> Result<(), Self> {
        match status {
            0 => Ok(()),
            1 => Err(Self::NoBlock),
            2 => Err(Self::Medium),
            3 => Err(Self::Transfer),
            other => Err(Self::Unknown(other)),
        }
    }
}

/// Why a checked queue took nothing.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TakeError {
    /// The process broke a rule: it ends.
    Process(Violation),
    /// The device broke one: the queue ends.
    Device(QueueError),
}

impl From<Violation> for TakeError {
    fn from(violation: Violation) -> Self {
        Self::Process(violation)
    }
}

impl From<QueueError> for TakeError {
    fn from(error: QueueError) -> Self {
        Self::Device(error)
    }
}

impl fmt::Display for BringUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registers(len) => write!(f, "the register file has {len} bytes only"),
            Self::Identity(id) => write!(f, "the device calls itself {id:#x}"),
            Self::Rings => f.write_str("the rings are too short or not aligned"),
            Self::Reset(_) => f.write_str("the device did not stop"),
        }
    }
}

impl core::error::Error for BringUpError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Reset(timeout) => Some(timeout),
            Self::Registers(_) | Self::Identity(_) | Self::Rings => None,
        }
    }
}

impl Error for BringUpError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Registers(_) | Self::Identity(_) => ErrorKind::Unsupported,
            Self::Rings => ErrorKind::InvalidArgument,
            Self::Reset(timeout) => timeout.kind(),
        }
    }
}

impl fmt::Display for OperationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchQueue => "there is no such queue",
            Self::Running => "the queue is not stopped",
            Self::Failed => "the device has failed",
            Self::Removed => "the device is gone",
        })
    }
}

impl core::error::Error for OperationError {}

impl Error for OperationError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchQueue | Self::Running => ErrorKind::InvalidArgument,
            Self::Failed => ErrorKind::Device,
            Self::Removed => ErrorKind::Removed,
        }
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(_) => f.write_str("the request is one that the disk cannot carry out"),
            Self::NotInFlight(id) => write!(f, "an answer to command {id}, which is not in flight"),
        }
    }
}

impl core::error::Error for QueueError {}

impl Error for QueueError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Request(_) => ErrorKind::InvalidArgument,
            Self::NotInFlight(_) => ErrorKind::Protocol,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBlock => f.write_str("there is no such block"),
            Self::Medium => f.write_str("the medium failed"),
            Self::Transfer => f.write_str("the data could not be moved"),
            Self::Unknown(status) => write!(f, "unknown status {status}"),
        }
    }
}

impl core::error::Error for Status {}

impl Error for Status {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoBlock => ErrorKind::InvalidArgument,
            Self::Medium | Self::Transfer => ErrorKind::Device,
            Self::Unknown(_) => ErrorKind::Protocol,
        }
    }
}

impl fmt::Display for TakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(violation) => violation.fmt(f),
            Self::Device(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for TakeError {}

impl Error for TakeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Process(violation) => violation.kind(),
            Self::Device(error) => error.kind(),
        }
    }
}
