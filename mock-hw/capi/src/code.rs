//! Results of calls.

use core::ffi::CStr;

/// Why a call failed; `mock_hw.h` has the numbers as `MOCK_HW_E_…`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Code {
    /// A pointer is null or misaligned.
    Pointer = -1,
    /// No such world, or no such device.
    Handle = -2,
    /// A value is out of its range.
    Argument = -3,
    /// A structure of a size that no version has, or with fields of a later one.
    Version = -4,
    /// This kind of device has no such thing.
    Unsupported = -5,
    /// The caller's buffer is too small.
    Space = -6,
    /// Nothing is there.
    Empty = -7,
    /// There is no room.
    Full = -8,
    /// A callback called the library.
    Callback = -9,
    /// A bug of the library.
    Panic = -10,
}

impl Code {
    /// All codes, from -1 downwards.
    pub const ALL: [Self; 10] = [
        Self::Pointer,
        Self::Handle,
        Self::Argument,
        Self::Version,
        Self::Unsupported,
        Self::Space,
        Self::Empty,
        Self::Full,
        Self::Callback,
        Self::Panic,
    ];

    /// The number that the caller gets.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// What it means.
    const fn message(self) -> &'static CStr {
        match self {
            Self::Pointer => c"a pointer is null or misaligned",
            Self::Handle => c"no such world, or no such device",
            Self::Argument => c"a value is out of its range",
            Self::Version => c"a structure is of no known size, or uses fields of a later version",
            Self::Unsupported => c"this kind of device has no such thing",
            Self::Space => c"the buffer is too small",
            Self::Empty => c"nothing is there",
            Self::Full => c"there is no room",
            Self::Callback => c"a callback may not call the library",
            Self::Panic => c"a bug of the library: details are on the standard error output",
        }
    }
}

/// What the result `number` means.
pub(crate) fn message(number: i32) -> &'static CStr {
    if number == 0 {
        return c"done";
    }
    let known = Code::ALL.into_iter().find(|code| code.number() == number);
    known.map_or(c"no result of this library", Code::message)
}
