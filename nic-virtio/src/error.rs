//! What can go wrong, one type per operation.

use core::fmt;

use parakernel_core::{
    error::{Error, ErrorKind},
    pci::PciError,
    time::Timeout,
};

/// Implements `core::error::Error` and the family's own, from a `kind` function.
macro_rules! error {
    ($name:ident) => {
        impl core::error::Error for $name {}

        impl Error for $name {
            fn kind(&self) -> ErrorKind {
                self.kind()
            }
        }
    };
}

/// Why a device could not be found or brought up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum InitError {
    /// Not a virtio network device; the value is what was read where the identification should be.
    NotVirtioNet(u32),
    /// A legacy device: it does not offer `VERSION_1`, or has the legacy register layout.
    Legacy,
    /// The PCI configuration space is broken: a capability that is too short, say, or a list with a loop.
    Pci(PciError),
    /// A structure that every device has is missing, lies outside its BAR, or is too small.
    Structure(Structure),
    /// The registers read as all ones: there is no device, or no longer.
    Removed,
    /// The device did not come out of reset.
    Reset(Timeout),
    /// The device refused the features that were chosen from its own offer.
    FeaturesRefused,
    /// The configuration kept changing while it was read.
    ConfigUnstable,
    /// A field of the configuration has a value that the specification forbids.
    Config {
        /// The value.
        value: u32,
    },
    /// Queue `queue` does not exist, or has fewer entries than are needed.
    Queue {
        /// Its index.
        queue: u16,
        /// Entries that the device allows.
        entries: u32,
    },
    /// The memory that was handed in is too small, or not aligned to its page.
    Memory,
    /// The device asked to be reset while it was brought up.
    NeedsReset,
}

/// A structure of a virtio PCI device, §4.1.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Structure {
    /// Common configuration.
    Common,
    /// Notifications.
    Notify,
    /// Interrupt status.
    Isr,
    /// The network device's own configuration.
    Device,
}

impl InitError {
    /// The class of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotVirtioNet(_) | Self::Legacy => ErrorKind::Unsupported,
            Self::Pci(PciError::Removed) | Self::Removed => ErrorKind::Removed,
            Self::Pci(_)
            | Self::Structure(_)
            | Self::ConfigUnstable
            | Self::Config { .. }
            | Self::FeaturesRefused => ErrorKind::Protocol,
            Self::Reset(_) => ErrorKind::Timeout,
            Self::Queue { .. } => ErrorKind::Exhausted,
            Self::Memory => ErrorKind::InvalidArgument,
            Self::NeedsReset => ErrorKind::Device,
        }
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotVirtioNet(found) => write!(f, "not a virtio network device ({found:#x})"),
            Self::Legacy => f.write_str("a legacy device, which is not supported"),
            Self::Pci(error) => write!(f, "the PCI configuration space is broken: {error}"),
            Self::Structure(structure) => {
                write!(f, "the {structure:?} structure is missing or too small")
            }
            Self::Removed => f.write_str("the device is gone"),
            Self::Reset(timeout) => write!(f, "the device did not come out of reset: {timeout}"),
            Self::FeaturesRefused => f.write_str("the device refused features that it offers"),
            Self::ConfigUnstable => f.write_str("the configuration kept changing"),
            Self::Config { value } => write!(f, "the configuration holds {value:#x}"),
            Self::Queue { queue, entries } => write!(f, "queue {queue} has {entries} entries"),
            Self::Memory => f.write_str("the memory handed in is too small or not aligned"),
            Self::NeedsReset => f.write_str("the device asks to be reset"),
        }
    }
}

error!(InitError);

/// What a device did to a ring that it may not. The queue is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RingError {
    /// More entries came back than were out.
    IndexJump {
        /// Entries that the device claims to have used.
        claimed: u32,
        /// Entries that it had.
        outstanding: u32,
    },
    /// An id that is beyond the ring, or of no buffer that the device had.
    Id(u32),
    /// A length below the header's, or above the buffer's.
    Length {
        /// What the device said it wrote, in bytes.
        len: u32,
        /// What it could have written.
        posted: u32,
    },
    /// A number of buffers for one frame that is 0, or more than the ring has.
    BufferCount(u16),
    /// A frame to send that has no byte, or more segments than the ring has entries.
    Frame {
        /// Its number of segments.
        segments: usize,
    },
}

