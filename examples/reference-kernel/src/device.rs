//! The devices whose queues processes may claim.

use core::task::Poll;

use parakernel_core::address::NodeId;
use parakernel_core::device::{Limits, Operation, QueueDevice, QueueKind};
use parakernel_core::error::ErrorKind;
use parakernel_core::steering::{Change, Matches, Steering};
use parakernel_core::time::Instant;

use crate::pci::msix::MsiX;

pub(crate) mod ixgbe;
pub(crate) mod net;
pub(crate) mod nvme;
pub(crate) mod virtio;

use net::NetDevice;
use nvme::NvmeDevice;

/// A device. There are few, each placed by itself.
#[expect(
    clippy::large_enum_variant,
    reason = "there are few, and none is moved"
)]
#[derive(Debug)]
pub(crate) enum Device {
    /// An NVMe controller.
    Nvme(NvmeDevice),
    /// A network card.
    Net(NetDevice),
}

impl Device {
    /// What its queues move.
    pub(crate) const fn kind(&self) -> QueueKind {
        match self {
            Self::Nvme(_) => QueueKind::Block,
            Self::Net(_) => QueueKind::Network,
        }
    }

    /// The node that it hangs on.
    pub(crate) const fn node(&self) -> NodeId {
        match self {
            Self::Nvme(device) => device.node(),
            Self::Net(device) => device.node(),
        }
    }

    /// Its interrupts.
    pub(crate) const fn interrupts(&mut self) -> Option<&mut MsiX> {
        match self {
            Self::Nvme(device) => device.interrupts(),
            Self::Net(device) => device.interrupts(),
        }
    }

    /// Does what there is to do without being asked; whether the device has failed and must be reset.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        match self {
            Self::Nvme(device) => device.turn(now),
            Self::Net(device) => device.turn(now),
        }
    }
}

impl QueueDevice for Device {
    type Error = ErrorKind;

    fn limits(&self) -> Limits {
        match self {
            Self::Nvme(device) => device.limits(),
            Self::Net(device) => device.limits(),
        }
    }

    fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), ErrorKind> {
        match self {
            Self::Nvme(device) => device.begin(operation, now),
            Self::Net(device) => device.begin(operation, now),
        }
    }

    fn poll(&mut self, operation: Operation, now: Instant) -> Poll<Result<(), ErrorKind>> {
        match self {
            Self::Nvme(device) => device.poll(operation, now),
            Self::Net(device) => device.poll(operation, now),
        }
    }
}

impl Steering for Device {
    type Error = ErrorKind;

    fn can_express(&self, matches: &Matches) -> bool {
        match self {
            Self::Nvme(_) => false,
            Self::Net(device) => device.can_express(matches),
        }
    }

    fn begin_change(&mut self, change: Change, now: Instant) -> Result<(), ErrorKind> {
        match self {
            Self::Nvme(_) => Err(ErrorKind::Unsupported),
            Self::Net(device) => device.begin_change(change, now),
        }
    }

    fn poll_change(&mut self, _change: Change, now: Instant) -> Poll<Result<(), ErrorKind>> {
        match self {
            Self::Nvme(_) => Poll::Ready(Err(ErrorKind::Unsupported)),
            Self::Net(device) => device.poll_change(now),
        }
    }
}
