//! Data halves for what the kernel's map says: one of several, chosen when a process starts.
#![expect(unsafe_code, reason = "views a doorbell that the kernel mapped")]

use core::{
    fmt,
    ptr::{self, NonNull},
};

use parakernel_core::{
    abi::{LeaseRing, NetworkMap, RingFormat, RingMap, SharedDoorbell},
    access::AccessMode,
    error::{Error, ErrorKind},
    memory::{Arena, ArenaLayout, PAGE_SIZE, Pool, SegmentList},
    mmio::MappedRegisters,
    queue::{RxQueue, TxQueue},
    virtual_queue::{VirtualLayout, VirtualQueueError, VirtualReceiver, VirtualSender},
};
use parakernel_nic_ixgbe::{
    error::RingError as IxgbeError, offload::Metadata, rx as ixgbe_rx, tx as ixgbe_tx,
};
use parakernel_nic_virtio::{
    error::RingError,
    features::Features,
    notify::{Data, Notifier, NotifyRegister},
    rx::{Receiver, Spread},
    transport::NotifyAddress,
    tx::{HeaderSource, Sender},
    virtqueue::{
        Events, Order,
        packed::Packed,
        split::{Sealed, Split},
    },
};

use super::NETWORK_ENTRIES as N;
use crate::{Lease, process::address};

/// Buffers that a sealed queue has descriptors for.
#[expect(clippy::cast_possible_truncation, reason = "256")]
const SEALED: u16 = N as u16;

type Bell = SharedDoorbell<'static>;
type SplitRing = Split<'static, N>;
type PackedRing = Packed<'static, N>;
type SealedRing = Sealed<'static, N>;

