//! The 82599 data half and the kernel's side of checked queues, against rings that a few lines here play the device of.
#![expect(unsafe_code, reason = "lends leaked memory to registers")]
#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot be set up has nothing to say"
)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};

use parakernel_core::{
    memory::{ArenaLayout, PAGE_SIZE, Pool, RegionTable, SegmentList, SharedMemory},
    mmio::{MappedRegisters, Registers as _},
    queue::{RxQueue, TxQueue},
    ring::{Position, RingSize},
};
use parakernel_nic_ixgbe::{
    checked::{AnySource, CheckedReceiver, CheckedSender, Progress},
    doorbell::MappedTail,
    forward::{Forwarder, Rings, Verdict},
    offload::Metadata,
    rx::Receiver,
    tx::Sender,
    validate::Limits,
};

use crate::{
    Phase,
    memory::{IOVA, leak, pool, regions},
};

pub(crate) const N: usize = 512;
pub(crate) const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: 0,
    count: 1536,
};

type Bell = MappedTail;

/// A tail register and the doorbell that writes it.
pub(crate) fn bell() -> (&'static MappedRegisters, Bell) {
    let (_, page) = leak(PAGE_SIZE);
    // SAFETY: leaked, aligned, and used as registers only.
    let registers = Box::leak(Box::new(unsafe { MappedRegisters::new(page, PAGE_SIZE) }));
    let size = RingSize::new(512).unwrap();
    let register = registers.register(0x18).unwrap();
    (registers, MappedTail::new(register, size))
}

/// The device's side of a receive ring.
struct Receive {
    words: &'static [AtomicU64],
    tail: &'static MappedRegisters,
    head: usize,
}

impl Receive {
    fn new(ring: SharedMemory<'static>, tail: &'static MappedRegisters) -> Self {
        Self {
            words: ring.slice(0, 2 * N).unwrap(),
            tail,
            head: 0,
        }
    }

    /// Fills up to `limit` buffers with frames of 64 bytes.
    fn fill(&mut self, limit: usize) {
        for _ in 0..limit {
            if self.head == self.tail.read32(0x18) as usize {
                return;
            }
            self.words[2 * self.head].store(0, Relaxed);
            self.words[2 * self.head + 1].store(3 | 64 << 32, Relaxed);
            self.head = (self.head + 1) % N;
        }
    }
}

/// A queue pair without a kernel in between, and the device's side.
struct PairRig {
    rx: Receiver<'static, Bell, N>,
    tx: Sender<'static, Bell, N>,
    receive: Receive,
    head: &'static AtomicU32,
    tail: &'static MappedRegisters,
    pool: Pool<'static>,
    list: SegmentList<'static>,
    sum: u8,
}

impl PairRig {
    fn new() -> Self {
        let mut pool = pool(IOVA, LAYOUT);
        let (rx_registers, rx_bell) = bell();
        let (tail, tx_bell) = bell();
        let (rx_ring, _) = leak(16 * N);
        let (tx_ring, _) = leak(16 * N);
        let (head, _) = leak(64);
        let mut rx = Receiver::new(rx_ring, rx_ring, rx_bell, &LAYOUT, Metadata::None).unwrap();
        rx.arm(&mut pool);
        let arena = pool.arena().again();
        let tx = Sender::new(tx_ring, head, tx_bell, arena, Metadata::None).unwrap();
        Self {
            rx,
            tx,
            receive: Receive::new(rx_ring, rx_registers),
            head: head.view(0).unwrap(),
            tail,
            pool,
            list: SegmentList::new(vec![0; 256].leak()),
            sum: 0,
        }
    }

    /// Sends all there is.
    fn send(&self) {
        self.head.store(self.tail.read32(0x18), Relaxed);
    }

    fn touch(&mut self) {
        let arena = self.pool.arena();
        self.sum ^= self.list.iter().fold(0, |sum, frame| {
            sum ^ arena.first_bytes::<1>(frame).unwrap()[0]
        });
    }
}

/// Receive, touch one byte, send, reclaim.
pub(crate) struct Forward(PairRig);

impl Phase for Forward {
    fn new() -> Self {
        Self(PairRig::new())
    }

