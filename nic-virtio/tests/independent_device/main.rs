//! The split ring against a device side that nobody here wrote: `virtio-queue` of rust-vmm.
//!
//! The device only looks at a queue when it was notified, so a notification that is suppressed by mistake shows as a
//! frame that never moves.
#![expect(
    unsafe_code,
    reason = "the device's memory is a mapping that the driver shares"
)]
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    reason = "plays a device: what does not fit is a failed test"
)]

use std::{cell::Cell, collections::VecDeque, rc::Rc};

use parakernel_core::{
    address::{BusAddress, Iova},
    memory::{Arena, ArenaLayout, DmaBlock, Pool, SegmentList, SharedMemory},
    mmio::{Registers, Width},
    queue::{RxQueue, TxQueue},
};
use parakernel_nic_virtio::{
    notify::{Data, Notifier, NotifyRegister},
    rx::{Receiver, Spread},
    transport::NotifyAddress,
    tx::{HeaderSource, Sender},
    virtqueue::{Events, Order, split::Split},
};
use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const N: usize = 16;
const BASE: u64 = 0x10_0000;
const TX_RING: u64 = BASE + Split::<N>::BYTES as u64;
const BUFFERS: u64 = TX_RING + Split::<N>::BYTES as u64;
const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 320,
    headroom: 64,
    header: 12,
    count: 64,
};
const CAPACITY: usize = 256;
const HEADER: usize = 12;

/// Counts notifications.
#[derive(Clone, Debug, Default)]
struct Kicks(Rc<Cell<u32>>);

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

type Doorbell<'a> = Notifier<Split<'a, N>, Kicks>;

/// Both sides of two queues.
struct Bench<'a> {
    memory: &'a GuestMemoryMmap,
    rx: Receiver<Split<'a, N>, Doorbell<'a>, N>,
    tx: Sender<'a, Split<'a, N>, Doorbell<'a>, N>,
    rx_kicks: Kicks,
    tx_kicks: Kicks,
    rx_device: Queue,
    tx_device: Queue,
    pool: Pool<'a>,
}

fn guest_memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), 1 << 20)]).unwrap()
}

fn shared(memory: &GuestMemoryMmap, at: u64, len: usize) -> SharedMemory<'_> {
    let base = memory.get_host_address(GuestAddress(at)).unwrap();
    // SAFETY: inside the mapping, which lives as long as the borrow; the device side writes through raw pointers.
    unsafe { SharedMemory::new(std::ptr::NonNull::new(base).unwrap(), len) }
}

/// A ring at `at`, its doorbell, and the device's side of it.
fn ring(
    memory: &GuestMemoryMmap,
    at: u64,
    events: Events,
) -> (Split<'_, N>, Doorbell<'_>, Kicks, Queue) {
    let view = shared(memory, at, Split::<N>::BYTES);
    let split = Split::in_block(view).unwrap();
    // SAFETY: the device finds guest addresses where the mapping has them.
    let block = unsafe { DmaBlock::new(view, BusAddress::new(at)) };
    assert_eq!(Split::<N>::addresses(&block).entries(), N as u16);
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
    let mut queue = Queue::new(256).unwrap();
    queue.set_size(N as u16);
    let low = |offset: usize| Some(u32::try_from(at).unwrap() + offset as u32);
    queue.set_desc_table_address(low(0), Some(0));
    queue.set_avail_ring_address(low(Split::<N>::AVAILABLE), Some(0));
    queue.set_used_ring_address(low(Split::<N>::USED + 4), Some(0));
    queue.set_event_idx(events == Events::Index);
    queue.set_ready(true);
    assert!(queue.is_valid(memory));
    (split, doorbell, kicks, queue)
}

impl<'a> Bench<'a> {
    fn new(
        memory: &'a GuestMemoryMmap,
        words: &'a mut [u32],
        events: Events,
        spread: Spread,
    ) -> Self {
        let base = memory.get_host_address(GuestAddress(BUFFERS)).unwrap();
        // SAFETY: inside the mapping, behind the rings; the device writes buffers only while it has them.
        let arena = unsafe {
            Arena::new(
                std::ptr::NonNull::new(base).unwrap(),
                Iova::new(BUFFERS),
                LAYOUT,
            )
        };
        let pool = Pool::new(arena.unwrap(), words);
        let (rx_ring, rx_doorbell, rx_kicks, rx_device) = ring(memory, BASE, events);
        let (tx_ring, tx_doorbell, tx_kicks, tx_device) = ring(memory, TX_RING, events);
        let rx = Receiver::new(rx_ring, rx_doorbell, &LAYOUT, (Order::Any, spread)).unwrap();
        let options = (Order::Any, HeaderSource::Queue);
        let tx = Sender::new(tx_ring, tx_doorbell, pool.arena().again(), options).unwrap();
        Self {
            memory,
            rx,
            tx,
            rx_kicks,
            tx_kicks,
            rx_device,
            tx_device,
            pool,
        }
    }

