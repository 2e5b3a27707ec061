//! What can go wrong, one type per operation.

use core::fmt;

use parakernel_core::error::{Error, ErrorKind};

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

/// What a device did to a ring that it may not. The queue is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RingError {
    /// A head that lies beyond what the device was given, or beyond the ring.
    Head {
        /// What the device wrote.
        head: u32,
        /// Descriptors that it had.
        outstanding: u32,
    },
    /// A length of 0, or above that of a buffer.
    Length {
        /// What the device said it wrote, in bytes.
        len: u32,
        /// What it could have written.
        posted: u32,
    },
    /// A frame that goes on through every buffer that the device had.
    Endless,
    /// A frame to send that has no byte, more segments than the ring has room for, a segment that is too long, or an
    /// offload that does not fit its length.
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
            Self::Head { .. } | Self::Length { .. } | Self::Endless => ErrorKind::Protocol,
        }
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head { head, outstanding } => write!(
                f,
                "the device wrote head {head} with {outstanding} descriptors outstanding"
            ),
            Self::Length { len, posted } => {
                write!(f, "the device wrote {len} bytes into a buffer of {posted}")
            }
            Self::Endless => f.write_str("a frame does not end within the ring"),
            Self::Frame { segments } => write!(f, "a frame of {segments} segments cannot be sent"),
        }
    }
}

error!(RingError);
