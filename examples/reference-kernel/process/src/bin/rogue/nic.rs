//! Attacks by way of a network queue pair.
//!
//! Layouts as in virtio 1.2 §2.7 (split) and §2.8 (packed), and in the 82599's datasheet §7.1.6 and §7.2.3.2.4, written
//! down here once more: none of the drivers' code, which would refuse what is tried here.

use core::{
    net::Ipv4Addr,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed},
    },
    time::Duration,
};

use parakernel_apps::runtime::Runtime;
use parakernel_core::{
    abi::{LeaseRing, NetworkMap, RingFormat, SharedDoorbell},
    access::AccessMode,
    address::Direction,
    device::DeviceId,
    memory::SharedMemory,
    queue::Doorbell,
    ring::Position,
    steering::{IpPrefix, Ipv4Prefix, Matches},
    time::Instant,
};
use parakernel_process::{Lease, Process, system_call};

mod ixgbe;

use crate::{
    frame::{Frame, LEN, Parties},
    plan::Attack,
    stage::{Seen, Stage, deface},
    system,
};

/// `VIRTQ_DESC_F_WRITE`, and of packed rings, the mark of an entry that is available in the first round.
const WRITE: u64 = 2;
const AVAILABLE: u64 = 1 << 7;
/// Of packed rings, both marks of an entry that was used in the first round.
const USED: u64 = 1 << 7 | 1 << 15;

/// Of the 82599: a data descriptor of the advanced format that ends a packet, with checksum (CRC), a report and the lengths
/// of data and packet, each a number of bytes; the mark of a receive descriptor that was used.
const DATA: u64 = 3 << 20 | 1 << 24 | 1 << 25 | 1 << 27 | 1 << 29;
const PACKET_LEN: u32 = 46;
const DONE: u64 = 1;

/// Memory for frames: as many pages as the kernel wants for a sealed queue's descriptors, of which two are written.
const MEMORY: usize = 16 * 4096;
const PAGE: usize = 4096;
/// Bytes of the longest header before a frame, virtio's, and of a frame that is sent with it.
const HEADER: usize = 12;
const WHOLE: usize = HEADER + LEN;
/// Bytes of a receive buffer, header included.
const BUFFER: u64 = 2060;

/// How long the host may take to learn an address.
const LESSON: Duration = Duration::from_millis(200);
/// How often it is pinged.
const PING_INTERVAL: Duration = Duration::from_millis(200);

/// One side of the queue pair.
#[derive(Clone, Copy, Debug)]
struct Ring {
    side: LeaseRing,
    /// What the process writes, and what it reads.
    written: &'static [AtomicU64],
    read: &'static [AtomicU64],
    format: RingFormat,
    entries: usize,
}

/// A queue pair of the card's, and memory for frames.
#[derive(Debug)]
struct Card {
    lease: Lease,
    receive: Ring,
    transmit: Ring,
    sent: u32,
    memory: &'static [AtomicU64],
    data: u64,
    device: DeviceId,
    parties: Parties,
    /// Bytes of the header before each frame.
    header: usize,
}

