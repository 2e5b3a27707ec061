//! `memcpy` and its kin, and the unwinder's entry points, which are never called.

use core::arch::asm;

/// Copies `len` bytes between ranges that do not overlap.
///
/// # Safety
///
/// As C has it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear in all compiled code.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, rdx",
            "rep movsb",
            in("rdx") len % 8,
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags)
        );
    }
    to
}

/// Copies `len` bytes between ranges that may overlap.
///
/// # Safety
///
/// As C has it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= len {
        // SAFETY: `to` does not lie within the source, so copying upwards reads each byte before it is overwritten.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the caller vouches for both ranges; the last bytes are copied first, and the direction flag is put back.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") len => _,
            inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _,
            options(nostack)
        );
    }
    to
}

/// Fills `len` bytes with the low byte of `value`.
///
/// # Safety
///
/// As C has it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    let pattern = u64::from_ne_bytes([value.to_le_bytes()[0]; 8]);
    // SAFETY: the caller vouches for the range; the direction flag is clear in all compiled code.
    unsafe {
        asm!(
            "rep stosq",
            "mov rcx, rdx",
            "rep stosb",
            in("rdx") len % 8,
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            in("rax") pattern,
            options(nostack, preserves_flags)
        );
    }
    to
}

/// Compares `len` bytes; the sign is that of the first difference.
///
/// # Safety
///
/// As C has it.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    for index in 0..len {
        // SAFETY: the caller vouches for `len` bytes at `left`.
        let a = unsafe { left.wrapping_add(index).read() };
        // SAFETY: the caller vouches for `len` bytes at `right`.
        let b = unsafe { right.wrapping_add(index).read() };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

/// Whether `len` bytes differ.
///
/// # Safety
///
/// As C has it.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, len) }
}

/// Named by unwind tables; nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Named by landing pads in the precompiled core library; nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() {}
