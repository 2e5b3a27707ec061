//! Where the frames of a device come from and go to: one queue pair, or two.

use parakernel_core::{
    error::Error,
    memory::{Arena, Pool, Segment, SegmentList},
    queue::{RxQueue, TxQueue},
};

use crate::error::{JoinedError, PairError};

/// Where the frames of a [`Device`](crate::Device) come from and go to.
pub trait Link {
    /// What can go wrong; the link is of no more use after an error.
    type Error: Error;

    /// Appends up to `budget` received frames to `frames`, and keeps the receive queues armed with buffers from `pool`.
    ///
    /// # Errors
    ///
    /// Where a queue failed.
    fn receive(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, Self::Error>;

    /// Takes a frame of one segment, to be sent at the next [`flush`](Self::flush); `arena` leads to its bytes.
    ///
    /// # Errors
    ///
    /// The frame, where there is no room for it.
    fn send(&mut self, arena: &Arena<'_>, frame: Segment) -> Result<(), Segment>;

    /// Returns the buffers of frames that were sent to `pool`, and submits the waiting frames in one batch. What a
    /// ring has no room for waits on.
    ///
    /// # Errors
    ///
    /// Where a queue failed.
    fn flush(&mut self, pool: &mut Pool<'_>) -> Result<(), Self::Error>;
}

impl<L: Link + ?Sized> Link for &mut L {
    type Error = L::Error;

    fn receive(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, Self::Error> {
        (**self).receive(pool, frames, budget)
    }

    fn send(&mut self, arena: &Arena<'_>, frame: Segment) -> Result<(), Segment> {
        (**self).send(arena, frame)
    }

    fn flush(&mut self, pool: &mut Pool<'_>) -> Result<(), Self::Error> {
        (**self).flush(pool)
    }
}

/// A receive queue, a transmit queue, and the frames that wait for the latter.
#[derive(Debug)]
pub struct QueuePair<'a, R, T> {
    rx: R,
    tx: T,
    waiting: SegmentList<'a>,
}

impl<'a, R, T> QueuePair<'a, R, T> {
    /// Joins two queues. `words` holds the frames that wait for the next flush: one word for each buffer of the
    /// transmit pool is always enough.
    #[must_use]
    pub const fn new(rx: R, tx: T, words: &'a mut [u32]) -> Self {
        Self {
            rx,
            tx,
            waiting: SegmentList::new(words),
        }
    }

    /// The two queues. Frames that still wait are lost, with their buffers.
    #[must_use]
    pub fn into_queues(self) -> (R, T) {
        (self.rx, self.tx)
    }
}

impl<R: RxQueue, T: TxQueue> Link for QueuePair<'_, R, T> {
    type Error = PairError<R::Error, T::Error>;

    fn receive(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, Self::Error> {
        let received = self
            .rx
            .poll(pool, frames, budget)
            .map_err(PairError::Receive)?;
        if received == 0 {
            // The first turn, or one after the pool was empty: nothing else arms those slots.
            self.rx.arm(pool);
        }
        Ok(received)
    }

    fn send(&mut self, _arena: &Arena<'_>, frame: Segment) -> Result<(), Segment> {
        self.waiting.push(frame)
    }

    fn flush(&mut self, pool: &mut Pool<'_>) -> Result<(), Self::Error> {
        self.tx.reclaim(pool).map_err(PairError::Transmit)?;
        if !self.waiting.is_empty() {
            self.tx
                .submit(&mut self.waiting)
                .map_err(PairError::Transmit)?;
            self.waiting.compact();
        }
        Ok(())
    }
}

/// A process's interface on a partitioned NIC: its hardware queue pair `H`, and the virtual one `V` through which the
/// kernel hands it what the NIC cannot steer.
///
/// ARP, neighbour discovery, ICMP and broadcasts arrive on the virtual pair, everything else on the hardware pair. ARP
/// and neighbour discovery leave through the virtual pair, where the kernel checks them against the process's grant;
/// everything else leaves through the hardware pair. The stack sees one device.
///
/// Both pairs exchange buffers with the same pools, so all queues of the interface share one arena. Where the hardware
/// ring has room for every receive buffer, the virtual pair needs a [reserve](crate::Reserving).
#[derive(Debug)]
pub struct Joined<H, V> {
    hardware: H,
    software: V,
}

impl<H, V> Joined<H, V> {
    /// Joins the hardware queue pair and the virtual one.
    #[must_use]
    pub const fn new(hardware: H, software: V) -> Self {
        Self { hardware, software }
    }
}

impl<H: Link, V: Link> Link for Joined<H, V> {
    type Error = JoinedError<H::Error, V::Error>;

    /// The virtual pair comes first, so that a busy hardware queue cannot starve ARP, but with a quarter of the budget
    /// at most, so that broadcasts cannot starve the hardware queue.
    fn receive(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, Self::Error> {
        let slow = self
            .software
            .receive(pool, frames, budget.div_ceil(4))
            .map_err(JoinedError::Virtual)?;
        let fast = self
            .hardware
            .receive(pool, frames, budget.saturating_sub(slow))
            .map_err(JoinedError::Hardware)?;
        Ok(slow + fast)
    }

    fn send(&mut self, arena: &Arena<'_>, frame: Segment) -> Result<(), Segment> {
        if is_discovery(arena.bytes(&frame)) {
            self.software.send(arena, frame)
        } else {
            self.hardware.send(arena, frame)
        }
    }

    fn flush(&mut self, pool: &mut Pool<'_>) -> Result<(), Self::Error> {
        self.software.flush(pool).map_err(JoinedError::Virtual)?;
        self.hardware.flush(pool).map_err(JoinedError::Hardware)
    }
}

/// Whether `frame` is ARP or IPv6 neighbour discovery, which a process may send through its virtual queue only.
///
/// A frame with a VLAN tag is neither: a process sends untagged frames, and the kernel's validator has its own view.
#[must_use]
pub fn is_discovery(frame: &[u8]) -> bool {
    /// Where the `EtherType` lies, IEEE 802.3 clause 3.
    const ETHERTYPE: usize = 12;
    const ARP: [u8; 2] = [0x08, 0x06];
    const IPV6: [u8; 2] = [0x86, 0xdd];
    /// Next header field of the IPv6 header, RFC 8200 section 3.
    const NEXT_HEADER: usize = 14 + 6;
    const ICMPV6: u8 = 58;
    /// The type, first byte after the fixed IPv6 header, RFC 4443 section 2.1.
    const ICMPV6_TYPE: usize = 14 + 40;

    match frame.get(ETHERTYPE..ETHERTYPE + 2) {
        Some(kind) if kind == ARP => true,
        Some(kind) if kind == IPV6 => {
            // Router and neighbour solicitation and advertisement, and redirect: RFC 4861 section 4.
            frame.get(NEXT_HEADER) == Some(&ICMPV6)
                && matches!(frame.get(ICMPV6_TYPE), Some(133..=137))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{
        EthernetFrame, EthernetProtocol, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv6Packet,
    };

    use super::*;

    /// The same question, asked of smoltcp's parsers.
    fn discovery_by_parsing(bytes: &[u8]) -> Option<bool> {
        let frame = EthernetFrame::new_checked(bytes).ok()?;
        if frame.ethertype() == EthernetProtocol::Arp {
            return Some(true);
        }
        (frame.ethertype() == EthernetProtocol::Ipv6).then_some(())?;
        let packet = Ipv6Packet::new_unchecked(frame.payload());
        let icmp = bytes.get(54..).filter(|icmp| !icmp.is_empty())?;
        (packet.next_header() == IpProtocol::Icmpv6).then_some(())?;
        Some(matches!(
            Icmpv6Packet::new_unchecked(icmp).msg_type(),
            Icmpv6Message::RouterSolicit
                | Icmpv6Message::RouterAdvert
                | Icmpv6Message::NeighborSolicit
                | Icmpv6Message::NeighborAdvert
                | Icmpv6Message::Redirect
        ))
    }

    proptest! {
        #[test]
        fn discovery_is_what_a_parser_calls_so(
            mut bytes in prop::collection::vec(any::<u8>(), 0..80),
            ethertype in prop::sample::select(vec![0x0806_u16, 0x86dd, 0x0800]),
            next_header in prop::sample::select(vec![58_u8, 17]),
            kind in 125..=145_u8,
        ) {
            for (at, value) in [(12, ethertype.to_be_bytes()[0]), (13, ethertype.to_be_bytes()[1])] {
                bytes.get_mut(at).into_iter().for_each(|byte| *byte = value);
            }
            if ethertype == 0x86dd {
                bytes.get_mut(20).into_iter().for_each(|byte| *byte = next_header);
                bytes.get_mut(54).into_iter().for_each(|byte| *byte = kind);
            }
            prop_assert_eq!(is_discovery(&bytes), discovery_by_parsing(&bytes).unwrap_or(false));
        }
    }
}
