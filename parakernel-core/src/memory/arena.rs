#![expect(
    unsafe_code,
    reason = "hands out frame buffers that a device fills and empties"
)]

use core::{marker::PhantomData, ptr::NonNull};

use crate::address::Iova;

/// One buffer of an [`Arena`], with a part of a frame in it: the right to that buffer.
///
/// Four bytes: index of the buffer (16 bits), length of its bytes (14 bits), whether the frame goes on in the next
/// segment, and whether the bytes start early (see [`ArenaLayout::headroom`]). It can be neither copied nor made up:
/// segments come from a [`Pool`](super::Pool) and move to a queue and back, so holding one proves that no device owns
/// the buffer. Dropping one loses the buffer until the arena is made anew.
#[derive(PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[must_use = "dropping a segment loses its buffer"]
#[repr(transparent)]
pub struct Segment(u32);

impl Segment {
    /// The largest length of a segment, in bytes.
    pub const MAX_LEN: usize = Self::LEN_MASK as usize;

    const LEN_MASK: u32 = (1 << 14) - 1;
    const LEN_SHIFT: u32 = 16;
    const MORE: u32 = 1 << 30;
    const EARLY: u32 = 1 << 31;

    /// The whole buffer `index`, nothing in it.
    pub(super) const fn empty(index: u16) -> Self {
        Self(index as u32)
    }

    /// The segment as the word that rings and lists hold.
    #[inline]
    #[must_use]
    pub const fn into_word(self) -> u32 {
        self.0
    }

    /// The same word, to look at: it stands for no right.
    #[inline]
    #[must_use]
    pub const fn as_word(&self) -> u32 {
        self.0
    }

    /// The segment that [`into_word`](Self::into_word) turned into `word`.
    ///
    /// # Safety
    ///
    /// The low 16 bits of `word` must be those of a word that came from `into_word`, and each such word must be turned
    /// back at most once. The other bits may be anything: the arena checks lengths when bytes are asked for.
    #[inline]
    pub const unsafe fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// Index of the buffer in its arena.
    #[inline]
    #[must_use]
    pub const fn index(&self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// Bytes of the frame in this buffer.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        ((self.0 >> Self::LEN_SHIFT) & Self::LEN_MASK) as usize
    }

    /// Whether the segment holds no byte.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the segment is a whole frame with at least one byte, which starts at its usual place.
    #[inline]
    #[must_use]
    pub const fn is_whole_frame(&self) -> bool {
        // Length and flags in one compare: a flag makes the number too large, and no byte at all makes it wrap.
        self.whole_len().wrapping_sub(1) < Self::LEN_MASK
    }

    /// The length of a segment that is a whole frame and starts at its usual place; of any other a number above
    /// [`MAX_LEN`](Self::MAX_LEN). For queues, which compare it with their limits at once.
    #[inline]
    #[must_use]
    pub const fn whole_len(&self) -> u32 {
        // The flags lie above the length.
        self.0 >> Self::LEN_SHIFT
    }

    /// Whether the frame goes on in the next segment.
    #[inline]
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.0 & Self::MORE != 0
    }

    /// Whether the bytes start where the device's header would, not after it.
    #[inline]
    #[must_use]
    pub const fn is_early(&self) -> bool {
        self.0 & Self::EARLY != 0
    }

    /// The same buffer with `len` bytes in it, at most [`MAX_LEN`](Self::MAX_LEN): a larger number is cut to that.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "cut to 14 bits")]
    pub const fn with_len(self, len: usize) -> Self {
        let len = if len > Self::MAX_LEN {
            Self::MAX_LEN
        } else {
            len
        };
        let len = (len as u32) << Self::LEN_SHIFT;
        Self(self.0 & !(Self::LEN_MASK << Self::LEN_SHIFT) | len)
    }

    /// The same segment, followed by another of the same frame, or not.
    #[inline]
    pub const fn with_more(self, more: bool) -> Self {
        Self(self.0 & !Self::MORE | if more { Self::MORE } else { 0 })
    }

    /// The same segment, its bytes starting early, or not.
    #[inline]
    pub const fn with_early(self, early: bool) -> Self {
        Self(self.0 & !Self::EARLY | if early { Self::EARLY } else { 0 })
    }

    /// The buffer alone: no byte in it, last of its frame, not early.
    #[inline]
    pub const fn cleared(self) -> Self {
        Self(self.0 & 0xffff)
    }
}

