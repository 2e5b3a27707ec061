//! The virtio data half and the kernel's side of checked queues, against rings that a few lines here play the device of.
#![expect(unsafe_code, reason = "lends leaked memory to rings and arenas")]
#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot be set up has nothing to say"
)]

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed};

use parakernel_core::{
    address::Iova,
    memory::{ArenaLayout, PAGE_SIZE, Pool, RegionTable, SegmentList, SharedMemory},
    mmio::MappedRegisters,
    queue::{RxQueue, TxQueue},
    ring::Position,
};
use parakernel_nic_virtio::{
    checked::{AnySource, CheckedReceiver, CheckedSender, Tables},
    notify::{Data, Notifier, NotifyRegister},
    rx::{Receiver, Spread},
    transport::NotifyAddress,
    tx::{HeaderSource, Sender},
    virtqueue::{Events, Order, split::Split},
};

use crate::{
    Phase,
    memory::{IOVA, block, leak, pool, regions},
};

const N: usize = 512;
const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: 12,
    count: 1536,
};
/// Header and 64 bytes of frame.
const LEN: u64 = 12 + 64;

type Ring = Split<'static, N>;
type Bell = Notifier<Ring, MappedRegisters>;

/// The device's side of a ring: raw indices and elements.
#[derive(Clone, Copy)]
struct Device {
    available: &'static [AtomicU16],
    used_index: &'static AtomicU16,
    used: &'static [AtomicU64],
    next: u16,
}

impl Device {
    fn new(memory: SharedMemory<'static>) -> Self {
        Self {
            available: memory.slice(Ring::AVAILABLE, 2 + N).unwrap(),
            used_index: memory.view(Ring::USED + 6).unwrap(),
            used: memory.slice(Ring::USED + 8, N).unwrap(),
            next: 0,
        }
    }

    /// Uses up to `limit` of what is available, with `len` bytes written in each.
    fn complete(&mut self, limit: usize, len: u64) {
        let ready = self.available[1].load(Relaxed).wrapping_sub(self.next);
        for _ in 0..usize::from(ready).min(limit) {
            let slot = usize::from(self.next) % N;
            let id = self.available[2 + slot].load(Relaxed);
            self.used[slot].store(u64::from(id) | len << 32, Relaxed);
            self.next = self.next.wrapping_add(1);
        }
        self.used_index.store(self.next, Relaxed);
    }
}

/// A ring of its own, its doorbell, and the device's side.
fn ring() -> (Ring, Bell, Device, SharedMemory<'static>) {
    let (memory, _) = leak(Ring::BYTES);
    let ring = Split::in_block(memory).unwrap();
    let (_, page) = leak(PAGE_SIZE);
    // SAFETY: leaked, aligned, and used as registers only.
    let registers = unsafe { MappedRegisters::new(page, PAGE_SIZE) };
    let register = NotifyRegister {
        queue: 1,
        address: NotifyAddress {
            offset: 0,
            wide: false,
        },
        data: Data::Index,
    };
    let bell = Notifier::new(ring, registers, register, Events::Flags);
    (ring, bell, Device::new(memory), memory)
}

/// Receive, touch one byte, send, reclaim.
pub(crate) struct Forward {
    rx: Receiver<Ring, Bell, N>,
    tx: Sender<'static, Ring, Bell, N>,
    rx_device: Device,
    tx_device: Device,
    pool: Pool<'static>,
    list: SegmentList<'static>,
    sum: u8,
}

impl Phase for Forward {
    fn new() -> Self {
        let mut pool = pool(IOVA, LAYOUT);
        let (rx_ring, rx_bell, rx_device, _) = ring();
        let (tx_ring, tx_bell, tx_device, _) = ring();
        let options = (Order::Any, Spread::Single);
        let mut rx = Receiver::new(rx_ring, rx_bell, &LAYOUT, options).unwrap();
        rx.arm(&mut pool);
        let options = (Order::Any, HeaderSource::Queue);
        let tx = Sender::new(tx_ring, tx_bell, pool.arena().again(), options).unwrap();
        Self {
            rx,
            tx,
            rx_device,
            tx_device,
            pool,
            list: SegmentList::new(vec![0; 256].leak()),
            sum: 0,
        }
    }