    /// The device takes all frames to send, if it was told of any.
    fn device_sends(&mut self) -> Vec<Vec<u8>> {
        if self.tx_kicks.0.take() == 0 {
            return Vec::new();
        }
        let mut sent = Vec::new();
        loop {
            self.tx_device.disable_notification(self.memory).unwrap();
            while let Some(chain) = self.tx_device.pop_descriptor_chain(self.memory) {
                let head = chain.head_index();
                let mut bytes = Vec::new();
                for descriptor in chain {
                    assert!(!descriptor.is_write_only() && descriptor.len() > 0);
                    let start = bytes.len();
                    bytes.resize(start + descriptor.len() as usize, 0);
                    self.memory
                        .read_slice(&mut bytes[start..], descriptor.addr())
                        .unwrap();
                }
                assert_eq!(bytes[..HEADER], [0; HEADER]);
                sent.push(bytes.split_off(HEADER));
                self.tx_device.add_used(self.memory, head, 0).unwrap();
            }
            if !self.tx_device.enable_notification(self.memory).unwrap() {
                return sent;
            }
        }
    }

    /// The device receives a frame; `false` where the driver has no buffers for it.
    fn device_receives(&mut self, frame: &[u8], merge: bool) -> bool {
        let room = if merge { CAPACITY + HEADER } else { usize::MAX };
        let count = (HEADER + frame.len()).div_ceil(room);
        let armed = self
            .rx_device
            .avail_idx(self.memory, std::sync::atomic::Ordering::Acquire);
        let ready = armed.unwrap().0.wrapping_sub(self.rx_device.next_avail());
        if usize::from(ready) < count {
            return false;
        }
        let mut bytes = vec![0; HEADER];
        bytes[10..12].copy_from_slice(&(count as u16).to_le_bytes());
        bytes.extend_from_slice(frame);
        for part in bytes.chunks(room.min(bytes.len())) {
            let mut chain = self.rx_device.pop_descriptor_chain(self.memory).unwrap();
            let head = chain.head_index();
            let descriptor = chain.next().unwrap();
            assert!(descriptor.is_write_only() && descriptor.len() as usize >= part.len());
            self.memory.write_slice(part, descriptor.addr()).unwrap();
            self.rx_device
                .add_used(self.memory, head, part.len() as u32)
                .unwrap();
        }
        true
    }

    fn receive(&mut self, budget: usize) -> Vec<Vec<u8>> {
        let mut words = [0; 32];
        let mut list = SegmentList::new(&mut words);
        let count = self.rx.poll(&mut self.pool, &mut list, budget).unwrap();
        let mut frames = vec![Vec::new()];
        while let Some(segment) = list.pop() {
            let last = frames.last_mut().unwrap();
            last.extend_from_slice(self.pool.arena().bytes(&segment));
            if !segment.has_more() {
                frames.push(Vec::new());
            }
            self.pool.put(segment);
        }
        assert_eq!(frames.pop(), Some(Vec::new()));
        assert_eq!(frames.len(), count);
        frames
    }

    /// Submits `frame` in parts; `false` where there is no room.
    fn send(&mut self, frame: &[u8], part: usize) -> bool {
        let mut words = [0; 32];
        let mut list = SegmentList::new(&mut words);
        let count = frame.len().div_ceil(part);
        if self.pool.free() < count {
            return false;
        }
        for (number, bytes) in frame.chunks(part).enumerate() {
            let mut segment = self.pool.take().unwrap().with_len(bytes.len());
            self.pool
                .arena()
                .bytes_mut(&mut segment)
                .copy_from_slice(bytes);
            list.push(segment.with_more(number + 1 < count)).unwrap();
        }
        let sent = self.tx.submit(&mut list).unwrap() == 1;
        list.clear_into(&mut self.pool);
        sent
    }
}

fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + number * 13) as u8).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Send { len: usize, part: usize },
    DeviceSends,
    Reclaim,
    Arrive(usize),
    Poll(usize),
    Arm,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..600_usize, 100..=CAPACITY).prop_map(|(len, part)| Step::Send { len, part }),
        2 => Just(Step::DeviceSends),
        1 => Just(Step::Reclaim),
        3 => (1..900_usize).prop_map(Step::Arrive),
        2 => (1..20_usize).prop_map(Step::Poll),
        1 => Just(Step::Arm),
    ]
}

