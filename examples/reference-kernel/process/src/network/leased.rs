//! A link that ends with the leases under it.

use core::fmt;

use parakernel_core::{
    abi::LeaseState,
    error::{Error, ErrorKind},
    memory::{Arena, Pool, Segment, SegmentList},
};
use parakernel_smoltcp::Link;

use crate::Lease;

/// A [`Link`] that looks, each turn, whether its leases still are what it was made of.
#[derive(Debug)]
pub struct Leased<L> {
    link: L,
    leases: [Lease; 2],
}

/// Why a link or a queue is of no more use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeasedError<E> {
    /// A queue failed.
    Queue(E),
    /// The device was reset: what was in flight is lost, and the queues begin anew.
    Lost,
    /// The kernel has taken a queue back, or is about to.
    Revoked,
}

impl<L> Leased<L> {
    /// `link`, whose queues are those of `leases`.
    #[must_use]
    pub const fn new(link: L, leases: [Lease; 2]) -> Self {
        Self { link, leases }
    }
}

impl Lease {
    /// Whether the lease works.
    pub(crate) fn look<E>(&self) -> Result<(), LeasedError<E>> {
        match self.state() {
            LeaseState::Active => Ok(()),
            LeaseState::Lost => Err(LeasedError::Lost),
            LeaseState::Revoked => Err(LeasedError::Revoked),
        }
    }
}

impl<L: Link> Link for Leased<L> {
    type Error = LeasedError<L::Error>;

    fn receive(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, Self::Error> {
        self.leases.iter().try_for_each(Lease::look)?;
        let received = self.link.receive(pool, frames, budget);
        received.map_err(LeasedError::Queue)
    }

    fn send(&mut self, arena: &Arena<'_>, frame: Segment) -> Result<(), Segment> {
        self.link.send(arena, frame)
    }

    fn flush(&mut self, pool: &mut Pool<'_>) -> Result<(), Self::Error> {
        self.link.flush(pool).map_err(LeasedError::Queue)
    }
}

impl<E: Error> fmt::Display for LeasedError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(error) => error.kind().fmt(f),
            Self::Lost => f.write_str("the device was reset"),
            Self::Revoked => f.write_str("the lease has ended"),
        }
    }
}

impl<E: Error> core::error::Error for LeasedError<E> {}

impl<E: Error> Error for LeasedError<E> {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Queue(error) => error.kind(),
            Self::Lost => ErrorKind::Device,
            Self::Revoked => ErrorKind::Revoked,
        }
    }
}
