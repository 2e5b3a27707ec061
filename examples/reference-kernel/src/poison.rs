//! Free frames that were in use hold a pattern, so that whoever still writes to them is found out.
//!
//! That a queue has let go of memory is for the control plane to know. This looks at the memory itself: a frame is filled when it is
//! given back and compared when it is taken again, and all that are free are compared at the end. A card that went on writing to a
//! dead process's buffers would leave its frames there.
#![expect(unsafe_code, reason = "looks at frames that nobody has")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use parakernel_core::address::PhysAddr;
use parakernel_core::memory::SharedMemory;
use parakernel_numa::frames::Run;

use crate::arch::{native, paging};
use crate::memory::FRAME;
use crate::print;

/// What each word of a free frame holds, next to its own address: far from zeroes, from text and from addresses.
const PATTERN: u64 = 0xf3ee_d0a5_5a0d_ee3f;
/// Damaged frames that the log names; the others are counted.
const NAMED: u64 = 8;

/// Which free frames are filled.
#[derive(Debug)]
pub(crate) struct Poison {
    /// One bit for each frame, by its number.
    marks: &'static mut [u64],
    found: Found,
}

/// What was found so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Found {
    /// Frames that were compared with what they were filled with.
    pub(crate) compared: u64,
    /// Those of them that somebody had written to.
    pub(crate) damaged: u64,
}

impl Poison {
    /// Words of marks for memory that ends at `end`.
    pub(crate) fn words(end: PhysAddr) -> usize {
        native(end.as_u64().div_ceil(FRAME).div_ceil(u64::BITS.into()))
    }

    /// Nothing is filled yet. `marks` are zeroes, as many as [`words`](Self::words) says.
    pub(crate) const fn new(marks: &'static mut [u64]) -> Self {
        Self {
            marks,
            found: Found {
                compared: 0,
                damaged: 0,
            },
        }
    }

    /// Fills frames that were given back.
    pub(crate) fn fill(&mut self, run: Run) {
        for frame in run.addresses() {
            if self.set_mark(frame, true).is_some() {
                for (word, expected) in words_of(frame) {
                    word.store(expected, Ordering::Relaxed);
                }
            }
        }
    }

    /// Compares frames that are taken, those of them that were filled.
    pub(crate) fn lift(&mut self, run: Run) {
        for frame in run.addresses() {
            if self.set_mark(frame, false) == Some(true) {
                self.compare(frame);
            }
        }
    }

    /// Compares all frames that are filled, which stay so; what was found in all.
    pub(crate) fn inspect(&mut self) -> Found {
        for index in 0..self.marks.len() {
            let mut left = self.marks[index];
            while left != 0 {
                let bit = u64::from(left.trailing_zeros());
                left &= left - 1;
                let number = index as u64 * u64::from(u64::BITS) + bit;
                self.compare(PhysAddr::new(number * FRAME));
            }
        }
        self.found
    }

    fn compare(&mut self, frame: PhysAddr) {
        self.found.compared += 1;
        let mut words = words_of(frame);
        let damaged = words.find(|(word, expected)| word.load(Ordering::Relaxed) != *expected);
        if let Some((word, expected)) = damaged {
            self.found.damaged += 1;
            if self.found.damaged <= NAMED {
                let value = word.load(Ordering::Relaxed);
                print!("free frame {frame:?} was written to: {value:#x} where {expected:#x} was\n");
            }
        }
    }

    /// Sets a frame's mark; what it was, or `None` for memory that has no mark.
    fn set_mark(&mut self, frame: PhysAddr, is_filled: bool) -> Option<bool> {
        let number = frame.as_u64() / FRAME;
        let bit = 1 << (number % u64::from(u64::BITS));
        let word = self.marks.get_mut(native(number / u64::from(u64::BITS)))?;
        let was_filled = *word & bit != 0;
        *word = if is_filled { *word | bit } else { *word & !bit };
        Some(was_filled)
    }
}

/// The words of a free frame, each with what it is filled with.
fn words_of(frame: PhysAddr) -> impl Iterator<Item = (&'static AtomicU64, u64)> {
    let base = NonNull::new(paging::physical(frame));
    // SAFETY: all memory is mapped, for ever, and a frame that nobody has is nobody's to look at but the allocator's. Should a
    // device write to it all the same, these are atomics.
    let memory = base.map(|base| unsafe { SharedMemory::new(base, native(FRAME)) });
    let words = memory.and_then(|memory| memory.slice(0, native(FRAME) / size_of::<AtomicU64>()));
    let start = frame.as_u64() ^ PATTERN;
    words
        .unwrap_or_default()
        .iter()
        .map(move |word: &AtomicU64| (word, start))
}
