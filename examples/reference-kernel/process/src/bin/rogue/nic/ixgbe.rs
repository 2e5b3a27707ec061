//! Attacks by what only the 82599's descriptors can say: §7.2.3.2 of its datasheet.

use core::sync::atomic::Ordering::Relaxed;

use super::{Card, DATA, PACKET_LEN};
use crate::{
    frame::{Frame, LAST_OF_SOURCE, LEN},
    stage::{Seen, Stage},
};

/// Of a data descriptor: the packet ends here; segments are cut; a tag is inserted; the context counts; IPv4 and transport
/// checksums are inserted.
const END: u64 = 1 << 24;
const SEGMENT: u64 = 1 << 31;
const TAG: u64 = 1 << 30;
const CONTEXT: u64 = 1 << 39;
const IP_CHECKSUM: u64 = 1 << 40;
const L4_CHECKSUM: u64 = 1 << 41;

/// A context descriptor's second word: of that kind and format, for IPv4 and TCP.
const IS_CONTEXT: u64 = 2 << 20 | 1 << 29;
const IPV4: u64 = 1 << 10;
const TCP: u64 = 1 << 11;

/// A descriptor of the older format: the packet ends here, with its CRC, a checksum and a report.
const LEGACY: u64 = 1 << 24 | 1 << 25 | 1 << 26 | 1 << 27;

/// Bytes of the headers of frames that are sent here.
const ETHERNET: u64 = 14;
const IP: u64 = 20;
const TCP_HEADER: u64 = 20;

/// Where a UDP checksum and a UDP source port lie, which may be anything.
const CHECKSUM: usize = 40;
const PORT: usize = 34;

/// So many parts are no packet any more; each has so many bytes, and all of them are no long frame.
const PARTS: u32 = 64;
const PART: u64 = 16;

/// The command of a data descriptor that is a packet of so many bytes.
const fn packet(len: u64) -> u64 {
    len | DATA | len << PACKET_LEN
}

impl Card {
    /// A checksum inserted in the old way, anywhere: over half of the source address.
    pub(super) fn legacy_descriptor(&self, stage: &mut Stage) -> Seen {
        // Up to where the kernel copies: one descriptor. From where it is summed, a multiple of 4, no bit asks for an offload.
        const START: usize = 36;
        const END: usize = 96;
        let frame = self.parties.mask(START..END, CHECKSUM);
        let (end, start) = (END as u64, START as u64);
        // The length of a packet lies where a tag would: none is inserted.
        let bits = end | LEGACY | (LAST_OF_SOURCE as u64) << 16 | start << 40 | end << PACKET_LEN;
        self.try_one(stage, &frame, None, bits)
    }

    /// The same in the new way: the checksum of IPv4 lies 10 bytes behind the start of what is said to be its header.
    pub(super) fn header_lies(&self, stage: &mut Stage) -> Seen {
        let start = LAST_OF_SOURCE - 10;
        let frame = self.parties.mask(start..start + 20, PORT);
        let context = [IP | (start as u64) << 9, IS_CONTEXT | IPV4];
        let bits = packet(LEN as u64) | CONTEXT | IP_CHECKSUM;
        self.try_one(stage, &frame, Some(context), bits)
    }

    /// The tag of a VLAN that the process has nothing to do with.
    pub(super) fn foreign_tag(&self, stage: &mut Stage) -> Seen {
        let context = [IP | ETHERNET << 9 | 5 << 16, IS_CONTEXT | IPV4];
        let bits = packet(LEN as u64) | CONTEXT | TAG;
        self.try_one(stage, &self.parties.udp(), Some(context), bits)
    }

    /// A frame cut into segments of eight bytes.
    pub(super) fn tiny_segments(&self, stage: &mut Stage) -> Seen {
        let (len, payload) = (LEN as u64, LEN as u64 - ETHERNET - IP - TCP_HEADER);
        let second = IS_CONTEXT | IPV4 | TCP | TCP_HEADER << 40 | 8 << 48;
        let all = SEGMENT | CONTEXT | IP_CHECKSUM | L4_CHECKSUM;
        let bits = len | DATA | payload << PACKET_LEN | all;
        let context = [IP | ETHERNET << 9, second];
        self.try_one(stage, &self.parties.tcp(), Some(context), bits)
    }

    /// A frame of 4,000 bytes.
    pub(super) fn long_frame(&self, stage: &mut Stage) -> Seen {
        self.try_one(stage, &self.parties.udp(), None, packet(4000))
    }

    /// Sends a frame by a descriptor with these bits, behind a context if there is one.
    fn try_one(
        &self,
        stage: &mut Stage,
        frame: &Frame,
        context: Option<[u64; 2]>,
        bits: u64,
    ) -> Seen {
        self.prepare(frame);
        stage.announce();
        let mut tail = 0;
        for words in context.into_iter().chain([[self.data, bits]]) {
            self.write(tail, words);
            tail += 1;
        }
        self.transmit.publish(&self.lease, tail);
        let is_sent = stage.linger(|_| self.transmit.has_sent(tail));
        Seen::effect(is_sent, "the frame was sent")
    }

    /// Publishes one packet of many parts, each of which alone could be one's.
    pub(super) fn endless_packet(&self, stage: &mut Stage) -> Seen {
        self.prepare(&self.parties.udp());
        stage.announce();
        for part in 0..PARTS {
            let end = if part + 1 == PARTS { END } else { 0 };
            let all = PART * u64::from(PARTS);
            let bits = PART | DATA & !END | end | all << PACKET_LEN;
            self.write(part, [self.data + PART * u64::from(part), bits]);
        }
        self.transmit.publish(&self.lease, PARTS);
        let is_sent = stage.linger(|_| self.transmit.has_sent(PARTS));
        Seen::effect(is_sent, "the packet was sent")
    }

    /// Writes an entry of the ring for frames to be sent.
    fn write(&self, position: u32, words: [u64; 2]) {
        let place = 2 * (position as usize % self.transmit.entries);
        let entry = self.transmit.written.get(place..place + 2);
        for (place, word) in entry.unwrap_or_default().iter().zip(words) {
            place.store(word, Relaxed);
        }
    }
}
