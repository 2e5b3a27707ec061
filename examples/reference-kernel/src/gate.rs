//! A value that two cores use in turns, each for a short and bounded time.
#![expect(unsafe_code, reason = "lets one core at a time at a value")]

use core::cell::UnsafeCell;
use core::fmt;
use core::hint::spin_loop;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

/// A value for one core at a time.
///
/// It stands between a process's core, which serves one batch of the process's queues behind it, and core 0, which changes a
/// table. Kernel code is not interrupted, so whoever is behind the gate comes out soon. All go through in the order in which they
/// came, so a process that keeps calling cannot keep core 0 out: waiting is bounded by one batch.
pub(crate) struct Gate<T> {
    /// How many have come, and whose turn it is.
    came: AtomicU32,
    turn: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: `pass` lets one core at a time at the value.
unsafe impl<T: Send> Sync for Gate<T> {}

impl<T> Gate<T> {
    /// A gate in front of `value`.
    pub(crate) const fn new(value: T) -> Self {
        Self {
            came: AtomicU32::new(0),
            turn: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits until nobody is behind the gate, and goes through.
    pub(crate) fn pass(&self) -> Passage<'_, T> {
        let mine = self.came.fetch_add(1, Ordering::Relaxed);
        while self.turn.load(Ordering::Acquire) != mine {
            spin_loop();
        }
        Passage { gate: self }
    }
}

impl<T> fmt::Debug for Gate<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

/// The right to the value, until it is dropped.
pub(crate) struct Passage<'a, T> {
    gate: &'a Gate<T>,
}

impl<T> Deref for Passage<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: only one passage exists at a time, and this is it.
        unsafe { &*self.gate.value.get() }
    }
}

impl<T> DerefMut for Passage<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and it is borrowed exclusively.
        unsafe { &mut *self.gate.value.get() }
    }
}

impl<T> Drop for Passage<'_, T> {
    fn drop(&mut self) {
        self.gate.turn.fetch_add(1, Ordering::Release);
    }
}
