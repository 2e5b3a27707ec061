//! The virtio-net model under random frames, ring formats, interleavings, resets, lies and faults.

use core::time::Duration;

use parakernel_core::mmio::{Registers, Width};
use parakernel_mock_hw::{
    World,
    fault::{Fault, When},
    strategy::{frame, lies},
    virtio_net::Features,
};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{everything, plain, ring_features};
use crate::guest::{Guest, LEASE, Ring};

fn ring_format() -> impl Strategy<Value = Features> {
    (select(ring_features()), any::<bool>()).prop_map(|(features, merge)| {
        if merge {
            features | Features::MRG_RXBUF
        } else {
            features
        }
    })
}

/// Takes one received frame of one or more buffers of 2,048 bytes; its bytes after the header.
fn received(guest: &Guest, rx: &mut Ring, places: &mut Vec<(u16, u64)>) -> Option<Vec<u8>> {
    let (id, len) = guest.used(rx)?;
    let index = places.iter().position(|(place, _)| *place == id).unwrap();
    let (_, at) = places.swap_remove(index);
    let bytes = guest.peek(at, len as usize);
    assert_eq!(bytes[10..12], [1, 0]);
    Some(bytes[12..].to_vec())
}

proptest! {
    /// A cable that leads back: what was sent arrives, unchanged and in order, whatever the world does in between.
    #[test]
    fn frames_come_back_unchanged_and_in_order(
        seed in any::<u64>(),
        features in ring_format(),
        mmio in any::<bool>(),
        frames in vec((frame(), 0..60_u32), 1..30),
    ) {
        let world = World::new(seed);
        let mut guest = if mmio { Guest::mmio(&world, everything()) } else { Guest::pci(&world, everything()) };
        guest.net.wire().loop_back();
        let (mut rx, mut tx) = guest.bring_up(features, 64);
        let mut places = Vec::new();
        for (frame, steps) in &frames {
            let at = guest.room(2048);
            places.push((guest.submit(&mut rx, &[(at, 2048, true)]), at));
            let at = guest.room(2048);
            guest.poke(at + 12, frame);
            guest.submit(&mut tx, &[(at, 12 + frame.len() as u32, false)]);
            for _ in 0..*steps {
                world.step();
            }
        }
        guest.settle();
        for (frame, _) in &frames {
            let back = received(&guest, &mut rx, &mut places);
            prop_assert!(back.as_ref() == Some(frame), "{:?}", frame);
        }
        prop_assert_eq!(guest.net.counts().held, 0);
        world.trace().assert_clean();
        prop_assert!(guest.memory.escapes().is_empty());
    }

    /// Whenever a queue or the device is reset: once that is confirmed, no memory is touched any more.
    #[test]
    fn after_a_reset_nothing_is_transferred(
        seed in any::<u64>(),
        features in ring_format(),
        whole in any::<bool>(),
        steps in 0..200_u32,
        frames in 1..10_u8,
    ) {
        let world = World::new(seed);
        let mut guest = Guest::pci(&world, everything());
        let (mut rx, mut tx) = guest.bring_up(features | Features::RING_RESET, 32);
        for n in 0..frames {
            let at = guest.room(4096);
            guest.submit(&mut rx, &[(at, 700, true), (at + 700, 1300, true)]);
            guest.poke(at + 2060, &plain(1000, n));
            guest.submit(&mut tx, &[(at + 2048, 12, false), (at + 2060, 1000, false)]);
            guest.net.wire().send(&plain(1400, n));
        }
        for _ in 0..steps {
            world.step();
        }
        if whole {
            guest.reset();
        } else {
            for queue in 0..2 {
                guest.write(0x16, Width::U16, 0x030, queue);
                guest.write(0x3a, Width::U16, 0x0c0, 1);
                while guest.read(0x3a, Width::U16, 0x0c0) != 0 {
                    world.run_for(Duration::from_micros(1));
                }
            }
        }
        guest.memory.end(LEASE);
        guest.net.wire().send(&plain(100, 0));
        guest.settle();
        prop_assert!(guest.memory.escapes().is_empty());
        world.trace().assert_clean();
    }

    /// A device that lies, or fails, still only reaches what it was lent, and its model never panics.
    #[test]
    fn lies_and_faults_do_not_reach_beyond_the_lease(
        seed in any::<u64>(),
        features in ring_format(),
        lies in lies(),
        faults in vec((0..Fault::ALL.len(), 0..60_u64), 0..4),
    ) {
        let world = World::new(seed);
        let mut guest = Guest::pci(&world, everything());
        let (mut rx, mut tx) = guest.bring_up(features, 16);
        let device = guest.net.faults();
        device.lie(lies);
        for (fault, after) in faults {
            device.inject(Fault::ALL[fault], When::After(after));
        }
        for n in 0..8 {
            let at = guest.room(4096);
            guest.offer(&mut rx, &[(at, 2048, true)]);
            guest.poke(at + 2060, &plain(500, n));
            guest.offer(&mut tx, &[(at + 2048, 512, false)]);
            guest.net.wire().send(&plain(300, n));
        }
        guest.notify(&rx);
        guest.notify(&tx);
        guest.settle();
        prop_assert!(guest.memory.escapes().is_empty());
    }
}

