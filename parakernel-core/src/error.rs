//! What all errors of the family have in common: a small class that generic code can act on.

use core::fmt;

/// The class of an error, for code that is generic over devices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum ErrorKind {
    /// The device did not answer within the time that its specification allows.
    Timeout,
    /// The device answered with something that its specification forbids, such as an index out of range.
    Protocol,
    /// The device reported a failure of its own.
    Device,
    /// The device is gone: its registers read as all ones.
    Removed,
    /// The device, or this driver, cannot do what was asked.
    Unsupported,
    /// An argument is out of the range that the device or the caller's memory allows.
    InvalidArgument,
    /// Too little of something finite: queues, vectors, filters, table slots, memory.
    Exhausted,
    /// The request is not covered by a grant, or would touch what belongs to another.
    Denied,
    /// The lease behind the queue has ended.
    Revoked,
    /// None of the above.
    Other,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "the device did not answer in time",
            Self::Protocol => "the device broke its protocol",
            Self::Device => "the device reported a failure",
            Self::Removed => "the device is gone",
            Self::Unsupported => "not supported",
            Self::InvalidArgument => "an argument is out of range",
            Self::Exhausted => "nothing left to give",
            Self::Denied => "not covered by a grant",
            Self::Revoked => "the lease has ended",
            Self::Other => "some other failure",
        })
    }
}

impl core::error::Error for ErrorKind {}

/// An error of a driver or of the control plane.
pub trait Error: fmt::Debug {
    /// The class of this error.
    fn kind(&self) -> ErrorKind;
}

impl Error for ErrorKind {
    fn kind(&self) -> ErrorKind {
        *self
    }
}

impl Error for core::convert::Infallible {
    fn kind(&self) -> ErrorKind {
        match *self {}
    }
}
