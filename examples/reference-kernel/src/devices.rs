//! The devices that the kernel drives.

/// Leaves all devices quiet: none may write to memory any more. Called when the kernel ends, however it does.
pub(crate) fn quiet() {}
