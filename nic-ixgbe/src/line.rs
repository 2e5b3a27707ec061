//! Descriptors by the cache line: what the data half does with several slots at once, or with one.
//!
//! All of a line is looked at before anything of it is stored: what was read from shared memory is not read again. Plain
//! memory is gone through apart from rings, so that compilers move four words at a time.

use parakernel_core::memory::{Arena, Segment};

use crate::{
    descriptor::{Command, RxDescriptor, TxDescriptor},
    tx::MIN_LEN,
};

/// Descriptors in a cache line.
pub(crate) const LINE: usize = 4;

/// Where devices find the first frame buffer of an arena, and how far it is to the next.
#[inline]
pub(crate) const fn base_and_stride(arena: &Arena<'_>) -> (u64, u64) {
    (arena.buffer_iova(0).as_u64(), arena.layout().stride as u64)
}

/// Moves the frames of `L` slots, whose buffers are `armed`, into `places`; `false`, and nothing done, where one of them is
/// no whole good frame of one buffer.
#[inline]
pub(crate) fn take_frames<const L: usize>(
    done: &[RxDescriptor; L],
    armed: &[u16; L],
    places: &mut [u32; L],
    posted: u32,
) -> bool {
    let mut lens = [0; L];
    for (len, done) in lens.iter_mut().zip(done) {
        let Some(whole) = done.completion().whole_frame(posted) else {
            return false;
        };
        *len = whole;
    }
    for lane in 0..L {
        places[lane] = u32::from(armed[lane]) | lens[lane] << 16;
    }
    true
}

/// Arms `L` slots with the buffers `fresh` of an arena with that base and stride.
#[inline]
pub(crate) fn arm<const L: usize>(
    ring: &[RxDescriptor; L],
    armed: &mut [u16; L],
    fresh: &[u32; L],
    (base, stride): (u64, u64),
) {
    #[expect(clippy::cast_possible_truncation, reason = "the index is the low half")]
    for (armed, fresh) in armed.iter_mut().zip(fresh) {
        *armed = *fresh as u16;
    }
    for (ring, armed) in ring.iter().zip(armed) {
        ring.arm(base + u64::from(*armed) * stride);
    }
}

/// Writes the descriptors of `L` segments that are whole frames, in an arena with that base and stride, and keeps their
/// words; `false`, and nothing done, where one is none, or has a length that no frame may have.
#[inline]
pub(crate) fn write<const L: usize>(
    segments: &[Segment; L],
    ring: &[TxDescriptor; L],
    kept: &mut [u32; L],
    (base, stride): (u64, u64),
    command: impl Fn(u32) -> Command,
) -> bool {
    /// What is left of the longest segment's word without [`MIN_LEN`].
    const LONGEST: u32 = (Command::MAX_LEN - MIN_LEN) << 16 | 0xFFFF;
    let mut is_odd = false;
    for segment in segments {
        // One compare for both ends and the flags: a length below the shortest wraps to a huge one.
        is_odd |= segment.as_word().wrapping_sub(MIN_LEN << 16) > LONGEST;
    }
    if is_odd {
        return false;
    }
    for (kept, segment) in kept.iter_mut().zip(segments) {
        *kept = segment.as_word();
    }
    for (ring, segment) in ring.iter().zip(segments) {
        let address = base + u64::from(segment.index()) * stride;
        ring.write(address, command(segment.whole_len()));
    }
    true
}

/// Asks for a report of a whole frame, whose segment is still to be seen.
#[inline]
pub(crate) fn report(descriptor: &TxDescriptor, segment: &Segment) {
    descriptor.write_command(Command::whole(segment.whole_len()).with_report());
}
