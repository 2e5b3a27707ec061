//! A phase that does nothing: what counting itself costs.

use crate::Phase;
use core::hint::black_box;

/// Takes its items without looking at them.
#[derive(Debug)]
pub(crate) struct Nothing;

impl Phase for Nothing {
    fn new() -> Self {
        Self
    }

    fn prepare(&mut self, _: usize) {}

    fn measured(&mut self, batch: usize) -> usize {
        // Without this there would be nothing left to count in.
        black_box(batch)
    }
}
