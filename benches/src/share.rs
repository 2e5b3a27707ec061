//! Two partitions that do the same work, each in memory of its own (by the allocator of this crate), by turns: for a trace of what
//! memory each of them reads and writes.
//!
//! A store to one of the marks says in the trace whose work follows; the last one that nobody's does. Both run on one stack, which
//! is left out of the comparison: partitions have their own.

use core::sync::atomic::{AtomicU8, Ordering::SeqCst, compiler_fence};

use crate::{Phase, counted};

/// Number of partitions.
const PARTITIONS: usize = 2;

/// One byte for each partition, and one for nobody.
#[repr(align(64))]
struct Marks([AtomicU8; PARTITIONS + 1]);

static MARKS: Marks = Marks([const { AtomicU8::new(0) }; PARTITIONS + 1]);

/// Where the marks are.
pub(crate) fn marks() -> usize {
    MARKS.0.as_ptr().addr()
}

fn mark(whose: usize) {
    compiler_fence(SeqCst);
    MARKS.0[whose].store(1, SeqCst);
    compiler_fence(SeqCst);
}

/// Runs `rounds` rounds of `batch` items in each partition by turns; the items that each has done.
pub(crate) fn run<P: Phase>(batch: usize, rounds: usize) -> [usize; PARTITIONS] {
    let mut partitions = [Box::new(P::new()), Box::new(P::new())];
    let mut items = [0; PARTITIONS];
    for _ in 0..rounds {
        for (whose, phase) in partitions.iter_mut().enumerate() {
            phase.prepare(batch);
            mark(whose);
            items[whose] += counted(&mut **phase, batch);
            mark(PARTITIONS);
        }
    }
    items
}
