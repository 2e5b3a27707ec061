//! Queue pairs of virtio cards.

use parakernel_core::access::AccessMode;
use parakernel_core::address::Direction;
use parakernel_core::control::LeaseSpec;
use parakernel_core::memory::{ArenaLayout, DmaBlock};
use parakernel_core::ring::Position;
use parakernel_nic_virtio::checked::{CheckedReceiver, CheckedSender, Tables, seal};
use parakernel_nic_virtio::device::{PairRings, queues_of};
use parakernel_nic_virtio::notify::Notifier;

use super::{FRAMES, HEADER, Place};
use crate::device::virtio::{VirtioNet, pair};
use crate::machine::{
    Machine,
    layout::{PartKind, Side},
};
use crate::queues::network::virtio::{PackedRing, Receive, SplitRing, Transmit, VirtioRings};

/// The kernel's end of a pair.
pub(super) fn ends(
    machine: &Machine,
    card: &VirtioNet,
    spec: &LeaseSpec,
    place: Place<'_>,
) -> Option<VirtioRings> {
    let receive = receive(machine, card, spec, place)?;
    let transmit = transmit(machine, card, spec, place)?;
    Some(VirtioRings::new(receive, transmit, card.habits().0))
}

/// The memory of the ring that the card has of one side.
fn hardware(
    machine: &Machine,
    card: &VirtioNet,
    side: Side,
    (memory, layout): Place<'_>,
) -> Option<DmaBlock<'static>> {
    let (kernel, process) = (PartKind::Hardware(side), PartKind::Read(side));
    let part = match (card.is_packed(), side) {
        (true, Side::First) => layout.span(process, kernel)?,
        (true, Side::Second) => *layout.part(kernel)?,
        (false, _) => layout.span(kernel, process)?,
    };
    machine.dma(memory, &part)
}

/// Where the card finds the rings of a pair.
pub(super) fn rings(machine: &Machine, card: &VirtioNet, place: Place<'_>) -> Option<PairRings> {
    let receive = hardware(machine, card, Side::First, place)?;
    let transmit = hardware(machine, card, Side::Second, place)?;
    Some(if card.is_packed() {
        PairRings {
            receive: PackedRing::addresses(&receive),
            transmit: PackedRing::addresses(&transmit),
        }
    } else {
        PairRings {
            receive: SplitRing::addresses(&receive),
            transmit: SplitRing::addresses(&transmit),
        }
    })
}

fn receive(
    machine: &Machine,
    card: &VirtioNet,
    spec: &LeaseSpec,
    place: Place<'_>,
) -> Option<Receive> {
    let (memory, layout) = place;
    let [queue, _] = queues_of(pair(spec.queue?).ok()?);
    let (registers, register) = card.bell(queue)?;
    let events = card.habits().0;
    let block = hardware(machine, card, Side::First, place)?.memory();
    let posted = u32::from(HEADER) + FRAMES.stride - FRAMES.headroom;
    if spec.first_mode == AccessMode::Sealed {
        let ring = SplitRing::in_block(block)?;
        seal_with_region(machine, spec, &ring)?;
        return Some(Receive::Sealed(ring, Position::START));
    }
    let shadow = machine.view(memory, layout.part(PartKind::Written(Side::First))?)?;
    Some(if card.is_packed() {
        let ring = PackedRing::in_block(block)?;
        let bell = Notifier::new(ring, registers, register, events);
        Receive::Packed(CheckedReceiver::new(ring, bell, shadow, posted)?)
    } else {
        let ring = SplitRing::in_block(block)?;
        let bell = Notifier::new(ring, registers, register, events);
        Receive::Split(CheckedReceiver::new(ring, bell, shadow, posted)?)
    })
}

fn transmit(
    machine: &Machine,
    card: &VirtioNet,
    spec: &LeaseSpec,
    place: Place<'_>,
) -> Option<Transmit> {
    let (memory, layout) = place;
    let [_, queue] = queues_of(pair(spec.queue?).ok()?);
    let (registers, register) = card.bell(queue)?;
    let events = card.habits().0;
    let block = hardware(machine, card, Side::Second, place)?.memory();
    let view = |kind| machine.view(memory, layout.part(kind)?);
    let shadow = view(PartKind::Written(Side::Second))?;
    let tables = Tables::new(machine.dma(memory, layout.part(PartKind::Tables)?)?)?;
    let max_frame = u32::from(card.max_frame());
    Some(if card.is_packed() {
        let ring = PackedRing::in_block(block)?;
        let bell = Notifier::new(ring, registers, register, events);
        let copies = view(PartKind::Read(Side::Second))?;
        Transmit::Packed(CheckedSender::new(
            (ring, bell),
            shadow,
            Some(copies),
            tables,
            max_frame,
        )?)
    } else {
        let ring = SplitRing::in_block(block)?;
        let bell = Notifier::new(ring, registers, register, events);
        Transmit::Split(CheckedSender::new(
            (ring, bell),
            shadow,
            None,
            tables,
            max_frame,
        )?)
    })
}

/// Fills the descriptors of a sealed ring with the buffers in the process's first region that the card may fill and empty.
fn seal_with_region(machine: &Machine, spec: &LeaseSpec, ring: &SplitRing) -> Option<()> {
    let core = machine.core_of(spec.process)?;
    let queues = machine.kernel.seats.get(core)?.queues.pass();
    let mut regions = queues.regions.regions().map(|(_, region)| region);
    let region = regions.find(|region| region.direction == Direction::Bidirectional)?;
    let layout = ArenaLayout {
        count: u16::try_from(region.len / u64::from(FRAMES.stride)).unwrap_or(u16::MAX),
        ..FRAMES
    };
    seal(ring, region.iova, &layout, &queues.regions).ok()
}
