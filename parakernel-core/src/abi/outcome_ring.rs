//! The ring in which a process gets its outcomes.
#![expect(
    unsafe_code,
    reason = "promises that shared memory consists of atomics"
)]

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::{
    memory::{Shared, SharedMemory},
    ring::{Position, RingSize},
};

/// Number of 64-bit words of a [`Message`].
pub const MESSAGE_WORDS: usize = 16;

/// A request, or its outcome, as it crosses the boundary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(64))]
pub struct Message {
    /// What kind it is, and the tag, and the rest as the kind says.
    pub words: [u64; MESSAGE_WORDS],
}

/// A message's place in shared memory.
type Entry = [AtomicU64; MESSAGE_WORDS];

/// Positions of an outcome ring: one that the kernel writes, one that the process writes.
#[derive(Debug, Default)]
#[repr(C, align(64))]
struct Positions {
    produced: AtomicU32,
    consumed: AtomicU32,
}

// SAFETY: atomics only, as above.
unsafe impl Shared for Positions {}

/// The ring in which outcomes arrive: filled by the kernel, emptied by the process.
///
/// In memory that both write. The kernel never has more outcomes under way than the ring has entries, and believes
/// nothing that the process writes there: a process that does can only lose its own outcomes.
#[derive(Clone, Copy, Debug)]
pub struct OutcomeRing<'a> {
    positions: &'a Positions,
    entries: &'a [Entry],
    size: RingSize,
}

impl<'a> OutcomeRing<'a> {
    /// Bytes of memory that a ring of `entries` takes.
    #[must_use]
    pub const fn bytes(entries: u32) -> usize {
        size_of::<Positions>() + size_of::<Entry>() * entries as usize
    }

    /// The ring of `entries`, a power of two, in `memory`; `None` where it does not fit.
    #[must_use]
    pub fn new(memory: SharedMemory<'a>, entries: u32) -> Option<Self> {
        Some(Self {
            positions: memory.view(0)?,
            entries: memory.slice(size_of::<Positions>(), entries as usize)?,
            size: RingSize::new(entries)?,
        })
    }

    /// The kernel's side: writes `message` as number `produced` and publishes it.
    ///
    /// `produced` is the kernel's own count; it is never read back from the shared memory.
    pub fn produce(&self, produced: Position, message: &Message) {
        if let Some(entry) = self.entries.get(self.size.slot(produced).index()) {
            for (word, value) in entry.iter().zip(message.words) {
                word.store(value, Relaxed);
            }
        }
        let produced = produced.after().as_u32();
        self.positions.produced.store(produced, Release);
    }

    /// The process's side: takes message number `consumed`, if it is there.
    #[must_use]
    pub fn consume(&self, consumed: Position) -> Option<Message> {
        if self.positions.produced.load(Acquire) == consumed.as_u32() {
            return None;
        }
        let entry = self.entries.get(self.size.slot(consumed).index())?;
        let mut message = Message::default();
        for (value, word) in message.words.iter_mut().zip(entry) {
            *value = word.load(Relaxed);
        }
        let consumed = consumed.after().as_u32();
        self.positions.consumed.store(consumed, Release);
        Some(message)
    }

    /// How many more messages fit, as far as the process says; never more than the ring has entries.
    #[must_use]
    pub fn room(&self, produced: Position) -> u32 {
        let consumed = Position::new(self.positions.consumed.load(Acquire));
        self.size.entries().saturating_sub(produced.since(consumed))
    }
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;

    use super::*;

    #[test]
    fn outcomes_arrive_in_order_across_the_wrap_and_room_is_what_is_left() {
        #[repr(align(64))]
        struct Memory([AtomicU64; OutcomeRing::bytes(4) / 8]);
        let memory = Memory([const { AtomicU64::new(0) }; _]);
        // SAFETY: atomics that outlive the ring.
        let shared =
            unsafe { SharedMemory::new(NonNull::from(&memory.0).cast(), size_of_val(&memory)) };
        let ring = OutcomeRing::new(shared, 4).unwrap();
        let (mut produced, mut consumed) = (Position::START, Position::START);
        for round in 0..10_u64 {
            assert_eq!(ring.room(produced), 4);
            for n in 0..3 {
                ring.produce(
                    produced,
                    &Message {
                        words: [round * 3 + n; MESSAGE_WORDS],
                    },
                );
                produced = produced.after();
            }
            assert_eq!(ring.room(produced), 1);
            for n in 0..3 {
                assert_eq!(
                    ring.consume(consumed).unwrap().words,
                    [round * 3 + n; MESSAGE_WORDS]
                );
                consumed = consumed.after();
            }
            assert_eq!(ring.consume(consumed), None);
        }
    }

    #[test]
    fn a_ring_that_does_not_fit_is_refused() {
        let words: [AtomicU64; 8] = Default::default();
        // SAFETY: as above.
        let shared = unsafe { SharedMemory::new(NonNull::from(&words).cast(), 64) };
        assert!(OutcomeRing::new(shared, 1).is_none());
        assert!(OutcomeRing::new(shared, 3).is_none());
    }
}
