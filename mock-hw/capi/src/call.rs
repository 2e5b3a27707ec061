//! The way in and the way out: no panic passes, and callbacks do not come back in.

use core::{cell::Cell, mem, panic::AssertUnwindSafe};
use std::panic::catch_unwind;

use crate::code::Code;

std::thread_local! {
    /// Whether this thread is inside a callback.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Does what a call asks for, and gives the number that the caller gets.
pub(crate) fn call(work: impl FnOnce() -> Result<(), Code>) -> i32 {
    if IN_CALLBACK.get() {
        return Code::Callback.number();
    }
    // What a panic leaves behind is whole: the models' locks survive it, and so do the registry's.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code.number(),
        Err(payload) => {
            // Dropping what was thrown could throw again.
            mem::forget(payload);
            Code::Panic.number()
        }
    }
}

/// Calls the caller back.
pub(crate) fn call_back<T>(callback: impl FnOnce() -> T) -> T {
    /// Ends the callback, however it ends.
    struct Inside;

    impl Drop for Inside {
        fn drop(&mut self) {
            IN_CALLBACK.set(false);
        }
    }

    IN_CALLBACK.set(true);
    let _inside = Inside;
    callback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_result() {
        assert_eq!(call(|| panic!("on purpose")), Code::Panic.number());
        assert_eq!(call(|| Ok(())), 0);
    }

    #[test]
    fn a_callback_does_not_come_back_in() {
        let inner = call_back(|| call(|| Ok(())));
        assert_eq!(inner, Code::Callback.number());
        assert_eq!(call(|| Ok(())), 0);
    }
}
