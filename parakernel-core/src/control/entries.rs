//! What the control plane remembers of processes, leases, memory and rules.

use super::{
    platform::{LeaseSpec, Memory},
    queues::Queued,
    request::{Refusal, Tag},
};
use crate::{
    address::{CoreId, NodeId},
    device::Epoch,
    handle::{ProcessId, RegionId},
    lease::{LeaseState, Revocation, Step},
    time::Deadline,
    volume::Identity,
};

/// How much a process may have at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Quota {
    /// Pages of 4 KiB, those of its rings included.
    pub pages: u64,
    /// Registered regions.
    pub regions: u32,
    /// Leases.
    pub leases: u32,
    /// Interrupt vectors of its own.
    pub vectors: u32,
    /// Flow rules.
    pub rules: u32,
    /// Requests without an outcome yet.
    pub requests: u32,
}

impl Quota {
    /// Nothing at all.
    pub const NONE: Self = Self {
        pages: 0,
        regions: 0,
        leases: 0,
        vectors: 0,
        rules: 0,
        requests: 0,
    };
}

/// Room for a process.
#[derive(Debug)]
pub struct ProcessEntry {
    pub(super) identity: Identity,
    pub(super) core: CoreId,
    pub(super) node: NodeId,
    pub(super) quota: Quota,
    pub(super) used: Quota,
    /// How many of its leases are quarantined, and how many of its regions are kept because of that.
    pub(super) quarantined: u32,
    pub(super) kept: u32,
    pub(super) life: Life,
    pub(super) queued: Queued,
}

/// What a process is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    Running,
    /// Its leases are being taken back.
    Ending,
    /// Each of its leases has ended or is quarantined, and its memory is being taken back.
    Releasing,
}

/// Room for a lease.
#[derive(Debug)]
pub struct LeaseEntry {
    pub(super) spec: LeaseSpec,
    pub(super) memory: Memory,
    pub(super) stage: Stage,
    /// Of the request that waits for the lease.
    pub(super) tag: Option<Tag>,
    /// It ends as soon as it can: its process died or gave it back, or its device failed.
    pub(super) is_ending: bool,
    /// Whether the process was told of the lease.
    pub(super) was_told: bool,
    /// What to answer in the end, where the claim failed.
    pub(super) failure: Option<Refusal>,
    pub(super) queued: Queued,
}

/// What a lease is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The device makes the queue.
    Claiming {
        deadline: Deadline,
        origin: Origin,
    },
    Active,
    /// The device failed: the process is being shut out.
    Fencing(Deadline),
    /// The process is shut out: the device is being reset, or the lease is not connected yet.
    Fenced,
    Lost(Epoch),
    Revoking(Revocation),
    Quarantined(Revocation, Step),
}

/// Why a queue is being made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Claim,
    Rearm,
}

impl LeaseEntry {
    /// The state as others see it.
    pub(super) const fn state(&self) -> LeaseState {
        match self.stage {
            Stage::Claiming { .. } => LeaseState::Claimed,
            Stage::Active => LeaseState::Active,
            Stage::Fencing(_) | Stage::Fenced => LeaseState::Quiescing(Step::Fence),
            Stage::Lost(epoch) => LeaseState::Lost(epoch),
            Stage::Revoking(revocation) => LeaseState::Quiescing(revocation.step()),
            Stage::Quarantined(_, step) => LeaseState::Quarantined(step),
        }
    }

    /// Whether the lease works and goes on to.
    pub(super) const fn is_active(&self) -> bool {
        matches!(self.stage, Stage::Active) && !self.is_ending
    }
}

/// Room for a registered region.
#[derive(Debug)]
pub struct MemoryEntry {
    pub(super) process: ProcessId,
    pub(super) memory: Memory,
    pub(super) region: RegionId,
    pub(super) stage: MemoryStage,
    pub(super) tag: Option<Tag>,
    pub(super) queued: Queued,
}

/// What a region is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MemoryStage {
    Registered,
    /// On its way out of the process.
    Unregistering,
    /// Out of its process, which has ended, but a quarantined queue might still reach it.
    Kept,
    Zeroing,
}

/// What the control plane keeps of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleState {
    pub(super) process: ProcessId,
    /// Whether it takes up its device's room for rules.
    pub(super) in_hardware: bool,
    pub(super) stage: RuleStage,
    /// Of the request that waits for the rule.
    pub(super) tag: Option<Tag>,
    /// What to answer when it is out, where it could not be put in force.
    pub(super) failure: Option<Refusal>,
    pub(super) queued: Queued,
}

/// What a rule is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RuleStage {
    /// To be added when the lease works and the device has time. The device may know of it from before a reset.
    Waiting {
        in_device: bool,
    },
    Adding(Deadline),
    Hardware,
    Software,
    /// The device was reset: the frames go to the drop queue until the lease is armed again.
    Dropped,
    /// To be taken out, of the device too where it may know of it.
    Leaving {
        in_device: bool,
    },
    Removing(Deadline),
    /// The device did not take it out. Only a reset helps.
    Stuck,
}

impl RuleStage {
    /// The stage that takes the rule out.
    pub(super) const fn leaving(self) -> Self {
        let in_device = match self {
            Self::Waiting { in_device } | Self::Leaving { in_device } => in_device,
            Self::Software => false,
            Self::Adding(_) | Self::Hardware | Self::Dropped | Self::Removing(_) | Self::Stuck => {
                true
            }
        };
        Self::Leaving { in_device }
    }
}
