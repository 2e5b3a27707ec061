//! What processes ask for, and what they are told.

use core::fmt;

use crate::{
    access::AccessMode,
    address::{Direction, Iova, NodeId},
    device::{DeviceId, Epoch, Vector},
    error::{Error, ErrorKind},
    handle::{LeaseId, MemoryId, ProcessId, RuleId, VolumeId},
    lease::Step,
    ring::RingSize,
    steering::FlowRule,
};

/// A process's own number for a request; comes back with its outcome.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Tag(pub u64);

/// What a process may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Memory that devices may reach.
    RegisterMemory(MemoryWish),
    /// Gives memory back. Refused while the process holds a hardware queue, which might reach it.
    ReleaseMemory(MemoryId),
    /// A queue.
    Claim(ClaimWish),
    /// Gives a queue back; the outcome comes when all of it has been taken back.
    Release(LeaseId),
    /// Leads frames to a queue of the process.
    AddRule(FlowRule),
    /// Leads the frames of a rule to nobody.
    RemoveRule(RuleId),
    /// Arms a lease again whose device was reset. What was in flight is of unknown outcome.
    Acknowledge {
        /// The lease.
        lease: LeaseId,
        /// The epoch that it lost.
        epoch: Epoch,
    },
}

/// Memory as a process asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MemoryWish {
    /// Number of pages of 4 KiB.
    pub pages: u64,
    /// What the pages are made of.
    pub page_size: PageSize,
    /// What devices may do there.
    pub direction: Direction,
    /// Which node; `None` for that of the process's core.
    pub node: Option<NodeId>,
}

/// What memory is made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PageSize {
    /// Pages of 4 KiB.
    Base,
    /// Pages of 2 MiB.
    Huge,
}

impl PageSize {
    /// How many pages of 4 KiB one such page is.
    #[must_use]
    pub const fn pages(self) -> u64 {
        match self {
            Self::Base => 1,
            Self::Huge => 512,
        }
    }
}

/// A queue as a process asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ClaimWish {
    /// The device.
    pub device: DeviceId,
    /// The cheapest mode that the process wants; a stricter one may come of it.
    pub at_least: AccessMode,
    /// Entries of the receive ring, or of the submission queue.
    pub first_ring: RingSize,
    /// Entries of the transmit ring, or of the completion queue.
    pub second_ring: RingSize,
    /// Whether it wants to be woken, or polls.
    pub wake: Wake,
    /// The volume, for a storage queue.
    pub volume: Option<VolumeId>,
}

/// How a process learns of completions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Wake {
    /// It looks.
    Poll,
    /// By interrupt, where a vector is left.
    Interrupt,
}

/// What became of a request, or what happened to a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Outcome {
    /// Memory was registered.
    Registered {
        /// To give it back by.
        memory: MemoryId,
        /// Where it is in the process's I/O address space.
        iova: Iova,
        /// Number of pages of 4 KiB.
        pages: u64,
    },
    /// Memory was given back.
    Released {
        /// What it was called.
        memory: MemoryId,
    },
    /// A queue works.
    Claimed {
        /// To name it by.
        lease: LeaseId,
        /// How the receive queue, or the storage queue pair, is reached.
        first_mode: AccessMode,
        /// How the transmit queue is reached.
        second_mode: AccessMode,
        /// The interrupt.
        vector: Vector,
    },
    /// A lease has ended: no byte of its memory is touched, no interrupt of it arrives, none of its frames reach anyone.
    ///
    /// With a tag where the process gave it back, without one where it was taken.
    Revoked {
        /// The lease.
        lease: LeaseId,
    },
    /// A lease could not be taken back, and is cut off from its process. Its memory and its queue are lost to everyone until the
    /// device is reset.
    Quarantined {
        /// The lease.
        lease: LeaseId,
        /// The step that was not confirmed.
        step: Step,
    },
    /// The device was reset: what was in flight is of unknown outcome. Acknowledge the epoch to go on.
    Lost {
        /// The lease.
        lease: LeaseId,
        /// The epoch to acknowledge.
        epoch: Epoch,
    },
    /// A lost lease works again, its rings empty, its rules in force.
    Rearmed {
        /// The lease.
        lease: LeaseId,
    },
    /// A rule is in force.
    RuleAdded {
        /// To remove it by.
        rule: RuleId,
        /// Where its frames arrive.
        placement: Placement,
    },
    /// A rule is no longer in force; without a tag where the device did not take it again after a reset.
    RuleRemoved {
        /// What it was called.
        rule: RuleId,
    },
    /// Nothing came of the request.
    Refused(Refusal),
}