/// Tries one of the attacks.
pub(crate) fn perform(stage: &mut Stage, attack: Attack) -> Result<Seen, &'static str> {
    // A sealed queue has the doorbell to attack; the others have descriptors.
    let mode = if attack == Attack::ForeignDoorbell {
        AccessMode::Direct
    } else {
        AccessMode::Checked
    };
    let mut card = Card::open(&mut stage.process, mode)?;
    match attack {
        Attack::OutsideRegions => {
            let target = stage.aim("spare")?;
            card.receive_at(stage, target, None)
        }
        Attack::ForeignRegion => {
            let target = stage.aim("victim")?;
            card.receive_at(stage, target, None)
        }
        Attack::ReadOnlyTarget => card.read_only_target(stage),
        Attack::SlotInFlight => Ok(card.slot_in_flight(stage)),
        Attack::TailJump => Ok(card.tail_jump(stage)),
        Attack::ForeignDoorbell => Ok(system::foreign_doorbell(stage, &card.lease)),
        Attack::ForeignSource => {
            let frame = card.parties.from(card.parties.other()).udp();
            Ok(card.send_once(stage, &frame))
        }
        Attack::ForeignMac => {
            let mut parties = card.parties;
            // One byte on, where cards of one make differ.
            parties.mac[5] ^= 0x40;
            Ok(card.send_once(stage, &parties.udp()))
        }
        Attack::Pause => {
            let frame = card.parties.pause();
            Ok(card.send_once(stage, &frame))
        }
        Attack::Lldp => {
            let frame = card.parties.lldp();
            Ok(card.send_once(stage, &frame))
        }
        Attack::ForeignArp => {
            let frame = card.parties.from(card.parties.nobody()).arp();
            Ok(card.send_once(stage, &frame))
        }
        Attack::LegacyDescriptor => Ok(card.legacy_descriptor(stage)),
        Attack::HeaderLies => Ok(card.header_lies(stage)),
        Attack::ForeignTag => Ok(card.foreign_tag(stage)),
        Attack::TinySegments => Ok(card.tiny_segments(stage)),
        Attack::LongFrame => Ok(card.long_frame(stage)),
        Attack::EndlessPacket => Ok(card.endless_packet(stage)),
        Attack::NoStop => system::no_stop(stage),
        Attack::ForeignLba
        | Attack::ForeignNamespace
        | Attack::ForbiddenOpcode
        | Attack::WildPointer => Err("there is no such attack"),
    }
}

