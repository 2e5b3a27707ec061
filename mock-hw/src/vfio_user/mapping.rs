//! A part of the client's memory in our address space.
#![expect(unsafe_code, reason = "maps a file that another process writes")]

use core::{ffi::c_void, ptr, ptr::NonNull};
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    fs::{SealFlags, fcntl_get_seals, fstat},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use crate::memory::AtomicBytes;

/// Why a file is not mapped.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is shorter than what shall be mapped.
    TooShort,
    /// Its owner can make it shorter at any time, and an access would then kill this process.
    NotSealed,
    /// The kernel refused it.
    Kernel(io::Error),
}

/// # Invariants
///
/// `start` and `len` are a mapping that `new` made and only `drop` removes; `bytes` is all of it. The file cannot
/// become shorter.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<c_void>,
    len: usize,
    bytes: AtomicBytes,
}

// SAFETY: the mapping belongs to no thread; `bytes` accesses it by atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset` on.
    pub(super) fn new(
        file: &OwnedFd,
        offset: u64,
        len: u64,
        writable: bool,
    ) -> Result<Self, Refused> {
        let size = fstat(file).map_err(Refused::kernel)?.st_size;
        let end = offset.checked_add(len).ok_or(Refused::TooShort)?;
        if u64::try_from(size).unwrap_or(0) < end {
            return Err(Refused::TooShort);
        }
        let sealed = fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
        if !sealed {
            return Err(Refused::NotSealed);
        }
        let len = usize::try_from(len).map_err(|_| Refused::TooShort)?;
        let protection = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        let address = ptr::null_mut();
        // SAFETY: the kernel chooses the place, so no memory of ours is replaced.
        let start = unsafe {
            mmap(
                address,
                len,
                protection,
                MapFlags::SHARED,
                file.as_fd(),
                offset,
            )
        };
        let start = NonNull::new(start.map_err(Refused::kernel)?).ok_or(Refused::TooShort)?;
        // SAFETY: mapped just now and until `drop`; page-aligned; a file's bytes are initialised, and the file cannot
        // become shorter. Only this value knows the address, and what other processes do there is a device's writing.
        let bytes = unsafe { AtomicBytes::new(start.cast(), len) };
        Ok(Self { start, len, bytes })
    }

    pub(super) const fn bytes(&self) -> &AtomicBytes {
        &self.bytes
    }
}

impl Refused {
    fn kernel(error: rustix::io::Errno) -> Self {
        Self::Kernel(error.into())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, not unmapped since, and nobody has a reference into it: accessors borrow `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be removed");
    }
}
