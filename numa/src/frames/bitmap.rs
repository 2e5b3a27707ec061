//! A set of frame numbers, one bit each, and the search for runs in it.

use core::ops::Range;

const BITS: usize = u64::BITS as usize;

/// Which of the frames numbered below `len` are in the set.
#[derive(Default, Debug)]
pub(super) struct Bitmap<'s> {
    words: &'s mut [u64],
    len: usize,
}

impl<'s> Bitmap<'s> {
    /// The empty set of frames numbered below `len`, or `None` if `words` has too few bits.
    pub(super) fn new(words: &'s mut [u64], len: usize) -> Option<Self> {
        let words = words.get_mut(..Self::words(len))?;
        words.fill(0);
        Some(Self { words, len })
    }

    /// How many words hold `len` bits.
    pub(super) const fn words(len: usize) -> usize {
        len.div_ceil(BITS)
    }

    pub(super) fn contains(&self, frame: usize) -> bool {
        let word = self.words.get(frame / BITS).copied().unwrap_or_default();
        word >> (frame % BITS) & 1 != 0
    }

    /// Puts all frames of a range into the set.
    pub(super) fn insert(&mut self, range: Range<usize>) {
        self.for_each_word(range, |word, mask| *word |= mask);
    }

    /// Takes all frames of a range out of the set.
    pub(super) fn remove(&mut self, range: Range<usize>) {
        self.for_each_word(range, |word, mask| *word &= !mask);
    }

    /// The lowest run of `count` frames in the set that starts at `from` or later and on the grid.
    ///
    /// Each step skips all that the last one looked at, so the search looks at each word about once.
    pub(super) fn lowest_run(&self, from: usize, count: usize, grid: Grid) -> Option<usize> {
        let mut start = grid.at_or_above(self.next_in(from)?)?;
        loop {
            let end = start.checked_add(count).filter(|end| *end <= self.len)?;
            let Some(gap) = self.last_out(start..end) else {
                return Some(start);
            };
            start = grid.at_or_above(self.next_in(gap + 1)?)?;
        }
    }

    /// The highest run of `count` frames in the set that starts on the grid.
    pub(super) fn highest_run(&self, count: usize, grid: Grid) -> Option<usize> {
        let mut start = grid.at_or_below(self.len.checked_sub(count)?)?;
        loop {
            let Some(gap) = self.first_out(start..start + count) else {
                return Some(start);
            };
            start = grid.at_or_below(gap.checked_sub(count)?)?;
        }
    }

    /// The first frame at `from` or later that is in the set.
    fn next_in(&self, from: usize) -> Option<usize> {
        let mut index = from / BITS;
        let mut word = self.words.get(index)? & (u64::MAX << (from % BITS));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(index * BITS + word.trailing_zeros() as usize)
    }

    /// The first frame of a range that is not in the set.
    fn first_out(&self, range: Range<usize>) -> Option<usize> {
        masks(range).find_map(|(index, mask)| {
            let out = !self.words.get(index)? & mask;
            (out != 0).then(|| index * BITS + out.trailing_zeros() as usize)
        })
    }

    /// The last frame of a range that is not in the set.
    fn last_out(&self, range: Range<usize>) -> Option<usize> {
        masks(range).rev().find_map(|(index, mask)| {
            let out = !self.words.get(index)? & mask;
            (out != 0).then(|| index * BITS + out.ilog2() as usize)
        })
    }

    fn for_each_word(&mut self, range: Range<usize>, change: impl Fn(&mut u64, u64)) {
        for (index, mask) in masks(range.start..range.end.min(self.len)) {
            if let Some(word) = self.words.get_mut(index) {
                change(word, mask);
            }
        }
    }
}

/// The frame numbers whose physical address is aligned: `number + bias` is a multiple of `align`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// A power of two.
    pub(super) align: usize,
    /// Less than `align`.
    pub(super) bias: usize,
}

