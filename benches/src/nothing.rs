//! A phase that does nothing: what counting itself costs.

use crate::Phase;

/// Takes its items without looking at them.
#[derive(Debug)]
pub(crate) struct Nothing;

impl Phase for Nothing {
    fn new() -> Self {
        Self
    }

    fn prepare(&mut self, _: usize) {}

    fn measured(&mut self, batch: usize) -> usize {
        batch
    }
}
