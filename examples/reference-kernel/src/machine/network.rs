//! Queue pairs of network cards: their rings, and the kernel's ends of them.

use heapless::Vec;
use parakernel_core::abi::{NetworkMap, QueueMap};
use parakernel_core::access::AccessMode;
use parakernel_core::address::Direction;
use parakernel_core::control::{LeaseSpec, Memory};
use parakernel_core::memory::{ArenaLayout, DmaBlock};
use parakernel_core::ring::Position;
use parakernel_core::virtual_queue::{ReceivePort, TransmitPort};
use parakernel_nic_virtio::checked::{CheckedReceiver, CheckedSender, Tables, seal};
use parakernel_nic_virtio::device::{PairRings, queues_of};
use parakernel_nic_virtio::header::Header;
use parakernel_nic_virtio::notify::Notifier;

use super::{
    Machine,
    activate::Terms,
    layout::{Layout, PartKind, Side, software},
    wiring::window,
};
use crate::device::Device;
use crate::device::net::{NetDevice, pair};
use crate::memory::FRAME;
use crate::queues::Queue;
use crate::queues::network::{Counted, NetworkQueue, PackedRing, Receive, SplitRing, Transmit};
use crate::queues::software::VirtualQueue;

/// Bytes of the header that the card puts before each frame.
const HEADER: u16 = 12;
const _: () = assert!(HEADER as usize == Header::LEN);

/// How processes cut their memory into frame buffers: what the card is told of each buffer's length follows from it.
pub(crate) const FRAMES: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: HEADER as u32,
    count: 0,
};

/// A lease's memory.
type Place<'a> = (Memory, &'a Layout);

/// The memory of the ring that the card has of one side.
fn hardware(
    machine: &Machine,
    card: &NetDevice,
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
pub(super) fn rings(
    machine: &Machine,
    card: &NetDevice,
    _spec: &LeaseSpec,
    place: Place<'_>,
) -> Option<PairRings> {
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

/// The kernel's end of a pair, and what its process has to know.
pub(super) fn make(
    machine: &Machine,
    card: &NetDevice,
    spec: &LeaseSpec,
    place: Place<'_>,
    terms: &Terms<'_>,
) -> Option<(Queue, QueueMap)> {
    let grants = Vec::from_slice(terms.grants).ok()?;
    let map = NetworkMap {
        mac: card.mac(),
        max_frame: card.max_frame(),
        header: HEADER,
        pair: spec.queue.map_or(0, |queue| pair(queue).unwrap_or(0)),
        features: card.features().bits(),
    };
    let queue = if spec.queue.is_some() {
        Queue::Network(NetworkQueue {
            receive: receive(machine, card, spec, place)?,
            transmit: transmit(machine, card, spec, place)?,
            events: card.habits().0,
            policy: terms.policy,
            grants,
            counted: [Counted::default(); 2],
            received: 0,
            received_bytes: 0,
            sent: 0,
        })
    } else {
        let (memory, layout) = place;
        let view = |kind| machine.view(memory, layout.part(kind)?);
        let (first, second) = (Side::First, Side::Second);
        Queue::Virtual(VirtualQueue {
            receive: ReceivePort::new(view(PartKind::Read(first))?, software(card, spec, first))?,
            transmit: TransmitPort::new(
                view(PartKind::Written(second))?,
                software(card, spec, second),
            )?,
            grants,
            is_open: false,
            has_news: false,
            received: 0,
            received_bytes: 0,
            sent: 0,
            sent_bytes: 0,
            dropped: 0,
        })
    };
    Some((queue, QueueMap::Network(map)))
}

fn receive(
    machine: &Machine,
    card: &NetDevice,
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
    card: &NetDevice,
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

impl Machine {
    /// The page of a sealed queue's doorbell, and where on it the register is.
    pub(super) fn doorbell_page(&self, spec: &LeaseSpec) -> Option<(u64, u64)> {
        if spec.first_mode != AccessMode::Sealed {
            return None;
        }
        let Device::Net(card) = &**self.devices.get(spec.device.index())? else {
            return None;
        };
        let [queue, _] = queues_of(pair(spec.queue?).ok()?);
        let (page, within) = card.doorbell_page(queue)?;
        Some((page.as_u64(), within))
    }

    /// Where the process finds its doorbell page: behind all parts.
    pub(super) fn doorbell_window(spec: &LeaseSpec, layout: &Layout) -> u64 {
        window(spec.lease) + layout.frames() as u64 * FRAME
    }

    /// Where the process finds its doorbell register, if it has one.
    pub(super) fn doorbell_of(&self, spec: &LeaseSpec, layout: &Layout) -> Option<u64> {
        let (_, within) = self.doorbell_page(spec)?;
        Some(Self::doorbell_window(spec, layout) + within)
    }
}
