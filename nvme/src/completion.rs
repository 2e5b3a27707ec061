//! Completion queue entries (NVMe 1.4 §4.6).

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parakernel_core::memory::Shared;

use crate::status::Status;

/// An entry of a completion queue: 16 bytes that the controller writes.
#[derive(Debug, Default)]
#[repr(C, align(16))]
pub struct CompletionEntry {
    /// Dword 0: the command's own result. Dword 1: reserved, or the high half of the result.
    result: AtomicU64,
    /// Dword 2: submission queue head, submission queue id. Dword 3: command id, phase tag, status.
    state: AtomicU64,
}

const _: () = assert!(size_of::<CompletionEntry>() == 16);

#[expect(unsafe_code, reason = "lets shared memory be viewed as completions")]
// SAFETY: two atomics without padding.
unsafe impl Shared for CompletionEntry {}

impl CompletionEntry {
    /// The second half, as one load: everything that says whether, and how, a command ended.
    #[inline]
    pub(crate) fn state(&self) -> State {
        State(u64::from_le(self.state.load(Relaxed)))
    }

    /// The command's own result. Only for an entry whose [`state`](Self::state) was found new, after an acquire fence.
    pub(crate) fn result(&self) -> u32 {
        // Dword 0 is the low half.
        (u64::from_le(self.result.load(Relaxed)) & 0xffff_ffff) as u32
    }

    /// Clears the entry, so that it looks like one of the round before the first.
    pub(crate) fn clear(&self) {
        self.result.store(0, Relaxed);
        self.state.store(0, Relaxed);
    }
}

/// Dwords 2 and 3 of a completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State(u64);

impl State {
    const PHASE: u64 = 1 << 48;
    const STATUS: u64 = 0xffff << 48;
    const QUEUE: u64 = 0xffff << 16;

    /// What success looks like for `queue` in a round with this phase, apart from command id and queue head.
    #[inline]
    pub(crate) const fn success(queue: u16, phase: bool) -> Self {
        Self((phase as u64) << 48 | (queue as u64) << 16)
    }

    /// Whether this is success of the right queue and phase; one compare for all that matters.
    #[inline]
    pub(crate) const fn is(self, success: Self) -> bool {
        (self.0 ^ success.0) & (Self::STATUS | Self::QUEUE) == 0
    }

    /// Whether the entry is of the round and the queue that `success` is of, however the command ended.
    #[inline]
    pub(crate) const fn matches(self, success: Self) -> bool {
        (self.0 ^ success.0) & (Self::PHASE | Self::QUEUE) == 0
    }

    /// Whether the entry is of the round that `success` is of.
    #[inline]
    pub(crate) const fn is_new(self, success: Self) -> bool {
        (self.0 ^ success.0) & Self::PHASE == 0
    }

    /// Whether the entry is of the queue that `success` is of.
    pub(crate) const fn is_of(self, success: Self) -> bool {
        (self.0 ^ success.0) & Self::QUEUE == 0
    }

    /// The id of the command.
    #[inline]
    pub(crate) const fn command(self) -> u16 {
        (self.0 >> 32 & 0xffff) as u16
    }

    /// The submission queue that the command was in.
    pub(crate) const fn queue(self) -> u16 {
        (self.0 >> 16 & 0xffff) as u16
    }

    /// How the command ended.
    pub(crate) const fn status(self) -> Result<(), Status> {
        match Status::new((self.0 >> 49) as u16) {
            None => Ok(()),
            Some(status) => Err(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_compare_tells_success_from_everything_else() {
        let success = State::success(7, true);
        let entry = |status: u64, phase: u64, queue: u64| {
            State(status << 49 | phase << 48 | 0x1234 << 32 | queue << 16 | 0x00ff)
        };
        assert!(entry(0, 1, 7).is(success));
        assert!(!entry(0, 0, 7).is(success));
        assert!(!entry(0, 1, 6).is(success));
        assert!(!entry(0x281, 1, 7).is(success));
        assert!(entry(0x281, 1, 7).is_new(success));
        assert!(!entry(0, 0, 7).is_new(success));
        assert_eq!(entry(0x281, 1, 7).command(), 0x1234);
        assert_eq!(entry(0x281, 1, 7).queue(), 7);
        assert_eq!(
            entry(0x281, 1, 7).status().unwrap_err().type_and_code(),
            0x281
        );
    }
}
