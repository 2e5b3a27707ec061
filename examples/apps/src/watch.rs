//! A link that counts strays: frames that were steered to a process, but are for another.

use core::{cell::Cell, net::Ipv4Addr};

use parakernel_core::memory::{Arena, Pool, Segment, SegmentList};
use parakernel_smoltcp::Link;

/// A [`Link`] that looks at the addresses of what it receives.
#[derive(Debug)]
pub struct Watched<'a, L> {
    link: L,
    mac: [u8; 6],
    ip: Ipv4Addr,
    strays: &'a Cell<u64>,
}

impl<'a, L> Watched<'a, L> {
    /// Counts in `strays` what `link` receives and is not for the station at `mac` and `ip`.
    #[must_use]
    pub const fn new(link: L, mac: [u8; 6], ip: Ipv4Addr, strays: &'a Cell<u64>) -> Self {
        Self {
            link,
            mac,
            ip,
            strays,
        }
    }

    /// Counts the strays among `segments`, which are whole frames.
    fn count(&self, arena: &Arena<'_>, segments: &[Segment]) {
        let mut is_first = true;
        for segment in segments {
            if is_first && is_stray(arena.bytes(segment), self.mac, self.ip) {
                self.strays.set(self.strays.get() + 1);
            }
            is_first = !segment.has_more();
        }
    }
}

impl<L: Link> Link for Watched<'_, L> {
    type Error = L::Error;

    fn receive(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, Self::Error> {
        let before = frames.len();
        let received = self.link.receive(pool, frames, budget)?;
        if received > 0 {
            let fresh = frames.segments().get(before..).unwrap_or_default();
            self.count(pool.arena(), fresh);
        }
        Ok(received)
    }

    fn send(&mut self, arena: &Arena<'_>, frame: Segment) -> Result<(), Segment> {
        self.link.send(arena, frame)
    }

    fn flush(&mut self, pool: &mut Pool<'_>) -> Result<(), Self::Error> {
        self.link.flush(pool)
    }
}

/// Whether `frame` is another station's than the one at `mac` and `ip`; frames to groups are everybody's.
///
/// What is no IPv4 is judged by its Ethernet address alone, and what is no frame is no stray.
#[must_use]
pub fn is_stray(frame: &[u8], mac: [u8; 6], ip: Ipv4Addr) -> bool {
    /// `EtherType` of IPv4, IEEE 802.3 clause 3 and RFC 894.
    const IPV4: [u8; 2] = [0x08, 0x00];

    let Some((to, rest)) = frame.split_first_chunk::<6>() else {
        return false;
    };
    if to[0] & 1 != 0 {
        return false;
    }
    // The source address, the type, and 16 bytes of the IPv4 header, RFC 791 section 3.1.
    let is_ipv4 = rest.get(6..8) == Some(&IPV4);
    let target = rest.get(24..28);
    *to != mac || (is_ipv4 && target.is_some_and(|target| target != ip.octets()))
}

#[cfg(test)]
mod tests {
    use parakernel_core::memory::ArenaLayout;
    use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, Ipv4Packet};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const OTHER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

    /// A frame made by smoltcp's writers.
    fn frame(mac: [u8; 6], kind: EthernetProtocol, ip: Ipv4Addr) -> [u8; 60] {
        let mut bytes = [0; 60];
        let mut ethernet = EthernetFrame::new_unchecked(&mut bytes[..]);
        ethernet.set_dst_addr(EthernetAddress(mac));
        ethernet.set_ethertype(kind);
        Ipv4Packet::new_unchecked(ethernet.payload_mut()).set_dst_addr(ip);
        bytes
    }

    #[test]
    fn a_frame_for_another_address_is_a_stray() {
        use EthernetProtocol::{Arp, Ipv4};
        for (bytes, expected) in [
            (frame(MAC, Ipv4, IP), false),
            (frame(MAC, Ipv4, OTHER_IP), true),
            (frame(OTHER_MAC, Ipv4, IP), true),
            (frame([0xff; 6], Ipv4, OTHER_IP), false),
            (frame(MAC, Arp, OTHER_IP), false),
            (frame(OTHER_MAC, Arp, IP), true),
        ] {
            assert_eq!(is_stray(&bytes, MAC, IP), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_cut_short_is_no_stray() {
        let whole = frame(MAC, EthernetProtocol::Ipv4, OTHER_IP);
        for len in 0..34 {
            assert!(!is_stray(&whole[..len], MAC, IP), "{len} bytes");
        }
        assert!(is_stray(&whole[..34], MAC, IP));
    }

    /// Receives the frames that it was made with, each cut in two.
    struct Canned<'f>(&'f [[u8; 60]]);

    impl Link for Canned<'_> {
        type Error = parakernel_core::virtual_queue::VirtualQueueError;

        fn receive(
            &mut self,
            pool: &mut Pool<'_>,
            frames: &mut SegmentList<'_>,
            _budget: usize,
        ) -> Result<usize, Self::Error> {
            for frame in self.0 {
                for (half, more) in [(&frame[..40], true), (&frame[40..], false)] {
                    let mut segment = pool.take().unwrap().with_len(half.len()).with_more(more);
                    pool.arena().bytes_mut(&mut segment).copy_from_slice(half);
                    frames.push(segment).unwrap();
                }
            }
            Ok(self.0.len())
        }

        fn send(&mut self, _arena: &Arena<'_>, frame: Segment) -> Result<(), Segment> {
            Err(frame)
        }

        fn flush(&mut self, _pool: &mut Pool<'_>) -> Result<(), Self::Error> {
            Ok(())
        }
    }

    #[test]
    fn strays_are_counted_once_each_and_frames_of_earlier_turns_not_again() {
        let layout = ArenaLayout {
            stride: 128,
            headroom: 16,
            header: 12,
            count: 16,
        };
        let mut memory = vec![0_u64; layout.bytes() / 8];
        let base = core::ptr::NonNull::new(memory.as_mut_ptr().cast::<u8>()).unwrap();
        let iova = parakernel_core::address::Iova::new(0x1000);
        #[expect(unsafe_code, reason = "an arena in a vector")]
        // SAFETY: the vector has the layout's bytes, initialised, and outlives the arena, through which alone it is used.
        let arena = unsafe { Arena::new(base, iova, layout) }.unwrap();
        let (mut pool_words, mut list_words) = ([0; 16], [0; 16]);
        let mut pool = Pool::new(arena, &mut pool_words);
        let mut list = SegmentList::new(&mut list_words);
        let strays = Cell::new(0);
        let mine = frame(MAC, EthernetProtocol::Ipv4, IP);
        let stray = frame(MAC, EthernetProtocol::Ipv4, OTHER_IP);
        let canned = [mine, stray, mine];
        let mut link = Watched::new(Canned(&canned), MAC, IP, &strays);
        for turn in 1..=2 {
            assert_eq!(link.receive(&mut pool, &mut list, 8), Ok(3));
            assert_eq!(strays.get(), turn);
        }
    }
}
