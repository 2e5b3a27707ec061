//! A driver of the 82599 for tests, with the datasheet's numbers as they are.

use core::time::Duration;

use parakernel_core::{address::BusAddress, mmio::Registers};
use parakernel_mock_hw::{
    Ixgbe, Memory, World,
    ixgbe::Config,
    memory::{Lease, RequesterId},
    pci::Bar,
    wire::Wire,
};

pub(super) const DEVICE: RequesterId = RequesterId(0x0300);
pub(super) const LEASE: Lease = Lease(7);

/// Descriptors of each ring, and bytes of each buffer.
pub(super) const RING: usize = 32;
pub(super) const BUFFER: usize = 2048;

/// Where the registers of receive queue `n` lie.
pub(super) fn rx(n: usize) -> usize {
    if n < 64 {
        0x1000 + 0x40 * n
    } else {
        0xd000 + 0x40 * (n - 64)
    }
}

/// Where the registers of transmit queue `n` lie.
pub(super) fn tx(n: usize) -> usize {
    0x6000 + 0x40 * n
}

pub(super) struct Driver {
    pub(super) world: World,
    pub(super) memory: Memory,
    pub(super) card: Ixgbe,
    pub(super) bar: Bar,
    pub(super) wire: Wire,
}

/// The memory of one receive queue.
pub(super) struct RxQueue {
    pub(super) n: usize,
    pub(super) ring: u64,
    pub(super) buffers: u64,
    next: usize,
    tail: usize,
}

/// The memory of one transmit queue.
pub(super) struct TxQueue {
    pub(super) n: usize,
    pub(super) ring: u64,
    pub(super) buffers: u64,
    pub(super) tail: usize,
}

/// Lengths of headers, largest segment, VLAN tag, kind of transport (1 for TCP).
#[derive(Default)]
pub(super) struct Context {
    pub(super) lens: [u64; 3],
    pub(super) mss: u64,
    pub(super) tag: u64,
    pub(super) kind: u64,
}

/// A part of a frame that was received.
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    pub(super) low: u64,
    pub(super) high: u64,
}

impl Received {
    pub(super) fn tag(&self) -> u16 {
        (self.high >> 48) as u16
    }

    pub(super) fn is_last(&self) -> bool {
        self.high & 2 != 0
    }
}

impl Driver {
    /// A card that was reset, with link, receive and transmit units on, all frames accepted.
    pub(super) fn new(seed: u64) -> Self {
        Self::with(seed, Config::default())
    }

    pub(super) fn with(seed: u64, config: Config) -> Self {
        let world = World::new(seed);
        let memory = world.memory(64 << 20);
        let card = Ixgbe::new(&world, &memory, DEVICE, config);
        card.config_space().enable();
        let driver = Self {
            bar: card.bar0(),
            wire: card.wire(),
            world,
            memory,
            card,
        };
        driver.reset();
        driver.write(0x5080, 0x0000_0702); // FCTRL: everything
        driver.write(0x3000, 1); // RXCTRL.RXEN
        driver.write(0x4a80, 0x8100_0001); // DMATXCTL.TE
        driver.write(0x0898, 0x8000_0030); // GPIE: MSI-X
        driver
    }

    /// The reset sequence of 4.6.3, as far as the model can tell.
    pub(super) fn reset(&self) {
        self.write(0x0888, 0x7fff_ffff); // EIMC
        self.write(0x0000, 1 << 2); // CTRL: master disable
        self.wait(0x0008, |status| status & 1 << 19 == 0);
        self.write(0x0000, 1 << 2 | 1 << 3 | 1 << 26);
        self.wait(0x0000, |ctrl| ctrl & (1 << 3 | 1 << 26) == 0);
        self.world.run_for(Duration::from_millis(10));
        self.write(0x0888, 0x7fff_ffff);
        self.wait(0x1_0010, |eec| eec & 1 << 9 != 0);
        self.wait(0x2f00, |rdrxctl| rdrxctl & 1 << 3 != 0);
        self.world.run_for(Duration::from_millis(50));
        assert_ne!(self.read(0x42a4) & 1 << 30, 0, "no link");
    }

    pub(super) fn read(&self, offset: usize) -> u32 {
        self.bar.read32(offset)
    }

    pub(super) fn write(&self, offset: usize, value: u32) {
        self.bar.write32(offset, value);
    }

    pub(super) fn wait(&self, offset: usize, is_there: impl Fn(u32) -> bool) {
        for _ in 0..1000 {
            if is_there(self.read(offset)) {
                return;
            }
            self.world.run_for(Duration::from_micros(10));
        }
        panic!("register {offset:#x} stays {:#x}", self.read(offset));
    }

    pub(super) fn settle(&self) {
        self.world.settle(100_000);
    }

