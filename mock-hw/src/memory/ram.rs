//! Bytes that the CPU and the devices share: one allocation, accessed by devices through atomics only.
#![expect(
    unsafe_code,
    reason = "hands out memory that driver and device models share, as real memory is shared"
)]

use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use core::{
    alloc::Layout,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

use super::PAGE;

/// # Invariants
///
/// `start` is an allocation of `layout`, zeroed at first and so initialised, and freed only by `drop`. `base` is the
/// first page boundary in it; `len` bytes from there on lie inside.
#[derive(Debug)]
pub(super) struct Ram {
    start: NonNull<u8>,
    layout: Layout,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the allocation belongs to no thread; this type accesses it by atomics only.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// `len` zeroed bytes; `len` is a multiple of [`PAGE`].
    ///
    /// One page more is asked for and the alignment made here: allocators give large zeroed memory lazily only where
    /// the alignment is an ordinary one.
    pub(super) fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len.saturating_add(PAGE), 16)
            .unwrap_or(Layout::new::<[u64; PAGE]>());
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        let skip = start.addr().get().next_multiple_of(PAGE) - start.addr().get();
        // SAFETY: less than a page into an allocation of a page and more.
        let base = unsafe { start.add(skip) };
        Self {
            start,
            layout,
            base,
            len: layout.size() - PAGE,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The address of `len` bytes at `offset`, or `None` where they do not lie inside.
    pub(super) fn pointer(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len() {
            return None;
        }
        // SAFETY: `offset` is at most the length of the allocation.
        Some(unsafe { self.base.add(offset) })
    }

    /// Copies memory to `bytes`, 8 bytes at a time where aligned; whether all of it lies inside.
    pub(super) fn load(&self, offset: usize, bytes: &mut [u8]) -> bool {
        if self.pointer(offset, bytes.len()).is_none() {
            return false;
        }
        let mut at = offset;
        let (head, words, tail) = split(offset, bytes.len());
        let (first, rest) = bytes.split_at_mut(head);
        let (middle, last) = rest.split_at_mut(words * 8);
        for byte in first {
            *byte = self.byte(at).load(Ordering::Acquire);
            at += 1;
        }
        for chunk in middle.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.word(at).load(Ordering::Acquire).to_ne_bytes());
            at += 8;
        }
        debug_assert_eq!(last.len(), tail);
        for byte in last {
            *byte = self.byte(at).load(Ordering::Acquire);
            at += 1;
        }
        true
    }

    /// Copies `bytes` to memory, 8 bytes at a time where aligned; whether all of it lies inside.
    pub(super) fn store(&self, offset: usize, bytes: &[u8]) -> bool {
        if self.pointer(offset, bytes.len()).is_none() {
            return false;
        }
        let mut at = offset;
        let (head, words, _) = split(offset, bytes.len());
        let (first, rest) = bytes.split_at(head);
        let (middle, last) = rest.split_at(words * 8);
        for byte in first {
            self.byte(at).store(*byte, Ordering::Release);
            at += 1;
        }
        for chunk in middle.chunks_exact(8) {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.word(at)
                .store(u64::from_ne_bytes(word), Ordering::Release);
            at += 8;
        }
        for byte in last {
            self.byte(at).store(*byte, Ordering::Release);
            at += 1;
        }
        true
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < self.len(), "callers checked the range");
        // SAFETY: inside the allocation (checked above).
        let byte = unsafe { self.base.add(offset) };
        // SAFETY: initialised, alive as long as `self`; shared by atomics, or by contract with whoever got a pointer.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset < self.len() && offset.is_multiple_of(8),
            "callers checked the range"
        );
        // SAFETY: inside the allocation (checked above).
        let word = unsafe { self.base.add(offset) }.cast::<u64>();
        // SAFETY: as in `byte`; the length is a multiple of 8, so the whole word lies inside, and it is aligned.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed here only.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// How many single bytes, whole words and single bytes cover `len` bytes at `offset`.
const fn split(offset: usize, len: usize) -> (usize, usize, usize) {
    let to_word = offset.next_multiple_of(8) - offset;
    let head = if to_word < len { to_word } else { len };
    let words = (len - head) / 8;
    (head, words, len - head - words * 8)
}