    fn prepare(&mut self, batch: usize) {
        self.tx_device.complete(N, 0);
        self.rx_device.complete(batch, LEN);
    }

    fn measured(&mut self, batch: usize) -> usize {
        let Self {
            rx, tx, pool, list, ..
        } = self;
        let received = rx.poll(pool, list, batch).unwrap();
        let arena = pool.arena();
        self.sum ^= list
            .iter()
            .fold(0, |sum, frame| sum ^ arena.bytes(frame)[0]);
        let sent = tx.submit(list).unwrap();
        tx.reclaim(pool).unwrap();
        received.min(sent)
    }
}

/// The process's side of a checked ring: descriptors, written as its data half writes them.
struct Shadow {
    descriptors: &'static [AtomicU64],
    memory: SharedMemory<'static>,
    tail: u32,
}

impl Shadow {
    fn new() -> Self {
        let (memory, _) = leak(16 * N);
        Self {
            descriptors: memory.slice(0, 2 * N).unwrap(),
            memory,
            tail: 0,
        }
    }

    fn write(&mut self, count: usize, iova: Iova, rest: u64) {
        for _ in 0..count {
            let slot = self.tail as usize % N;
            let address = iova.as_u64() + slot as u64 * u64::from(LAYOUT.stride);
            self.descriptors[2 * slot].store(address, Relaxed);
            self.descriptors[2 * slot + 1].store(rest, Relaxed);
            self.tail = self.tail.wrapping_add(1);
        }
    }
}

/// One receive descriptor, kernel side: completion taken note of, entry copied, checked, translated, written.
pub(crate) struct ValidateReceive {
    kernel: CheckedReceiver<'static, Ring, Bell, N>,
    device: Device,
    shadow: Shadow,
    regions: RegionTable<'static>,
    iova: Iova,
}

impl Phase for ValidateReceive {
    fn new() -> Self {
        let (hardware, bell, device, _) = ring();
        let mut shadow = Shadow::new();
        let posted = 12 + 2048;
        let mut kernel = CheckedReceiver::new(hardware, bell, shadow.memory, posted).unwrap();
        let iova = IOVA;
        let regions = regions(iova, LAYOUT.bytes());
        shadow.write(N, iova, 0);
        kernel
            .service(Position::new(shadow.tail), &regions, 1024)
            .unwrap();
        Self {
            kernel,
            device,
            shadow,
            regions,
            iova,
        }
    }

    fn prepare(&mut self, batch: usize) {
        self.device.complete(batch, LEN);
        self.shadow.write(batch, self.iova, 0);
    }

    fn measured(&mut self, batch: usize) -> usize {
        let tail = Position::new(self.shadow.tail);
        let accepted = self.kernel.service(tail, &self.regions, 1024).unwrap();
        if accepted == tail { batch } else { 0 }
    }
}

/// One transmit descriptor, kernel side: completion taken note of, entry copied, checked, translated, written.
pub(crate) struct ValidateTransmit {
    kernel: CheckedSender<'static, Ring, Bell, N>,
    device: Device,
    shadow: Shadow,
    regions: RegionTable<'static>,
    iova: Iova,
}

impl Phase for ValidateTransmit {
    fn new() -> Self {
        let (hardware, bell, device, _) = ring();
        let shadow = Shadow::new();
        let (memory, base) = leak(Tables::<N>::BYTES);
        assert!(memory.view::<AtomicU8>(0).is_some());
        let tables = Tables::new(block(memory, base)).unwrap();
        let kernel = CheckedSender::new((hardware, bell), shadow.memory, None, tables, 1518);
        let iova = IOVA;
        Self {
            kernel: kernel.unwrap(),
            device,
            shadow,
            regions: regions(iova, LAYOUT.bytes()),
            iova,
        }
    }

    fn prepare(&mut self, batch: usize) {
        self.device.complete(N, 0);
        self.shadow.write(batch, self.iova, LEN);
    }

    fn measured(&mut self, batch: usize) -> usize {
        let tail = Position::new(self.shadow.tail);
        let accepted = self
            .kernel
            .service(tail, &self.regions, &AnySource, 1024)
            .unwrap();
        if accepted == tail { batch } else { 0 }
    }
}
