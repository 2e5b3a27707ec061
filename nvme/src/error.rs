//! What can go wrong, by operation.

use core::fmt;

use parakernel_core::{
    error::{Error, ErrorKind},
    queue::BlockRequest,
    time::Timeout,
};

use crate::status::Status;

/// Why the controller did not come into service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum InitError {
    /// Nobody answers: the registers read as all ones.
    Removed,
    /// The register file has no room for the admin queue's doorbells.
    RegisterFile {
        /// Its length in bytes.
        len: usize,
    },
    /// The controller does not have the NVM command set.
    CommandSet,
    /// The controller's pages are larger than 4 KiB, the unit in which memory is granted: one such page would have
    /// several owners.
    PageSize {
        /// Log2 of its smallest page's bytes.
        log2: u32,
    },
    /// The memory for the admin queue is too small, or not aligned to a page.
    Memory,
    /// The controller did not stop being ready after it was disabled.
    Disable(Timeout),
    /// The controller did not become ready after it was enabled.
    Enable(Timeout),
    /// The controller reported a fatal error (CSTS.CFS).
    Fatal,
    /// The controller takes no queue entries of 64 and 16 bytes.
    EntrySizes,
    /// A command of the bring-up failed.
    Command {
        /// What for.
        step: InitStep,
        /// Why.
        error: AdminError,
    },
}

/// What a command of the bring-up was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum InitStep {
    /// Identify the controller.
    IdentifyController,
    /// Agree on the number of queues.
    NumberOfQueues,
    /// Name the memory of shadow doorbells.
    ShadowDoorbells,
    /// List and identify the namespaces.
    Namespaces,
    /// Turn on asynchronous events.
    Events,
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed => f.write_str("the controller is gone"),
            Self::RegisterFile { len } => write!(f, "{len} bytes of registers are too few"),
            Self::CommandSet => f.write_str("the controller has no NVM command set"),
            Self::PageSize { log2 } => {
                write!(f, "the controller's smallest page has 2^{log2} bytes")
            }
            Self::Memory => f.write_str("the admin queue's memory is too small or unaligned"),
            Self::Disable(timeout) => write!(f, "disabling the controller: {timeout}"),
            Self::Enable(timeout) => write!(f, "enabling the controller: {timeout}"),
            Self::Fatal => f.write_str("the controller reported a fatal error"),
            Self::EntrySizes => f.write_str("the controller's queue entries have other sizes"),
            Self::Command { step, error } => write!(f, "{step:?}: {error}"),
        }
    }
}

impl core::error::Error for InitError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Disable(timeout) | Self::Enable(timeout) => Some(timeout),
            Self::Command { error, .. } => Some(error),
            Self::Removed
            | Self::RegisterFile { .. }
            | Self::CommandSet
            | Self::PageSize { .. }
            | Self::Memory
            | Self::Fatal
            | Self::EntrySizes => None,
        }
    }
}

impl Error for InitError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Removed => ErrorKind::Removed,
            Self::RegisterFile { .. }
            | Self::CommandSet
            | Self::PageSize { .. }
            | Self::EntrySizes => ErrorKind::Unsupported,
            Self::Memory => ErrorKind::InvalidArgument,
            Self::Disable(_) | Self::Enable(_) => ErrorKind::Timeout,
            Self::Fatal => ErrorKind::Device,
            Self::Command { error, .. } => error.kind(),
        }
    }
}

/// Why an admin command, or what is made of them, failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum AdminError {
    /// Too many commands are outstanding, or the data page is in use: try again when one has ended.
    Busy,
    /// No completion came in time. The command's id, and its memory, stay out of use until a reset.
    Timeout(Timeout),
    /// The controller completed the command with an error.
    Status(Status),
    /// The controller is gone: its registers read as all ones.
    Removed,
    /// The controller reported a fatal error (CSTS.CFS); only a reset helps.
    Fatal,
    /// The command ended because the controller was reset.
    Reset,
    /// No queue pair is free, or the id names none in a state that allows this.
    Pair,
    /// An argument is outside what the controller reported.
    Argument,
    /// The controller cannot do this.
    Unsupported,
    /// The controller's answer makes no sense.
    Protocol,
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("too much is outstanding"),
            Self::Timeout(timeout) => timeout.fmt(f),
            Self::Status(status) => status.fmt(f),
            Self::Removed => f.write_str("the controller is gone"),
            Self::Fatal => f.write_str("the controller reported a fatal error"),
            Self::Reset => f.write_str("ended by a reset"),
            Self::Pair => f.write_str("no such queue pair in such a state"),
            Self::Argument => f.write_str("outside the controller's limits"),
            Self::Unsupported => f.write_str("the controller cannot do this"),
            Self::Protocol => f.write_str("the controller's answer makes no sense"),
        }
    }
}

