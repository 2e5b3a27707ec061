//! Rings of virtio-net, in either layout: checked, or (for receiving) sealed.

use parakernel_core::access::Policy;
use parakernel_core::memory::RegionTable;
use parakernel_core::mmio::MappedRegisters;
use parakernel_core::ring::Position;
use parakernel_nic_virtio::checked::{
    self, AnySource, CheckedReceiver, CheckedSender, GrantedSource,
};
use parakernel_nic_virtio::header::Header;
use parakernel_nic_virtio::notify::Notifier;
use parakernel_nic_virtio::virtqueue::packed::Packed;
use parakernel_nic_virtio::virtqueue::split::Split;
use parakernel_nic_virtio::virtqueue::{Events, Format};

use super::{ENTRIES, Names, Returned};
use crate::memory::AllMemory;
use crate::queues::Fault;

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

/// Both rings of a pair.
#[derive(Debug)]
pub(crate) struct VirtioRings {
    receive: Receive,
    transmit: Transmit,
    events: Events,
    /// Up to where received and sent frames have been counted.
    counted: [Counted; 2],
}

impl From<checked::Fault> for Fault {
    fn from(fault: checked::Fault) -> Self {
        match fault {
            checked::Fault::Process(violation) => Self::Process(violation),
            checked::Fault::Device(_) => Self::Device,
        }
    }
}

impl VirtioRings {
    /// The kernel's end of these rings.
    pub(crate) fn new(receive: Receive, transmit: Transmit, events: Events) -> Self {
        Self {
            receive,
            transmit,
            events,
            counted: [Counted::default(); 2],
        }
    }

    /// Takes over receive buffers up to `claim`; how far it came.
    pub(super) fn receive(
        &mut self,
        claim: Position,
        regions: &RegionTable<'_>,
        budget: u32,
    ) -> Result<Position, Fault> {
        Ok(match &mut self.receive {
            Receive::Split(queue) => queue.service(claim, regions, budget)?,
            Receive::Packed(queue) => queue.service(claim, regions, budget)?,
            // A sealed queue's doorbell is the process's own; nobody takes anything over.
            Receive::Sealed(..) => claim,
        })
    }

    /// Takes over frames to be sent up to `claim`; how far it came.
    pub(super) fn send(
        &mut self,
        claim: Position,
        regions: &RegionTable<'_>,
        names: &Names<'_>,
        budget: u32,
    ) -> Result<Position, Fault> {
        let end = if names.policy.contains(Policy::NO_SPOOF) {
            let source = GrantedSource {
                grants: names.grants,
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
        };
        Ok(end?)
    }

    /// Sees what the card has returned.
    pub(super) fn look(&mut self) -> Result<Returned, Fault> {
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

    /// Counts what the card was seen to have returned.
    fn count(&mut self) -> Returned {
        let counted = &mut self.counted;
        let (received, received_bytes) = match &self.receive {
            Receive::Split(queue) => counted[0].upto(queue.next(), queue.hardware()),
            Receive::Packed(queue) => counted[0].upto(queue.next(), queue.hardware()),
            Receive::Sealed(ring, seen) => counted[0].upto(*seen, ring),
        };
        let (sent, _) = match &self.transmit {
            Transmit::Split(queue) => counted[1].upto(queue.next(), queue.hardware()),
            Transmit::Packed(queue) => counted[1].upto(queue.next(), queue.hardware()),
        };
        Returned {
            received: received.into(),
            received_bytes,
            sent: sent.into(),
        }
    }

    /// Bytes of the frames that the card was given to send.
    pub(super) const fn sent_bytes(&self) -> u64 {
        match &self.transmit {
            Transmit::Split(queue) => queue.bytes(),
            Transmit::Packed(queue) => queue.bytes(),
        }
    }

    /// Asks the card for an interrupt when a frame arrives.
    pub(super) fn arm(&self) {
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

    /// How many buffers and how many frames the card has.
    pub(super) const fn outstanding(&self) -> [u32; 2] {
        let armed = match &self.receive {
            Receive::Split(queue) => queue.outstanding(),
            Receive::Packed(queue) => queue.outstanding(),
            Receive::Sealed(..) => 0,
        };
        let sent = match &self.transmit {
            Transmit::Split(queue) => queue.outstanding(),
            Transmit::Packed(queue) => queue.outstanding(),
        };
        [armed, sent]
    }

    /// The most of either that its ring holds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::unused_self,
        reason = "256, as in other cards' rings or not"
    )]
    pub(super) const fn most(&self) -> [u32; 2] {
        [ENTRIES as u32; 2]
    }
}

/// Up to where completions of a ring have been counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counted(Position);

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
