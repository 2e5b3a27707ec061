//! What a process shares with the kernel for each of its leases.
#![expect(unsafe_code, reason = "promises that shared pages consist of atomics")]

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Release},
};

use super::map::{self, LeaseMap, MAP_WORDS};
use crate::{memory::Shared, queue::Doorbell, ring::Position};

/// Rings of a lease, as indices into the arrays of its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum LeaseRing {
    /// The receive ring of a network queue pair, or the submission ring of a block queue pair.
    First = 0,
    /// The transmit ring of a network queue pair, or the completion ring of a block queue pair.
    Second = 1,
}

/// Number of rings that a lease may have.
pub const LEASE_RINGS: usize = 2;

/// What a process tells the kernel of a lease: its own to write, read by the kernel once per call.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct SubmissionPage {
    /// Tail of each ring: entries before it are published.
    pub tails: [AtomicU32; LEASE_RINGS],
}

/// What the kernel tells a process of a lease: read-only to the process.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct StatusPage {
    /// How far the kernel has taken over each ring.
    pub accepted: [AtomicU32; LEASE_RINGS],
    /// The [`LeaseState`].
    pub state: AtomicU32,
    /// The device's epoch when the lease began to work; where it is [`Lost`](LeaseState::Lost), the one to acknowledge.
    pub epoch: AtomicU32,
    map: [AtomicU64; MAP_WORDS],
}

impl StatusPage {
    /// Where the parts of the lease are; `None` before the kernel has said so.
    #[must_use]
    pub fn map(&self) -> Option<LeaseMap> {
        map::load(&self.map)
    }

    /// The kernel's side: says where the parts of the lease are.
    pub fn set_map(&self, map: LeaseMap) {
        map::store(&self.map, map);
    }
}

// SAFETY: atomics only.
unsafe impl Shared for SubmissionPage {}
// SAFETY: as above.
unsafe impl Shared for StatusPage {}

/// State of a lease as its process sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u32)]
pub enum LeaseState {
    /// The queue works.
    Active = 0,
    /// The device was reset: work in flight is of unknown outcome, and the epoch must be acknowledged.
    Lost = 1,
    /// The lease has ended or is ending.
    Revoked = 2,
}

impl LeaseState {
    /// The state that the word stands for; unknown ones are taken for an end.
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Active,
            1 => Self::Lost,
            _ => Self::Revoked,
        }
    }
}

/// A doorbell whose tail the kernel reads at the next [`Call::Submit`](super::Call::Submit) or [`Call::Wait`](super::Call::Wait).
#[derive(Clone, Copy, Debug)]
pub struct SharedDoorbell<'a> {
    tail: &'a AtomicU32,
    accepted: &'a AtomicU32,
}

impl<'a> SharedDoorbell<'a> {
    /// The doorbell of `ring` on the two pages of its lease.
    #[must_use]
    pub const fn new(page: &'a SubmissionPage, status: &'a StatusPage, ring: LeaseRing) -> Self {
        Self {
            tail: &page.tails[ring as usize],
            accepted: &status.accepted[ring as usize],
        }
    }
}

impl Doorbell for SharedDoorbell<'_> {
    #[inline]
    fn ring(&mut self, tail: Position) {
        self.tail.store(tail.as_u32(), Release);
    }

    #[inline]
    fn accepted(&self, _rung: Position) -> Position {
        Position::new(self.accepted.load(Acquire))
    }
}
