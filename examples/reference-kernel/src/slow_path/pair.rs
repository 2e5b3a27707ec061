//! The kernel's own queue pair on a card, whose rings it shares with nobody.

use parakernel_core::memory::{DmaBlock, Pool, SegmentList};
use parakernel_core::queue::{RxQueue, TxQueue};
use parakernel_core::ring::RingSize;
use parakernel_nic_ixgbe::device::{PairRings as IxgbePairRings, ReceiveRing, TransmitRing};
use parakernel_nic_ixgbe::offload::Metadata;
use parakernel_nic_ixgbe::{rx as ixgbe_rx, tx as ixgbe_tx};
use parakernel_nic_virtio::device::{PairRings, queues_of};
use parakernel_nic_virtio::features::Features;
use parakernel_nic_virtio::notify::Notifier;
use parakernel_nic_virtio::rx::{Receiver, Spread};
use parakernel_nic_virtio::tx::{HeaderSource, Sender};

use crate::device::ixgbe::{self, IxgbeNet};
use crate::device::net::NetDevice;
use crate::device::virtio::{self, VirtioNet};
use crate::queues::network::ENTRIES;
use crate::queues::network::ixgbe::Bell as IxgbeBell;
use crate::queues::network::virtio::{Bell, PackedRing, SplitRing};

/// Most blocks of memory that a pair takes.
pub(super) const BLOCKS_MAX: usize = 3;