    fn prepare(&mut self, batch: usize) {
        self.0.send();
        self.0.receive.fill(batch);
    }

    fn measured(&mut self, batch: usize) -> usize {
        let rig = &mut self.0;
        let received = rig.rx.poll(&mut rig.pool, &mut rig.list, batch).unwrap();
        rig.touch();
        let sent = rig.tx.submit(&mut rig.list).unwrap();
        rig.tx.reclaim(&mut rig.pool).unwrap();
        received.min(sent)
    }
}

/// What is wrong with a [`Spoiled`] data path.
pub(crate) mod fault {
    /// All partitions count in one place, once for each batch.
    pub(crate) const SHARED_COUNTER: u8 = 0;
    /// All writes are waited for, once for each frame.
    pub(crate) const FENCE: u8 = 1;
    /// A length is looked at once more, for each frame.
    pub(crate) const CHECK: u8 = 2;
}

/// Negative controls: [`Forward`] with a fault that measuring has to find.
pub(crate) struct Spoiled<const FAULT: u8>(Forward);

impl<const FAULT: u8> Phase for Spoiled<FAULT> {
    fn new() -> Self {
        Self(Forward::new())
    }

    fn prepare(&mut self, batch: usize) {
        self.0.prepare(batch);
    }

    fn measured(&mut self, batch: usize) -> usize {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let rig = &mut self.0.0;
        let received = rig.rx.poll(&mut rig.pool, &mut rig.list, batch).unwrap();
        rig.touch();
        match FAULT {
            fault::SHARED_COUNTER => COUNTER.store(COUNTER.load(Relaxed) + 1, Relaxed),
            fault::FENCE => {
                rig.sum ^= rig.list.iter().fold(0, |sum, frame| {
                    fence(SeqCst);
                    sum ^ rig.pool.arena().first_bytes::<1>(frame).unwrap()[0]
                });
            }
            _ => assert!(rig.list.iter().all(|frame| frame.len() == 64)),
        }
        let sent = rig.tx.submit(&mut rig.list).unwrap();
        rig.tx.reclaim(&mut rig.pool).unwrap();
        received.min(sent)
    }
}

/// Receive, write one byte, send, reclaim, on the fixed way: one process has both queues, and buffers stay in their slots.
pub(crate) struct Fixed {
    forwarder: Forwarder<'static, Bell, Bell, N>,
    receive: Receive,
    head: &'static AtomicU32,
    tail: &'static MappedRegisters,
}

impl Phase for Fixed {
    fn new() -> Self {
        let mut pool = pool(IOVA, LAYOUT);
        let (rx_registers, rx_bell) = bell();
        let (tail, tx_bell) = bell();
        let [(ring, _), (transmit, _), (head, _)] = [16 * N, 16 * N, 64].map(leak);
        let rings = Rings {
            submissions: ring,
            completions: ring,
            transmit,
            head,
        };
        let mut forwarder = Forwarder::new(rings, (rx_bell, tx_bell), &mut pool).unwrap();
        forwarder.arm();
        Self {
            forwarder,
            receive: Receive::new(ring, rx_registers),
            head: head.view(0).unwrap(),
            tail,
        }
    }

    fn prepare(&mut self, batch: usize) {
        self.head.store(self.tail.read32(0x18), Relaxed);
        self.receive.fill(batch);
    }

    fn measured(&mut self, batch: usize) -> usize {
        // Touches the frame as one that changes addresses does.
        let look = |frame: &mut [u8]| {
            frame[0] = 2;
            Verdict::Send
        };
        self.forwarder.forward(batch, look).unwrap().sent
    }
}

/// Receive alone.
pub(crate) struct ReceiveOnly(PairRig);

impl Phase for ReceiveOnly {
    fn new() -> Self {
        Self(PairRig::new())
    }

    fn prepare(&mut self, batch: usize) {
        self.0.list.clear_into(&mut self.0.pool);
        self.0.receive.fill(batch);
    }

    fn measured(&mut self, batch: usize) -> usize {
        let rig = &mut self.0;
        rig.rx.poll(&mut rig.pool, &mut rig.list, batch).unwrap()
    }
}

/// Send and reclaim alone.
pub(crate) struct SendOnly(PairRig);

