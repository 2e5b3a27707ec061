//! Memory that both sides share, and the device's side of two split rings, by rust-vmm.

use std::{cell::Cell, ptr::NonNull, rc::Rc, sync::atomic::Ordering::Acquire};

use parakernel_core::{
    address::BusAddress,
    memory::{ArenaLayout, DmaBlock, Pool, SegmentList, SharedMemory},
    mmio::{Registers, Width},
    queue::{RxQueue, TxQueue},
};
use parakernel_nic_virtio::{
    error::RingError,
    notify::{Data, Notifier, NotifyRegister},
    transport::NotifyAddress,
    virtqueue::{Events, split::Split},
};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

pub(crate) const N: usize = 16;
pub(crate) const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 320,
    headroom: 64,
    header: 12,
    count: 64,
};
pub(crate) const CAPACITY: usize = 256;
pub(crate) const HEADER: usize = 12;

/// Where things lie in the guest's memory, a MiB from `BASE` on.
pub(crate) const BASE: u64 = 0x10_0000;
pub(crate) const RX_RING: u64 = BASE;
pub(crate) const TX_RING: u64 = BASE + 0x8000;
pub(crate) const BUFFERS: u64 = BASE + 0x1_0000;
pub(crate) const TABLES: u64 = BASE + 0x2_0000;
pub(crate) const SHADOWS: u64 = BASE + 0x3_0000;
pub(crate) const VICTIM: u64 = BASE + 0x4_0000;

const _: () = assert!(Split::<N>::BYTES <= 0x8000);

pub(crate) fn guest_memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), 1 << 20)]).unwrap()
}

pub(crate) fn host(memory: &GuestMemoryMmap, at: u64) -> NonNull<u8> {
    NonNull::new(memory.get_host_address(GuestAddress(at)).unwrap()).unwrap()
}

pub(crate) fn shared(memory: &GuestMemoryMmap, at: u64, len: usize) -> SharedMemory<'_> {
    // SAFETY: inside the mapping, which lives as long as the borrow; the device side writes through raw pointers.
    unsafe { SharedMemory::new(host(memory, at), len) }
}

pub(crate) fn block(memory: &GuestMemoryMmap, at: u64, len: usize) -> DmaBlock<'_> {
    // SAFETY: the device finds guest addresses where the mapping has them; the map above has no overlap.
    unsafe { DmaBlock::new(shared(memory, at, len), BusAddress::new(at)) }
}

/// Counts notifications.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kicks(pub(crate) Rc<Cell<u32>>);

impl Registers for Kicks {
    fn read(&self, _offset: usize, _width: Width) -> u64 {
        u64::MAX
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        assert_eq!((offset, width, value), (0, Width::U16, 7));
        self.0.set(self.0.get() + 1);
    }

    fn len(&self) -> usize {
        2
    }
}

pub(crate) type Doorbell<'a> = Notifier<Split<'a, N>, Kicks>;

/// The ring at `at`, the driver's side of it.
pub(crate) fn driver_ring(
    memory: &GuestMemoryMmap,
    at: u64,
    events: Events,
) -> (Split<'_, N>, Doorbell<'_>, Kicks) {
    let block = block(memory, at, Split::<N>::BYTES);
    let split = Split::in_block(block.memory()).unwrap();
    assert_eq!(usize::from(Split::<N>::addresses(&block).entries()), N);
    let kicks = Kicks::default();
    let address = NotifyAddress {
        offset: 0,
        wide: false,
    };
    let register = NotifyRegister {
        queue: 7,
        address,
        data: Data::Index,
    };
    let doorbell = Notifier::new(split, kicks.clone(), register, events);
    (split, doorbell, kicks)
}

/// The device.
pub(crate) struct Device<'a> {
    pub(crate) memory: &'a GuestMemoryMmap,
    pub(crate) rx: Queue,
    pub(crate) tx: Queue,
}

impl<'a> Device<'a> {
    pub(crate) fn new(memory: &'a GuestMemoryMmap, events: Events) -> Self {
        let queue = |at: u64| {
            let mut queue = Queue::new(256).unwrap();
            queue.set_size(N as u16);
            let low = |offset: usize| Some(u32::try_from(at).unwrap() + offset as u32);
            queue.set_desc_table_address(low(0), Some(0));
            queue.set_avail_ring_address(low(Split::<N>::AVAILABLE), Some(0));
            queue.set_used_ring_address(low(Split::<N>::USED + 4), Some(0));
            queue.set_event_idx(events == Events::Index);
            queue.set_ready(true);
            assert!(queue.is_valid(memory));
            queue
        };
        Self {
            memory,
            rx: queue(RX_RING),
            tx: queue(TX_RING),
        }
    }