const PAGES: u64 = 0x4_0000_0000;

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (0..64_u64).prop_map(|page| PAGES + page * 4096),
        1 => (0..4096_u64).prop_map(|back| u64::MAX - back),
        1 => any::<u64>(),
    ]
}

/// A register of the MMIO transport, or the area of configuration, and a value.
fn register() -> impl Strategy<Value = (usize, u32)> {
    let offset = prop_oneof![
        4 => select(vec![0x014_usize, 0x020, 0x024, 0x030, 0x038, 0x044, 0x050, 0x064, 0x070, 0x0ac, 0x0c0]),
        4 => select(vec![0x080_usize, 0x084, 0x090, 0x094, 0x0a0, 0x0a4]),
        1 => (0..0x80_usize).prop_map(|word| 4 * word),
    ];
    let value = prop_oneof![
        4 => select(vec![0_u32, 1, 2, 3, 4, 8, 11, 15]),
        2 => (0..64_u32).prop_map(|page| page * 4096),
        1 => any::<u32>(),
    ];
    (offset, value)
}

proptest! {
    /// Whatever a driver writes, into registers and rings: no panic, and no transfer beyond its memory.
    #[test]
    fn no_driver_makes_the_model_panic(
        seed in any::<u64>(),
        features in ring_format(),
        areas in vec((address(), address(), address()), 2),
        memory in vec((0..64_u64, 0..256_u64, vec(any::<u8>(), 1..40)), 0..40),
        writes in vec((register(), 0..40_u32), 0..60),
    ) {
        let world = World::new(seed);
        let mut guest = Guest::mmio(&world, everything());
        let victim = guest.memory.allocate(4096).unwrap();
        guest.memory.fill(victim, 0x5a);
        for (page, offset, bytes) in &memory {
            guest.poke(PAGES + page * 4096 + offset, bytes);
        }
        assert!(guest.negotiate(features | Features::INDIRECT_DESC));
        for (index, (table, driver, device)) in (0..).zip(areas) {
            guest.set_up(index, 8, [table & !15, driver & !3, device & !3]);
        }
        guest.start();
        let registers = guest.net.mmio_registers();
        guest.net.wire().send(&plain(100, 0));
        for queue in 0..2 {
            registers.write32(0x050, queue);
        }
        for ((offset, value), steps) in writes {
            registers.write32(offset, value);
            registers.read32(offset);
            for _ in 0..steps {
                world.step();
            }
            guest.net.wire().send(&plain(60, 1));
        }
        world.settle(10_000);
        prop_assert!(guest.peek(victim.start.as_u64(), 4096).iter().all(|byte| *byte == 0x5a));
    }
}