impl Phase for SendOnly {
    fn new() -> Self {
        Self(PairRig::new())
    }

    fn prepare(&mut self, batch: usize) {
        let rig = &mut self.0;
        rig.send();
        for _ in 0..batch {
            let segment = rig.pool.take().unwrap().with_len(64);
            rig.list.push(segment).unwrap();
        }
    }

    fn measured(&mut self, _batch: usize) -> usize {
        let rig = &mut self.0;
        let sent = rig.tx.submit(&mut rig.list).unwrap();
        rig.tx.reclaim(&mut rig.pool).unwrap();
        sent
    }
}

/// A ring of a process, written as its data half writes it.
struct Shadow {
    words: &'static [AtomicU64],
    memory: SharedMemory<'static>,
    tail: u32,
}

impl Shadow {
    fn new() -> Self {
        let (memory, _) = leak(16 * N);
        Self {
            words: memory.slice(0, 2 * N).unwrap(),
            memory,
            tail: 0,
        }
    }

    fn write(&mut self, count: usize, second: u64) {
        for _ in 0..count {
            let slot = self.tail as usize % N;
            let address = IOVA.as_u64() + slot as u64 * u64::from(LAYOUT.stride);
            self.words[2 * slot].store(address, Relaxed);
            self.words[2 * slot + 1].store(second, Relaxed);
            self.tail = self.tail.wrapping_add(1);
        }
    }
}

/// One receive descriptor, kernel side: entry copied, checked, translated, written.
pub(crate) struct ValidateReceive {
    kernel: CheckedReceiver<'static, Bell, N>,
    device: Receive,
    shadow: Shadow,
    regions: RegionTable<'static>,
}

impl Phase for ValidateReceive {
    fn new() -> Self {
        let (registers, bell) = bell();
        let (ring, _) = leak(16 * N);
        let mut shadow = Shadow::new();
        let mut kernel = CheckedReceiver::new(ring, shadow.memory, bell, 2048).unwrap();
        let regions = regions(IOVA, LAYOUT.bytes());
        shadow.write(N - 1, 0);
        let tail = Position::new(shadow.tail);
        kernel.service(tail, &regions, 1024).unwrap();
        Self {
            kernel,
            device: Receive::new(ring, registers),
            shadow,
            regions,
        }
    }

    fn prepare(&mut self, batch: usize) {
        self.device.fill(batch);
        self.shadow.write(batch, 0);
    }

    fn measured(&mut self, batch: usize) -> usize {
        let tail = Position::new(self.shadow.tail);
        let accepted = self.kernel.service(tail, &self.regions, 1024).unwrap();
        if accepted == tail { batch } else { 0 }
    }
}

/// One transmit descriptor, kernel side: progress taken note of, entry copied, checked, translated, written.
pub(crate) struct ValidateTransmit {
    kernel: CheckedSender<'static, Bell, N, N>,
    head: &'static AtomicU32,
    tail: &'static MappedRegisters,
    shadow: Shadow,
    regions: RegionTable<'static>,
}

impl Phase for ValidateTransmit {
    fn new() -> Self {
        let (tail, bell) = bell();
        let ((ring, _), (head, _)) = (leak(16 * N), leak(64));
        let shadow = Shadow::new();
        let limits = Limits {
            max_frame: 1514,
            vlan: None,
        };
        let progress = Progress::Device;
        let kernel = CheckedSender::new((ring, head), shadow.memory, progress, bell, limits);
        Self {
            kernel: kernel.unwrap(),
            head: head.view(0).unwrap(),
            tail,
            shadow,
            regions: regions(IOVA, LAYOUT.bytes()),
        }
    }

    fn prepare(&mut self, batch: usize) {
        self.head.store(self.tail.read32(0x18), Relaxed);
        // Advanced data, end of packet, CRC, 64 bytes.
        self.shadow.write(batch, 64 << 46 | 0x2330_0040);
    }

    fn measured(&mut self, batch: usize) -> usize {
        let tail = Position::new(self.shadow.tail);
        let service = self.kernel.service(tail, &self.regions, &AnySource, 1024);
        if service.unwrap() == tail { batch } else { 0 }
    }
}