/// A receive queue.
#[derive(Debug)]
pub enum Receive {
    /// `Checked`, split layout.
    Split(Receiver<SplitRing, Bell, N>),
    /// `Checked`, packed layout.
    Packed(Receiver<PackedRing, Bell, N>),
    /// `Sealed`: the process writes the index ring and rings the device itself.
    Sealed(Receiver<SealedRing, Notifier<SealedRing, MappedRegisters>, N>),
    /// `Checked`, descriptors of the 82599.
    Ixgbe(ixgbe_rx::Receiver<'static, Bell, N>),
    /// `Virtual`.
    Virtual(VirtualReceiver<'static, Bell>),
}

/// A transmit queue.
#[derive(Debug)]
pub enum Transmit<'m> {
    /// `Checked`, split layout.
    Split(Sender<'static, SplitRing, Bell, N>),
    /// `Checked`, packed layout.
    Packed(Sender<'static, PackedRing, Bell, N>),
    /// `Checked`, descriptors of the 82599.
    Ixgbe(ixgbe_tx::Sender<'static, Bell, N>),
    /// `Virtual`.
    Virtual(VirtualSender<'m, Bell>),
}

/// What goes wrong in a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueError {
    /// In the ring of a virtio card.
    Ring(RingError),
    /// In the ring of an 82599.
    Ixgbe(IxgbeError),
    /// In a virtual queue.
    Virtual(VirtualQueueError),
}

impl From<RingError> for QueueError {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl From<IxgbeError> for QueueError {
    fn from(error: IxgbeError) -> Self {
        Self::Ixgbe(error)
    }
}

impl From<VirtualQueueError> for QueueError {
    fn from(error: VirtualQueueError) -> Self {
        Self::Virtual(error)
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => error.fmt(f),
            Self::Ixgbe(error) => error.fmt(f),
            Self::Virtual(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for QueueError {}

impl Error for QueueError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Ring(error) => error.kind(),
            Self::Ixgbe(error) => error.kind(),
            Self::Virtual(error) => error.kind(),
        }
    }
}

impl Receive {
    /// The receive queue of `lease`, for buffers as `layout` cuts them; `None` where the kernel's map makes no sense.
    ///
    /// A sealed queue takes the first 256 of them only.
    #[must_use]
    pub fn open(lease: &Lease, map: &NetworkMap, layout: &ArenaLayout) -> Option<Self> {
        const RING: LeaseRing = LeaseRing::First;
        let (ring, bell) = (lease.map().rings[RING as usize], lease.doorbell(RING));
        let features = Features::from_bits_retain(map.features);
        let habits = (order(features), spread(features));
        Some(match (ring.format, ring.mode) {
            (RingFormat::VirtioSplit, AccessMode::Sealed) => {
                let format = Sealed::new(lease.submissions(RING)?, lease.completions(RING)?)?;
                let bell = notifier(format, &ring, map)?;
                let layout = ArenaLayout {
                    count: layout.count.min(SEALED),
                    ..*layout
                };
                Self::Sealed(Receiver::new(format, bell, &layout, habits)?)
            }
            (RingFormat::VirtioSplit, AccessMode::Checked) => {
                Self::Split(Receiver::new(split(lease, RING)?, bell, layout, habits)?)
            }
            (RingFormat::VirtioPacked, AccessMode::Checked) => {
                Self::Packed(Receiver::new(packed(lease, RING)?, bell, layout, habits)?)
            }
            (RingFormat::Ixgbe, AccessMode::Checked) => {
                let rings = (lease.submissions(RING)?, lease.completions(RING)?);
                let queue = ixgbe_rx::Receiver::new(rings.0, rings.1, bell, layout, Metadata::None);
                Self::Ixgbe(queue?)
            }
            (RingFormat::Virtual, AccessMode::Virtual) => {
                let memory = lease.completions(RING)?;
                Self::Virtual(VirtualReceiver::new(memory, slots(&ring, map), bell)?)
            }
            _ => return None,
        })
    }
}

impl<'m> Transmit<'m> {
    /// The transmit queue of `lease`, for frames in `arena`; `None` where the kernel's map makes no sense.
    ///
    /// `sent` holds buffers of frames that were copied: a word for each.
    #[must_use]
    pub fn open(
        lease: &Lease,
        map: &NetworkMap,
        arena: Arena<'static>,
        sent: &'m mut [u32],
    ) -> Option<Self> {
        const RING: LeaseRing = LeaseRing::Second;
        let (ring, bell) = (lease.map().rings[RING as usize], lease.doorbell(RING));
        let features = Features::from_bits_retain(map.features);
        let habits = (order(features), HeaderSource::Queue);
        Some(match (ring.format, ring.mode) {
            (RingFormat::VirtioSplit, AccessMode::Checked) => {
                Self::Split(Sender::new(split(lease, RING)?, bell, arena, habits)?)
            }
            (RingFormat::VirtioPacked, AccessMode::Checked) => {
                Self::Packed(Sender::new(packed(lease, RING)?, bell, arena, habits)?)
            }
            (RingFormat::Ixgbe, AccessMode::Checked) => {
                let rings = (lease.submissions(RING)?, lease.completions(RING)?);
                let queue = ixgbe_tx::Sender::new(rings.0, rings.1, bell, arena, Metadata::None);
                Self::Ixgbe(queue?)
            }
            (RingFormat::Virtual, AccessMode::Virtual) => {
                let (memory, layout) = (lease.submissions(RING)?, slots(&ring, map));
                Self::Virtual(VirtualSender::new(memory, layout, bell, arena, sent)?)
            }
            _ => return None,
        })
    }
}

/// The shadow of a split ring, and the device's own used ring.
fn split(lease: &Lease, ring: LeaseRing) -> Option<SplitRing> {
    let written = lease.submissions(ring)?;
    let available = written.part(SplitRing::AVAILABLE, SplitRing::USED - SplitRing::AVAILABLE)?;
    Split::new(written, available, lease.completions(ring)?)
}

/// The shadow of a packed ring, and what was used of it.
fn packed(lease: &Lease, ring: LeaseRing) -> Option<PackedRing> {
    let written = lease.submissions(ring)?;
    let events = written.part(PackedRing::DRIVER, PAGE_SIZE)?;
    Packed::new(written, lease.completions(ring)?, events)
}

/// The doorbell of a sealed receive queue: the device's notification register.
fn notifier(
    format: SealedRing,
    ring: &RingMap,
    map: &NetworkMap,
) -> Option<Notifier<SealedRing, MappedRegisters>> {
    let offset = address(ring.doorbell) % PAGE_SIZE;
    let page = ptr::with_exposed_provenance_mut(address(ring.doorbell) - offset);
    let page = NonNull::new(page)?;
    // SAFETY: the kernel mapped this page of the device as long as the lease lasts, and stops a process that rings later.
    // It starts at a page's boundary.
    let registers = unsafe { MappedRegisters::new(page, PAGE_SIZE) };
    let register = NotifyRegister {
        // Receive queues have the even numbers (virtio 1.2 §5.1.2).
        queue: map.pair.checked_mul(2)?,
        // A page per queue is a matter of the PCI transport, whose notifications have 16 bits.
        address: NotifyAddress {
            offset,
            wide: false,
        },
        data: Data::Index,
    };
    let features = Features::from_bits_retain(map.features);
    let events = if features.contains(Features::EVENT_IDX) {
        Events::Index
    } else {
        Events::Flags
    };
    Some(Notifier::new(format, registers, register, events))
}

/// How a virtual queue lies in its memory.
fn slots(ring: &RingMap, map: &NetworkMap) -> VirtualLayout {
    VirtualLayout {
        entries: ring.entries,
        slot_bytes: u32::from(map.max_frame).next_multiple_of(8),
    }
}

const fn order(features: Features) -> Order {
    if features.contains(Features::IN_ORDER) {
        Order::InOrder
    } else {
        Order::Any
    }
}

const fn spread(features: Features) -> Spread {
    if features.contains(Features::MRG_RXBUF) {
        Spread::Merged
    } else {
        Spread::Single
    }
}

/// Calls the queue that there is.
macro_rules! dispatch {
    ($self:ident, [$($form:ident),*], $queue:ident => $call:expr) => {
        match $self {
            $(Self::$form($queue) => Ok($call?),)*
        }
    };
}

impl RxQueue for Receive {
    type Error = QueueError;

    #[inline]
    fn poll(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, QueueError> {
        dispatch!(self, [Split, Packed, Sealed, Ixgbe, Virtual], queue => queue.poll(pool, frames, budget))
    }

    fn arm(&mut self, pool: &mut Pool<'_>) -> usize {
        match self {
            Self::Split(queue) => queue.arm(pool),
            Self::Packed(queue) => queue.arm(pool),
            Self::Sealed(queue) => queue.arm(pool),
            Self::Ixgbe(queue) => queue.arm(pool),
            Self::Virtual(queue) => queue.arm(pool),
        }
    }
}

impl TxQueue for Transmit<'_> {
    type Error = QueueError;

    #[inline]
    fn submit(&mut self, frames: &mut SegmentList<'_>) -> Result<usize, QueueError> {
        dispatch!(self, [Split, Packed, Ixgbe, Virtual], queue => queue.submit(frames))
    }

    #[inline]
    fn reclaim(&mut self, pool: &mut Pool<'_>) -> Result<usize, QueueError> {
        dispatch!(self, [Split, Packed, Ixgbe, Virtual], queue => queue.reclaim(pool))
    }
}

#[cfg(test)]
mod tests;