/// How an [`Arena`] is cut into buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ArenaLayout {
    /// Bytes from one buffer to the next. An odd number of cache lines spreads buffers over all cache sets: 2112, say,
    /// not 2048.
    pub stride: u32,
    /// Bytes before a frame's first byte, where a device's own header may lie, as virtio's 12 bytes do.
    pub headroom: u32,
    /// Bytes of that header: where an early segment starts is `headroom - header` into the buffer.
    pub header: u32,
    /// Number of buffers.
    pub count: u16,
}

impl ArenaLayout {
    /// Bytes that a frame may have in one buffer.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        (self.stride - self.headroom) as usize
    }

    /// Bytes that the whole arena takes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.stride as usize * self.count as usize
    }

    /// Whether header, headroom and stride fit into each other and a segment can name every length.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        self.header <= self.headroom
            && self.headroom < self.stride
            && (self.stride - self.headroom + self.header) as usize <= Segment::MAX_LEN
    }
}

/// A registered region cut into equal frame buffers.
///
/// # Invariants
///
/// The layout is valid, `layout.bytes()` bytes at `base` stay mapped for `'a`, and each buffer is touched only by who
/// holds its segment. `first` is `layout.headroom` bytes behind `base`, and `room` what a buffer has from there on.
#[derive(Debug)]
pub struct Arena<'a> {
    base: NonNull<u8>,
    iova: Iova,
    layout: ArenaLayout,
    /// Where a frame in the first buffer usually starts, here and for devices, and the most bytes that it may have.
    first: NonNull<u8>,
    first_iova: Iova,
    room: u32,
    life: PhantomData<&'a mut [u8]>,
}

// SAFETY: the buffers belong to who holds the segments, on whatever thread.
unsafe impl Send for Arena<'_> {}
// SAFETY: as above; the arena itself is never changed.
unsafe impl Sync for Arena<'_> {}

impl<'a> Arena<'a> {
    /// Cuts the memory at `base`, which devices reach at `iova`, as `layout` says; `None` where the layout is not
    /// valid or the last address would wrap.
    ///
    /// # Safety
    ///
    /// `layout.bytes()` bytes at `base` must stay mapped, initialised and registered at `iova` for `'a`, and be used
    /// through this arena only. Segments of this arena must never meet another one: a program whose queues exchange
    /// segments has one arena for all of them.
    #[must_use]
    pub unsafe fn new(base: NonNull<u8>, iova: Iova, layout: ArenaLayout) -> Option<Self> {
        if !layout.is_valid() || iova.checked_add(layout.bytes() as u64).is_none() {
            return None;
        }
        // SAFETY: the headroom is less than the stride, and so lies inside the memory; without a buffer, the layout has
        // no byte, and the pointer is never used.
        let first = unsafe {
            base.add(if layout.count > 0 {
                layout.headroom as usize
            } else {
                0
            })
        };
        Some(Self {
            base,
            iova,
            layout,
            first,
            first_iova: Iova::new(iova.as_u64().wrapping_add(layout.headroom.into())),
            room: layout.stride - layout.headroom,
            life: PhantomData,
        })
    }

    /// A second handle, for a second pool or a queue; the buffers stay with who holds their segments.
    #[must_use]
    pub const fn again(&self) -> Self {
        Self { ..*self }
    }

    /// How the arena is cut.
    #[inline]
    #[must_use]
    pub const fn layout(&self) -> &ArenaLayout {
        &self.layout
    }

    /// Where devices find the first byte of the whole arena.
    #[inline]
    #[must_use]
    pub const fn iova_base(&self) -> Iova {
        self.iova
    }

    /// Where devices find the first byte of `segment`.
    #[inline]
    #[must_use]
    pub fn iova(&self, segment: &Segment) -> Iova {
        Iova::new(self.iova.as_u64() + self.offset(segment) as u64)
    }

