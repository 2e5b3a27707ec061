//! Queue pairs of network cards: their rings, and the kernel's ends of them.

use heapless::Vec;
use parakernel_core::abi::{NetworkMap, QueueMap};
use parakernel_core::access::AccessMode;
use parakernel_core::control::{LeaseSpec, Memory};
use parakernel_core::device::QueueIndex;
use parakernel_core::memory::ArenaLayout;
use parakernel_core::virtual_queue::{ReceivePort, TransmitPort};
use parakernel_nic_virtio::device::queues_of;
use parakernel_nic_virtio::header::Header;

use super::{
    Machine,
    activate::Terms,
    layout::{Layout, PartKind, Side, software},
    wiring::window,
};
use crate::device::Device;
use crate::device::net::NetDevice;
use crate::device::virtio::pair;
use crate::memory::FRAME;
use crate::queues::Queue;
use crate::queues::network::{NetworkQueue, Rings};
use crate::queues::software::VirtualQueue;

mod ixgbe;
mod virtio;

/// Bytes of the header that virtio cards put before each frame. Others have none, and the room stays unused.
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

impl Machine {
    /// Tells the card where the rings of a pair are that it is to make.
    pub(super) fn prepare_network(
        &mut self,
        spec: &LeaseSpec,
        place: Place<'_>,
        (queue, vector): (QueueIndex, Option<u16>),
    ) -> Option<()> {
        let index = spec.device.index();
        let Device::Net(card) = &**self.devices.get(index)? else {
            return None;
        };
        match card {
            NetDevice::Virtio(card) => {
                let rings = virtio::rings(self, card, place)?;
                if let Device::Net(NetDevice::Virtio(card)) = &mut **self.devices.get_mut(index)? {
                    card.prepare(queue, rings, vector);
                }
            }
            NetDevice::Ixgbe(_) => {
                let rings = ixgbe::rings(self, place)?;
                if let Device::Net(NetDevice::Ixgbe(card)) = &mut **self.devices.get_mut(index)? {
                    card.prepare(queue, rings, vector);
                }
            }
        }
        Some(())
    }
}

/// The kernel's end of a pair, and what its process has to know.
pub(super) fn make(
    machine: &Machine,
    card: &NetDevice,
    spec: &LeaseSpec,
    place: Place<'_>,
    terms: &Terms<'_>,
) -> Option<(Queue, QueueMap)> {
    let (header, features) = match card {
        NetDevice::Virtio(card) => (HEADER, card.features().bits()),
        NetDevice::Ixgbe(_) => (0, 0),
    };
    let map = NetworkMap {
        mac: card.mac(),
        max_frame: card.max_frame(),
        header,
        pair: spec.queue.map_or(0, |queue| pair(queue).unwrap_or(0)),
        features,
    };
    let grants = Vec::from_slice(terms.grants).ok()?;
    let queue = if spec.queue.is_some() {
        let rings = match card {
            NetDevice::Virtio(card) => Rings::Virtio(virtio::ends(machine, card, spec, place)?),
            NetDevice::Ixgbe(card) => Rings::Ixgbe(ixgbe::ends(machine, card, spec, place)?),
        };
        Queue::Network(NetworkQueue::new(rings, terms.policy, grants))
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

impl Machine {
    /// The page of a sealed queue's doorbell, and where on it the register is.
    pub(super) fn doorbell_page(&self, spec: &LeaseSpec) -> Option<(u64, u64)> {
        if spec.first_mode != AccessMode::Sealed {
            return None;
        }
        let Device::Net(NetDevice::Virtio(card)) = &**self.devices.get(spec.device.index())? else {
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
