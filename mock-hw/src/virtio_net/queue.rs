//! One virtqueue: its registers, its ring, and the chains in the device's hands.

use alloc::collections::VecDeque;

use parakernel_core::time::Instant;

use super::{
    chain::{Broken, Buffer, Chain},
    features::Features,
    packed::Packed,
    split::Split,
};
use crate::pci::Function;

/// What a queue is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Receive(u16),
    Transmit(u16),
    Control,
}

/// A ring of either format.
#[derive(Clone, Debug)]
pub(super) enum Ring {
    Split(Split),
    Packed(Packed),
}

impl Ring {
    pub(super) fn new(size: u16, areas: [u64; 3], features: Features) -> Self {
        if features.contains(Features::RING_PACKED) {
            Self::Packed(Packed::new(size, areas, features))
        } else {
            Self::Split(Split::new(size, areas, features))
        }
    }

    pub(super) fn take(&mut self, function: &Function) -> Result<Option<Chain>, Broken> {
        match self {
            Self::Split(ring) => ring.take(function),
            Self::Packed(ring) => ring.take(function),
        }
    }

    pub(super) fn has_available(&self, function: &Function) -> Result<bool, Broken> {
        match self {
            Self::Split(ring) => ring.has_available(function),
            Self::Packed(ring) => ring.has_available(function),
        }
    }

    pub(super) fn give(
        &mut self,
        function: &Function,
        chains: &[(Chain, usize)],
    ) -> Result<(), Broken> {
        match self {
            Self::Split(ring) => ring.give(function, chains),
            Self::Packed(ring) => ring.give(function, chains),
        }
    }

    pub(super) fn give_batch(
        &mut self,
        function: &Function,
        chains: &[(Chain, usize)],
    ) -> Result<(), Broken> {
        match self {
            Self::Split(ring) => ring.give_batch(function, chains),
            Self::Packed(ring) => ring.give_batch(function, chains),
        }
    }

    pub(super) fn wants_interrupt(&mut self, function: &Function) -> Result<bool, Broken> {
        match self {
            Self::Split(ring) => ring.wants_interrupt(function),
            Self::Packed(ring) => ring.wants_interrupt(function),
        }
    }

    pub(super) fn ask_notification(&self, function: &Function, wanted: bool) -> Result<(), Broken> {
        match self {
            Self::Split(ring) => ring.ask_notification(function, wanted),
            Self::Packed(ring) => ring.ask_notification(function, wanted),
        }
    }

    pub(super) fn notified_position(&self, function: &Function) -> Result<u16, Broken> {
        match self {
            Self::Split(ring) => ring.notified_position(function),
            Self::Packed(ring) => ring.notified_position(function),
        }
    }
}

/// Chains whose bytes are being moved, one buffer at a time.
#[derive(Debug)]
pub(super) struct Job {
    /// The chains, with the bytes that will have been written to each.
    pub(super) chains: Vec<(Chain, usize)>,
    pub(super) pieces: VecDeque<Buffer>,
    pub(super) bytes: Vec<u8>,
    pub(super) done: usize,
    pub(super) to_host: bool,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) vector: u16,
    pub(super) areas: [u64; 3],
    pub(super) ring: Option<Ring>,
    /// When a reset of this queue is done.
    pub(super) resetting: Option<Instant>,
    /// The device looks for chains until it found none after asking for a notification.
    pub(super) awake: bool,
    /// The driver was asked not to notify.
    pub(super) quiet: bool,
    pub(super) jobs: VecDeque<Job>,
    /// Chains whose bytes were moved and that were not given back.
    pub(super) finished: VecDeque<(Chain, usize)>,
    /// Receive: chains taken for a frame that needs more of them.
    pub(super) taken: Vec<Chain>,
    /// Receive: frames that wait for chains, header included.
    pub(super) backlog: VecDeque<Vec<u8>>,
}

impl Queue {
    pub(super) const NO_VECTOR: u16 = 0xffff;

    pub(super) const fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            vector: Self::NO_VECTOR,
            areas: [0; 3],
            ring: None,
            resetting: None,
            awake: false,
            quiet: false,
            jobs: VecDeque::new(),
            finished: VecDeque::new(),
            taken: Vec::new(),
            backlog: VecDeque::new(),
        }
    }

    /// What is wrong with enabling the queue as it is set up, if anything.
    pub(super) fn objection(&self, features: Features) -> Option<&'static str> {
        let [descriptors, driver, device] = self.areas;
        let packed = features.contains(Features::RING_PACKED);
        let alignment = if packed { [16, 4, 4] } else { [16, 2, 4] };
        if self.size == 0 || self.size > self.max_size || self.size > 32_768 {
            return Some("a size of 0 or above the largest");
        }
        if !packed && !self.size.is_power_of_two() {
            return Some("a size that is no power of two");
        }
        let areas = [descriptors, driver, device];
        let aligned = areas
            .iter()
            .zip(alignment)
            .all(|(area, alignment)| area.is_multiple_of(alignment));
        (!aligned).then_some("an area that is not aligned")
    }

    /// Chains that the driver made available and did not get back.
    pub(super) fn held(&self) -> usize {
        let moving: usize = self.jobs.iter().map(|job| job.chains.len()).sum();
        moving + self.finished.len() + self.taken.len()
    }
}
