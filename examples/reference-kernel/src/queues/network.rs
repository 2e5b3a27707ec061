//! Queue pairs of network cards that the kernel checks, or (for receiving) has sealed.

use core::sync::atomic::Ordering;

use heapless::Vec;
use parakernel_core::abi::{LeaseRing, StatusPage, SubmissionPage};
use parakernel_core::access::Policy;
use parakernel_core::memory::RegionTable;
use parakernel_core::ring::Position;
use parakernel_core::steering::NameGrant;

use super::Fault;

pub(crate) mod ixgbe;
pub(crate) mod virtio;

use ixgbe::IxgbeRings;
use virtio::VirtioRings;

/// Entries of every ring that a process has of a card.
pub(crate) const ENTRIES: usize = 256;
/// Most grants that a process's frames are compared with.
pub(crate) const GRANTS_MAX: usize = 4;

/// A queue pair of a card.
#[derive(Debug)]
pub(crate) struct NetworkQueue {
    rings: Rings,
    policy: Policy,
    /// What the process may call itself.
    grants: Vec<NameGrant, GRANTS_MAX>,
    /// Frames received, their bytes, and frames sent.
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    pub(super) sent: u64,
}

/// The kernel's end of the rings, for each kind of card.
#[expect(
    clippy::large_enum_variant,
    reason = "a table of leases is made once, for any of them"
)]
#[derive(Debug)]
pub(crate) enum Rings {
    Virtio(VirtioRings),
    Ixgbe(IxgbeRings),
}

/// What a card has returned since it was last looked at.
#[derive(Clone, Copy, Debug)]
struct Returned {
    received: u64,
    received_bytes: u64,
    sent: u64,
}

impl Returned {
    const NOTHING: Self = Self {
        received: 0,
        received_bytes: 0,
        sent: 0,
    };
}

/// What frames of a process are checked against.
struct Names<'a> {
    policy: Policy,
    grants: &'a [NameGrant],
}

/// What all kinds do under one name.
macro_rules! each {
    ($rings:expr, $it:ident => $call:expr) => {
        match $rings {
            Rings::Virtio($it) => $call,
            Rings::Ixgbe($it) => $call,
        }
    };
}

impl NetworkQueue {
    /// A pair on which nothing has passed yet.
    pub(crate) const fn new(
        rings: Rings,
        policy: Policy,
        grants: Vec<NameGrant, GRANTS_MAX>,
    ) -> Self {
        Self {
            rings,
            policy,
            grants,
            received: 0,
            received_bytes: 0,
            sent: 0,
        }
    }

    pub(super) fn serve(
        &mut self,
        submission: &SubmissionPage,
        status: &StatusPage,
        regions: &RegionTable<'_>,
        budget: u32,
    ) -> Result<bool, Fault> {
        let claim = |ring: LeaseRing| {
            let word = &submission.tails[ring as usize];
            Position::new(word.load(Ordering::Acquire))
        };
        let accept = |ring: LeaseRing, position: Position| {
            let word = &status.accepted[ring as usize];
            word.store(position.as_u32(), Ordering::Release);
        };
        let (first, second) = (claim(LeaseRing::First), claim(LeaseRing::Second));
        let end = each!(&mut self.rings, it => it.receive(first, regions, budget))?;
        accept(LeaseRing::First, end);
        let names = Names {
            policy: self.policy,
            grants: &self.grants,
        };
        let end = each!(&mut self.rings, it => it.send(second, regions, &names, budget))?;
        accept(LeaseRing::Second, end);
        self.look()
    }

    /// Sees what the card has returned; whether there was anything.
    pub(super) fn look(&mut self) -> Result<bool, Fault> {
        let Returned {
            received,
            received_bytes,
            sent,
        } = each!(&mut self.rings, it => it.look())?;
        self.received += received;
        self.received_bytes += received_bytes;
        self.sent += sent;
        Ok(received > 0 || sent > 0)
    }

    /// Bytes of the frames that the card was given to send.
    pub(super) const fn sent_bytes(&self) -> u64 {
        each!(&self.rings, it => it.sent_bytes())
    }

    /// Asks the card for an interrupt when a frame arrives.
    pub(super) fn arm(&mut self) {
        each!(&self.rings, it => it.arm());
    }

    /// Whether the card has more of the process's entries than a ring holds: then its counts mean nothing any more.
    pub(crate) const fn is_overfull(&self) -> bool {
        let [armed, sent] = each!(&self.rings, it => it.outstanding());
        armed > each!(&self.rings, it => it.most()[0])
            || sent > each!(&self.rings, it => it.most()[1])
    }

    /// How many entries the card still has to send.
    pub(crate) fn outstanding(&mut self) -> Result<u32, Fault> {
        self.look()?;
        let [_, sent] = each!(&self.rings, it => it.outstanding());
        Ok(sent)
    }
}
