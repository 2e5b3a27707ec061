//! The data half alone: process and device share the rings.

use std::collections::VecDeque;

use parakernel_core::{
    address::Iova,
    memory::{Arena, Pool, SegmentList},
    queue::{RxQueue, TxQueue},
};
use parakernel_nic_virtio::{
    rx::{Receiver, Spread},
    tx::{HeaderSource, Sender},
    virtqueue::{Events, Order, split::Split},
};
use proptest::prelude::*;
use vm_memory::GuestMemoryMmap;

use super::bench::{
    BUFFERS, CAPACITY, Device, Doorbell, Kicks, LAYOUT, N, RX_RING, Step, TX_RING, driver_ring,
    frame, guest_memory, host, poll, step, submit,
};

/// Both sides of two queues.
struct Bench<'a> {
    device: Device<'a>,
    rx: Receiver<Split<'a, N>, Doorbell<'a>, N>,
    tx: Sender<'a, Split<'a, N>, Doorbell<'a>, N>,
    rx_kicks: Kicks,
    tx_kicks: Kicks,
    pool: Pool<'a>,
}

impl<'a> Bench<'a> {
    fn new(
        memory: &'a GuestMemoryMmap,
        words: &'a mut [u32],
        events: Events,
        spread: Spread,
    ) -> Self {
        // SAFETY: inside the mapping, behind the rings; the device writes buffers only while it has them.
        let arena = unsafe { Arena::new(host(memory, BUFFERS), Iova::new(BUFFERS), LAYOUT) };
        let pool = Pool::new(arena.unwrap(), words);
        let (rx_ring, rx_doorbell, rx_kicks) = driver_ring(memory, RX_RING, events);
        let (tx_ring, tx_doorbell, tx_kicks) = driver_ring(memory, TX_RING, events);
        let rx = Receiver::new(rx_ring, rx_doorbell, &LAYOUT, (Order::Any, spread)).unwrap();
        let options = (Order::Any, HeaderSource::Queue);
        let tx = Sender::new(tx_ring, tx_doorbell, pool.arena().again(), options).unwrap();
        Self {
            device: Device::new(memory, events),
            rx,
            tx,
            rx_kicks,
            tx_kicks,
            pool,
        }
    }

    fn device_sends(&mut self) -> Vec<Vec<u8>> {
        self.device.send(&self.tx_kicks)
    }

    fn receive(&mut self, budget: usize) -> Vec<Vec<u8>> {
        poll(&mut self.rx, &mut self.pool, budget)
    }

    fn send(&mut self, frame: &[u8], part: usize) -> bool {
        submit(&mut self.tx, &mut self.pool, frame, part)
    }
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
                    if bench.device.receive(&frame, merge) {
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
        assert!(bench.device.receive(&payload, false));
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
