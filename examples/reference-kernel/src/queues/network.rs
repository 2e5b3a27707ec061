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
    /// Up to where received and sent frames have been counted.
    pub(crate) counted: [Counted; 2],
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
        let (first, second) = (claim(LeaseRing::First), claim(LeaseRing::Second));
        let accepted = match &mut self.receive {
            Receive::Split(queue) => Some(queue.service(first, regions, budget)?),
            Receive::Packed(queue) => Some(queue.service(first, regions, budget)?),
            Receive::Sealed(..) => None,
        };
        // A sealed queue's doorbell is the process's own; nobody takes anything over.
        accept(LeaseRing::First, accepted.unwrap_or(first));
        let end = self.send(second, regions, budget)?;
        accept(LeaseRing::Second, end);
        self.look()
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
        match &mut self.receive {
            Receive::Split(queue) => queue.harvest()?,
            Receive::Packed(queue) => queue.harvest()?,
            Receive::Sealed(ring, seen) => {
                // The process may have gone round the ring many times without a call, so no distance is the card's fault. After
                // 65,536 frames without one the counters lack a round.
                let ready = ring
                    .ready(*seen, u32::from(u16::MAX))
                    .map_err(|_| Fault::Device)?;
                *seen = seen.advanced(ready);
                ready
            }
        };
        match &mut self.transmit {
            Transmit::Split(queue) => queue.harvest()?,
            Transmit::Packed(queue) => queue.harvest()?,
        };
        Ok(self.count())
    }

    /// Bytes of the frames that the card was given to send.
    pub(super) const fn sent_bytes(&self) -> u64 {
        match &self.transmit {
            Transmit::Split(queue) => queue.bytes(),
            Transmit::Packed(queue) => queue.bytes(),
        }
    }

    /// Counts what the card was seen to have returned; whether there was anything.
    fn count(&mut self) -> bool {
        let counted = &mut self.counted;
        let (received, bytes) = match &self.receive {
            Receive::Split(queue) => counted[0].upto(queue.next(), queue.hardware()),
            Receive::Packed(queue) => counted[0].upto(queue.next(), queue.hardware()),
            Receive::Sealed(ring, seen) => counted[0].upto(*seen, ring),
        };
        let (sent, _) = match &self.transmit {
            Transmit::Split(queue) => counted[1].upto(queue.next(), queue.hardware()),
            Transmit::Packed(queue) => counted[1].upto(queue.next(), queue.hardware()),
        };
        self.received += u64::from(received);
        self.received_bytes += bytes;
        self.sent += u64::from(sent);
        received > 0 || sent > 0
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

    /// Whether the card has more of the process's entries than a ring holds: then its counts mean nothing any more.
    pub(crate) const fn is_overfull(&self) -> bool {
        let armed = match &self.receive {
            Receive::Split(queue) => queue.outstanding(),
            Receive::Packed(queue) => queue.outstanding(),
            Receive::Sealed(..) => 0,
        };
        let sent = match &self.transmit {
            Transmit::Split(queue) => queue.outstanding(),
            Transmit::Packed(queue) => queue.outstanding(),
        };
        armed as usize > ENTRIES || sent as usize > ENTRIES
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

/// Up to where completions of a ring have been counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted(Position);

impl Counted {
    /// How many completions lie between here and `end`, and the bytes of their frames: without the header that the card puts
    /// before each. The card does not write them again before the process has offered their places anew.
    fn upto(&mut self, end: Position, ring: &impl Format) -> (u32, u64) {
        let count = end.since(self.0);
        let lengths = (0..count).map_while(|ahead| ring.used(self.0.advanced(ahead)));
        let frames = lengths.map(|used| u64::from(used.len).saturating_sub(Header::LEN as u64));
        let bytes = frames.sum();
        self.0 = end;
        (count, bytes)
    }
}