    /// Where devices find the first byte of a frame in the buffer with this index, below the layout's count.
    #[inline]
    #[must_use]
    pub const fn buffer_iova(&self, index: u16) -> Iova {
        // Two factors of 32 bits each; the sum was checked when the arena was made.
        let offset = index as u64 * self.layout.stride as u64;
        Iova::new(self.first_iova.as_u64().wrapping_add(offset))
    }

    /// The frame's bytes in `segment`.
    ///
    /// # Panics
    ///
    /// If the segment is of another arena and lies outside this one, or was given more bytes than its buffer has.
    #[inline]
    #[must_use]
    pub fn bytes<'s>(&self, segment: &'s Segment) -> &'s [u8]
    where
        'a: 's,
    {
        let bytes = self.place(segment);
        // SAFETY: inside the arena (`place`), and the segment's holder alone touches it while the borrow lasts.
        unsafe { bytes.as_ref() }
    }

    /// The first `K` bytes of a segment that [is a whole frame](Segment::is_whole_frame): its headers, say. `None` where
    /// it is none, or has fewer.
    ///
    /// # Panics
    ///
    /// If the segment is of another arena and lies outside this one.
    #[inline]
    #[must_use]
    pub fn first_bytes<'s, const K: usize>(&self, segment: &'s Segment) -> Option<&'s [u8; K]>
    where
        'a: 's,
    {
        const { assert!(K > 0 && K <= Segment::MAX_LEN) };
        #[expect(clippy::cast_possible_truncation, reason = "14 bits")]
        let least = K as u32;
        // One compare for both ends: what is shorter wraps to a huge number, what has a flag is one.
        if segment.whole_len().wrapping_sub(least) > self.room.checked_sub(least)? {
            return None;
        }
        let bytes = self.usual_start(segment).cast::<[u8; K]>();
        // SAFETY: inside the buffer, which has `room` bytes from there on, and the segment's holder alone touches it while
        // the borrow lasts.
        Some(unsafe { bytes.as_ref() })
    }

    /// `len` bytes where a frame usually starts in the buffer `offset` bytes behind the first one, to write: for queues
    /// whose buffers stay with them.
    ///
    /// # Safety
    ///
    /// `offset` must be a buffer's index times the stride, `len` at most the layout's capacity, and the caller must hold
    /// that buffer's segment while the bytes are borrowed.
    #[inline]
    #[expect(
        clippy::mut_from_ref,
        reason = "whoever holds the segment has its bytes"
    )]
    #[must_use]
    pub unsafe fn bytes_at(&self, offset: u32, len: u32) -> &mut [u8] {
        // SAFETY: a buffer of the arena, by the contract, whose headroom lies inside it.
        let first = unsafe { self.first.add(offset as usize) };
        let mut bytes = NonNull::slice_from_raw_parts(first, len as usize);
        // SAFETY: inside the buffer, whose holder alone touches it, by the contract.
        unsafe { bytes.as_mut() }
    }

    /// The frame's bytes in `segment`, to write.
    ///
    /// # Panics
    ///
    /// As [`bytes`](Self::bytes).
    #[inline]
    #[must_use]
    pub fn bytes_mut<'s>(&self, segment: &'s mut Segment) -> &'s mut [u8]
    where
        'a: 's,
    {
        let mut bytes = self.place(segment);
        // SAFETY: as in `bytes`, and the segment is borrowed exclusively.
        unsafe { bytes.as_mut() }
    }

    /// The device header before the frame's first byte, to write; empty for early segments.
    ///
    /// # Panics
    ///
    /// As [`bytes`](Self::bytes).
    #[inline]
    #[must_use]
    pub fn header_mut<'s>(&self, segment: &'s mut Segment) -> &'s mut [u8]
    where
        'a: 's,
    {
        let mut bytes = self.header_place(segment);
        // SAFETY: the header lies in the segment's own buffer, before its bytes, and is borrowed exclusively.
        unsafe { bytes.as_mut() }
    }

    /// The same for a header of `H` bytes; `None` for early segments, and where the arena's header is of another length.
    ///
    /// # Panics
    ///
    /// As [`bytes`](Self::bytes).
    #[inline]
    #[must_use]
    pub fn header_array_mut<'s, const H: usize>(
        &self,
        segment: &'s mut Segment,
    ) -> Option<&'s mut [u8; H]>
    where
        'a: 's,
    {
        if segment.is_early() || self.layout.header as usize != H {
            return None;
        }
        let mut bytes = self.header_place(segment).cast::<[u8; H]>();
        // SAFETY: as in `header_mut`; the header has `H` bytes.
        Some(unsafe { bytes.as_mut() })
    }

    /// The same for a segment that [is a whole frame](Segment::is_whole_frame), without asking whether it is early: of
    /// one that is, it is the header before the place where other frames start.
    ///
    /// # Panics
    ///
    /// As [`bytes`](Self::bytes), and where the arena's header is of another length.
    #[inline]
    #[must_use]
    pub fn whole_header_mut<'s, const H: usize>(&self, segment: &'s mut Segment) -> &'s mut [u8; H]
    where
        'a: 's,
    {
        assert!(
            segment.index() < self.layout.count && self.layout.header as usize == H,
            "segment outside its arena"
        );
        let offset = segment.index() as usize * self.layout.stride as usize;
        // SAFETY: a buffer of the arena (index checked); the header lies in its headroom.
        let start = unsafe { self.base.add(offset + self.layout.headroom as usize - H) };
        // SAFETY: as in `header_mut`; the header has `H` bytes.
        unsafe { start.cast::<[u8; H]>().as_mut() }
    }

    /// The device header before the frame's first byte; empty for early segments.
    ///
    /// # Panics
    ///
    /// As [`bytes`](Self::bytes).
    #[inline]
    #[must_use]
    pub fn header<'s>(&self, segment: &'s Segment) -> &'s [u8]
    where
        'a: 's,
    {
        let bytes = self.header_place(segment);
        // SAFETY: the header lies in the segment's own buffer, before its bytes.
        unsafe { bytes.as_ref() }
    }

    /// Offset of the segment's first byte in its buffer.
    #[inline]
    const fn start(&self, segment: &Segment) -> usize {
        let early = if segment.is_early() {
            self.layout.header
        } else {
            0
        };
        (self.layout.headroom - early) as usize
    }

    /// Offset of the segment's first byte in the arena.
    #[inline]
    const fn offset(&self, segment: &Segment) -> usize {
        segment.index() as usize * self.layout.stride as usize + self.start(segment)
    }

    #[inline]
    fn place(&self, segment: &Segment) -> NonNull<[u8]> {
        // A flag makes the number too large, so one compare finds the usual case.
        if segment.whole_len() > self.room {
            return self.place_other(segment);
        }
        let first = self.usual_start(segment);
        NonNull::slice_from_raw_parts(first, segment.whole_len() as usize)
    }

    /// Where the bytes of a segment that is not early start.
    #[inline]
    fn usual_start(&self, segment: &Segment) -> NonNull<u8> {
        assert!(
            segment.index() < self.layout.count,
            "segment outside its arena"
        );
        let offset = segment.index() as usize * self.layout.stride as usize;
        // SAFETY: a buffer of the arena (index checked), whose headroom lies inside it.
        unsafe { self.first.add(offset) }
    }

    /// Where the bytes of a segment are that is early, or one of several.
    #[cold]
    fn place_other(&self, segment: &Segment) -> NonNull<[u8]> {
        let early = if segment.is_early() {
            self.layout.header
        } else {
            0
        };
        self.place_from(self.layout.headroom - early, segment)
    }

    /// The bytes of a segment that begin `start` bytes into its buffer, which has more.
    #[inline]
    fn place_from(&self, start: u32, segment: &Segment) -> NonNull<[u8]> {
        let room = (self.layout.stride - start) as usize;
        assert!(
            segment.index() < self.layout.count && segment.len() <= room,
            "segment outside its arena"
        );
        let offset = segment.index() as usize * self.layout.stride as usize;
        // SAFETY: a buffer of the arena (index checked), and its first byte lies inside it.
        let first = unsafe { self.base.add(offset + start as usize) };
        NonNull::slice_from_raw_parts(first, segment.len())
    }

    #[inline]
    fn header_place(&self, segment: &Segment) -> NonNull<[u8]> {
        assert!(
            segment.index() < self.layout.count,
            "segment outside its arena"
        );
        let len = if segment.is_early() {
            0
        } else {
            self.layout.header as usize
        };
        let offset = self.offset(segment) - len;
        // SAFETY: a buffer of the arena (index checked); the header lies in its headroom.
        let start = unsafe { self.base.add(offset) };
        NonNull::slice_from_raw_parts(start, len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LAYOUT: ArenaLayout = ArenaLayout {
        stride: 2112,
        headroom: 64,
        header: 12,
        count: 4,
    };

    fn arena(memory: &mut [u8]) -> Arena<'_> {
        // SAFETY: the memory is borrowed for the arena's life, and there is no other arena.
        unsafe { Arena::new(NonNull::from(memory).cast(), Iova::new(0x10_0000), LAYOUT) }.unwrap()
    }

    #[test]
    fn first_bytes_are_those_of_a_whole_frame_that_has_them() {
        let mut memory = vec![0; LAYOUT.bytes()];
        let arena = arena(&mut memory);
        let mut segment = Segment::empty(3).with_len(4);
        arena.bytes_mut(&mut segment).copy_from_slice(b"abcd");
        assert_eq!(arena.first_bytes(&segment), Some(b"abcd"));
        assert_eq!(arena.first_bytes(&segment), Some(b"ab"));
        assert_eq!(arena.first_bytes::<5>(&segment), None);
        let capacity = LAYOUT.capacity();
        let segment = segment.with_len(capacity);
        assert!(arena.first_bytes::<4>(&segment).is_some());
        let segment = segment.with_len(capacity + 1);
        assert!(arena.first_bytes::<4>(&segment).is_none());
        assert!(arena.first_bytes::<2049>(&segment).is_none());
        let segment = segment.with_len(4).with_more(true);
        assert!(arena.first_bytes::<4>(&segment).is_none());
        assert!(
            arena
                .first_bytes::<4>(&segment.with_more(false).with_early(true))
                .is_none()
        );
    }

    #[test]
    fn a_buffer_starts_at_its_headroom_and_its_header_before_that() {
        let mut memory = vec![0; LAYOUT.bytes()];
        let arena = arena(&mut memory);
        let mut segment = Segment::empty(1).with_len(4);
        arena.bytes_mut(&mut segment).copy_from_slice(b"abcd");
        arena.header_mut(&mut segment).fill(7);
        assert_eq!(arena.iova(&segment).as_u64(), 0x10_0000 + 2112 + 64);
        let early = segment.with_early(true).with_len(16);
        assert_eq!(
            arena.bytes(&early),
            b"\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07abcd"
        );
        assert_eq!(arena.header(&early), b"");
    }

    #[test]
    #[should_panic(expected = "outside its arena")]
    fn a_length_beyond_the_buffer_is_refused() {
        let mut memory = vec![0; LAYOUT.bytes()];
        let segment = Segment::empty(3).with_len(LAYOUT.capacity() + 1);
        let _ = arena(&mut memory).bytes(&segment);
    }

    #[test]
    fn layouts_that_do_not_fit_are_refused() {
        assert!(LAYOUT.is_valid());
        assert!(
            !ArenaLayout {
                header: 65,
                ..LAYOUT
            }
            .is_valid()
        );
        assert!(
            !ArenaLayout {
                headroom: 2112,
                ..LAYOUT
            }
            .is_valid()
        );
        assert!(
            !ArenaLayout {
                stride: 17_000,
                ..LAYOUT
            }
            .is_valid()
        );
    }

    proptest! {
        #[test]
        fn a_segment_keeps_what_it_was_given(index: u16, len in 0..=Segment::MAX_LEN, more: bool, early: bool) {
            let segment = Segment::empty(index).with_len(len).with_more(more).with_early(early);
            prop_assert_eq!(segment.index(), index);
            prop_assert_eq!(segment.len(), len);
            prop_assert_eq!(segment.has_more(), more);
            prop_assert_eq!(segment.is_early(), early);
            prop_assert_eq!(segment.cleared(), Segment::empty(index));
        }
    }
}