impl Grid {
    /// The lowest number on the grid that is no lower than `frame`.
    fn at_or_above(self, frame: usize) -> Option<usize> {
        let aligned = frame.checked_add(self.bias)?;
        Some(aligned.checked_next_multiple_of(self.align)? - self.bias)
    }

    /// The highest number on the grid that is no higher than `frame`.
    fn at_or_below(self, frame: usize) -> Option<usize> {
        let aligned = frame.checked_add(self.bias)?;
        (aligned - aligned % self.align).checked_sub(self.bias)
    }
}

/// The words that hold a range of bits, each with the mask of those bits.
fn masks(range: Range<usize>) -> impl DoubleEndedIterator<Item = (usize, u64)> {
    let words = if range.is_empty() {
        0..0
    } else {
        range.start / BITS..range.end.div_ceil(BITS)
    };
    words.map(move |index| {
        let from = range.start.saturating_sub(index * BITS);
        let beyond = ((index + 1) * BITS).saturating_sub(range.end);
        (index, u64::MAX << from & u64::MAX >> beyond)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bits in patches, so that long runs of both kinds occur.
    fn patches() -> impl Strategy<Value = Vec<bool>> {
        let patch = (any::<bool>(), 1..90_usize);
        prop::collection::vec(patch, 1..8).prop_map(|patches| {
            let bits = patches.into_iter();
            bits.flat_map(|(bit, count)| core::iter::repeat_n(bit, count))
                .collect()
        })
    }

    fn grid() -> impl Strategy<Value = Grid> {
        let align = prop::sample::select(&[1_usize, 2, 8, 64, 128][..]);
        (align, any::<usize>()).prop_map(|(align, bias)| Grid {
            align,
            bias: bias % align,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Both searches find what trying each start finds.
        #[test]
        fn runs_agree_with_trying_each_start(
            bits in patches(),
            from in prop_oneof![0..80_usize, 0..700_usize],
            count in prop_oneof![1..20_usize, 1..130_usize],
            grid in grid(),
        ) {
            let mut words = [u64::MAX; 16];
            let mut bitmap = Bitmap::new(&mut words, bits.len()).unwrap();
            for (frame, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                bitmap.insert(frame..frame + 1);
            }
            let on_grid = |start: &usize| (start + grid.bias).is_multiple_of(grid.align);
            let is_run = |start: &usize| bits[*start..].len() >= count && bits[*start..*start + count].iter().all(|bit| *bit);
            let runs = || (0..bits.len()).filter(on_grid).filter(is_run);
            prop_assert_eq!(bitmap.lowest_run(from, count, grid), runs().find(|start| *start >= from));
            prop_assert_eq!(bitmap.highest_run(count, grid), runs().next_back());
        }

        /// Inserting and removing ranges is what it is bit by bit.
        #[test]
        fn ranges_agree_with_bits(changes in prop::collection::vec((any::<bool>(), 0..200_usize, 0..200_usize), 0..9)) {
            let mut words = [0; 4];
            let mut bitmap = Bitmap::new(&mut words, 199).unwrap();
            let mut bits = [false; 199];
            for (insert, start, end) in changes {
                let end = end.min(199).max(start);
                if insert {
                    bitmap.insert(start..end);
                } else {
                    bitmap.remove(start..end);
                }
                bits.iter_mut().take(end).skip(start).for_each(|bit| *bit = insert);
            }
            for (frame, bit) in bits.iter().enumerate() {
                prop_assert_eq!(bitmap.contains(frame), *bit);
            }
            prop_assert!(!bitmap.contains(199));
        }
    }

    #[test]
    fn an_empty_set_has_no_runs() {
        let grid = Grid { align: 1, bias: 0 };
        let bitmap = Bitmap::new(&mut [], 0).unwrap();
        assert_eq!(bitmap.lowest_run(0, 1, grid), None);
        assert_eq!(bitmap.highest_run(1, grid), None);
        assert!(Bitmap::new(&mut [0], 65).is_none());
    }
}
