//! Rings of an 82599, which the kernel checks.

use parakernel_core::access::Policy;
use parakernel_core::memory::RegionTable;
use parakernel_core::mmio::MappedRegisters;
use parakernel_core::ring::Position;
use parakernel_nic_ixgbe::checked::{
    self, AnySource, CheckedReceiver, CheckedSender, Counts, GrantedSource,
};
use parakernel_nic_ixgbe::doorbell::Tail;
use parakernel_nic_ixgbe::interrupt::Alarm;

use super::{ENTRIES, Names, Returned};
use crate::memory::AllMemory;
use crate::queues::Fault;

/// Entries of the port's transmit ring: the first bytes of each frame have an entry of their own.
pub(crate) const SENT_ENTRIES: usize = 2 * ENTRIES;

/// What tells the port that there is something in a ring.
pub(crate) type Bell = Tail<&'static MappedRegisters>;
/// The receive ring.
pub(crate) type Receive = CheckedReceiver<'static, Bell, ENTRIES>;
/// The transmit ring.
pub(crate) type Transmit = CheckedSender<'static, Bell, ENTRIES, SENT_ENTRIES>;

/// Both rings of a pair.
#[derive(Debug)]
pub(crate) struct IxgbeRings {
    receive: Receive,
    transmit: Transmit,
    /// What arms the pair's interrupt, if it has one.
    alarm: Option<Alarm<&'static MappedRegisters>>,
    /// Up to where received buffers have been counted, and what of them was not told yet.
    counted: Position,
    returned: Returned,
    /// Frames sent that have been counted.
    sent: u64,
}

impl From<checked::Fault> for Fault {
    fn from(fault: checked::Fault) -> Self {
        match fault {
            checked::Fault::Process(violation) => Self::Process(violation),
            checked::Fault::Device(_) => Self::Device,
        }
    }
}

impl IxgbeRings {
    /// The kernel's end of these rings.
    pub(crate) const fn new(
        receive: Receive,
        transmit: Transmit,
        alarm: Option<Alarm<&'static MappedRegisters>>,
    ) -> Self {
        Self {
            receive,
            transmit,
            alarm,
            counted: Position::START,
            returned: Returned::NOTHING,
            sent: 0,
        }
    }

    /// Takes over receive buffers up to `claim`; how far it came.
    ///
    /// What the process has taken is counted first, as its place is used again.
    pub(super) fn receive(
        &mut self,
        claim: Position,
        regions: &RegionTable<'_>,
        budget: u32,
    ) -> Result<Position, Fault> {
        self.count();
        Ok(self.receive.service(claim, regions, budget)?)
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
            self.transmit.service(claim, regions, &source, budget)
        } else {
            self.transmit.service(claim, regions, &AnySource, budget)
        };
        Ok(end?)
    }

    /// Sees what the port has returned. Frames count as sent once the port has them.
    pub(super) fn look(&mut self) -> Result<Returned, Fault> {
        self.count();
        self.transmit.harvest()?;
        let mut returned = core::mem::replace(&mut self.returned, Returned::NOTHING);
        let packets = self.taken().packets;
        returned.sent = packets - self.sent;
        self.sent = packets;
        Ok(returned)
    }

    /// Counts what was received.
    fn count(&mut self) {
        self.receive.harvest();
        while self.counted != self.receive.next() {
            let completion = self.receive.completion(self.counted);
            self.returned.received += u64::from(completion.is_last());
            self.returned.received_bytes += u64::from(completion.len());
            self.counted = self.counted.after();
        }
    }

    /// Bytes of the frames that the port was given to send.
    pub(super) const fn sent_bytes(&self) -> u64 {
        self.taken().bytes
    }

    /// What was taken over to be sent: it is counted where first bytes have entries of their own.
    const fn taken(&self) -> Counts {
        match self.transmit.counts() {
            Some(counts) => counts,
            None => Counts {
                packets: 0,
                bytes: 0,
            },
        }
    }

    /// Asks the port for an interrupt when a frame arrives.
    pub(super) fn arm(&self) {
        if let Some(alarm) = &self.alarm {
            alarm.arm();
        }
    }

    /// How many buffers and how many descriptors the port has.
    pub(super) const fn outstanding(&self) -> [u32; 2] {
        [self.receive.outstanding(), self.transmit.outstanding()]
    }

    /// The most of either that its ring holds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::unused_self,
        reason = "512 at most, as in other cards' rings or not"
    )]
    pub(super) const fn most(&self) -> [u32; 2] {
        [ENTRIES as u32, SENT_ENTRIES as u32]
    }
}
