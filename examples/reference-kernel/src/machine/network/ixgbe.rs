//! Queue pairs of the 82599.

use core::sync::atomic::AtomicU32;

use parakernel_core::control::LeaseSpec;
use parakernel_core::ring::RingSize;
use parakernel_nic_ixgbe::checked::{Heads, Progress};
use parakernel_nic_ixgbe::device::{PairRings, ReceiveRing, TransmitRing};
use parakernel_nic_ixgbe::rx::buffer_size;
use parakernel_nic_ixgbe::validate::Limits;

use super::{FRAMES, Place};
use crate::device::ixgbe::{IxgbeNet, pair};
use crate::machine::{
    Machine,
    layout::{PartKind, Side},
};
use crate::queues::network::ENTRIES;
use crate::queues::network::ixgbe::{Bell, IxgbeRings, Receive, SENT_ENTRIES, Transmit};

/// Where the port finds the rings of a pair. The receive ring is what the process reads too.
pub(super) fn rings(machine: &Machine, (memory, layout): Place<'_>) -> Option<PairRings> {
    let block = |kind| machine.dma(memory, layout.part(kind)?);
    let posted = buffer_size(FRAMES.capacity())?;
    let receive = ReceiveRing::new(&block(PartKind::Read(Side::First))?, posted)?;
    let (ring, head) = (
        block(PartKind::Hardware(Side::Second))?,
        block(PartKind::Head)?,
    );
    Some(PairRings {
        receive,
        transmit: TransmitRing::new(&ring, &head)?,
    })
}

/// The kernel's end of a pair. The first bytes of frames are copied under any policy: it is one layout less.
pub(super) fn ends(
    machine: &Machine,
    card: &IxgbeNet,
    spec: &LeaseSpec,
    (memory, layout): Place<'_>,
) -> Option<IxgbeRings> {
    let queue = spec.queue?;
    let view = |kind| machine.view(memory, layout.part(kind)?);
    let size = |entries: usize| RingSize::new(u32::try_from(entries).ok()?);
    let [receive, transmit] = IxgbeNet::tails(pair(queue).ok()?)?;
    let bell = Bell::new(card.registers(), receive, size(ENTRIES)?);
    let ring = view(PartKind::Read(Side::First))?;
    let shadow = view(PartKind::Written(Side::First))?;
    let receive = Receive::new(ring, shadow, bell, buffer_size(FRAMES.capacity())?)?;
    let bell = Bell::new(card.registers(), transmit, size(SENT_ENTRIES)?);
    let ring = view(PartKind::Hardware(Side::Second))?;
    let shadow = view(PartKind::Written(Side::Second))?;
    let told = view(PartKind::Read(Side::Second))?.view::<AtomicU32>(0)?;
    let heads = Heads::new(machine.dma(memory, layout.part(PartKind::Tables)?)?)?;
    let limits = Limits {
        max_frame: card.max_frame().into(),
        vlan: None,
    };
    let hardware = (ring, view(PartKind::Head)?);
    let progress = Progress::Kernel(told, heads);
    let transmit = Transmit::new(hardware, shadow, progress, bell, limits)?;
    Some(IxgbeRings::new(receive, transmit, card.alarm(queue)))
}
