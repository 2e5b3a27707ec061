//! Segments that a device has, by the slot of their descriptor.
#![expect(
    unsafe_code,
    reason = "turns words back into the segments they were made from"
)]

use parakernel_core::memory::Segment;

/// `N` places, each for one segment or none.
///
/// # Invariants
///
/// A word that is not `FREE` is a segment that exists nowhere else.
#[derive(Debug)]
pub(crate) struct Slots<const N: usize> {
    words: [u32; N],
}

impl<const N: usize> Slots<N> {
    /// No segment is this word: segments are stored cleared, so their length is 0.
    const FREE: u32 = u32::MAX;

    pub(crate) const fn new() -> Self {
        Self {
            words: [Self::FREE; N],
        }
    }

    /// Whether there is no segment at `index`, which there is not beyond the last slot either.
    #[inline]
    pub(crate) fn is_free(&self, index: usize) -> bool {
        self.words.get(index).is_none_or(|&word| word == Self::FREE)
    }

    /// Puts the first segment of a frame in the place of what is at `index`, which is lost where that is not free.
    ///
    /// Only the buffer is kept, and whether its frame goes on in another. `index` is taken modulo `N`.
    #[inline]
    pub(crate) fn put(&mut self, index: usize, segment: Segment) {
        let more = segment.has_more();
        self.words[index & (N - 1)] = segment.cleared().with_more(more).into_word();
    }

    /// Puts a segment that is not the first of its frame.
    #[inline]
    pub(crate) fn put_further(&mut self, index: usize, segment: Segment) {
        let more = segment.has_more();
        let further = segment.cleared().with_more(more).with_early(true);
        self.words[index & (N - 1)] = further.into_word();
    }

    /// Whether the word at `index` is one segment that is a whole frame.
    #[inline]
    pub(crate) fn is_single(&self, index: usize) -> bool {
        // No flag, and not the free word.
        self.words.get(index).is_some_and(|&word| word <= 0xFFFF)
    }

    /// Puts the word of a segment, cleared, in the place of the one at `index`, whose word is returned. `index` is taken
    /// modulo `N`.
    ///
    /// # Safety
    ///
    /// The segment must exist nowhere else from now on; that of the word that is returned may be made anew, once.
    #[inline]
    pub(crate) unsafe fn exchange(&mut self, index: usize, word: u32) -> u32 {
        core::mem::replace(&mut self.words[index & (N - 1)], word & 0xFFFF)
    }

    /// Takes the word at `index`, which is taken modulo `N`.
    ///
    /// # Safety
    ///
    /// As for [`exchange`](Self::exchange): if the word is a segment, that may be made anew, once.
    #[inline]
    pub(crate) unsafe fn take_word(&mut self, index: usize) -> u32 {
        core::mem::replace(&mut self.words[index & (N - 1)], Self::FREE)
    }

    /// Takes the segment at `index`, unless it is not the first of its frame.
    #[inline]
    pub(crate) fn take(&mut self, index: usize) -> Option<Segment> {
        let word = self.words.get_mut(index)?;
        let segment = Self::segment(*word).filter(|segment| !segment.is_early())?;
        *word = Self::FREE;
        Some(segment)
    }

    /// Takes the segment at `index`, which is taken modulo `N`, if it is not the first of its frame.
    #[inline]
    pub(crate) fn take_further(&mut self, index: usize) -> Option<Segment> {
        let word = &mut self.words[index & (N - 1)];
        let segment = Self::segment(*word).filter(Segment::is_early)?;
        *word = Self::FREE;
        Some(segment)
    }

    /// The segment at `index`, to look at its buffer.
    pub(crate) fn peek<T>(&self, index: usize, look: impl FnOnce(&Segment) -> T) -> Option<T> {
        let segment = self.words.get(index).copied().and_then(Self::segment)?;
        let seen = look(&segment);
        // The segment stays in its place.
        let _word = segment.into_word();
        Some(seen)
    }

    /// The segment that a word stands for. The caller sees to it that the word is used no more.
    #[inline]
    fn segment(word: u32) -> Option<Segment> {
        // SAFETY: by the invariant a word that is not free is a segment that exists nowhere else; all callers
        // overwrite the word, or forget the segment.
        (word != Self::FREE).then(|| unsafe { Segment::from_word(word) })
    }
}
