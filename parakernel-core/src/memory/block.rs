#![expect(
    unsafe_code,
    reason = "hands out block buffers that a device fills and empties"
)]

use core::{marker::PhantomData, ptr::NonNull};

use super::PAGE_SIZE;
use crate::address::Iova;

/// One buffer of a [`BlockArena`]: the right to it.
///
/// It moves into a request and comes back with the completion; it can be neither copied nor made up.
#[derive(PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[must_use = "dropping a buffer loses it"]
#[repr(transparent)]
pub struct BlockBuffer(u32);

impl BlockBuffer {
    /// Index of the buffer in its arena.
    #[inline]
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.0
    }

    /// The buffer as the word that a driver's table holds while a command is in flight.
    #[inline]
    #[must_use]
    pub const fn into_word(self) -> u32 {
        self.0
    }

    /// The buffer that [`into_word`](Self::into_word) turned into `word`.
    ///
    /// # Safety
    ///
    /// `word` must come from `into_word`, and be turned back at most once.
    #[inline]
    pub const unsafe fn from_word(word: u32) -> Self {
        Self(word)
    }
}

/// A registered region cut into equal, page-aligned buffers for block I/O.
///
/// # Invariants
///
/// `count` buffers of `buffer_len` bytes at `base` stay mapped for `'a`, and each is touched only by who holds its
/// [`BlockBuffer`]; the buffers before `next` have been handed out.
#[derive(Debug)]
pub struct BlockArena<'a> {
    base: NonNull<u8>,
    iova: Iova,
    buffer_len: usize,
    count: u32,
    next: u32,
    life: PhantomData<&'a mut [u8]>,
}

// SAFETY: the buffers belong to who holds the handles, on whatever thread.
unsafe impl Send for BlockArena<'_> {}
// SAFETY: as above; handing out takes `&mut`.
unsafe impl Sync for BlockArena<'_> {}

impl<'a> BlockArena<'a> {
    /// Cuts `len` bytes at `base`, which devices reach at `iova`, into buffers of `buffer_len` bytes; `None` where
    /// `buffer_len` is no positive multiple of a page, `iova` not page-aligned, or the last address would wrap.
    ///
    /// # Safety
    ///
    /// The `len` bytes at `base` must stay mapped, initialised and registered at `iova` for `'a`, and be used through
    /// this arena only. Buffers of this arena must never meet another one.
    #[must_use]
    pub unsafe fn new(
        base: NonNull<u8>,
        len: usize,
        iova: Iova,
        buffer_len: usize,
    ) -> Option<Self> {
        let aligned = buffer_len > 0
            && buffer_len.is_multiple_of(PAGE_SIZE)
            && iova.is_aligned(PAGE_SIZE as u64)
            && iova.checked_add(len as u64).is_some();
        if !aligned {
            return None;
        }
        Some(Self {
            base,
            iova,
            buffer_len,
            count: u32::try_from(len / buffer_len).ok()?,
            next: 0,
            life: PhantomData,
        })
    }

    /// Hands out a buffer that was never handed out before; `None` when all were. Buffers that come back are the
    /// caller's to keep.
    pub fn take(&mut self) -> Option<BlockBuffer> {
        let index = self.next;
        (index < self.count).then(|| {
            self.next += 1;
            BlockBuffer(index)
        })
    }

    /// Number of buffers, handed out or not.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of each buffer.
    #[inline]
    #[must_use]
    pub const fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    /// Where devices find the first byte of the whole arena.
    #[inline]
    #[must_use]
    pub const fn iova_base(&self) -> Iova {
        self.iova
    }

    /// Where devices find the buffer's first byte.
    #[inline]
    #[must_use]
    pub fn iova(&self, buffer: &BlockBuffer) -> Iova {
        Iova::new(self.iova.as_u64() + u64::from(buffer.0) * self.buffer_len as u64)
    }

    /// The buffer's bytes.
    ///
    /// # Panics
    ///
    /// If the buffer is of another arena and lies outside this one.
    #[must_use]
    pub fn bytes<'s>(&self, buffer: &'s BlockBuffer) -> &'s [u8]
    where
        'a: 's,
    {
        let bytes = self.place(buffer);
        // SAFETY: inside the arena (`place`), and the buffer's holder alone touches it while the borrow lasts.
        unsafe { bytes.as_ref() }
    }

    /// The buffer's bytes, to write.
    ///
    /// # Panics
    ///
    /// As [`bytes`](Self::bytes).
    #[must_use]
    pub fn bytes_mut<'s>(&self, buffer: &'s mut BlockBuffer) -> &'s mut [u8]
    where
        'a: 's,
    {
        let mut bytes = self.place(buffer);
        // SAFETY: as in `bytes`, and the handle is borrowed exclusively.
        unsafe { bytes.as_mut() }
    }

    fn place(&self, buffer: &BlockBuffer) -> NonNull<[u8]> {
        assert!(buffer.0 < self.count, "buffer outside its arena");
        // SAFETY: a buffer of the arena (checked above).
        let start = unsafe { self.base.add(buffer.0 as usize * self.buffer_len) };
        NonNull::slice_from_raw_parts(start, self.buffer_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Pages([u8; 3 * PAGE_SIZE]);

    #[test]
    fn buffers_are_handed_out_once_and_lie_apart() {
        let mut memory = Pages([0; 3 * PAGE_SIZE]);
        let base = NonNull::from(&mut memory.0).cast();
        // SAFETY: the memory is borrowed for the arena's life, and there is no other arena.
        let arena = unsafe { BlockArena::new(base, 3 * PAGE_SIZE, Iova::new(0x1_0000), PAGE_SIZE) };
        let mut arena = arena.unwrap();
        let (mut first, mut second) = (arena.take().unwrap(), arena.take().unwrap());
        arena.bytes_mut(&mut first).fill(1);
        arena.bytes_mut(&mut second).fill(2);
        assert!(arena.bytes(&first).iter().all(|&byte| byte == 1));
        assert_eq!(arena.iova(&second), Iova::new(0x1_1000));
        let _third = arena.take().unwrap();
        assert!(arena.take().is_none());
    }

    #[test]
    fn unaligned_arenas_are_refused() {
        let base = NonNull::dangling();
        // SAFETY: of no bytes at all, or refused.
        let arena = |iova, len| unsafe { BlockArena::new(base, 0, Iova::new(iova), len) };
        assert!(arena(0x800, PAGE_SIZE).is_none());
        assert!(arena(0x1000, 512).is_none());
        assert!(arena(0x1000, 0).is_none());
        assert!(arena(0x1000, 8192).is_some());
    }
}
