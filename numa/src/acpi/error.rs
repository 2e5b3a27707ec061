//! What can be wrong with a table, and where.

use core::fmt;

use parakernel_core::address::PhysAddr;
use parakernel_core::error::ErrorKind;

use super::Signature;

/// Why bytes are not the table they claim to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Error {
    table: Signature,
    offset: usize,
    problem: Problem,
}

/// What is wrong at one place of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Problem {
    /// The root table does not name such a table.
    Missing,
    /// The [`Memory`](super::Memory) has no `len` bytes at `address`.
    Unreadable {
        /// Where firmware says that the structure lies.
        address: PhysAddr,
        /// How many bytes were wanted.
        len: usize,
    },
    /// The signature is another one.
    Signature {
        /// The bytes found.
        found: [u8; 4],
    },
    /// The bytes of the table do not add up to zero.
    Checksum {
        /// What they add up to, modulo 256.
        sum: u8,
    },
    /// A structure is, or says that it is, shorter than the specification demands.
    TooShort {
        /// Bytes there are.
        len: usize,
        /// Bytes there must be.
        needed: usize,
    },
    /// A structure says that it is longer than what holds it.
    Overrun {
        /// Bytes that it claims.
        len: usize,
        /// Bytes left.
        available: usize,
    },
    /// The length of a list is no multiple of the size of its elements.
    Ragged {
        /// Bytes of the list.
        len: usize,
        /// Bytes of an element.
        element: usize,
    },
    /// The table's revision is one that this crate cannot read.
    Revision(u8),
    /// A field holds a value that the specification reserves or that contradicts another field.
    Value {
        /// The field, in the specification's words.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

impl Error {
    pub(crate) const fn new(table: Signature, offset: usize, problem: Problem) -> Self {
        Self {
            table,
            offset,
            problem,
        }
    }

    /// The table in question.
    #[must_use]
    pub const fn table(&self) -> Signature {
        self.table
    }

    /// Where, in bytes from the start of the table.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// What is wrong there.
    #[must_use]
    pub const fn problem(&self) -> Problem {
        self.problem
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}: {}", self.table, self.offset, self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Missing => f.write_str("there is no such table"),
            Self::Unreadable { address, len } => {
                write!(f, "no {len} bytes can be read at {address:#x}")
            }
            Self::Signature { found } => {
                write!(f, "the signature is \"{}\"", found.escape_ascii())
            }
            Self::Checksum { sum } => write!(f, "the bytes add up to {sum:#04x} instead of zero"),
            Self::TooShort { len, needed } => write!(f, "{len} bytes where {needed} are needed"),
            Self::Overrun { len, available } => {
                write!(f, "a length of {len} bytes where {available} are left")
            }
            Self::Ragged { len, element } => {
                write!(f, "{len} bytes are no list of {element}-byte elements")
            }
            Self::Revision(revision) => write!(f, "revision {revision} is not supported"),
            Self::Value { field, value } => write!(f, "{field} is {value:#x}"),
        }
    }
}

impl core::error::Error for Error {}

impl parakernel_core::error::Error for Error {
    fn kind(&self) -> ErrorKind {
        match self.problem {
            Problem::Revision(_) | Problem::Missing => ErrorKind::Unsupported,
            Problem::Unreadable { .. } => ErrorKind::InvalidArgument,
            Problem::Signature { .. }
            | Problem::Checksum { .. }
            | Problem::TooShort { .. }
            | Problem::Overrun { .. }
            | Problem::Ragged { .. }
            | Problem::Value { .. } => ErrorKind::Protocol,
        }
    }
}