    /// Takes all frames to send, if it was told of any.
    pub(crate) fn send(&mut self, kicks: &Kicks) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        if kicks.0.take() == 0 {
            return sent;
        }
        loop {
            self.tx.disable_notification(self.memory).unwrap();
            while let Some(chain) = self.tx.pop_descriptor_chain(self.memory) {
                let head = chain.head_index();
                let mut bytes = Vec::new();
                for descriptor in chain {
                    assert!(!descriptor.is_write_only() && descriptor.len() > 0);
                    let start = bytes.len();
                    bytes.resize(start + descriptor.len() as usize, 0);
                    let into = &mut bytes[start..];
                    self.memory.read_slice(into, descriptor.addr()).unwrap();
                }
                assert_eq!(bytes[..HEADER], [0; HEADER]);
                sent.push(bytes.split_off(HEADER));
                self.tx.add_used(self.memory, head, 0).unwrap();
            }
            if !self.tx.enable_notification(self.memory).unwrap() {
                return sent;
            }
        }
    }

    /// Receives a frame; `false` where the driver has no buffers for it.
    pub(crate) fn receive(&mut self, frame: &[u8], merge: bool) -> bool {
        let room = if merge { CAPACITY + HEADER } else { usize::MAX };
        let count = (HEADER + frame.len()).div_ceil(room);
        let armed = self.rx.avail_idx(self.memory, Acquire).unwrap();
        let ready = armed.0.wrapping_sub(self.rx.next_avail());
        if usize::from(ready) < count {
            return false;
        }
        let mut bytes = vec![0; HEADER];
        bytes[10..12].copy_from_slice(&(count as u16).to_le_bytes());
        bytes.extend_from_slice(frame);
        for part in bytes.chunks(room.min(bytes.len())) {
            let mut chain = self.rx.pop_descriptor_chain(self.memory).unwrap();
            let head = chain.head_index();
            let descriptor = chain.next().unwrap();
            assert!(descriptor.is_write_only() && descriptor.len() as usize >= part.len());
            self.memory.write_slice(part, descriptor.addr()).unwrap();
            self.rx
                .add_used(self.memory, head, part.len() as u32)
                .unwrap();
        }
        true
    }
}

/// Polls for frames and takes their bytes.
pub(crate) fn poll(
    rx: &mut impl RxQueue<Error = RingError>,
    pool: &mut Pool<'_>,
    budget: usize,
) -> Vec<Vec<u8>> {
    let mut words = [0; 32];
    let mut list = SegmentList::new(&mut words);
    let count = rx.poll(pool, &mut list, budget).unwrap();
    let mut frames = vec![Vec::new()];
    while let Some(segment) = list.pop() {
        let last = frames.last_mut().unwrap();
        last.extend_from_slice(pool.arena().bytes(&segment));
        if !segment.has_more() {
            frames.push(Vec::new());
        }
        pool.put(segment);
    }
    assert_eq!(frames.pop(), Some(Vec::new()));
    assert_eq!(frames.len(), count);
    frames
}

/// Submits `frame` in segments of `part` bytes; `false` where there is no room.
pub(crate) fn submit(
    tx: &mut impl TxQueue<Error = RingError>,
    pool: &mut Pool<'_>,
    frame: &[u8],
    part: usize,
) -> bool {
    let mut words = [0; 32];
    let mut list = SegmentList::new(&mut words);
    let count = frame.len().div_ceil(part);
    if pool.free() < count {
        return false;
    }
    for (number, bytes) in frame.chunks(part).enumerate() {
        let mut segment = pool.take().unwrap().with_len(bytes.len());
        pool.arena().bytes_mut(&mut segment).copy_from_slice(bytes);
        list.push(segment.with_more(number + 1 < count)).unwrap();
    }
    let sent = tx.submit(&mut list).unwrap() == 1;
    list.clear_into(pool);
    sent
}

pub(crate) fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + number * 13) as u8).collect()
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send { len: usize, part: usize },
    DeviceSends,
    Reclaim,
    Arrive(usize),
    Poll(usize),
    Arm,
}

pub(crate) fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    prop_oneof![
        3 => (14..600_usize, 100..=CAPACITY).prop_map(|(len, part)| Step::Send { len, part }),
        2 => Just(Step::DeviceSends),
        1 => Just(Step::Reclaim),
        3 => (1..900_usize).prop_map(Step::Arrive),
        2 => (1..20_usize).prop_map(Step::Poll),
        1 => Just(Step::Arm),
    ]
}