proptest! {
    /// Every frame that a side accepted arrives at the other: once, in order, byte for byte.
    #[test]
    fn every_accepted_frame_arrives(
        steps in prop::collection::vec(step(), 1..200),
        by_index: bool,
        merge: bool,
    ) {
        let events = if by_index { Events::Index } else { Events::Flags };
        let spread = if merge { Spread::Merged } else { Spread::Single };
        let memory = guest_memory();
        let mut words = [0; LAYOUT.count as usize];
        let mut bench = Bench::new(&memory, &mut words, events, spread);
        let (mut sending, mut arriving) = (VecDeque::new(), VecDeque::new());
        prop_assert_eq!(bench.rx.arm(&mut bench.pool), N);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send { len, part } => {
                    let frame = frame(number, len);
                    if bench.send(&frame, part) {
                        sending.push_back(frame);
                    }
                }
                Step::DeviceSends => {
                    for sent in bench.device_sends() {
                        prop_assert_eq!(Some(sent), sending.pop_front());
                    }
                    prop_assert!(sending.is_empty(), "the device was not told of a frame");
                }
                Step::Reclaim => {
                    bench.tx.reclaim(&mut bench.pool).unwrap();
                }
                Step::Arrive(len) => {
                    let len = if merge { len } else { len.min(CAPACITY) };
                    let frame = frame(number, len);
                    if bench.device_receives(&frame, merge) {
                        arriving.push_back(frame);
                    }
                }
                Step::Poll(budget) => {
                    for received in bench.receive(budget) {
                        prop_assert_eq!(Some(received), arriving.pop_front());
                    }
                }
                Step::Arm => {
                    bench.rx.arm(&mut bench.pool);
                }
            }
        }
        for sent in bench.device_sends() {
            prop_assert_eq!(Some(sent), sending.pop_front());
        }
        bench.tx.reclaim(&mut bench.pool).unwrap();
        loop {
            let received = bench.receive(32);
            if received.is_empty() {
                break;
            }
            for received in received {
                prop_assert_eq!(Some(received), arriving.pop_front());
            }
        }
        prop_assert!(sending.is_empty() && arriving.is_empty());
        prop_assert_eq!(bench.tx.in_flight(), 0);
        let Bench { rx, tx, mut pool, .. } = bench;
        rx.dismantle(&mut pool);
        tx.dismantle(&mut pool);
        prop_assert_eq!(pool.free(), usize::from(LAYOUT.count));
    }
}

/// 70,000 frames one by one cross the wrap of 16-bit indices, with every notification seen to.
#[test]
fn indices_wrap() {
    let memory = guest_memory();
    let mut words = [0; LAYOUT.count as usize];
    let mut bench = Bench::new(&memory, &mut words, Events::Index, Spread::Single);
    bench.rx.arm(&mut bench.pool);
    let payload = frame(1, 60);
    for _ in 0..70_000 {
        assert!(bench.send(&payload, CAPACITY));
        assert_eq!(bench.device_sends().len(), 1);
        assert_eq!(bench.tx.reclaim(&mut bench.pool), Ok(1));
        assert!(bench.device_receives(&payload, false));
        assert_eq!(bench.receive(1).len(), 1);
    }
    assert!(bench.rx_kicks.0.get() > 0);
}

/// The device asked to be told of the next frame; a batch is told of once.
#[test]
fn a_batch_is_one_notification() {
    let memory = guest_memory();
    let mut words = [0; LAYOUT.count as usize];
    let mut bench = Bench::new(&memory, &mut words, Events::Index, Spread::Single);
    let mut words = [0; 8];
    let mut list = SegmentList::new(&mut words);
    for _ in 0..8 {
        list.push(bench.pool.take().unwrap().with_len(60)).unwrap();
    }
    assert_eq!(bench.tx.submit(&mut list), Ok(8));
    assert_eq!(bench.tx_kicks.0.get(), 1);
    assert!(bench.send(&[1; 60], CAPACITY));
    assert_eq!(
        bench.tx_kicks.0.get(),
        1,
        "the device did not ask again yet"
    );
    assert_eq!(bench.device_sends().len(), 9);
    assert!(bench.send(&[1; 60], CAPACITY));
    assert_eq!(bench.tx_kicks.0.get(), 1, "and now it did");
}
