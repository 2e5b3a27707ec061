#![expect(
    unsafe_code,
    reason = "turns words back into the segments they were made from"
)]

use super::arena::{Arena, Segment};

/// An [`Arena`] and the stack of its buffers that are free.
///
/// The most recently freed buffer is taken first: it is the likeliest to be in the cache. A pool serves one queue pair,
/// so no two queues share a cache line; [`split_off`](Self::split_off) makes another pool of the same arena.
///
/// # Invariants
///
/// There are `free` words at least, and the first `free` of them are cleared segments of `arena` that exist nowhere else.
#[derive(Debug)]
pub struct Pool<'a> {
    arena: Arena<'a>,
    words: &'a mut [u32],
    free: usize,
}

impl<'a> Pool<'a> {
    /// All buffers of `arena`, free. `words` holds the stack; it must have room for all of them, else the rest is not
    /// used.
    #[must_use]
    pub fn new(arena: Arena<'a>, words: &'a mut [u32]) -> Self {
        let count = arena.layout().count;
        let mut pool = Self {
            arena,
            words,
            free: 0,
        };
        for index in (0..count).rev() {
            pool.put(Segment::empty(index));
        }
        pool
    }

    /// Moves up to `count` free buffers to a pool of their own, whose stack is `words`.
    #[must_use]
    pub fn split_off(&mut self, count: usize, words: &'a mut [u32]) -> Self {
        let mut pool = Self {
            arena: self.arena.again(),
            words,
            free: 0,
        };
        for _ in 0..count.min(pool.words.len()) {
            let Some(segment) = self.take() else { break };
            pool.put(segment);
        }
        pool
    }

    /// The arena, to reach the bytes of segments.
    #[inline]
    #[must_use]
    pub const fn arena(&self) -> &Arena<'a> {
        &self.arena
    }

    /// Number of free buffers.
    #[inline]
    #[must_use]
    pub const fn free(&self) -> usize {
        self.free
    }

    /// Takes a free buffer, with nothing in it.
    #[inline]
    pub fn take(&mut self) -> Option<Segment> {
        let free = self.free.checked_sub(1)?;
        let word = *self.words.get(free)?;
        self.free = free;
        // SAFETY: the word was a segment that exists nowhere else, and is no longer among the free ones.
        Some(unsafe { Segment::from_word(word) })
    }

    /// The words of the `count` segments that were freed last; `None` where there are not so many.
    ///
    /// For queues, which move segments by the batch: the words stand for segments that are still the pool's, until
    /// [`remove`](Self::remove) takes them away.
    #[inline]
    #[must_use]
    pub fn next_words(&self, count: usize) -> Option<&[u32]> {
        let start = self.free.checked_sub(count)?;
        self.words.get(start..self.free)
    }

    /// Takes away the first `taken` of the segments that [`next_words`](Self::next_words) shows for `count`.
    ///
    /// # Safety
    ///
    /// Each of their words may afterwards be turned into a segment once.
    #[inline]
    pub unsafe fn remove(&mut self, count: usize, taken: usize) {
        let taken = taken.min(count).min(self.free);
        if taken < count {
            let start = self.free.saturating_sub(count);
            self.words.copy_within(start + taken..self.free, start);
        }
        self.free -= taken;
    }

    /// Takes the `count` segments that were freed last, or all where there are fewer, as words: for queues, which move
    /// segments by the batch.
    ///
    /// # Safety
    ///
    /// Each of the words must be turned into a segment at most once; where it is not, its buffer is lost.
    #[inline]
    pub unsafe fn take_words(&mut self, count: usize) -> &[u32] {
        let (start, end) = (self.free.saturating_sub(count), self.free);
        self.free = start;
        // SAFETY: `start` is at most `end`, and there are as many words, by the invariant.
        unsafe { self.words.get_unchecked(start..end) }
    }

    /// The room for the words of segments that are given back, to be made part of the pool by [`add`](Self::add).
    #[inline]
    pub fn vacant_words(&mut self) -> &mut [u32] {
        // SAFETY: there are so many words at least, by the invariant.
        unsafe { self.words.get_unchecked_mut(self.free..) }
    }

    /// Makes the first `count` of the [`vacant_words`](Self::vacant_words) the pool's.
    ///
    /// # Safety
    ///
    /// There must be as many, and they must be cleared segments of the pool's arena that exist nowhere else.
    #[inline]
    pub unsafe fn add(&mut self, count: usize) {
        debug_assert!(count <= self.words.len() - self.free);
        self.free += count;
    }

    /// Gives a buffer back; whatever was in it is forgotten.
    ///
    /// A buffer that finds no room is lost: it cannot happen while the stack has a word for each buffer of the arena.
    #[inline]
    pub fn put(&mut self, segment: Segment) {
        if let Some(word) = self.words.get_mut(self.free) {
            *word = segment.cleared().into_word();
            self.free += 1;
        }
    }
}

