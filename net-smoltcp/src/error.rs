//! Which of a link's queues failed, and how.

use core::fmt;

use parakernel_core::error::{Error, ErrorKind};

/// The failure of a [`QueuePair`](crate::QueuePair).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PairError<R, T> {
    /// The receive queue failed.
    Receive(R),
    /// The transmit queue failed.
    Transmit(T),
}

/// The failure of a [`Joined`](crate::Joined) link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum JoinedError<H, V> {
    /// The hardware queue pair failed.
    Hardware(H),
    /// The virtual queue pair failed.
    Virtual(V),
}

impl<R: Error, T: Error> Error for PairError<R, T> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Receive(error) => error.kind(),
            Self::Transmit(error) => error.kind(),
        }
    }
}

impl<H: Error, V: Error> Error for JoinedError<H, V> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Hardware(error) => error.kind(),
            Self::Virtual(error) => error.kind(),
        }
    }
}

impl<R: Error, T: Error> fmt::Display for PairError<R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = match self {
            Self::Receive(_) => "receive",
            Self::Transmit(_) => "transmit",
        };
        write!(f, "{queue} queue: {}", self.kind())
    }
}

impl<H: Error, V: Error> fmt::Display for JoinedError<H, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = match self {
            Self::Hardware(_) => "hardware",
            Self::Virtual(_) => "virtual",
        };
        write!(f, "{pair} queue pair: {}", self.kind())
    }
}

impl<R: Error, T: Error> core::error::Error for PairError<R, T> {}

impl<H: Error, V: Error> core::error::Error for JoinedError<H, V> {}
