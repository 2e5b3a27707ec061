//! Network queue pairs of the card: checked, or (for receiving) sealed.

use core::sync::atomic::Ordering;

use heapless::Vec;
use parakernel_core::abi::{LeaseRing, StatusPage, SubmissionPage};
use parakernel_core::access::Policy;
use parakernel_core::memory::RegionTable;
use parakernel_core::mmio::MappedRegisters;
use parakernel_core::ring::Position;
use parakernel_core::steering::NameGrant;
use parakernel_nic_virtio::checked::{
    self, AnySource, CheckedReceiver, CheckedSender, GrantedSource,
};
use parakernel_nic_virtio::header::Header;
use parakernel_nic_virtio::notify::Notifier;
use parakernel_nic_virtio::virtqueue::packed::Packed;
use parakernel_nic_virtio::virtqueue::split::Split;
use parakernel_nic_virtio::virtqueue::{Events, Format};

use super::Fault;
use crate::memory::AllMemory;

/// Entries of every ring of the card.
pub(crate) const ENTRIES: usize = 256;
const ENTRIES_U32: u32 = 256;
/// Most grants that a process's frames are compared with.
pub(crate) const GRANTS_MAX: usize = 4;

/// The card's rings, in either layout.
pub(crate) type SplitRing = Split<'static, ENTRIES>;
/// See [`SplitRing`].
pub(crate) type PackedRing = Packed<'static, ENTRIES>;
/// What tells the card that there is something in a ring.
pub(crate) type Bell<F> = Notifier<F, &'static MappedRegisters>;
type Receiver<F> = CheckedReceiver<'static, F, Bell<F>, ENTRIES>;
type Sender<F> = CheckedSender<'static, F, Bell<F>, ENTRIES>;

/// A receive queue.
#[derive(Debug)]
pub(crate) enum Receive {
    /// `Checked`, split layout.
    Split(Receiver<SplitRing>),
    /// `Checked`, packed layout.
    Packed(Receiver<PackedRing>),
    /// `Sealed`: the process gives and takes buffers without the kernel, which only looks how far the card is.
    Sealed(SplitRing, Position),
}

/// A transmit queue.
#[derive(Debug)]
pub(crate) enum Transmit {
    /// Split layout.
    Split(Sender<SplitRing>),
    /// Packed layout.
    Packed(Sender<PackedRing>),
}

/// A queue pair of the card.
#[derive(Debug)]
pub(crate) struct NetworkQueue {
    pub(crate) receive: Receive,
    pub(crate) transmit: Transmit,
    pub(crate) events: Events,
    pub(crate) policy: Policy,
    /// What the process may call itself.
    pub(crate) grants: Vec<NameGrant, GRANTS_MAX>,
    /// Frames received, their bytes, and frames sent.
    pub(crate) received: u64,
    pub(crate) received_bytes: u64,
    pub(crate) sent: u64,
}

impl From<checked::Fault> for Fault {
    fn from(fault: checked::Fault) -> Self {
        match fault {
            checked::Fault::Process(violation) => Self::Process(violation),
            checked::Fault::Device(_) => Self::Device,
        }
    }
}

impl NetworkQueue {
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
        let has_news = self.look()?;
        let (first, second) = (claim(LeaseRing::First), claim(LeaseRing::Second));
        let accepted = match &mut self.receive {
            Receive::Split(queue) => Some(queue.service(first, regions, budget)?),
            Receive::Packed(queue) => Some(queue.service(first, regions, budget)?),
            Receive::Sealed(..) => None,
        };
        // A sealed queue's doorbell is the process's own; nobody takes anything over.
        accept(LeaseRing::First, accepted.unwrap_or(first));
        accept(LeaseRing::Second, self.send(second, regions, budget)?);
        Ok(has_news)
    }

    fn send(
        &mut self,
        claim: Position,
        regions: &RegionTable<'_>,
        budget: u32,
    ) -> Result<Position, checked::Fault> {
        if self.policy.contains(Policy::NO_SPOOF) {
            let source = GrantedSource {
                grants: &self.grants,
                memory: AllMemory,
            };
            match &mut self.transmit {
                Transmit::Split(queue) => queue.service(claim, regions, &source, budget),
                Transmit::Packed(queue) => queue.service(claim, regions, &source, budget),
            }
        } else {
            match &mut self.transmit {
                Transmit::Split(queue) => queue.service(claim, regions, &AnySource, budget),
                Transmit::Packed(queue) => queue.service(claim, regions, &AnySource, budget),
            }
        }
    }

    /// Sees what the card has returned; whether there was anything.
    pub(super) fn look(&mut self) -> Result<bool, Fault> {
        let (received, bytes) = match &mut self.receive {
            Receive::Split(queue) => {
                let bytes = bytes(queue.hardware(), queue.next(), queue.outstanding())?;
                (queue.harvest()?, bytes)
            }
            Receive::Packed(queue) => {
                let bytes = bytes(queue.hardware(), queue.next(), queue.outstanding())?;
                (queue.harvest()?, bytes)
            }
            Receive::Sealed(ring, seen) => {
                let bytes = bytes(ring, *seen, ENTRIES_U32)?;
                let ready = ring.ready(*seen, ENTRIES_U32).map_err(|_| Fault::Device)?;
                *seen = seen.advanced(ready);
                (ready, bytes)
            }
        };
        self.received_bytes += bytes;
        let sent = match &mut self.transmit {
            Transmit::Split(queue) => queue.harvest()?,
            Transmit::Packed(queue) => queue.harvest()?,
        };
        self.received += u64::from(received);
        self.sent += u64::from(sent);
        Ok(received > 0 || sent > 0)
    }

    /// Asks the card for an interrupt when a frame arrives.
    pub(super) fn arm(&mut self) {
        match &self.receive {
            Receive::Split(queue) => queue
                .hardware()
                .ask_for_interrupt(self.events, Some(queue.next())),
            Receive::Packed(queue) => {
                queue
                    .hardware()
                    .ask_for_interrupt(self.events, Some(queue.next()));
            }
            Receive::Sealed(ring, seen) => ring.ask_for_interrupt(self.events, Some(*seen)),
        }
    }

    /// How many frames the card still has to send.
    pub(crate) fn outstanding(&mut self) -> Result<u32, Fault> {
        self.look()?;
        Ok(match &self.transmit {
            Transmit::Split(queue) => queue.outstanding(),
            Transmit::Packed(queue) => queue.outstanding(),
        })
    }
}

/// Bytes of the frames that have arrived from `next` on, for the counters: without the header that the card puts before each.
fn bytes(ring: &impl Format, next: Position, outstanding: u32) -> Result<u64, Fault> {
    let ready = ring.ready(next, outstanding).map_err(|_| Fault::Device)?;
    let lengths = (0..ready).map_while(|ahead| ring.used(next.advanced(ahead)));
    let frames = lengths.map(|used| u64::from(used.len).saturating_sub(Header::LEN as u64));
    Ok(frames.sum())
}