    /// Memory that the card may use.
    pub(super) fn lend(&self, len: usize) -> u64 {
        let block = self.memory.lend(DEVICE, len, LEASE).unwrap();
        block.bus_address().as_u64()
    }

    pub(super) fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .bus(DEVICE)
            .read(BusAddress::new(at), &mut bytes)
            .unwrap();
        bytes
    }

    pub(super) fn poke(&self, at: u64, bytes: &[u8]) {
        self.memory
            .bus(DEVICE)
            .write(BusAddress::new(at), bytes)
            .unwrap();
    }

    pub(super) fn word(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.peek(at, 8).try_into().unwrap())
    }

    /// Receive queue `n` with all but one descriptor armed.
    pub(super) fn rx_queue(&self, n: usize) -> RxQueue {
        let queue = RxQueue {
            n,
            ring: self.lend(16 * RING),
            buffers: self.lend(BUFFER * RING),
            next: 0,
            tail: RING - 1,
        };
        for slot in 0..RING {
            self.arm(&queue, slot);
        }
        let place = rx(n);
        self.bar.write64(place, queue.ring);
        self.write(place + 0x08, (16 * RING) as u32);
        self.write(place + 0x14, 0x0200_0002); // SRRCTL: advanced, 2 KiB
        self.write(place + 0x28, 1 << 25);
        self.wait(place + 0x28, |control| control & 1 << 25 != 0);
        self.write(place + 0x18, queue.tail as u32);
        queue
    }

    fn arm(&self, queue: &RxQueue, slot: usize) {
        let buffer = queue.buffers + (slot * BUFFER) as u64;
        self.poke(queue.ring + 16 * slot as u64, &buffer.to_le_bytes());
        self.poke(queue.ring + 16 * slot as u64 + 8, &[0; 8]);
    }

    /// What arrived in `queue`; its descriptors are armed again.
    pub(super) fn receive(&self, queue: &mut RxQueue) -> Vec<Received> {
        let mut all = Vec::new();
        loop {
            let slot = queue.ring + 16 * queue.next as u64;
            let high = self.word(slot + 8);
            if high & 1 == 0 {
                break;
            }
            let len = (high >> 32 & 0xffff) as usize;
            let buffer = queue.buffers + (queue.next * BUFFER) as u64;
            all.push(Received {
                bytes: self.peek(buffer, len),
                low: self.word(slot),
                high,
            });
            self.arm(queue, queue.next);
            queue.next = (queue.next + 1) % RING;
            queue.tail = (queue.tail + 1) % RING;
        }
        self.write(rx(queue.n) + 0x18, queue.tail as u32);
        all
    }

    /// Transmit queue `n`, empty.
    pub(super) fn tx_queue(&self, n: usize) -> TxQueue {
        let queue = TxQueue {
            n,
            ring: self.lend(16 * RING),
            buffers: self.lend(0x1_0000),
            tail: 0,
        };
        self.bar.write64(tx(n), queue.ring);
        self.write(tx(n) + 0x08, (16 * RING) as u32);
        self.write(tx(n) + 0x28, 1 << 25);
        self.wait(tx(n) + 0x28, |control| control & 1 << 25 != 0);
        queue
    }

    /// Puts one descriptor into the ring.
    pub(super) fn put(&self, queue: &mut TxQueue, low: u64, high: u64) {
        let slot = queue.ring + 16 * queue.tail as u64;
        self.poke(slot, &low.to_le_bytes());
        self.poke(slot + 8, &high.to_le_bytes());
        queue.tail = (queue.tail + 1) % RING;
    }

    pub(super) fn ring(&self, queue: &TxQueue) {
        self.write(tx(queue.n) + 0x18, queue.tail as u32);
    }

    /// Sends `frame` from one buffer, with `options` in the high quadword.
    pub(super) fn send_with(
        &self,
        queue: &mut TxQueue,
        frame: &[u8],
        payload: usize,
        options: u64,
    ) {
        self.poke(queue.buffers, frame);
        let high = frame.len() as u64 | 0x2b30_0000 | (payload as u64) << 46 | options;
        let buffer = queue.buffers;
        self.put(queue, buffer, high);
        self.ring(queue);
        self.settle();
    }

    /// Sends `frame` as it is.
    pub(super) fn send(&self, queue: &mut TxQueue, frame: &[u8]) {
        self.send_with(queue, frame, frame.len(), 0);
    }

    /// Puts a context descriptor for IPv4 into the ring.
    pub(super) fn context(&self, queue: &mut TxQueue, context: &Context) {
        let [mac, ip, l4] = context.lens;
        let low = context.tag << 16 | mac << 9 | ip;
        let high = context.mss << 48 | l4 << 40 | context.kind << 11 | 1 << 10 | 0x2020_0000;
        self.put(queue, low, high);
    }
}
