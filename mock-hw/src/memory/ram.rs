//! Bytes that the CPU and the devices share: one allocation, accessed by devices through atomics only.
#![expect(
    unsafe_code,
    reason = "allocates memory that driver and device models share, as real memory is shared"
)]

use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use core::{alloc::Layout, ptr::NonNull};

use super::{PAGE, atomic::AtomicBytes};

/// # Invariants
///
/// `start` is an allocation of `layout`, zeroed at first and so initialised, and freed only by `drop`. `bytes` begins at
/// the first page boundary in it and lies inside.
#[derive(Debug)]
pub(super) struct Ram {
    start: NonNull<u8>,
    layout: Layout,
    bytes: AtomicBytes,
}

// SAFETY: the allocation belongs to no thread; `bytes` accesses it by atomics only.
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
        // SAFETY: page-aligned, zeroed, and a page less than the allocation, which lives as long as `self`.
        let bytes = unsafe { AtomicBytes::new(base, layout.size() - PAGE) };
        Self {
            start,
            layout,
            bytes,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The address of `len` bytes at `offset`, or `None` where they do not lie inside.
    pub(super) fn pointer(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        self.bytes.pointer(offset, len)
    }

    /// Copies memory to `bytes`; whether all of it lies inside.
    pub(super) fn load(&self, offset: usize, bytes: &mut [u8]) -> bool {
        self.bytes.load(offset, bytes)
    }

    /// Copies `bytes` to memory; whether all of it lies inside.
    pub(super) fn store(&self, offset: usize, bytes: &[u8]) -> bool {
        self.bytes.store(offset, bytes)
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed here only.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
