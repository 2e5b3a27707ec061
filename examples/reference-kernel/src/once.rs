//! A value that is set once, by one core, and then read by all.
#![expect(unsafe_code, reason = "lends out a static cell")]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering};

const EMPTY: u8 = 0;
const SETTING: u8 = 1;
const SET: u8 = 2;

/// A cell for one value.
///
/// # Invariants
///
/// In state `SET` the value is there and is never written again; only who moved `EMPTY` to `SETTING` writes it.
pub(crate) struct Once<T> {
    state: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: by the invariants, shared references to the value exist only once nobody writes it any more.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// An empty cell.
    pub(crate) const fn new() -> Self {
        Self {
            state: AtomicU8::new(EMPTY),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// The value, if there is one.
    pub(crate) fn get(&self) -> Option<&T> {
        if self.state.load(Ordering::Acquire) != SET {
            return None;
        }
        // SAFETY: in state SET nobody writes, so shared references are sound.
        let value = unsafe { &*self.value.get() };
        // SAFETY: in state SET the value is there.
        Some(unsafe { value.assume_init_ref() })
    }

    /// Puts `value` into an empty cell; hands it back if the cell is not empty.
    pub(crate) fn set(&self, value: T) -> Result<&T, T> {
        if self
            .state
            .compare_exchange(EMPTY, SETTING, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            return Err(value);
        }
        // SAFETY: this is the one writer, and nobody reads before SET.
        let cell = unsafe { &mut *self.value.get() };
        let value = cell.write(value);
        self.state.store(SET, Ordering::Release);
        Ok(value)
    }
}