type Blocks = [DmaBlock<'static>];
type Rx<F> = Receiver<F, Bell<F>, ENTRIES>;
type Tx<F> = Sender<'static, F, Bell<F>, ENTRIES>;
type IxgbeRx = ixgbe_rx::Receiver<'static, IxgbeBell, ENTRIES>;
type IxgbeTx = ixgbe_tx::Sender<'static, IxgbeBell, ENTRIES>;

/// The kernel's queue pair, in each layout.
#[derive(Debug)]
pub(super) enum Pair {
    Split(Rx<SplitRing>, Tx<SplitRing>),
    Packed(Rx<PackedRing>, Tx<PackedRing>),
    Ixgbe(IxgbeRx, IxgbeTx),
}

/// What all layouts do under one name.
macro_rules! each {
    ($self:expr, ($rx:pat, $tx:pat) => $call:expr) => {
        match $self {
            Self::Split($rx, $tx) => $call,
            Self::Packed($rx, $tx) => $call,
            Self::Ixgbe($rx, $tx) => $call,
        }
    };
}

impl Pair {
    /// The lengths of the blocks of memory that the pair of `card` takes.
    pub(super) const fn blocks(card: &NetDevice) -> &'static [usize] {
        const VIRTIO: usize = if SplitRing::BYTES > PackedRing::BYTES {
            SplitRing::BYTES
        } else {
            PackedRing::BYTES
        };
        match card {
            NetDevice::Virtio(_) => &[VIRTIO; 2],
            // Rings, and the word that the port writes its head to.
            NetDevice::Ixgbe(_) => &[16 * ENTRIES, 16 * ENTRIES, 64],
        }
    }

    /// Starts the pair on a card that has none; waits for the card.
    pub(super) fn start(
        card: &mut NetDevice,
        pool: &mut Pool<'static>,
        blocks: &Blocks,
    ) -> Option<Self> {
        let mut pair = match card {
            NetDevice::Virtio(card) => Self::virtio(card, pool, blocks)?,
            NetDevice::Ixgbe(card) => Self::ixgbe(card, pool, blocks)?,
        };
        each!(&mut pair, (rx, _) => rx.arm(pool));
        Some(pair)
    }

    /// Ends a pair, and takes its buffers back.
    ///
    /// # Safety
    ///
    /// The card must have been reset since the pair was started, so that it has forgotten it.
    pub(super) unsafe fn dismantle(self, pool: &mut Pool<'static>) {
        match self {
            Self::Split(rx, tx) => {
                let _bells = (rx.dismantle(pool), tx.dismantle(pool));
            }
            Self::Packed(rx, tx) => {
                let _bells = (rx.dismantle(pool), tx.dismantle(pool));
            }
            Self::Ixgbe(rx, tx) => {
                // SAFETY: by the contract: after a reset no queue touches memory.
                let _bell = unsafe { rx.dismantle(pool) };
                // SAFETY: as above.
                let _bell = unsafe { tx.dismantle(pool) };
            }
        }
    }

    /// Takes up to `budget` frames; their number, or `None` where the card broke its protocol.
    pub(super) fn receive(
        &mut self,
        pool: &mut Pool<'static>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Option<usize> {
        each!(self, (rx, _) => rx.poll(pool, frames, budget).ok())
    }

    /// Gives frames to the card, and takes back the buffers of those that are sent; `None` where the card broke its protocol.
    pub(super) fn send(
        &mut self,
        pool: &mut Pool<'static>,
        frames: &mut SegmentList<'_>,
    ) -> Option<()> {
        each!(self, (_, tx) => {
            tx.reclaim(pool).ok()?;
            tx.submit(frames).ok()?;
        });
        Some(())
    }

    fn ixgbe(card: &mut IxgbeNet, pool: &Pool<'static>, blocks: &Blocks) -> Option<Self> {
        let [receive, transmit, head] = blocks else {
            return None;
        };
        let size = RingSize::new(u32::try_from(ENTRIES).ok()?)?;
        let tails = IxgbeNet::tails(ixgbe::KERNEL_PAIR)?;
        let [rx_bell, tx_bell] = tails.map(|tail| IxgbeBell::new(card.registers(), tail, size));
        let arena = pool.arena();
        let (ring, layout) = (receive.memory(), arena.layout());
        let rx = IxgbeRx::new(ring, ring, rx_bell, layout, Metadata::None)?;
        let (ring, word) = (transmit.memory(), head.memory());
        let tx = IxgbeTx::new(ring, word, tx_bell, arena.again(), Metadata::None)?;
        let rings = IxgbePairRings {
            receive: ReceiveRing::new(receive, rx.posted())?,
            transmit: TransmitRing::new(transmit, head)?,
        };
        card.start_kernel_pair(rings).then_some(Self::Ixgbe(rx, tx))
    }

    fn virtio(card: &mut VirtioNet, pool: &Pool<'static>, blocks: &Blocks) -> Option<Self> {
        let [receive, transmit] = blocks else {
            return None;
        };
        let (events, order) = card.habits();
        let spread = if card.features().contains(Features::MRG_RXBUF) {
            Spread::Merged
        } else {
            Spread::Single
        };
        let [rx_queue, tx_queue] = queues_of(virtio::KERNEL_PAIR);
        let (rx_registers, rx_register) = card.bell(rx_queue)?;
        let (tx_registers, tx_register) = card.bell(tx_queue)?;
        let arena = pool.arena();
        macro_rules! pair {
            ($kind:ident, $ring:ident) => {{
                let rx_ring = $ring::in_block(receive.memory())?;
                let tx_ring = $ring::in_block(transmit.memory())?;
                let rx_bell = Notifier::new(rx_ring, rx_registers, rx_register, events);
                let tx_bell = Notifier::new(tx_ring, tx_registers, tx_register, events);
                let options = (order, HeaderSource::Queue);
                let pair = Self::$kind(
                    Receiver::new(rx_ring, rx_bell, arena.layout(), (order, spread))?,
                    Sender::new(tx_ring, tx_bell, arena.again(), options)?,
                );
                let rings = PairRings {
                    receive: $ring::addresses(receive),
                    transmit: $ring::addresses(transmit),
                };
                (pair, rings)
            }};
        }
        let (pair, rings) = if card.is_packed() {
            pair!(Packed, PackedRing)
        } else {
            pair!(Split, SplitRing)
        };
        card.start_kernel_pair(rings, None).then_some(pair)
    }
}
