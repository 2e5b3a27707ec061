//! A machine with an 82599, and what a kernel and its processes do with it.
#![expect(unsafe_code, reason = "cuts rings out of pages")]

use core::{task::Poll, time::Duration};

use parakernel_core::{
    memory::{ArenaLayout, DmaBlock, Pool, SegmentList},
    mmio::Registers,
    pci::Config as PciConfig,
    queue::{Doorbell, RxQueue, TxQueue},
    ring::RingSize,
    time::Instant,
};
use parakernel_mock_hw::{
    Ixgbe, Memory, World,
    ixgbe::Config,
    memory::{Lease, RequesterId, Translation},
    pci::Bar,
    wire::Wire,
};
use parakernel_nic_ixgbe::{
    device::{Device, Pair, PairRings, ReceiveRing, Setup, Sharing, Tags, TransmitRing, Vector},
    doorbell::Tail,
    error::{InitError, PairError, RingError},
    id::Kind,
    offload::Metadata,
    rx::Receiver,
    tx::Sender,
};

pub(crate) const N: usize = 32;
pub(crate) const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: 16,
    count: 96,
};
pub(crate) const DEVICE: RequesterId = RequesterId(0x0100);
pub(crate) const MAC: [u8; 6] = [0x02, 0x1b, 0x21, 0x00, 0x00, 0x01];

pub(crate) type Card<'a> = Device<'a, Bar>;

/// A machine.
pub(crate) struct Machine {
    pub(crate) world: World,
    pub(crate) memory: Memory,
    pub(crate) card: Ixgbe,
    pub(crate) wire: Wire,
}

/// What a device is brought up with.
pub(crate) const QUEUES: (Sharing, u16) = (Sharing::Queues, 1514);
pub(crate) const POOLS: (Sharing, u16) = (Sharing::Pools, 1514);
pub(crate) const JUMBO: (Sharing, u16) = (Sharing::Queues, 9014);

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, Config::default())
    }

    /// The same, with such a card.
    pub(crate) fn with(seed: u64, config: Config) -> Self {
        let world = World::new(seed);
        let memory = world.memory(64 << 20);
        memory.translate(DEVICE, Translation::Mapped);
        let card = Ixgbe::new(&world, &memory, DEVICE, config);
        card.config_space().enable();
        let wire = card.wire();
        Self {
            world,
            memory,
            card,
            wire,
        }
    }

    /// Brings the card up; the link may take longer.
    pub(crate) fn bring_up<'a>(
        &self,
        (sharing, max_frame): (Sharing, u16),
        pairs: &'a mut [Pair],
    ) -> Result<Card<'a>, InitError> {
        let setup = Setup {
            max_frame,
            sharing,
            ..Setup::new(Kind::of(0x10fb).unwrap(), pairs)
        };
        Device::bring_up(self.card.bar0(), &mut self.world.clone(), setup)
    }

    /// The same, with the link up.
    pub(crate) fn with_link<'a>(&self, terms: (Sharing, u16), pairs: &'a mut [Pair]) -> Card<'a> {
        let device = self.bring_up(terms, pairs).unwrap();
        poll(self, |_| {
            if device.link().is_up {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        device
    }

    /// Has the first `count` vectors of the card tell of themselves: vector n with 0x40 + n.
    pub(crate) fn enable_interrupts(&self, count: usize) {
        let config = PciConfig::new(self.card.config_space()).unwrap();
        config.msi_x().unwrap().unwrap().set_enabled(true);
        let table = self.card.bar(4);
        for vector in 0..count {
            table.write32(16 * vector, 0xFEE0_0000);
            table.write32(16 * vector + 8, 0x40 + vector as u32);
            table.write32(16 * vector + 12, 0);
        }
    }

    /// Lets a second pass, or less.
    pub(crate) fn settle(&self) {
        self.world.settle(100_000);
    }

    /// Nothing was done that the datasheet forbids, or that the model leaves out, and all memory that the device used was
    /// given to it.
    pub(crate) fn assert_clean(&self) {
        self.world.trace().assert_clean();
        let left_out = self.world.trace().left_out();
        assert!(left_out.is_empty(), "{left_out:?}");
        assert_eq!(self.memory.escapes(), []);
        assert_eq!(self.memory.faults(), []);
    }
}

/// Polls an operation until it is ready, for three seconds at most: no operation may take longer.
pub(crate) fn poll<V>(machine: &Machine, mut look: impl FnMut(Instant) -> Poll<V>) -> V {
    for _ in 0..3000 {
        if let Poll::Ready(value) = look(machine.world.now()) {
            return value;
        }
        machine.world.run_for(Duration::from_millis(1));
    }
    panic!("the operation did not end");
}

/// The memory of a pair's rings: receive ring, transmit ring, the head's word.
pub(crate) struct Rings<'a> {
    pub(crate) receive: DmaBlock<'a>,
    pub(crate) transmit: DmaBlock<'a>,
    pub(crate) head: DmaBlock<'a>,
}

