//! Properties of the 82599 model.

use core::time::Duration;

use parakernel_core::mmio::Registers;
use parakernel_mock_hw::memory::Escapes;
use proptest::prelude::*;

use super::{
    between,
    driver::{Driver, RING, rx, tx},
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

proptest! {
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
