//! Steering: who may have which frames, and how they get there.
//!
//! Nobody claims flows by being first. A [`NameGrant`] (a MAC address, a VLAN, an address prefix, a range of ports),
//! given when a process is created, must cover every rule that it installs and every address that it sends from; grants
//! that overlap are refused. A [`FlowRule`] leads frames to the queue of a lease, and goes with the lease.
//!
//! What the device cannot express, and whatever matches no rule, arrives at a queue of the kernel's. From there
//! [`GrantTable::classify`] leads it by name: ARP, neighbour discovery, ICMP, fragments, broadcasts. What is ambiguous
//! stays with the kernel; no frame ever goes to a process whose grant does not cover it. [`NameGrant::check_source`] is
//! the other direction: what a process may send.

use core::task::Poll;

use crate::{device::QueueIndex, error::Error, handle::RuleId, time::Instant};

mod classify;
mod frame;
mod grant;
mod head;
mod layers;
mod name;
mod rule;
mod shape;
mod source;
mod toeplitz;

pub use classify::Recipient;
pub use grant::{GrantError, GrantTable, NameGrant, OwnedGrant};
pub use head::{AnySource, FrameMemory, GrantedSource, Head, SourceCheck};
pub use layers::{IpVersion, Layers};
pub use name::{IpPrefix, Ipv4Prefix, Ipv6Prefix, Mac, PortRange, Vlan};
pub use rule::{FlowRule, InstalledRule, Matches, Protocol, RuleEntry, RuleError, RuleTable};
pub use shape::RuleBucket;
pub use source::{SOURCE_HEADERS, Way};
pub use toeplitz::{ClassSet, OneBitKey, toeplitz};

/// A change of a device's steering.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Leads the frames that match to a queue.
    Add {
        /// The name that the rule is removed by.
        rule: RuleId,
        /// Which frames.
        matches: Matches,
        /// Which queue.
        queue: QueueIndex,
    },
    /// Leads the frames of a rule to the kernel's drop queue, where they stay until a rule is added that matches them.
    /// A rule that the device does not know, after a reset, is out already.
    Remove {
        /// The name that the rule was added by.
        rule: RuleId,
    },
}

/// A device that leads frames to queues by exact rules.
///
/// At most one change is under way on a device. A reset of the device ends it; afterwards the rules that had been added
/// lead to the drop queue, and one whose addition was not confirmed is forgotten. Learned steering, and a hash of what the sender may choose, are no
/// rules: a spoofed frame would steal the flow.
pub trait Steering {
    /// What can go wrong with a change.
    type Error: Error;

    /// Whether the device can lead exactly these frames to a queue, with the rules that it has.
    fn can_express(&self, matches: &Matches) -> bool;

    /// Begins a change; does not wait.
    ///
    /// # Errors
    ///
    /// Where it cannot be begun.
    fn begin_change(&mut self, change: Change, now: Instant) -> Result<(), Self::Error>;

    /// Looks whether a change that was begun is in force; does not wait.
    ///
    /// Polled again after it was ready or has failed, it says the same.
    fn poll_change(&mut self, change: Change, now: Instant) -> Poll<Result<(), Self::Error>>;
}

impl<S: Steering + ?Sized> Steering for &mut S {
    type Error = S::Error;

    fn can_express(&self, matches: &Matches) -> bool {
        (**self).can_express(matches)
    }

    fn begin_change(&mut self, change: Change, now: Instant) -> Result<(), Self::Error> {
        (**self).begin_change(change, now)
    }

    fn poll_change(&mut self, change: Change, now: Instant) -> Poll<Result<(), Self::Error>> {
        (**self).poll_change(change, now)
    }
}
