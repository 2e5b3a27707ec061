//! Ranges of physical memory, as the boot loader's memory map gives them.

use core::ops::Range;

use heapless::Vec;
use parakernel_numa::frames::FRAME_LEN;

use crate::print;

/// Most ranges that the kernel keeps apart; smaller ones beyond that are not used.
const RANGES_MAX: usize = 128;

/// Ranges of whole frames, without overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges(Vec<Range<u64>, RANGES_MAX>);

impl Ranges {
    /// Adds the whole frames of `range`.
    pub(crate) fn add(&mut self, range: Range<u64>) {
        let end = range.end - range.end % FRAME_LEN;
        let frames = range.start.next_multiple_of(FRAME_LEN)..end;
        if frames.start < frames.end && self.0.push(frames).is_err() {
            print!("memory: more than {RANGES_MAX} ranges; one is not used\n");
        }
    }

    /// Takes `range` (and what shares a frame with it) out.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        let start = range.start - range.start % FRAME_LEN;
        let end = range.end.next_multiple_of(FRAME_LEN);
        let mut left = Self::default();
        for old in &self.0 {
            left.add(old.start..old.end.min(start));
            left.add(old.start.max(end)..old.end);
        }
        *self = left;
    }

    /// What lies within `bounds`.
    pub(crate) fn within(&self, bounds: &Range<u64>) -> Self {
        let mut inside = Self::default();
        for range in &self.0 {
            inside.add(range.start.max(bounds.start)..range.end.min(bounds.end));
        }
        inside
    }

    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }
}
