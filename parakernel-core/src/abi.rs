//! The binary interface between a process and its kernel: system calls, start-up information, shared pages.
//!
//! Both the reference kernel and the VFIO broker speak it. Everything is `#[repr(C)]`, little-endian and versioned;
//! what the other side may change at any time consists of atomics.
//!
//! # A process's life
//!
//! It starts with the address of a read-only [`ProcessInfo`] in its first argument register. It asks for memory, queues
//! and flow rules by [`Call::Request`]; each answer arrives later in its [`OutcomeRing`], under the tag that it chose.
//! A granted queue comes with two pages: a [`SubmissionPage`] that it writes and a [`StatusPage`] that it reads.
//! [`Call::Submit`] makes the kernel take over what was published on the submission page, and [`Call::Wait`] lets the
//! core sleep until a queue has news.
//!
//! No call blocks the kernel, and only [`Call::Wait`] and [`Call::Exit`] stop the process's core.
#![expect(unsafe_code, reason = "promises that shared pages consist of atomics")]

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crate::{
    memory::{Shared, SharedMemory},
    queue::Doorbell,
    ring::{Position, RingSize},
};

/// Version of this interface; [`ProcessInfo::version`] says what the kernel speaks.
pub const VERSION: u32 = 1;

/// A system call's number, in the register `rax`; arguments follow in `rdi`, `rsi` and `rdx`, the result is in `rax`.
///
/// A result below [`CallError::FIRST`] is a success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u64)]
pub enum Call {
    /// Ends the process with the exit code in `rdi`; does not return.
    Exit = 0,
    /// Writes the `rsi` bytes of UTF-8 at `rdi` to the kernel's log; at most [`LOG_MAX`] of them.
    Log = 1,
    /// Hands the [`Message`] at `rdi` to the control plane.
    Request = 2,
    /// Takes over what was published on the submission page of the lease with the handle in `rdi`.
    Submit = 3,
    /// Sleeps until a queue of the process has news, an outcome arrives, or the time in `rdi` (nanoseconds on the
    /// clock of [`ProcessInfo`]) has come. Returns at once where there is news already: everything past the
    /// [`SubmissionPage::seen`] of a lease counts as news. Submits all leases first.
    Wait = 4,
}

impl Call {
    /// The call with this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Exit),
            1 => Some(Self::Log),
            2 => Some(Self::Request),
            3 => Some(Self::Submit),
            4 => Some(Self::Wait),
            _ => None,
        }
    }
}

/// The most bytes that one [`Call::Log`] takes.
pub const LOG_MAX: usize = 256;

/// How a system call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u64)]
#[non_exhaustive]
pub enum CallError {
    /// There is no such call.
    UnknownCall = u64::MAX,
    /// A pointer leads to memory that is not the process's, or not as the call uses it.
    BadPointer = u64::MAX - 1,
    /// An argument is out of range.
    BadArgument = u64::MAX - 2,
    /// The process has no such lease, or it has ended.
    BadLease = u64::MAX - 3,
    /// As many requests are under way as the outcome ring has room for.
    Busy = u64::MAX - 4,
}

impl CallError {
    /// The smallest result that means failure.
    pub const FIRST: u64 = u64::MAX - 15;

    /// What a call's result means.
    ///
    /// # Errors
    ///
    /// The failure that the number stands for; one that this version does not know is taken for
    /// [`UnknownCall`](Self::UnknownCall).
    pub const fn check(result: u64) -> Result<u64, Self> {
        if result < Self::FIRST {
            return Ok(result);
        }
        Err(match u64::MAX - result {
            1 => Self::BadPointer,
            2 => Self::BadArgument,
            3 => Self::BadLease,
            4 => Self::Busy,
            _ => Self::UnknownCall,
        })
    }
}

