//! Memory that is part of the program and taken once, for what is too large for a stack.
#![expect(unsafe_code, reason = "lends out a static cell")]

use core::{
    cell::UnsafeCell,
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

/// A value in a `static` that is lent out for good, once.
///
/// # Invariants
///
/// The value is reached by the one caller of [`take`](Self::take) only that turned `is_taken`.
pub struct Place<T> {
    is_taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: a shared reference gives access to the value at most once, to whoever asks first; that it may be another thread
// is what `Send` allows.
unsafe impl<T: Send> Sync for Place<T> {}

impl<T> Place<T> {
    /// A place with `value` in it.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self {
            is_taken: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// The value; `None` where somebody has it.
    #[expect(clippy::mut_from_ref, reason = "it is given out once")]
    pub fn take(&'static self) -> Option<&'static mut T> {
        if self.is_taken.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: this is the first and only call that comes here, so nobody else has a reference.
        Some(unsafe { &mut *self.value.get() })
    }
}

impl<T> fmt::Debug for Place<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_taken = self.is_taken.load(Ordering::Relaxed);
        f.debug_struct("Place")
            .field("is_taken", &is_taken)
            .finish_non_exhaustive()
    }
}
