//! A network card of any kind: what the control plane and the slow path ask of one.
//!
//! A kind of card adds a variant here, one to [`Rings`](crate::queues::network::Rings), and its memory to
//! `machine/network`.

use core::task::Poll;

use parakernel_core::abi::RingFormat;
use parakernel_core::address::NodeId;
use parakernel_core::device::{Limits, Operation, QueueIndex};
use parakernel_core::error::ErrorKind;
use parakernel_core::steering::{Change, Mac, Matches};
use parakernel_core::time::Instant;

use super::ixgbe::IxgbeNet;
use super::virtio::VirtioNet;
use crate::pci::msix::MsiX;
use crate::queues::network::NetworkQueue;
use crate::report;

/// A network card.
#[expect(
    clippy::large_enum_variant,
    reason = "there are few, and none is moved"
)]
#[derive(Debug)]
pub(crate) enum NetDevice {
    /// virtio-net.
    Virtio(VirtioNet),
    /// An 82599.
    Ixgbe(IxgbeNet),
}

/// What all kinds do under one name.
macro_rules! each {
    ($self:ident, $card:ident => $call:expr) => {
        match $self {
            Self::Virtio($card) => $call,
            Self::Ixgbe($card) => $call,
        }
    };
}

impl NetDevice {
    /// The name of its driver.
    pub(crate) const fn driver(&self) -> &'static str {
        match self {
            Self::Virtio(_) => "virtio-net",
            Self::Ixgbe(_) => "ixgbe",
        }
    }

    /// The layout of its rings.
    pub(crate) const fn format(&self) -> RingFormat {
        match self {
            Self::Virtio(card) if card.is_packed() => RingFormat::VirtioPacked,
            Self::Virtio(_) => RingFormat::VirtioSplit,
            Self::Ixgbe(_) => RingFormat::Ixgbe,
        }
    }

    /// The node that it hangs on.
    pub(crate) const fn node(&self) -> NodeId {
        each!(self, card => card.node())
    }

    /// Its interrupt table.
    pub(crate) const fn interrupts(&mut self) -> Option<&mut MsiX> {
        each!(self, card => card.interrupts())
    }

    /// What the card itself says of its link and its traffic, if it counts.
    pub(crate) fn counters(&mut self) -> Option<report::Card> {
        match self {
            Self::Virtio(_) => None,
            Self::Ixgbe(card) => Some(card.counters()),
        }
    }

    /// How many resets of the card have been begun since it was brought up.
    pub(crate) const fn resets(&self) -> u32 {
        each!(self, card => card.resets())
    }

    /// The card's own address.
    pub(crate) fn mac(&self) -> Mac {
        each!(self, card => card.mac())
    }

    /// The longest frame.
    pub(crate) fn max_frame(&self) -> u16 {
        each!(self, card => card.max_frame())
    }

    /// Whether the card leads frames to queues exactly.
    pub(crate) fn steers(&self) -> bool {
        each!(self, card => card.steers())
    }

    /// Whether it does so by classes of addresses, of which no two processes can have the same.
    pub(crate) const fn steers_by_class(&self) -> bool {
        matches!(self, Self::Virtio(_))
    }

    /// Whether its accesses go through an IOMMU where there is one.
    pub(crate) const fn is_behind_iommu(&self) -> bool {
        match self {
            Self::Virtio(card) => card.is_behind_iommu(),
            Self::Ixgbe(_) => true,
        }
    }

    /// Takes over the kernel's end of a pair whose process is fenced, to let what is in flight leave.
    pub(crate) fn take_over(&mut self, queue: QueueIndex, pair: NetworkQueue) {
        match self {
            Self::Virtio(card) => card.take_over(queue, pair),
            // The card says itself whether it has sent everything.
            Self::Ixgbe(_) => drop(pair),
        }
    }

    /// Does what there is to do without being asked; whether the card has failed.
    pub(crate) fn turn(&mut self, now: Instant) -> bool {
        each!(self, card => card.turn(now))
    }

    pub(super) fn limits(&self) -> Limits {
        each!(self, card => card.limits())
    }

    pub(super) fn begin(&mut self, operation: Operation, now: Instant) -> Result<(), ErrorKind> {
        each!(self, card => card.begin(operation, now))
    }

    pub(super) fn poll(
        &mut self,
        operation: Operation,
        now: Instant,
    ) -> Poll<Result<(), ErrorKind>> {
        each!(self, card => card.poll(operation, now))
    }

    pub(super) fn can_express(&self, matches: &Matches) -> bool {
        each!(self, card => card.can_express(matches))
    }

    pub(super) fn begin_change(&mut self, change: Change, now: Instant) -> Result<(), ErrorKind> {
        each!(self, card => card.begin_change(change, now))
    }

    pub(super) fn poll_change(&mut self, now: Instant) -> Poll<Result<(), ErrorKind>> {
        each!(self, card => card.poll_change(now))
    }
}
