//! Properties of the 82599 model.

use core::time::Duration;

use parakernel_core::mmio::Registers;
use parakernel_mock_hw::{
    fault::{Fault, When},
    memory::Escapes,
};
use proptest::prelude::*;

use super::{
    between,
    driver::{Driver, LEASE, RING, rx, tx},
    udp,
};

/// A register where something can go wrong, or any.
fn offset() -> impl Strategy<Value = usize> {
    let queue = (0..4_usize, 0..16_usize).prop_map(|(n, word)| rx(n) + 4 * word);
    let other = (0..4_usize, 0..16_usize).prop_map(|(n, word)| tx(n) + 4 * word);
    let filters = (0..0x400_usize).prop_map(|word| 0xe000 + 4 * word);
    prop_oneof![
        queue,
        other,
        filters,
        (0..0x8000_usize).prop_map(|word| 4 * word)
    ]
}

/// All bits, few bits, or a small number.
fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0..32_u32).prop_map(|bit| 1 << bit),
        0..64_u32,
        Just(u32::MAX),
    ]
}

/// How a driver, or its machine, stops a card in full flight.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// The enable bits of the queues, and the time that a receive queue may still write (4.6.7.1.2).
    Queues,
    /// CTRL.RST, until it is over.
    Reset,
    FunctionReset,
    BusMaster,
    Sleep,
    Removal,
}

fn stop(driver: &Driver, how: Stop) {
    let space = driver.card.config_space();
    match how {
        Stop::Queues => {
            for n in 0..4 {
                driver.write(tx(n) + 0x28, 0);
                driver.write(rx(n) + 0x28, 0);
                driver.wait(rx(n) + 0x28, |control| control & 1 << 25 == 0);
            }
            driver.world.run_for(Duration::from_micros(100));
        }
        Stop::Reset => {
            driver.write(0, 1 << 2);
            driver.wait(0x0008, |status| status & 1 << 19 == 0);
            driver.write(0, 1 << 2 | 1 << 26);
            driver.wait(0, |ctrl| ctrl & 1 << 26 == 0);
        }
        // Device control of the PCI Express capability, power management's control, and Command.
        Stop::FunctionReset => space.write16(0xa8, 0x8000),
        Stop::Sleep => space.write16(0x44, 3),
        Stop::BusMaster => space.write16(0x04, 2),
        Stop::Removal => driver.card.remove(),
    }
}

/// A card in full flight: queues of both directions with work for them, and frames on the wire.
fn in_flight(driver: &Driver, frames: u16) {
    let receive = [0, 1, 2, 3].map(|n| driver.rx_queue(n));
    // All queues hash: RETA spreads over four of them.
    driver.write(0x5818, 1 | 0x0033 << 16);
    for n in 0..32 {
        driver.write(0x5c00 + 4 * n, 0x0302_0100);
    }
    for n in 0..10 {
        driver.write(0x5c80 + 4 * n, 0x9e37_79b9 ^ n as u32);
    }
    for queue in receive.iter().map(|queue| queue.n) {
        let mut transmit = driver.tx_queue(queue);
        let frame = udp([queue as u16, 9], 1000);
        driver.poke(transmit.buffers, &frame);
        for _ in 0..RING - 1 {
            let buffer = transmit.buffers;
            let high = frame.len() as u64 | 0x2b30_0000 | (frame.len() as u64) << 46;
            driver.put(&mut transmit, buffer, high);
        }
        driver.ring(&transmit);
    }
    for n in 0..frames {
        driver.wire.send(&udp([n, 53], 900));
    }
}

