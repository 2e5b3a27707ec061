//! What cannot be, before there is anything to have an outcome.

use core::fmt;

use crate::error::{Error, ErrorKind};

/// Why a control plane was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SetupError {
    /// There are more devices than room for them.
    Devices,
    /// There are fewer links than queues and vectors.
    Links,
    /// There are fewer jobs than things that could have one.
    Jobs,
    /// There is no room for two events, the most that one step has to say.
    Events,
}

/// Why a request was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SubmitError {
    /// There is no such process, or it is ending.
    NoSuchProcess,
    /// The process has as many requests without a delivered outcome as it may: it does not keep to the agreement.
    TooMany,
    /// There is no room for what this request has to say: [`poll`](super::ControlPlane::poll) comes first. No fault of the process.
    Busy,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Devices => "there are more devices than room for them",
            Self::Links => "there are fewer links than queues and vectors",
            Self::Jobs => "there are fewer jobs than things that could have one",
            Self::Events => "there is no room for two events",
        })
    }
}

impl core::error::Error for SetupError {}

impl Error for SetupError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchProcess => "there is no such process",
            Self::TooMany => "the process has too many requests under way",
            Self::Busy => "there are events to be polled first",
        })
    }
}

impl core::error::Error for SubmitError {}

impl Error for SubmitError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchProcess => ErrorKind::Revoked,
            Self::TooMany | Self::Busy => ErrorKind::Exhausted,
        }
    }
}
