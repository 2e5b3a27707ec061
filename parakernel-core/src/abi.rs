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

mod call;
mod lease;
mod map;
mod message;
mod outcome_ring;

pub use call::{ALL_LEASES, Call, CallError, LOG_MAX, Metric};
pub use lease::{LEASE_RINGS, LeaseRing, LeaseState, SharedDoorbell, StatusPage, SubmissionPage};
pub use map::{BlockMap, LeaseMap, NetworkMap, QueueMap, RingFormat, RingMap};
pub use message::Codec;
pub use outcome_ring::{MESSAGE_WORDS, Message, OutcomeRing};

/// Version of this interface; [`ProcessInfo::version`] says what the kernel speaks.
pub const VERSION: u32 = 2;

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
    /// Address of the [`StatusPage`] of the lease with index 0; valid while that is the process's.
    pub leases: u64,
    /// Bytes from the status page of one lease to that of the next.
    pub lease_stride: u64,
}
