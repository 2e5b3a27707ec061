//! A negative control: a phase with exactly one locked instruction per item, which counting has to find.

use crate::Phase;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Shares a counter with nobody, but pays for it.
#[derive(Debug)]
pub(crate) struct Control(AtomicUsize);

impl Phase for Control {
    fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    fn prepare(&mut self, _: usize) {}

    fn measured(&mut self, batch: usize) -> usize {
        let counter = &self.0;
        for _ in 0..batch {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        batch
    }
}
