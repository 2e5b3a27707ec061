//! The 82599's control half: what a queue pair and a rule cost the CPU, and in registers and memory.

#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot be set up has nothing to say"
)]

use core::{cell::Cell, hint::black_box};

use embedded_hal::delay::DelayNs;
use parakernel_core::{
    device::QueueIndex,
    memory::SharedMemory,
    mmio::{MappedRegisters, Registers, Width},
    ring::RingSize,
    steering::Change,
    time::Instant,
};
use parakernel_nic_ixgbe::{
    device::{Device, Pair, PairRings, ReceiveRing, Setup, TransmitRing, Vector},
    doorbell::MappedTail,
    id::Kind,
    offload::Metadata,
    rx::Receiver,
    steering::{Filter, Filters},
    tx::Sender,
};

use crate::{
    Phase,
    memory::{IOVA, block, leak, pool},
    nic_ixgbe::{LAYOUT, N, bell},
    steering::Table,
};

/// As many pairs as the port has.
const PAIRS: usize = 128;

/// The registers of a port that does what it is told at once.
#[derive(Debug)]
struct Port {
    words: Vec<Cell<u32>>,
    writes: Cell<u64>,
}

impl Port {
    fn new() -> Self {
        let port = Self {
            words: vec![Cell::new(0); 0x2_0000 / 4],
            writes: Cell::new(0),
        };
        // An address in the EEPROM, and what was read from it; receive descriptors are set up, the path is empty.
        for (offset, value) in [
            (0xA200, 0x5634_1202),
            (0xA204, 0x8000_9A78),
            (0x1_0010, 3 << 8),
            (0x2F00, 1 << 3),
            (0x8D04, 1),
        ] {
            port.words[offset / 4].set(value);
        }
        port
    }
}

impl Registers for Port {
    #[inline]
    fn read(&self, offset: usize, _width: Width) -> u64 {
        let value = self.words[offset / 4].get();
        u64::from(match offset {
            // The semaphore is free.
            0x1_0140 => value & !1,
            // A word of the EEPROM is read: all are 0 but the checksum.
            0x1_0014 => match value >> 2 & 0x3FFF {
                0x3F => 0xBABA << 16 | 2,
                _ => 2,
            },
            _ => value,
        })
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "registers of 32 bits")]
    fn write(&self, offset: usize, _width: Width, value: u64) {
        self.writes.set(self.writes.get() + 1);
        let value = match offset {
            // A reset is over.
            0x0 => value & !(1 << 26 | 1 << 3),
            0x2F00 => value | 1 << 3,
            // The port's own to say.
            0x8 | 0x1_0010 | 0x8D04 => return,
            _ => value,
        };
        self.words[offset / 4].set(value as u32);
    }

    fn len(&self) -> usize {
        0x2_0000
    }
}

/// Time that passes at once.
struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _ns: u32) {}
}

type Card = Device<'static, &'static Port>;

fn card() -> (&'static Port, Card) {
    let port = Box::leak(Box::new(Port::new()));
    let pairs = vec![Pair::EMPTY; PAIRS].leak();
    let device = Device::bring_up(&*port, &mut NoDelay, Setup::new(Kind::Sfp, pairs)).unwrap();
    (port, device)
}

/// Memory of a pair's rings, and its tails.
struct Rings {
    receive: SharedMemory<'static>,
    transmit: SharedMemory<'static>,
    head: SharedMemory<'static>,
    registers: PairRings,
    tails: &'static MappedRegisters,
}

impl Rings {
    fn new() -> Self {
        let [receive, transmit, head] = [16 * N, 16 * N, 64].map(leak);
        let [rx, tx, word] = [receive, transmit, head].map(|(memory, base)| block(memory, base));
        let registers = PairRings {
            receive: ReceiveRing::new(&rx, 2048).unwrap(),
            transmit: TransmitRing::new(&tx, &word).unwrap(),
        };
        let (tails, _) = bell();
        Self {
            receive: receive.0,
            transmit: transmit.0,
            head: head.0,
            registers,
            tails,
        }
    }

    fn tail(&self) -> MappedTail {
        let size = RingSize::new(512).unwrap();
        MappedTail::new(self.tails.register(0x18).unwrap(), size)
    }
}