/// Where the frames of a rule arrive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Placement {
    /// At the hardware queue.
    Hardware,
    /// At the process's virtual queue: the device cannot express the rule.
    Software,
}

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Refusal {
    /// The handle names nothing of this process: it is stale, made up, or another's.
    NoSuchHandle,
    /// There is no such device.
    NoSuchDevice,
    /// No grant of the process covers the request.
    NotGranted,
    /// A frame could match another rule too.
    Conflict {
        /// That rule.
        other: RuleId,
    },
    /// The process has as much of this as it may have.
    Quota,
    /// Nothing of this is left.
    Exhausted,
    /// The device, or the kind of queue, does not offer this.
    Unsupported,
    /// A number is out of range.
    OutOfRange,
    /// Something of the process still uses it.
    InUse,
    /// The lease is not in a state for this.
    WrongState,
    /// The device is gone, or is being reset.
    DeviceDown,
    /// The device failed to do it.
    Device(ErrorKind),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchHandle => f.write_str("the handle names nothing of this process"),
            Self::NoSuchDevice => f.write_str("there is no such device"),
            Self::NotGranted => f.write_str("no grant covers the request"),
            Self::Conflict { other } => write!(f, "a frame could match rule {other} too"),
            Self::Quota => f.write_str("the quota is used up"),
            Self::Exhausted => f.write_str("nothing is left"),
            Self::Unsupported => f.write_str("not supported by the device"),
            Self::OutOfRange => f.write_str("a number is out of range"),
            Self::InUse => f.write_str("still in use"),
            Self::WrongState => f.write_str("the lease is not in a state for this"),
            Self::DeviceDown => f.write_str("the device is gone or being reset"),
            Self::Device(kind) => write!(f, "the device failed: {kind}"),
        }
    }
}

impl core::error::Error for Refusal {}

impl Error for Refusal {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchHandle | Self::NoSuchDevice | Self::OutOfRange => {
                ErrorKind::InvalidArgument
            }
            Self::NotGranted | Self::Conflict { .. } | Self::InUse | Self::WrongState => {
                ErrorKind::Denied
            }
            Self::Quota | Self::Exhausted => ErrorKind::Exhausted,
            Self::Unsupported => ErrorKind::Unsupported,
            Self::DeviceDown => ErrorKind::Removed,
            Self::Device(kind) => *kind,
        }
    }
}

/// What the control plane has to say; delivered once, in the order in which it happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Event {
    /// For a process: to be put where it finds it, and to wake it.
    Deliver {
        /// Which process.
        process: ProcessId,
        /// Of its request; `None` where it did not ask.
        tag: Option<Tag>,
        /// What happened.
        outcome: Outcome,
    },
    /// Nothing of this process is left but what a quarantined queue of it might reach; its core is free.
    Ended(ProcessId),
    /// The device works again, in this epoch.
    DeviceUp(DeviceId, Epoch),
    /// The device is out of service for good, and its leases have ended or are ending.
    DeviceGone(DeviceId),
    /// The device is out of service for good, but refused to be taken off the bus. It may still reach the memory of all leases
    /// on it and the regions of their processes, so that these are never freed.
    DeviceLoose(DeviceId),
}