/// A list of segments in memory of the caller's: filled at the back, emptied at the front.
///
/// The segments of one frame follow each other; all but the last say that more come.
///
/// # Invariants
///
/// `start` is at most `end`, there are `end` words at least, and those from `start` on are segments moved into the list.
#[derive(Debug)]
pub struct SegmentList<'a> {
    words: &'a mut [u32],
    start: usize,
    end: usize,
}

impl<'a> SegmentList<'a> {
    /// An empty list with room for `words.len()` segments.
    #[must_use]
    pub const fn new(words: &'a mut [u32]) -> Self {
        Self {
            words,
            start: 0,
            end: 0,
        }
    }

    /// Number of segments.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is no segment.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many more segments fit. Room at the front counts again once the list was empty, or was
    /// [compacted](Self::compact).
    #[inline]
    #[must_use]
    pub const fn room(&self) -> usize {
        self.words.len() - self.end
    }

    /// Appends a segment.
    ///
    /// # Errors
    ///
    /// The segment, where there is no room.
    #[inline]
    pub fn push(&mut self, segment: Segment) -> Result<(), Segment> {
        let Some(word) = self.words.get_mut(self.end) else {
            return Err(segment);
        };
        *word = segment.into_word();
        self.end += 1;
        Ok(())
    }

    /// Removes the first segment.
    #[inline]
    pub fn pop(&mut self) -> Option<Segment> {
        if self.is_empty() {
            return None;
        }
        let word = *self.words.get(self.start)?;
        self.start += 1;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        // SAFETY: the word was a segment moved into the list, and is no longer in it.
        Some(unsafe { Segment::from_word(word) })
    }

