//! Data paths cut into phases whose instructions can be counted: `cargo xtask bench`.
//!
//! A [`Phase`] has two halves. [`prepare`](Phase::prepare) plays the device, as cheaply as possible, and is not
//! counted; [`measured`](Phase::measured) is the driver's work. The counted half runs inside one function,
//! [`counted`], so callgrind is told once where to count, whatever the phase.
//!
//! The figure of a phase is a slope: the instructions of a long run minus those of a short one, divided by the
//! difference in items. What is done once, such as the first touch of a table, cancels.

mod control;
mod ixgbe_control;
mod memory;
mod nic_ixgbe;
mod nic_virtio;
mod nothing;
mod nvme;
mod peer;
pub mod phases;
mod share;
mod steering;

use core::time::Duration;
use std::time::Instant;

/// A piece of a data path.
pub trait Phase: Sized {
    /// Sets up rings, buffers and whatever else the phase needs.
    fn new() -> Self;

    /// Plays the device: afterwards `batch` items are there to be worked on.
    fn prepare(&mut self, batch: usize);

    /// Works on up to `batch` items and returns how many it were.
    fn measured(&mut self, batch: usize) -> usize;

    /// What is not counted but known: by its name and in its own unit.
    #[must_use]
    fn figures() -> Vec<(&'static str, f64)> {
        Vec::new()
    }
}

/// The function that instructions are counted in.
#[inline(never)]
pub fn counted<P: Phase>(phase: &mut P, batch: usize) -> usize {
    phase.measured(batch)
}

/// A phase by its name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// `crate/what`.
    pub name: &'static str,
    /// Runs so many rounds of so many items; returns the items done and the time spent in the counted half.
    pub run: fn(batch: usize, rounds: usize) -> (usize, Duration),
    /// Runs so many rounds of so many items in each of two partitions by turns; returns the items that each has done.
    pub share: fn(batch: usize, rounds: usize) -> [usize; 2],
    /// What is not counted but known: by its name and in its own unit.
    pub figures: fn() -> Vec<(&'static str, f64)>,
}

/// The address of the bytes that are stored to before a partition's work (the first two), and after it (the third).
#[must_use]
pub fn marks() -> usize {
    share::marks()
}

/// The entry of a phase.
#[must_use]
pub const fn entry<P: Phase>(name: &'static str) -> Entry {
    Entry {
        name,
        run: run::<P>,
        share: share::run::<P>,
        figures: P::figures,
    }
}

fn run<P: Phase>(batch: usize, rounds: usize) -> (usize, Duration) {
    let mut phase = P::new();
    let mut items = 0;
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        phase.prepare(batch);
        let started = Instant::now();
        items += counted(&mut phase, batch);
        spent += started.elapsed();
    }
    (items, spent)
}