impl RingError {
    /// The class of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Frame { .. } => ErrorKind::InvalidArgument,
            Self::IndexJump { .. } | Self::Id(_) | Self::Length { .. } | Self::BufferCount(_) => {
                ErrorKind::Protocol
            }
        }
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IndexJump {
                claimed,
                outstanding,
            } => write!(f, "the device used {claimed} entries of {outstanding}"),
            Self::Id(id) => write!(f, "the device returned id {id}, which it did not have"),
            Self::Length { len, posted } => {
                write!(f, "the device wrote {len} bytes into a buffer of {posted}")
            }
            Self::BufferCount(count) => write!(f, "a frame in {count} buffers"),
            Self::Frame { segments } => write!(f, "a frame of {segments} segments cannot be sent"),
        }
    }
}

error!(RingError);

/// Why a command on the control queue did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum CommandError {
    /// The feature that the command needs was not agreed on.
    Unsupported,
    /// Another command is under way.
    Busy,
    /// An argument is out of the range that the device states, or does not fit into the command buffer.
    Argument,
    /// The device answered that it failed; the value is its answer.
    Refused(u8),
    /// The device did not answer. Its queue is used no more: a late answer would be taken for that of a later command.
    Timeout(Timeout),
    /// An earlier command timed out, or the device broke the ring's rules: only a reset of the device helps.
    Broken,
}

impl CommandError {
    /// The class of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unsupported => ErrorKind::Unsupported,
            Self::Busy => ErrorKind::Exhausted,
            Self::Argument => ErrorKind::InvalidArgument,
            Self::Refused(_) => ErrorKind::Device,
            Self::Timeout(_) => ErrorKind::Timeout,
            Self::Broken => ErrorKind::Protocol,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("the device does not have this command"),
            Self::Busy => f.write_str("another command is under way"),
            Self::Argument => f.write_str("an argument is out of range"),
            Self::Refused(answer) => write!(f, "the device answered {answer}"),
            Self::Timeout(timeout) => write!(f, "the command was not answered: {timeout}"),
            Self::Broken => f.write_str("the control queue is of no more use"),
        }
    }
}

error!(CommandError);

/// Why a queue pair could not be claimed or released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum PairError {
    /// The device has no such pair.
    NoSuchPair(u16),
    /// The pair is not in the state that the operation starts from.
    WrongState,
    /// The ring is larger than the device allows; the value is the device's limit.
    Entries(u32),
    /// The device cannot reset single queues, so a pair that was used once can be used again only after a reset.
    NoQueueReset,
    /// The queue did not stop: it is quarantined with its memory until the device is reset.
    Quarantined(Timeout),
    /// The device refused to enable the queue, or says that it runs on after its reset.
    Refused {
        /// The queue's index.
        queue: u16,
    },
    /// A ring does not have the entries that it should, or the buffers have no room for the header before a frame.
    Memory,
    /// The registers read as all ones.
    Removed,
}

impl PairError {
    /// The class of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchPair(_) | Self::WrongState | Self::Entries(_) | Self::Memory => {
                ErrorKind::InvalidArgument
            }
            Self::NoQueueReset => ErrorKind::Unsupported,
            Self::Quarantined(_) => ErrorKind::Timeout,
            Self::Refused { .. } => ErrorKind::Protocol,
            Self::Removed => ErrorKind::Removed,
        }
    }
}

impl fmt::Display for PairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPair(pair) => write!(f, "there is no queue pair {pair}"),
            Self::WrongState => f.write_str("the queue pair is in another state"),
            Self::Entries(limit) => write!(f, "the device allows {limit} entries"),
            Self::NoQueueReset => f.write_str("the device cannot reset a single queue"),
            Self::Quarantined(timeout) => write!(f, "the queue did not stop: {timeout}"),
            Self::Refused { queue } => write!(f, "the device does not obey for queue {queue}"),
            Self::Memory => f.write_str("rings or buffers are not as they must be"),
            Self::Removed => f.write_str("the device is gone"),
        }
    }
}

error!(PairError);