    /// Moves the segments to the front of the list's memory, so that all its room is at the back.
    pub fn compact(&mut self) {
        self.words.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.len());
    }

    /// The room for the words of segments that are appended, to be made part of the list by [`add`](Self::add).
    #[inline]
    pub fn vacant_words(&mut self) -> &mut [u32] {
        // SAFETY: there are so many words at least, by the invariant.
        unsafe { self.words.get_unchecked_mut(self.end..) }
    }

    /// Makes the first `count` of the [`vacant_words`](Self::vacant_words) the list's.
    ///
    /// # Safety
    ///
    /// There must be as many, and they must be segments that exist nowhere else.
    #[inline]
    pub unsafe fn add(&mut self, count: usize) {
        debug_assert!(count <= self.room());
        self.end += count;
    }

    /// Removes the first `count` segments.
    ///
    /// # Safety
    ///
    /// There must be as many. Each of their words may afterwards be turned into a segment once.
    #[inline]
    pub unsafe fn remove(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Removes all segments.
    ///
    /// # Safety
    ///
    /// Each of their words may afterwards be turned into a segment once.
    #[inline]
    pub unsafe fn remove_all(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// The segments, first to last.
    pub fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.segments().iter()
    }

    /// The segments as a slice, first to last.
    #[inline]
    pub fn segments(&self) -> &[Segment] {
        // SAFETY: `start` is at most `end`, and there are as many words, by the invariant.
        let words = unsafe { self.words.get_unchecked(self.start..self.end) };
        // SAFETY: `Segment` is a transparent `u32`, and each word was a segment moved into the list.
        unsafe { &*(core::ptr::from_ref(words) as *const [Segment]) }
    }

    /// The segments as a slice, first to last, to write their bytes.
    #[inline]
    pub fn segments_mut(&mut self) -> &mut [Segment] {
        // SAFETY: as in `segments`.
        let words = unsafe { self.words.get_unchecked_mut(self.start..self.end) };
        // SAFETY: as in `segments`; whatever is put in the place of a segment is a segment moved into the list.
        unsafe { &mut *(core::ptr::from_mut(words) as *mut [Segment]) }
    }

    /// Number of segments of the first frame, or 0 where its last segment is not in the list.
    #[must_use]
    pub fn first_frame(&self) -> usize {
        let last = self.iter().position(|segment| !segment.has_more());
        last.map_or(0, |index| index + 1)
    }

    /// Gives all segments to `pool`.
    pub fn clear_into(&mut self, pool: &mut Pool<'_>) {
        while let Some(segment) = self.pop() {
            pool.put(segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;

    use proptest::prelude::*;

    use super::{super::arena::ArenaLayout, *};
    use crate::address::Iova;

    const LAYOUT: ArenaLayout = ArenaLayout {
        stride: 64,
        headroom: 0,
        header: 0,
        count: 8,
    };

    fn arena(memory: &mut [u8]) -> Arena<'_> {
        // SAFETY: the memory is borrowed for the arena's life, and there is no other arena.
        unsafe { Arena::new(NonNull::from(memory).cast(), Iova::new(0), LAYOUT) }.unwrap()
    }

    #[test]
    fn every_buffer_is_there_once_and_the_last_freed_comes_first() {
        let (mut memory, mut words, mut others) = ([0; LAYOUT.bytes()], [0; 8], [0; 8]);
        let mut pool = Pool::new(arena(&mut memory), &mut words);
        let mut half = pool.split_off(4, &mut others);
        assert_eq!((pool.free(), half.free()), (4, 4));
        let mut seen = [false; 8];
        while let Some(segment) = pool.take().or_else(|| half.take()) {
            assert!(!core::mem::replace(
                &mut seen[usize::from(segment.index())],
                true
            ));
        }
        assert_eq!(seen, [true; 8]);
    }

    proptest! {
        #[test]
        fn a_list_is_a_queue(operations in prop::collection::vec(any::<bool>(), 0..64)) {
            let (mut memory, mut words, mut list) = ([0; LAYOUT.bytes()], [0; 8], [0; 5]);
            let mut pool = Pool::new(arena(&mut memory), &mut words);
            let mut list = SegmentList::new(&mut list);
            let mut oracle = alloc::collections::VecDeque::new();
            for push in operations {
                if list.room() == 0 {
                    list.compact();
                    prop_assert_eq!(list.room(), 5 - list.len());
                }
                if push {
                    let Some(segment) = pool.take() else { continue };
                    let index = segment.index();
                    match list.push(segment) {
                        Ok(()) => oracle.push_back(index),
                        Err(segment) => pool.put(segment),
                    }
                } else {
                    let segment = list.pop();
                    prop_assert_eq!(segment.as_ref().map(Segment::index), oracle.pop_front());
                    segment.into_iter().for_each(|segment| pool.put(segment));
                }
                let held: alloc::collections::VecDeque<_> = list.iter().map(Segment::index).collect();
                prop_assert_eq!(&held, &oracle);
            }
            let first = list.segments_mut().first_mut();
            prop_assert_eq!(first.map(|segment| segment.index()), oracle.pop_front());
            list.clear_into(&mut pool);
            prop_assert_eq!(pool.free(), 8);
        }

        #[test]
        fn the_first_frame_ends_at_its_last_segment(more in prop::collection::vec(any::<bool>(), 0..8)) {
            let (mut memory, mut words, mut list) = ([0; LAYOUT.bytes()], [0; 8], [0; 8]);
            let mut pool = Pool::new(arena(&mut memory), &mut words);
            let mut list = SegmentList::new(&mut list);
            for &more in &more {
                list.push(pool.take().unwrap().with_more(more)).unwrap();
            }
            let counted = more.iter().take_while(|&&more| more).count() + 1;
            prop_assert_eq!(list.first_frame(), if counted > more.len() { 0 } else { counted });
        }
    }
}
