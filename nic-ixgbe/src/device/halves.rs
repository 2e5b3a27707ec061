//! A pair's data halves, for an owner with nobody between it and the port.

use parakernel_core::{
    memory::{DmaBlock, Pool},
    mmio::Registers,
    ring::RingSize,
};

use super::{Device, PairRings, ReceiveRing, TransmitRing};
use crate::{
    doorbell::Tail,
    offload::{HEADER_LEN, Metadata},
    rx::Receiver,
    tx::Sender,
};

/// What the owner of a pair has of it: [`Device::queues`].
#[derive(Debug)]
pub struct Halves<'m, R, const N: usize> {
    /// What the pair is to be [claimed](Device::begin_claim) with.
    pub rings: PairRings,
    /// Its receive queue; nothing may be armed before it was claimed.
    pub rx: Receiver<'m, Tail<R>, N>,
    /// Its transmit queue; nothing may be submitted before it was claimed.
    pub tx: Sender<'m, Tail<R>, N>,
}

impl<R: Registers + Clone> Device<'_, R> {
    /// Both data halves of `pair`, of `N` entries each, with the port's own rings and buffers of `pool`: access mode `Direct`,
    /// for the kernel's own pairs, and for who has the whole function.
    ///
    /// The memory holds zeroes: of the receive ring and of the transmit ring, 16 bytes for each entry and no more, and of the
    /// word that the port writes the transmit queue's head to.
    ///
    /// Frames come with [what is said about them](crate::offload) where the buffers have room for it before each frame.
    /// `None` where there is no such pair, the memory is not fit for `N` entries, or the buffers are too small.
    #[must_use]
    pub fn queues<'m, const N: usize>(
        &self,
        pair: u8,
        [receive, transmit, head]: &[DmaBlock<'m>; 3],
        pool: &Pool<'m>,
    ) -> Option<Halves<'m, R, N>> {
        let size = RingSize::new(u32::try_from(N).ok()?)?;
        let bell = |offset: Option<usize>| Some(Tail::new(self.registers.clone(), offset?, size));
        let layout = pool.arena().layout();
        let metadata = if layout.header as usize == HEADER_LEN {
            Metadata::Header
        } else {
            Metadata::None
        };
        let rx_bell = bell(Self::receive_tail(pair))?;
        let tx_bell = bell(Self::transmit_tail(pair))?;
        let ring = receive.memory();
        let rx = Receiver::new(ring, ring, rx_bell, layout, metadata)?;
        let (ring, arena) = (transmit.memory(), pool.arena().again());
        let tx = Sender::new(ring, head.memory(), tx_bell, arena, metadata)?;
        let rings = PairRings {
            receive: ReceiveRing::new(receive, rx.posted())?,
            transmit: TransmitRing::new(transmit, head)?,
        };
        let is_right = [rings.receive.size(), rings.transmit.size()] == [size, size];
        is_right.then_some(Halves { rings, rx, tx })
    }
}
