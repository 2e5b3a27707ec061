//! A device that returns receive buffers of a packed ring in any order, with the kernel between it and an honest process.
//!
//! The device's side is written from virtio 1.3 §2.8: it reads available descriptors in the ring's order, and writes each
//! used one into the next place, whichever buffer it is about.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

use parakernel_core::{
    memory::SharedMemory,
    queue::{Doorbell, RxQueue},
    ring::Position,
};
use parakernel_nic_virtio::{
    checked::CheckedReceiver,
    header::Header,
    rx::{Receiver, Spread},
    virtqueue::{Order, packed::Packed},
};
use proptest::prelude::*;

use super::{
    checked::{BUS, Regions, SHADOW_LEN, Shadowed, Tail, buffers},
    rig::{Bus, DEVICE, KERNEL, LAYOUT, Machine, N, Ring, everything, receive},
};

/// Bits 7 and 15 of the flags, which are bits 48 to 63 of a descriptor's second half.
const AVAIL: u64 = 1 << (48 + 7);
const USED: u64 = 1 << (48 + 15);

/// A doorbell that nobody hears: the device looks by itself.
struct Unheard;

impl Doorbell for Unheard {
    fn ring(&mut self, _tail: Position) {}

    fn accepted(&self, rung: Position) -> Position {
        rung
    }
}

/// The device's side of the ring.
struct Device<'a> {
    ring: SharedMemory<'a>,
    /// Places read and written so far.
    read: usize,
    written: usize,
    /// Buffers that it has: id and address.
    held: Vec<(u64, u64)>,
}

impl Device<'_> {
    fn word(&self, place: usize, half: usize) -> &AtomicU64 {
        self.ring.view(16 * (place % N) + 8 * half).unwrap()
    }

    /// Whether the wrap counter is 1 at a place.
    const fn wrap(place: usize) -> bool {
        (place / N).is_multiple_of(2)
    }

    /// Takes all buffers that are available.
    fn take(&mut self) {
        loop {
            let rest = self.word(self.read, 1).load(Ordering::Acquire);
            let (avail, used) = (rest & AVAIL != 0, rest & USED != 0);
            if avail != Self::wrap(self.read) || used == avail {
                return;
            }
            let address = self.word(self.read, 0).load(Ordering::Relaxed);
            self.held.push((rest >> 32 & 0xFFFF, address));
            self.read += 1;
        }
    }

    /// Returns one of the buffers, with `len` bytes in it.
    fn give(&mut self, which: usize, len: u64) -> u64 {
        let (id, address) = self.held.remove(which);
        let marks = if Self::wrap(self.written) {
            AVAIL | USED
        } else {
            0
        };
        let rest = len | id << 32 | marks;
        self.word(self.written, 1).store(rest, Ordering::Release);
        self.written += 1;
        address
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The device returns one of its buffers.
    Give(usize),
    /// The process takes up to so many frames.
    Poll(usize),
    /// The kernel takes over what the process published.
    Check,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<usize>().prop_map(Step::Give),
        2 => (1..12_usize).prop_map(Step::Poll),
        1 => Just(Step::Check),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// No honest process is accused, every frame arrives once, in the order in which the device returned them, and in the
    /// end the device has all buffers again.
    #[test]
    fn any_order_is_served(steps in prop::collection::vec(step(), 0..600)) {
        let machine = Machine::new(1, Bus::Pci, everything());
        let lend = |len| machine.memory.lend(DEVICE, len, KERNEL).unwrap();
        let block = lend(Packed::<N>::BYTES);
        let shadow = lend(SHADOW_LEN).memory();
        let posted = (Header::LEN + LAYOUT.capacity()) as u32;
        let (hardware, _) = Packed::make(&block);
        let mut kernel = CheckedReceiver::<_, _, N>::new(hardware, Unheard, shadow, posted).unwrap();
        let (ring, tail) = (Packed::shadow(shadow, Packed::completions(&block)), Tail::default());
        let mut words = [0; 96];
        let (mut pool, _) = buffers(&machine, LAYOUT, &mut words);
        let options = (Order::Any, Spread::Single);
        let mut rx = Receiver::<_, _, N>::new(ring, tail.clone(), &LAYOUT, options).unwrap();
        let mut device = Device { ring: block.memory(), read: 0, written: 0, held: Vec::new() };
        let mut regions = Regions::new();
        let regions = regions.table();
        let mut expected = VecDeque::new();
        rx.arm(&mut pool);
        kernel.service(tail.0.get(), &regions, 64).unwrap();
        for (number, step) in steps.into_iter().enumerate() {
            device.take();
            match step {
                Step::Give(which) if !device.held.is_empty() => {
                    let len = 1 + number as u64;
                    let which = which % device.held.len();
                    let address = device.give(which, Header::LEN as u64 + len);
                    prop_assert!((BUS..BUS + LAYOUT.bytes() as u64).contains(&address));
                    expected.push_back(len as usize);
                }
                Step::Give(_) => {}
                Step::Poll(budget) => {
                    let mut words = [0; 16];
                    let mut frames = parakernel_core::memory::SegmentList::new(&mut words);
                    rx.poll(&mut pool, &mut frames, budget).unwrap();
                    while let Some(segment) = frames.pop() {
                        prop_assert_eq!(Some(segment.len()), expected.pop_front());
                        pool.put(segment);
                    }
                }
                Step::Check => {
                    let checked = kernel.service(tail.0.get(), &regions, 64);
                    prop_assert_eq!(checked, Ok(tail.0.get()));
                }
            }
        }
        // Whatever it has kept, it returns now, and gets all back.
        device.take();
        while !device.held.is_empty() {
            expected.push_back(7);
            device.give(device.held.len() / 2, Header::LEN as u64 + 7);
        }
        for frame in receive(&mut rx, &mut pool).unwrap() {
            prop_assert_eq!(Some(frame.len()), expected.pop_front());
        }
        kernel.service(tail.0.get(), &regions, 64).unwrap();
        device.take();
        prop_assert_eq!((device.held.len(), expected.len()), (N, 0));
    }
}
