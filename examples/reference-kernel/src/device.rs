//! The devices whose queues processes may claim.

use core::task::Poll;

use parakernel_core::address::NodeId;
use parakernel_core::device::{Limits, Operation, QueueDevice, QueueKind};
use parakernel_core::error::ErrorKind;
use parakernel_core::steering::{Change, Matches, Steering};
use parakernel_core::time::Instant;

use crate::pci::msix::MsiX;

pub(crate) mod nvme;

use nvme::NvmeDevice;

/// A device.
#[derive(Debug)]
pub(crate) enum Device {
    /// An NVMe controller.
    Nvme(NvmeDevice),
}

impl Device {
    /// What its queues move.
    pub(crate) const fn kind(&self) -> QueueKind {
        match self {
            Self::Nvme(_) => QueueKind::Block,
        }
    }

    /// The node that it hangs on.
    pub(crate) const fn node(&self) -> NodeId {
        match self {
            Self::Nvme(device) => device.node(),
        }
    }

    /// Its interrupts.
    pub(crate) const fn interrupts(&mut self) -> Option<&mut MsiX> {
        match self {
            Self::Nvme(device) => device.interrupts(),
        }
    }

    /// Does what there is to do without being asked; whether the device has failed and must be reset.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        match self {
            Self::Nvme(device) => device.turn(now),
        }
    }
}

impl QueueDevice for Device {
    type Error = ErrorKind;

    fn limits(&self) -> Limits {
        match self {
            Self::Nvme(device) => device.limits(),
        }
    }

    fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), ErrorKind> {
        match self {
            Self::Nvme(device) => device.begin(operation, now),
        }
    }

    fn poll(&mut self, operation: Operation, now: Instant) -> Poll<Result<(), ErrorKind>> {
        match self {
            Self::Nvme(device) => device.poll(operation, now),
        }
    }
}

impl Steering for Device {
    type Error = ErrorKind;

    fn can_express(&self, _matches: &Matches) -> bool {
        match self {
            Self::Nvme(_) => false,
        }
    }

    fn begin_change(&mut self, _change: Change, _now: Instant) -> Result<(), ErrorKind> {
        match self {
            Self::Nvme(_) => Err(ErrorKind::Unsupported),
        }
    }

    fn poll_change(&mut self, _change: Change, _now: Instant) -> Poll<Result<(), ErrorKind>> {
        match self {
            Self::Nvme(_) => Poll::Ready(Err(ErrorKind::Unsupported)),
        }
    }
}