impl core::error::Error for AdminError {}

impl Error for AdminError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy => ErrorKind::Exhausted,
            Self::Timeout(_) => ErrorKind::Timeout,
            Self::Status(status) => status.kind(),
            Self::Removed => ErrorKind::Removed,
            Self::Fatal => ErrorKind::Device,
            Self::Reset => ErrorKind::Revoked,
            Self::Pair | Self::Argument => ErrorKind::InvalidArgument,
            Self::Unsupported => ErrorKind::Unsupported,
            Self::Protocol => ErrorKind::Protocol,
        }
    }
}

/// Why a namespace cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum NamespaceError {
    /// Its blocks carry metadata, which this driver does not transfer.
    Metadata {
        /// Bytes for each block.
        bytes: u16,
    },
    /// Its blocks are smaller than 512 bytes or larger than 1 MiB.
    BlockSize {
        /// Log2 of their bytes.
        log2: u8,
    },
    /// Its description contradicts itself.
    Malformed,
}

impl fmt::Display for NamespaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata { bytes } => write!(f, "blocks carry {bytes} bytes of metadata"),
            Self::BlockSize { log2 } => write!(f, "blocks have 2^{log2} bytes"),
            Self::Malformed => f.write_str("the namespace's description contradicts itself"),
        }
    }
}

impl core::error::Error for NamespaceError {}

impl Error for NamespaceError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Metadata { .. } | Self::BlockSize { .. } => ErrorKind::Unsupported,
            Self::Malformed => ErrorKind::Protocol,
        }
    }
}

/// What a controller may not write into a completion queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum CompletionError {
    /// A command id that is not in flight: unknown, completed before, or never given.
    CommandId {
        /// The id.
        id: u16,
    },
    /// The id of another submission queue.
    QueueId {
        /// The queue.
        id: u16,
    },
}

impl fmt::Display for CompletionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandId { id } => {
                write!(f, "completion of command {id}, which is not in flight")
            }
            Self::QueueId { id } => write!(f, "completion of queue {id}, which is another"),
        }
    }
}

impl core::error::Error for CompletionError {}

impl Error for CompletionError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Protocol
    }
}

/// What can go wrong with an I/O queue.
#[derive(PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum QueueError {
    /// The queue can never carry out this request; the ones before it are published.
    Request {
        /// The request, to have its buffer back.
        request: BlockRequest,
        /// Why.
        reason: RequestError,
        /// How many requests of the call were published before it.
        submitted: usize,
    },
    /// The controller broke the protocol; what it does next cannot be told.
    Completion(CompletionError),
}

/// Why a queue cannot carry out a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RequestError {
    /// No block at all, more than the buffer holds, or more than one command may transfer.
    Blocks,
    /// A buffer is missing, or there is one where none belongs.
    Buffer,
    /// The queue does not have this operation.
    Operation,
    /// The queue is full: try again when a command has completed.
    Room,
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { reason, .. } => f.write_str(match reason {
                RequestError::Blocks => "no block, or more than a command may transfer",
                RequestError::Buffer => "a buffer is missing, or not wanted",
                RequestError::Operation => "the queue does not have this operation",
                RequestError::Room => "the queue is full",
            }),
            Self::Completion(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for QueueError {}

impl Error for QueueError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Request {
                reason: RequestError::Operation,
                ..
            } => ErrorKind::Unsupported,
            Self::Request {
                reason: RequestError::Room,
                ..
            } => ErrorKind::Exhausted,
            Self::Request { .. } => ErrorKind::InvalidArgument,
            Self::Completion(error) => error.kind(),
        }
    }
}