/// What a process holds of a pair.
type Halves = (
    Receiver<'static, MappedTail, N>,
    Sender<'static, MappedTail, N>,
);

/// A queue pair, from nothing to where buffers can be armed: both queues set up and on, as the port says, and both data
/// halves made. Rings come zeroed; the port is not waited for.
pub(crate) struct Claim {
    device: Card,
    rings: Vec<Rings>,
    halves: Vec<Option<Halves>>,
    pool: parakernel_core::memory::Pool<'static>,
    claimed: usize,
}

impl Claim {
    fn claim(&mut self, pair: usize) {
        let (rings, now) = (&self.rings[pair], Instant::default());
        #[expect(clippy::cast_possible_truncation, reason = "at most 127")]
        let number = pair as u8;
        let vector = Vector::new(number % 64);
        let begun = self
            .device
            .begin_claim(number, rings.registers, vector, now);
        begun.unwrap();
        assert!(self.device.poll_claim(number, now).is_ready());
        let none = Metadata::None;
        let rx = Receiver::new(rings.receive, rings.receive, rings.tail(), &LAYOUT, none);
        let arena = self.pool.arena().again();
        let tx = Sender::new(rings.transmit, rings.head, rings.tail(), arena, none);
        self.halves[pair] = rx.zip(tx);
    }

    fn release(&mut self, pair: usize) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 127")]
        let number = pair as u8;
        let start = Instant::default();
        self.device.begin_release(number, start).unwrap();
        assert!(self.device.poll_release(number, start).is_pending());
        let later = start.saturating_add(core::time::Duration::from_millis(1));
        assert!(self.device.poll_release(number, later).is_ready());
        assert!(self.halves[pair].take().is_some());
    }
}

impl Phase for Claim {
    fn new() -> Self {
        Self {
            device: card().1,
            rings: (0..PAIRS).map(|_| Rings::new()).collect(),
            halves: (0..PAIRS).map(|_| None).collect(),
            pool: pool(IOVA, LAYOUT),
            claimed: 0,
        }
    }

    fn prepare(&mut self, _: usize) {
        for pair in 0..core::mem::take(&mut self.claimed) {
            self.release(pair);
        }
    }

    fn measured(&mut self, batch: usize) -> usize {
        for pair in 0..batch {
            self.claim(pair);
        }
        self.claimed = batch;
        batch
    }

    fn figures() -> Vec<(&'static str, f64)> {
        let (port, device) = card();
        let mut claim = Self {
            device,
            rings: vec![Rings::new()],
            halves: vec![None],
            pool: pool(IOVA, LAYOUT),
            claimed: 0,
        };
        let before = port.writes.get();
        claim.claim(0);
        let writes = port.writes.get() - before;
        let rings = &claim.rings[0];
        let memory = rings.receive.len() + rings.transmit.len() + rings.head.len();
        let bytes = memory + size_of::<Halves>() + size_of::<Pair>();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let figures = [("register-writes", writes as f64), ("bytes", bytes as f64)];
        figures.to_vec()
    }
}

/// A rule's way from a process's request into the port: covered by a grant, free of conflict, a filter found and written.
pub(crate) struct Steer {
    kernel: Table,
    device: Card,
    filters: Filters<'static>,
}

impl Phase for Steer {
    fn new() -> Self {
        Self {
            kernel: Table::new(0),
            device: card().1,
            filters: Filters::new(vec![Filter::UNUSED; PAIRS].leak(), 0),
        }
    }

    fn prepare(&mut self, batch: usize) {
        for &rule in &self.kernel.inserted {
            let change = Change::Remove { rule };
            self.filters.change(&self.device, change).unwrap();
        }
        self.kernel.prepare(batch);
    }

    fn measured(&mut self, batch: usize) -> usize {
        for number in 0..batch {
            let (rule, matches) = self.kernel.insert(number);
            let queue = QueueIndex::new(0);
            let change = Change::Add {
                rule,
                matches,
                queue,
            };
            self.filters.change(&self.device, change).unwrap();
            let polled = self.filters.poll(&self.device, Instant::default());
            assert!(black_box(polled).is_ready());
        }
        batch
    }
}