/// A frame to be sent: what publishes it.
pub(crate) fn bait(
    process: &mut Process,
) -> Result<(SharedDoorbell<'static>, Position), &'static str> {
    let card = Card::open(process, AccessMode::Checked)?;
    card.prepare(&card.parties.udp());
    card.transmit.put(0, card.data, card.whole(), 0);
    let doorbell = card.lease.doorbell(card.transmit.side);
    Ok((doorbell, Position::new(1)))
}

impl Ring {
    fn of(lease: &Lease, side: LeaseRing) -> Option<Self> {
        let map = lease.map().rings[side as usize];
        let words = |memory: SharedMemory<'static>| memory.slice(0, memory.len() / 8);
        Some(Self {
            side,
            written: words(lease.submissions(side)?)?,
            read: words(lease.completions(side)?)?,
            format: map.format,
            entries: map.entries.entries() as usize,
        })
    }

    /// Writes the entry at a position, whatever was there: `len` bytes at `address`.
    fn put(&self, position: u32, address: u64, len: u64, flags: u64) {
        let slot = position as usize % self.entries;
        let rest = match (self.format, self.side) {
            (RingFormat::Ixgbe, LeaseRing::First) => 0,
            (RingFormat::Ixgbe, LeaseRing::Second) => len | DATA | len << PACKET_LEN,
            (RingFormat::VirtioPacked, _) => len | (slot as u64) << 32 | (flags | AVAILABLE) << 48,
            _ => len | flags << 32,
        };
        let entry = self.written.get(2 * slot..2 * slot + 2).unwrap_or_default();
        for (place, word) in entry.iter().zip([address, rest]) {
            place.store(word, Relaxed);
        }
    }

    /// Publishes the entries before `tail`, whether they are there or not.
    fn publish(&self, lease: &Lease, tail: u32) {
        lease.doorbell(self.side).ring(Position::new(tail));
        // Whether the kernel likes it shows by what becomes of the process.
        let _refused = system_call::submit(lease.id()).is_err();
    }

    /// Whether the kernel has taken over all before `tail`.
    fn is_accepted(&self, lease: &Lease, tail: u32) -> bool {
        let tail = Position::new(tail);
        lease.doorbell(self.side).accepted(tail) == tail
    }

    /// Whether the card has used the first entry.
    fn is_used(&self) -> bool {
        let second = || self.read.get(1).map_or(0, |word| word.load(Acquire));
        match (self.format, self.side) {
            (RingFormat::VirtioPacked, _) => second() >> 48 & USED == USED,
            (RingFormat::Ixgbe, LeaseRing::First) => second() & DONE != 0,
            _ => self.used() != 0,
        }
    }

    /// How many entries of a split ring the card has used, modulo 2^16; of the 82599's, how many it has sent, modulo their
    /// number.
    fn used(&self) -> u64 {
        let head = self.read.first().map_or(0, |word| word.load(Acquire));
        if self.format == RingFormat::Ixgbe {
            head & u64::from(u32::MAX)
        } else {
            // The used ring's index, behind its flags.
            head >> 48
        }
    }

    /// Whether the card has sent all entries before `accepted`.
    fn has_sent(&self, accepted: u32) -> bool {
        if self.format == RingFormat::Ixgbe {
            self.used() == u64::from(accepted) % self.entries as u64
        } else {
            self.used() == u64::from(accepted & 0xffff)
        }
    }

    /// How many entries the card may have at once.
    #[expect(clippy::cast_possible_truncation, reason = "rings are short")]
    const fn most(&self) -> u32 {
        // A tail that equals the 82599's head says that there are none.
        let left = if matches!(self.format, RingFormat::Ixgbe) {
            1
        } else {
            0
        };
        self.entries as u32 - left
    }
}

impl Card {
    fn open(process: &mut Process, mode: AccessMode) -> Result<Self, &'static str> {
        let arguments = process.arguments();
        let device = arguments
            .number("nic")
            .and_then(|number| u32::try_from(number).ok());
        let device = DeviceId::new(device.ok_or("no card")?);
        let from: Ipv4Addr = arguments.parse("ip").ok_or("no address")?;
        let to = arguments.parse("gateway").ok_or("nobody to talk to")?;
        let (memory, data) = process
            .shared_memory(MEMORY, Direction::Bidirectional)
            .map_err(|_| "no memory")?;
        let (lease, map) = process
            .claim_network(device, mode)
            .map_err(|_| "no queue pair")?;
        let rings = Ring::of(&lease, LeaseRing::First).zip(Ring::of(&lease, LeaseRing::Second));
        let (receive, transmit) = rings.ok_or("a map that makes no sense")?;
        let NetworkMap { mac, header, .. } = map;
        process
            .steer(
                Matches::to(mac, IpPrefix::V4(Ipv4Prefix::host(from))),
                lease.id(),
            )
            .map_err(|_| "no rule")?;
        Ok(Self {
            lease,
            receive,
            transmit,
            sent: 0,
            memory: memory.slice(0, MEMORY / 8).ok_or("no memory")?,
            data: data.as_u64(),
            device,
            parties: Parties {
                mac: mac.0,
                from,
                to,
            },
            header: usize::from(header).min(HEADER),
        })
    }

    /// Bytes of a frame that is sent, its header included.
    const fn whole(&self) -> u64 {
        (self.header + LEN) as u64
    }

    /// Puts a frame, behind a header that asks for nothing, at the start of the memory.
    fn prepare(&self, frame: &Frame) {
        let mut bytes = [0; WHOLE.next_multiple_of(8)];
        for (place, byte) in bytes.iter_mut().skip(self.header).zip(frame) {
            *place = *byte;
        }
        store(self.memory, &bytes);
    }

    /// Sends a frame by the card.
    fn send(&mut self, frame: &Frame) {
        self.prepare(frame);
        let len = self.whole();
        self.transmit.put(self.sent, self.data, len, 0);
        self.sent += 1;
        self.transmit.publish(&self.lease, self.sent);
    }

    /// Lets the host know the process's Ethernet address, by the virtual queue pair, which ARP has to take.
    fn introduce(&self, process: &mut Process) -> Result<(), &'static str> {
        let (lease, map) = process
            .claim_network(self.device, AccessMode::Virtual)
            .map_err(|_| "no virtual queue pair")?;
        let written = lease.submissions(LeaseRing::Second);
        let entries = lease.map().rings[1].entries.entries() as usize;
        // The lengths of the frames, in whole cache lines, then the frames.
        let first = (entries * 4).next_multiple_of(64);
        let slot = usize::from(map.max_frame).next_multiple_of(8);
        let slot = written.and_then(|written| {
            let len: &AtomicU32 = written.view(0)?;
            Some((len, written.slice(first, slot / 8)?))
        });
        let (len, words) = slot.ok_or("a map that makes no sense")?;
        store(words, &self.parties.arp());
        #[expect(clippy::cast_possible_truncation, reason = "128")]
        len.store(LEN as u32, Relaxed);
        lease.doorbell(LeaseRing::Second).ring(Position::new(1));
        system_call::submit(lease.id()).map_err(|_| "the virtual queue pair is gone")?;
        let end = process.now().saturating_add(LESSON);
        while process.now() < end {
            process.wait(Some(end));
        }
        Ok(())
    }

    /// Has the card write a frame full of the pattern to `target`: the host's answer to a ping.
    ///
    /// What is seen is that `seen` changes, where it is given, or else that the card says so.
    fn receive_at(
        &mut self,
        stage: &mut Stage,
        target: u64,
        seen: Option<&AtomicU64>,
    ) -> Result<Seen, &'static str> {
        self.introduce(&mut stage.process)?;
        let before = seen.map_or(0, |word| word.load(Relaxed));
        stage.announce();
        self.receive.put(0, target, BUFFER, WRITE);
        self.receive.publish(&self.lease, 1);
        let ping = self.parties.ping();
        let mut next = Instant::from_nanos(0);
        let is_written = stage.linger(|process| {
            if process.now() >= next {
                self.send(&ping);
                next = process.now().saturating_add(PING_INTERVAL);
            }
            seen.map_or(self.receive.is_used(), |word| word.load(Relaxed) != before)
        });
        Ok(Seen::effect(is_written, "the card wrote a frame there"))
    }

    fn read_only_target(&mut self, stage: &mut Stage) -> Result<Seen, &'static str> {
        let (memory, iova) = stage
            .process
            .shared_memory(PAGE, Direction::ToDevice)
            .map_err(|_| "no memory")?;
        let words: &[AtomicU64] = memory.slice(0, PAGE / 8).ok_or("no memory")?;
        deface(words);
        self.receive_at(stage, iova.as_u64(), words.first())
    }

    /// Arms as many entries as the card may have, then goes on to the first, which the card has not used.
    fn slot_in_flight(&self, stage: &mut Stage) -> Seen {
        let most = self.receive.most();
        for position in 0..most {
            self.receive.put(position, self.data, BUFFER, WRITE);
        }
        self.receive.publish(&self.lease, most);
        stage.announce();
        let second = self.data + PAGE as u64;
        #[expect(clippy::cast_possible_truncation, reason = "rings are short")]
        let end = self.receive.entries as u32 + 1;
        for position in most..end {
            self.receive.put(position, second, BUFFER, WRITE);
        }
        self.receive.publish(&self.lease, end);
        let is_taken = stage.linger(|_| self.receive.is_accepted(&self.lease, end));
        Seen::effect(is_taken, "an entry was armed that the card had not used")
    }

    /// Publishes the ring's entries several times over, at once.
    fn tail_jump(&mut self, stage: &mut Stage) -> Seen {
        const ROUNDS: u32 = 4;
        self.prepare(&self.parties.udp());
        #[expect(clippy::cast_possible_truncation, reason = "rings are short")]
        let entries = self.transmit.entries as u32;
        for position in 0..entries {
            self.transmit.put(position, self.data, self.whole(), 0);
        }
        let end = ROUNDS * entries;
        stage.announce();
        self.transmit.publish(&self.lease, end);
        // Each call takes over what there is room for, and no entry that the card still has.
        let look = |_: &mut Process| {
            let accepted = self.lease.doorbell(self.transmit.side);
            let accepted = accepted.accepted(Position::new(end)).as_u32();
            let is_sent = self.transmit.has_sent(accepted);
            if is_sent && accepted != end {
                self.transmit.publish(&self.lease, end);
            }
            is_sent && accepted == end
        };
        // Of the 82599's ring the kernel says how much was sent, when it is called.
        let is_taken = if self.transmit.format == RingFormat::Ixgbe {
            stage.linger(look)
        } else {
            stage.linger_without_calls(look)
        };
        Seen::effect(is_taken, "more frames were sent than were published")
    }

    /// Sends a frame that must not leave.
    fn send_once(&mut self, stage: &mut Stage, frame: &Frame) -> Seen {
        stage.announce();
        self.send(frame);
        let is_sent = stage.linger(|_| self.transmit.is_used());
        Seen::effect(is_sent, "the frame was sent")
    }
}

/// Copies whole words of `bytes` to the first of `words`.
fn store(words: &[AtomicU64], bytes: &[u8]) {
    let (chunks, _) = bytes.as_chunks();
    for (place, word) in words.iter().zip(chunks) {
        place.store(u64::from_le_bytes(*word), Relaxed);
    }
}
