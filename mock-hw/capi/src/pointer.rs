//! The caller's pointers: checked for what can be checked.
#![expect(unsafe_code, reason = "reads and writes the caller's memory")]

use core::{ptr::NonNull, slice};

use crate::code::Code;

/// A place of the caller's for a result.
///
/// # Invariants
///
/// It is aligned and may be written until the call returns.
#[derive(Clone, Copy)]
pub(crate) struct Out<T>(NonNull<T>);

impl<T: Copy> Out<T> {
    /// # Errors
    ///
    /// [`Code::Pointer`] where `place` is null or misaligned.
    ///
    /// # Safety
    ///
    /// Where `place` is neither, a `T` may be written there until the call returns.
    pub(crate) unsafe fn new(place: *mut T) -> Result<Self, Code> {
        let place = NonNull::new(place).filter(|place| place.is_aligned());
        place.map(Self).ok_or(Code::Pointer)
    }

    /// The same, but null is nowhere.
    ///
    /// # Errors
    ///
    /// [`Code::Pointer`] where `place` is misaligned.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new).
    pub(crate) unsafe fn optional(place: *mut T) -> Result<Option<Self>, Code> {
        if place.is_null() {
            return Ok(None);
        }
        // SAFETY: passed on to the caller.
        unsafe { Self::new(place) }.map(Some)
    }

    pub(crate) fn put(self, value: T) {
        // SAFETY: the type's invariant.
        unsafe { self.0.write(value) };
    }
}

/// A buffer of the caller's for a result.
///
/// # Invariants
///
/// Its bytes may be written until the call returns.
pub(crate) struct Buffer {
    start: *mut u8,
    len: usize,
}

impl Buffer {
    /// # Errors
    ///
    /// [`Code::Pointer`] where `start` is null and `len` is not 0.
    ///
    /// # Safety
    ///
    /// Where `start` is not null, `len` bytes may be written there until the call returns.
    pub(crate) unsafe fn new(start: *mut u8, len: usize) -> Result<Self, Code> {
        if start.is_null() && len > 0 {
            return Err(Code::Pointer);
        }
        Ok(Self { start, len })
    }

    /// Writes `bytes` to its beginning.
    ///
    /// # Errors
    ///
    /// [`Code::Space`] where they do not fit.
    pub(crate) fn put(self, bytes: &[u8]) -> Result<(), Code> {
        if bytes.len() > self.len {
            return Err(Code::Space);
        }
        if !bytes.is_empty() {
            // SAFETY: the type's invariant; the library's own memory is elsewhere than the caller's.
            unsafe {
                self.start
                    .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
        }
        Ok(())
    }
}

/// A copy of bytes of the caller's.
///
/// # Errors
///
/// [`Code::Pointer`] where `start` is null; [`Code::Argument`] where there are more than `most` or none.
///
/// # Safety
///
/// Where `start` is not null, `len` bytes may be read there until the call returns.
pub(crate) unsafe fn copy(start: *const u8, len: usize, most: usize) -> Result<Vec<u8>, Code> {
    if start.is_null() {
        return Err(Code::Pointer);
    }
    if !(1..=most).contains(&len) {
        return Err(Code::Argument);
    }
    // SAFETY: passed on to the caller; `most` is far below the largest object.
    Ok(unsafe { slice::from_raw_parts(start, len) }.to_vec())
}

/// A structure that begins with its size, and may have come from a program that knows more or fewer fields.
///
/// # Safety
///
/// It is `#[repr(C)]`, begins with its size as a `usize`, and zeros are a value of all of it.
pub(crate) unsafe trait Versioned: Copy {
    /// Bytes that it had in the first version.
    const LEAST: usize;
}

/// A copy of a structure of the caller's; fields that the caller does not know are 0.
///
/// # Errors
///
/// [`Code::Pointer`] where `place` is null or misaligned; [`Code::Version`] where the size is smaller than it ever was,
/// larger than is plausible, or fields that this library does not know are not 0.
///
/// # Safety
///
/// Where `place` is neither, as many bytes may be read there until the call returns as the first word says.
pub(crate) unsafe fn structure<T: Versioned>(place: *const T) -> Result<T, Code> {
    /// More than any version will have.
    const MOST: usize = 4096;

    if place.is_null() || !place.is_aligned() {
        return Err(Code::Pointer);
    }
    // SAFETY: a `Versioned` begins with its size.
    let size = unsafe { place.cast::<usize>().read() };
    if !(T::LEAST..=MOST).contains(&size) {
        return Err(Code::Version);
    }
    // SAFETY: the caller promises that many bytes.
    let bytes = unsafe { slice::from_raw_parts(place.cast::<u8>(), size) };
    let (known, unknown) = bytes.split_at(size.min(size_of::<T>()));
    if unknown.iter().any(|byte| *byte != 0) {
        return Err(Code::Version);
    }
    let mut copy = core::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: both are valid for that many bytes, and `copy` is new.
    unsafe {
        copy.as_mut_ptr()
            .cast::<u8>()
            .copy_from_nonoverlapping(known.as_ptr(), known.len());
    }
    // SAFETY: zeros are a value of it, and the rest is the caller's value of the same type.
    Ok(unsafe { copy.assume_init() })
}