impl<'a> Rings<'a> {
    /// Rings of `entries` entries each.
    pub(crate) fn new(machine: &'a Machine, entries: [usize; 2], lease: Lease) -> Self {
        Self::of(machine, DEVICE, (entries, lease))
    }

    /// The same, of another function.
    pub(crate) fn of(
        machine: &'a Machine,
        function: RequesterId,
        (entries, lease): ([usize; 2], Lease),
    ) -> Self {
        let lend = |len| machine.memory.lend(function, len, lease).unwrap();
        let [receive, transmit] = entries.map(|entries| {
            let block = lend(16 * entries);
            let memory = block.memory().part(0, 16 * entries).unwrap();
            // SAFETY: the beginning of a block, which nobody else uses, at the same address.
            unsafe { DmaBlock::new(memory, block.bus_address()) }
        });
        Self {
            receive,
            transmit,
            head: lend(64),
        }
    }

    pub(crate) fn of_card(&self, posted: u32) -> PairRings {
        PairRings {
            receive: ReceiveRing::new(&self.receive, posted).unwrap(),
            transmit: TransmitRing::new(&self.transmit, &self.head).unwrap(),
        }
    }
}

/// The doorbell of the ring at `offset` with `entries` entries.
pub(crate) fn bell(machine: &Machine, offset: Option<usize>, entries: usize) -> Tail<Bar> {
    let size = RingSize::new(entries as u32).unwrap();
    Tail::new(machine.card.bar0(), offset.unwrap(), size)
}

/// Claims `pair` with these rings, and waits.
pub(crate) fn claim_rings(
    machine: &Machine,
    device: &mut Card<'_>,
    pair: u8,
    rings: PairRings,
) -> Result<(), PairError> {
    let vector = Vector::new(1 + pair % 63);
    device.begin_claim(pair, rings, vector, machine.world.now())?;
    poll(machine, |now| device.poll_claim(pair, now))
}

/// Stops `pair`, and waits.
pub(crate) fn release(machine: &Machine, device: &mut Card<'_>, pair: u8) -> Result<(), PairError> {
    device.begin_release(pair, machine.world.now())?;
    poll(machine, |now| device.poll_release(pair, now))
}

/// A queue pair that a process has to itself, and its buffers.
pub(crate) struct Owned<'a, D> {
    pub(crate) rx: Receiver<'a, D, N>,
    pub(crate) tx: Sender<'a, D, N>,
    pub(crate) pool: Pool<'a>,
}

/// Claims `pair` under `lease`, nobody between its rings and the card, and arms it.
pub(crate) fn claim<'a>(
    machine: &'a Machine,
    device: &mut Card<'_>,
    pair: u8,
    terms: (Lease, Metadata),
) -> Result<Owned<'a, Tail<Bar>>, PairError> {
    claim_with_tags(machine, device, pair, (terms, Tags::Kept))
}

/// The same, with what happens to VLAN tags.
pub(crate) fn claim_with_tags<'a>(
    machine: &'a Machine,
    device: &mut Card<'_>,
    pair: u8,
    ((lease, metadata), tags): ((Lease, Metadata), Tags),
) -> Result<Owned<'a, Tail<Bar>>, PairError> {
    let arena = machine.memory.lend_arena(DEVICE, LAYOUT, lease).unwrap();
    let mut pool = Pool::new(arena, vec![0; LAYOUT.count.into()].leak());
    let rings = Rings::new(machine, [N, N], lease);
    let ring = rings.receive.memory();
    let rx_bell = bell(machine, Card::receive_tail(pair), N);
    let mut rx = Receiver::new(ring, ring, rx_bell, &LAYOUT, metadata).unwrap();
    let (ring, head) = (rings.transmit.memory(), rings.head.memory());
    let tx_bell = bell(machine, Card::transmit_tail(pair), N);
    let tx = Sender::new(ring, head, tx_bell, pool.arena().again(), metadata).unwrap();
    let mut of_card = rings.of_card(rx.posted());
    of_card.receive = of_card.receive.with_tags(tags);
    claim_rings(machine, device, pair, of_card)?;
    rx.arm(&mut pool);
    machine.settle();
    Ok(Owned { rx, tx, pool })
}

