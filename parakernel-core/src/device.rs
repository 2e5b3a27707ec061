//! A device as the control plane sees it: queues that can be claimed, drained and stopped.
//!
//! A control half implements [`QueueDevice`]; a kernel that has several kinds of devices implements it for an enum over
//! them. Nothing here waits: an operation is begun, and polled until the device has confirmed it.

use core::{fmt, task::Poll, time::Duration};

use crate::{
    access::{AccessMode, Isolation, Side},
    address::NodeId,
    error::Error,
    handle::{LeaseId, VolumeId},
    ring::RingSize,
    time::Instant,
};

/// A device of the machine, numbered densely from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct DeviceId(u32);

impl DeviceId {
    /// The device with this number.
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The device's number, to index tables with.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The device's number.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

/// One of the queues (or queue pairs) that a device offers for claiming, numbered from 0.
///
/// Queues that the kernel keeps, such as an admin queue or the queue for unclassified frames, have no number here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct QueueIndex(u32);

impl QueueIndex {
    /// The queue with this number.
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The queue's number, to index tables with.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The queue's number.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

/// What a device's queues move.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum QueueKind {
    /// Frames: a receive and a transmit queue.
    Network,
    /// Blocks: a submission and a completion queue.
    Block,
}

impl QueueKind {
    /// The sides that a queue of this kind has.
    #[must_use]
    pub const fn sides(self) -> &'static [Side] {
        match self {
            Self::Network => &[Side::Receive, Side::Transmit],
            Self::Block => &[Side::Block],
        }
    }
}

/// What a device can do; constant after bring-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// What the queues move.
    pub kind: QueueKind,
    /// How many queues can be claimed.
    pub queues: u32,
    /// How many interrupt vectors there are for them.
    pub vectors: u32,
    /// The shortest ring.
    pub min_ring: RingSize,
    /// The longest ring.
    pub max_ring: RingSize,
    /// Bytes from one queue's doorbell to the next; the page size or more where each can have a page of its own.
    pub doorbell_stride: u32,
    /// Facts about a receive queue, or a storage queue pair.
    pub first_isolation: Isolation,
    /// Facts about a transmit queue; of no meaning for storage.
    pub second_isolation: Isolation,
    /// How many flow rules the device has room for.
    pub rules: u32,
    /// The node that the device hangs on.
    pub node: NodeId,
    /// How long its operations may take.
    pub waits: Waits,
}

impl Limits {
    /// The facts about one side of a queue.
    #[must_use]
    pub const fn isolation(&self, side: Side) -> Isolation {
        match side {
            Side::Receive | Side::Block => self.first_isolation,
            Side::Transmit => self.second_isolation,
        }
    }

    /// Whether a ring of this size can be made.
    #[must_use]
    pub const fn has_ring(&self, size: RingSize) -> bool {
        self.min_ring.entries() <= size.entries() && size.entries() <= self.max_ring.entries()
    }
}

/// How long a device's operations may take; from its specification, grace times included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waits {
    /// To make a queue.
    pub claim: Duration,
    /// To finish what a queue was given. It is stopped then, finished or not.
    pub drain: Duration,
    /// To stop a queue. It is quarantined after that.
    pub stop: Duration,
    /// To change steering.
    pub steer: Duration,
    /// To come out of a reset.
    pub reset: Duration,
}

/// The interrupt that a queue got.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Vector {
    /// A vector of its own.
    Own(u32),
    /// A vector that wakes others too.
    Shared(u32),
    /// None: the queue is polled.
    None,
}

impl Vector {
    /// The vector's number.
    #[must_use]
    pub const fn number(self) -> Option<u32> {
        match self {
            Self::Own(number) | Self::Shared(number) => Some(number),
            Self::None => None,
        }
    }
}

/// The queue that a device is asked to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct QueueSpec {
    /// The lease that it belongs to.
    pub lease: LeaseId,
    /// Which queue.
    pub queue: QueueIndex,
    /// Entries of the receive ring, or of the submission queue.
    pub first_ring: RingSize,
    /// Entries of the transmit ring, or of the completion queue.
    pub second_ring: RingSize,
    /// How the receive queue, or the storage queue pair, reaches the process.
    pub first_mode: AccessMode,
    /// How the transmit queue reaches the process; the same as the first for storage.
    pub second_mode: AccessMode,
    /// The interrupt.
    pub vector: Vector,
    /// The blocks that a storage queue pair is confined to.
    pub volume: Option<VolumeId>,
}

/// Something that a device does to a queue, or to itself, in its own time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Operation {
    /// Makes a queue and starts it. Its memory was set aside by the platform, and holds zeroes.
    Claim(QueueSpec),
    /// Lets the queue finish what it was given, and gives it nothing more.
    Drain(QueueIndex),
    /// Stops the queue. Confirmed by the device, and the device's grace time waited, when it is ready: no DMA begins then.
    Stop(QueueIndex),
    /// Makes sure that all DMA that the queue had begun has arrived, as by a register read.
    Flush(QueueIndex),
    /// Resets the function; all its queues are gone then. Filters and the kernel's own queues are back before it
    /// receives again.
    Reset,
    /// Takes the function off the bus for good: bus mastering off, its domain blocked. In force when [`begin`] returns,
    /// whatever the device does. Refused only where there is no such switch: what the device might reach is never freed then.
    ///
    /// [`begin`]: QueueDevice::begin
    Silence,
}

/// A device with queues to claim.
///
/// At most one operation for each queue is under way, and a reset ends all of them.
pub trait QueueDevice {
    /// What can go wrong with an operation.
    type Error: Error;

    /// What the device can do.
    fn limits(&self) -> Limits;

    /// Begins an operation; does not wait.
    ///
    /// # Errors
    ///
    /// Where it cannot be begun. A queue that was to be stopped must then be taken for one that goes on.
    fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), Self::Error>;

    /// Looks whether an operation that was begun is done; does not wait.
    ///
    /// Polled again after it was ready or has failed, it says the same.
    fn poll(&mut self, operation: Operation, now: Instant) -> Poll<Result<(), Self::Error>>;
}

impl<D: QueueDevice + ?Sized> QueueDevice for &mut D {
    type Error = D::Error;

    fn limits(&self) -> Limits {
        (**self).limits()
    }

    fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), Self::Error> {
        (**self).begin(operation, now)
    }

    fn poll(&mut self, operation: Operation, now: Instant) -> Poll<Result<(), Self::Error>> {
        (**self).poll(operation, now)
    }
}

/// How often a device was reset, or lost; leases that were active before know by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The epoch's number.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