proptest! {
    /// "However and whenever a card is stopped: once that is confirmed, no memory is touched any more."
    #[test]
    fn after_a_stop_nothing_is_transferred(
        seed in any::<u64>(),
        frames in 0..60_u16,
        steps in 0..300_u32,
        how in prop_oneof![
            Just(Stop::Queues), Just(Stop::Reset), Just(Stop::FunctionReset), Just(Stop::BusMaster),
            Just(Stop::Sleep), Just(Stop::Removal),
        ],
    ) {
        let driver = Driver::new(seed);
        in_flight(&driver, frames);
        for _ in 0..steps {
            driver.world.step();
        }
        stop(&driver, how);
        driver.memory.end(LEASE);
        driver.wire.send(&udp([1, 53], 900));
        driver.world.run_for(Duration::from_millis(2));
        if matches!(how, Stop::FunctionReset | Stop::Reset) {
            // Nor does anything come back with the card.
            driver.card.config_space().enable();
            driver.world.run_for(Duration::from_millis(50));
            driver.write(0x3000, 1);
            driver.write(0x4a80, 1);
            driver.wire.send(&udp([1, 53], 900));
            driver.settle();
        }
        prop_assert_eq!(driver.memory.escapes(), []);
    }

    /// A card that lies, or fails, still only reaches what it was lent, and its model never panics.
    #[test]
    fn lies_and_faults_do_not_reach_beyond_the_lease(
        seed in any::<u64>(),
        lies in prop::collection::vec(any::<u8>(), 0..200),
        faults in prop::collection::vec((0..Fault::ALL.len(), 0..60_u64), 0..4),
        frames in 0..40_u16,
    ) {
        let driver = Driver::new(seed);
        // Whoever sets a card up by what it says may be misled; here the lies begin after that.
        in_flight(&driver, frames);
        let device = driver.card.faults();
        device.lie(lies);
        for (fault, after) in faults {
            device.inject(Fault::ALL[fault], When::After(after));
        }
        driver.settle();
        for offset in (0..0x2000).step_by(4) {
            driver.read(offset);
        }
        driver.world.run_for(Duration::from_millis(3));
        prop_assert_eq!(driver.memory.escapes(), []);
    }

    /// "The same seed and the same driver: the same transfers, in the same order, at the same times."
    #[test]
    fn a_seed_replays_every_transfer(seed in any::<u64>(), frames in 1..30_u16) {
        let run = |seed| {
            let driver = Driver::new(seed);
            in_flight(&driver, frames);
            driver.settle();
            let log = driver.memory.log();
            let transfers: Vec<_> = log.iter().map(|dma| (dma.at, dma.address, dma.len)).collect();
            (transfers, driver.wire.take_all())
        };
        let first = run(seed);
        prop_assert!(first == run(seed));
        prop_assert!(first.0 != run(seed ^ 1).0);
    }

    /// "Nothing that a driver writes, to registers or to descriptors, makes the model panic, hang, or reach for memory
    /// that it was not lent."
    #[test]
    fn no_write_is_the_models_end(
        seed in any::<u64>(),
        steps in prop::collection::vec((offset(), value(), any::<[u64; 2]>(), 0..8_u8), 1..120),
    ) {
        let driver = Driver::new(seed);
        let (receive, mut transmit) = (driver.rx_queue(0), driver.tx_queue(0));
        driver.memory.set_escapes(Escapes::Blocked);
        for (offset, value, [low, high], what) in steps {
            match what {
                0 => {
                    driver.read(offset);
                }
                1 => driver.bar.write64(offset & !7, u64::from(value) << 32 | low & 0xffff_ffff),
                2 => driver.poke(receive.ring + 16 * (low % RING as u64), &high.to_le_bytes()),
                3 => {
                    // Where data may lie, and lengths that fit more often than not.
                    let address = transmit.buffers + low % 0x8000;
                    driver.put(&mut transmit, address, high & 0xffff_ffff_ffff_07ff);
                    driver.ring(&transmit);
                }
                4 => driver.put(&mut transmit, low, high | 0x2020_0000),
                5 => driver.wire.send(&udp([value as u16, 53], (low % 1400) as usize)),
                6 => driver.world.run_for(Duration::from_micros(low % 500)),
                _ => driver.write(offset, value),
            }
            driver.world.settle(50);
        }
        driver.world.settle(1000);
    }

    /// "What a pair of queues sends comes back the same, whatever the sizes, in order."
    #[test]
    fn frames_around_a_loop_come_back_in_order(
        seed in any::<u64>(),
        lens in prop::collection::vec(18..1400_usize, 1..60),
        queue in 0..128_usize,
    ) {
        let driver = Driver::new(seed);
        driver.wire.loop_back();
        let (mut receive, mut transmit) = (driver.rx_queue(0), driver.tx_queue(queue));
        for (n, len) in lens.into_iter().enumerate() {
            let frame = udp([n as u16, len as u16], len);
            driver.send(&mut transmit, &frame);
            let received = driver.receive(&mut receive);
            prop_assert_eq!(received.len(), 1);
            prop_assert_eq!(&received[0].bytes, &frame);
        }
        driver.world.trace().assert_clean();
    }

    /// "A pool never gets a frame for an address that is another's, nor one from outside of its VLANs."
    #[test]
    fn no_frame_goes_to_a_pool_that_it_is_not_for(
        seed in any::<u64>(),
        frames in prop::collection::vec((0..4_u8, 0..3_u8), 1..30),
    ) {
        let driver = Driver::new(seed);
        let pools = super::with_pools(&driver);
        let mut expected = [0, 0];
        for (to, tag) in frames {
            let mut frame = between([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 0x10 + to]);
            if tag > 0 {
                frame.splice(12..12, [0x81, 0, 0, 4 + tag]);
            }
            if matches!(to, 1 | 2) && tag < 2 {
                expected[usize::from(to) - 1] += 1;
            }
            driver.wire.send(&frame);
        }
        let mut found = [0, 0];
        driver.settle();
        for (n, (address, mut receive, _)) in pools.into_iter().enumerate() {
            for part in driver.receive(&mut receive) {
                prop_assert_eq!(&part.bytes[..6], &address);
                found[n] += 1;
            }
        }
        prop_assert_eq!(found, expected);
        driver.world.trace().assert_clean();
    }
}