/// What a process is told when it starts: read-only, constant.
///
/// Time is the processor's time stamp counter: nanoseconds are `(tsc - tsc_start) * 10⁹ / tsc_hz`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct ProcessInfo {
    /// [`VERSION`] of the kernel.
    pub version: u32,
    /// The process's number.
    pub process: u32,
    /// The core that is its own.
    pub core: u32,
    /// That core's NUMA node.
    pub node: u32,
    /// Time stamp counts per second.
    pub tsc_hz: u64,
    /// The time stamp at nanosecond 0.
    pub tsc_start: u64,
    /// Address of the process's [`OutcomeRing`] memory.
    pub outcomes: u64,
    /// Number of entries of the outcome ring.
    pub outcome_entries: u32,
    /// Length of the arguments in bytes.
    pub arguments_len: u32,
    /// Address of the arguments, UTF-8 text.
    pub arguments: u64,
}

/// Rings of a lease, as indices into the arrays of its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum LeaseRing {
    /// The receive ring of a network queue pair, or the submission ring of a block queue pair.
    First = 0,
    /// The transmit ring of a network queue pair, or the completion ring of a block queue pair.
    Second = 1,
}

/// Number of rings that a lease may have.
pub const LEASE_RINGS: usize = 2;

/// What a process tells the kernel of a lease: its own to write, read by the kernel once per call.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct SubmissionPage {
    /// Tail of each ring: entries before it are published.
    pub tails: [AtomicU32; LEASE_RINGS],
    /// How far the process has looked at the completions of each ring.
    pub seen: [AtomicU32; LEASE_RINGS],
}

/// What the kernel tells a process of a lease: read-only to the process.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct StatusPage {
    /// How far the kernel has taken over each ring.
    pub accepted: [AtomicU32; LEASE_RINGS],
    /// The [`LeaseState`].
    pub state: AtomicU32,
    /// The epoch that was lost, to acknowledge.
    pub epoch: AtomicU32,
}

// SAFETY: atomics only.
unsafe impl Shared for SubmissionPage {}
// SAFETY: as above.
unsafe impl Shared for StatusPage {}

/// State of a lease as its process sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u32)]
pub enum LeaseState {
    /// The queue works.
    Active = 0,
    /// The device was reset: work in flight is of unknown outcome, and the epoch must be acknowledged.
    Lost = 1,
    /// The lease has ended or is ending.
    Revoked = 2,
}

impl LeaseState {
    /// The state that the word stands for; unknown ones are taken for an end.
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Active,
            1 => Self::Lost,
            _ => Self::Revoked,
        }
    }
}

/// A doorbell whose tail the kernel reads at the next [`Call::Submit`] or [`Call::Wait`].
#[derive(Clone, Copy, Debug)]
pub struct SharedDoorbell<'a> {
    tail: &'a AtomicU32,
    accepted: &'a AtomicU32,
}

impl<'a> SharedDoorbell<'a> {
    /// The doorbell of `ring` on the two pages of its lease.
    #[must_use]
    pub const fn new(page: &'a SubmissionPage, status: &'a StatusPage, ring: LeaseRing) -> Self {
        Self {
            tail: &page.tails[ring as usize],
            accepted: &status.accepted[ring as usize],
        }
    }
}

impl Doorbell for SharedDoorbell<'_> {
    #[inline]
    fn ring(&mut self, tail: Position) {
        self.tail.store(tail.as_u32(), Release);
    }

    #[inline]
    fn accepted(&self, _rung: Position) -> Position {
        Position::new(self.accepted.load(Acquire))
    }
}

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
    fn results_and_errors_do_not_overlap() {
        for error in [
            CallError::UnknownCall,
            CallError::BadPointer,
            CallError::BadArgument,
            CallError::BadLease,
            CallError::Busy,
        ] {
            assert_eq!(CallError::check(error as u64), Err(error));
        }
        assert_eq!(
            CallError::check(CallError::FIRST - 1),
            Ok(CallError::FIRST - 1)
        );
    }

    #[test]
    fn calls_have_their_numbers() {
        for number in 0..5 {
            assert_eq!(Call::from_number(number).unwrap() as u64, number);
        }
        assert_eq!(Call::from_number(5), None);
    }

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