impl<D: Doorbell> Owned<'_, D> {
    /// Sends a frame in parts of `part` bytes; whether there was room.
    pub(crate) fn send(&mut self, frame: &[u8], part: usize) -> Result<bool, RingError> {
        self.send_with(frame, part, [0; 16])
    }

    /// The same, with what is to be done to it.
    pub(crate) fn send_with(
        &mut self,
        frame: &[u8],
        part: usize,
        header: [u8; 16],
    ) -> Result<bool, RingError> {
        send(&mut self.tx, &mut self.pool, frame, (part, header))
    }

    /// Takes back all buffers, of a pair of which the card has let go; how many the pool has then.
    pub(crate) fn bury(self) -> usize {
        let Self { rx, tx, mut pool } = self;
        // SAFETY: the pair was released, and the model's memory sees to it that the card leaves alone what is not lent.
        unsafe { rx.dismantle(&mut pool) };
        // SAFETY: as above.
        unsafe { tx.dismantle(&mut pool) };
        pool.free()
    }

    pub(crate) fn receive(&mut self) -> Result<Vec<Vec<u8>>, RingError> {
        let frames = receive(&mut self.rx, &mut self.pool)?;
        Ok(frames.into_iter().map(|(frame, _)| frame).collect())
    }
}

/// Submits `frame` in segments of `part` bytes; `false` where there is no room.
pub(crate) fn send(
    tx: &mut impl TxQueue<Error = RingError>,
    pool: &mut Pool<'_>,
    frame: &[u8],
    (part, header): (usize, [u8; 16]),
) -> Result<bool, RingError> {
    let mut words = [0; 64];
    let mut list = SegmentList::new(&mut words);
    let count = frame.len().div_ceil(part);
    if pool.free() < count {
        return Ok(false);
    }
    for (number, bytes) in frame.chunks(part).enumerate() {
        let mut segment = pool.take().unwrap().with_len(bytes.len());
        pool.arena().bytes_mut(&mut segment).copy_from_slice(bytes);
        pool.arena()
            .header_mut(&mut segment)
            .copy_from_slice(&header);
        list.push(segment.with_more(number + 1 < count)).unwrap();
    }
    let sent = tx.submit(&mut list);
    list.clear_into(pool);
    Ok(sent? == 1)
}

/// A frame, and the header of its first part.
pub(crate) type Arrived = (Vec<u8>, [u8; 16]);

/// Takes all frames that have arrived, and the header of each one's first part.
pub(crate) fn receive(
    rx: &mut impl RxQueue<Error = RingError>,
    pool: &mut Pool<'_>,
) -> Result<Vec<Arrived>, RingError> {
    let (mut frames, mut bytes) = (Vec::new(), Vec::new());
    loop {
        let mut words = [0; 64];
        let mut list = SegmentList::new(&mut words);
        let result = rx.poll(pool, &mut list, 16);
        let mut first = None;
        while let Some(segment) = list.pop() {
            bytes.extend_from_slice(pool.arena().bytes(&segment));
            let header: [u8; 16] = pool.arena().header(&segment).try_into().unwrap();
            let header = *first.get_or_insert(header);
            if !segment.has_more() {
                frames.push((core::mem::take(&mut bytes), header));
                first = None;
            }
            pool.put(segment);
        }
        if result? == 0 {
            return Ok(frames);
        }
    }
}

/// A UDP packet in an Ethernet frame, `len` bytes long, from port 1000 to port 2000.
pub(crate) fn udp(mac: [u8; 6], from: [u8; 4], to: [u8; 4], len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|n| n as u8).collect();
    frame[..6].copy_from_slice(&mac);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, from[3]]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].fill(0);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
    frame[22] = 64;
    frame[23] = 17;
    frame[26..30].copy_from_slice(&from);
    frame[30..34].copy_from_slice(&to);
    frame[34..36].copy_from_slice(&1000_u16.to_be_bytes());
    frame[36..38].copy_from_slice(&2000_u16.to_be_bytes());
    frame[38..40].copy_from_slice(&(len as u16 - 34).to_be_bytes());
    frame[40..42].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The Internet checksum of `bytes`, whose own field is 0.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let words =
        words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    !(sum as u16)
}
