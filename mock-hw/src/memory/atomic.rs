//! Bytes that devices and a driver share: copied by atomics, so that a driver on another thread, or in another
//! program, is no data race.
#![expect(
    unsafe_code,
    reason = "accesses memory that driver and device models share, as real memory is shared"
)]

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

/// # Invariants
///
/// `base` is aligned to 8 bytes, and the `len` bytes from there on are initialised and belong to one allocation or
/// mapping that lives as long as this value.
#[derive(Debug)]
pub(crate) struct AtomicBytes {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes belong to no thread; this type accesses them by atomics only.
unsafe impl Send for AtomicBytes {}
// SAFETY: as above.
unsafe impl Sync for AtomicBytes {}

impl AtomicBytes {
    /// # Safety
    ///
    /// The invariants above hold until this value is dropped, and nobody else makes references to the bytes that
    /// assume that they do not change.
    pub(crate) unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        debug_assert!(base.addr().get().is_multiple_of(8));
        Self { base, len }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The address of `len` bytes at `offset`, or `None` where they do not lie inside.
    pub(crate) fn pointer(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is at most the length of the allocation.
        Some(unsafe { self.base.add(offset) })
    }

    /// Copies memory to `bytes`, 8 bytes at a time where aligned; whether all of it lies inside.
    pub(crate) fn load(&self, offset: usize, bytes: &mut [u8]) -> bool {
        if self.pointer(offset, bytes.len()).is_none() {
            return false;
        }
        let mut at = offset;
        let (head, words) = split(offset, bytes.len());
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
        for byte in last {
            *byte = self.byte(at).load(Ordering::Acquire);
            at += 1;
        }
        true
    }

    /// Copies `bytes` to memory, 8 bytes at a time where aligned; whether all of it lies inside.
    pub(crate) fn store(&self, offset: usize, bytes: &[u8]) -> bool {
        if self.pointer(offset, bytes.len()).is_none() {
            return false;
        }
        let mut at = offset;
        let (head, words) = split(offset, bytes.len());
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
        assert!(offset < self.len, "callers checked the range");
        // SAFETY: inside the allocation (checked above).
        let byte = unsafe { self.base.add(offset) };
        // SAFETY: initialised, alive as long as `self`; shared by atomics, or by contract with whoever got a pointer.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(
            self.len >= 8 && offset <= self.len - 8 && offset.is_multiple_of(8),
            "callers checked the range"
        );
        // SAFETY: inside the allocation (checked above).
        let word = unsafe { self.base.add(offset) }.cast::<u64>();
        // SAFETY: as in `byte`; the whole word lies inside, and it is aligned as the base is.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }
}

/// How many single bytes and then whole words begin `len` bytes at `offset`; single bytes follow.
const fn split(offset: usize, len: usize) -> (usize, usize) {
    let to_word = offset.next_multiple_of(8) - offset;
    let head = if to_word < len { to_word } else { len };
    (head, (len - head) / 8)
}
