//! Frames, over both transports and layouts, with a kernel that gives pairs away and takes them back.

use std::collections::VecDeque;

use parakernel_core::queue::{RxQueue, TxQueue};
use parakernel_mock_hw::{memory::Lease, virtio_net::Config};
use parakernel_nic_virtio::{
    control::Command,
    device::{Device, Pair, PairState},
    features::Features,
    steering::Classes,
    transport::Transport,
    virtqueue::{packed::Packed, split::Split},
};
use proptest::prelude::*;

use super::rig::{
    Bus, KERNEL, LAYOUT, MAC, Machine, N, Ring, claim, command, everything, jumbo, poll, udp,
};

/// Sends and receives a few hundred frames on pair 0.
fn echoes<'a, F: Ring<'a>, T: Transport<Registers: Clone>>(
    machine: &'a Machine,
    transport: T,
    more: Features,
    words: &'a mut [u32],
    pairs: &'a mut [Pair],
) {
    let wanted = Features::PARTITION | F::FEATURES | more;
    let mut device = machine.bring_up(transport, wanted, pairs).unwrap();
    assert!(device.features().contains(F::FEATURES | more));
    let mut owned = claim::<F, T>(machine, &mut device, 0, KERNEL, words).unwrap();
    let wire = machine.net.wire();
    for round in 0..300_usize {
        let len = 60
            + (round * 37)
                % if more.contains(Features::MRG_RXBUF) {
                    5000
                } else {
                    1400
                };
        let frame = udp(MAC, [10, 0, 0, 1], [10, 0, 0, 2], len);
        wire.send(&frame);
        machine.settle();
        assert_eq!(
            owned.receive().unwrap(),
            std::slice::from_ref(&frame),
            "{round}"
        );
        assert!(owned.send(&frame, 700 + round).unwrap(), "{round}");
        machine.settle();
        assert_eq!(wire.take_all(), [frame], "{round}");
        owned.tx.reclaim(&mut owned.pool).unwrap();
    }
    device
        .begin_release(0, machine.world.now())
        .unwrap_or_else(|error| {
            assert!(!device.features().contains(Features::RING_RESET), "{error}");
        });
    if device.features().contains(Features::RING_RESET) {
        poll(machine, |now| device.poll_release(0, now)).unwrap();
    }
    let mut pool = owned.pool;
    owned.rx.dismantle(&mut pool);
    owned.tx.dismantle(&mut pool);
    assert_eq!(pool.free(), usize::from(LAYOUT.count));
    machine.world.trace().assert_clean();
}

#[test]
fn frames_pass_over_both_transports_with_every_feature() {
    let features = [
        Features::empty(),
        Features::MRG_RXBUF,
        Features::IN_ORDER,
        Features::NOTIFICATION_DATA,
        Features::MRG_RXBUF | Features::IN_ORDER | Features::NOTIFICATION_DATA,
    ];
    for (seed, more) in (1..).zip(features) {
        let offer = if more.contains(Features::MRG_RXBUF) {
            jumbo
        } else {
            everything
        };
        let mut words = [0; 96];
        let mut pairs = [Pair::EMPTY; 2];
        let machine = Machine::new(seed, Bus::Pci, offer());
        echoes::<Split<'_, N>, _>(
            &machine,
            machine.pci().unwrap(),
            more,
            &mut words,
            &mut pairs,
        );
        let mut words = [0; 96];
        let mut pairs = [Pair::EMPTY; 2];
        let machine = Machine::new(seed, Bus::Pci, offer());
        echoes::<Packed<'_, N>, _>(
            &machine,
            machine.pci().unwrap(),
            more,
            &mut words,
            &mut pairs,
        );
        let mut words = [0; 96];
        let mut pairs = [Pair::EMPTY; 2];
        let machine = Machine::new(seed, Bus::Mmio, offer());
        echoes::<Split<'_, N>, _>(
            &machine,
            machine.mmio().unwrap(),
            more,
            &mut words,
            &mut pairs,
        );
        let mut words = [0; 96];
        let mut pairs = [Pair::EMPTY; 2];
        let machine = Machine::new(seed, Bus::Mmio, offer());
        echoes::<Packed<'_, N>, _>(
            &machine,
            machine.mmio().unwrap(),
            more,
            &mut words,
            &mut pairs,
        );
    }
}

/// Three pairs for three addresses, whatever the sender picks; the rest to pair 3.
#[test]
fn frames_are_steered_by_their_destination_alone() {
    let machine = Machine::new(5, Bus::Pci, everything());
    let mut slots = [Pair::EMPTY; 4];
    let transport = machine.pci().unwrap();
    let mut device = machine
        .bring_up(transport, Features::PARTITION, &mut slots)
        .unwrap();
    let mut words = [[0; 96]; 4];
    let mut pairs: Vec<_> = (0..)
        .zip(&mut words)
        .map(|(pair, words)| {
            let lease = Lease(u64::from(pair) + 1);
            claim::<Split<'_, N>, _>(&machine, &mut device, pair, lease, words).unwrap()
        })
        .collect();
    let mut classes = Classes::all_to(3);
    for pair in 0..3 {
        classes.set([10, 0, 0, 2 + pair as u8], pair);
    }
    let steer = Command::Steer {
        classes: &classes,
        pairs: 4,
    };
    command(&machine, &mut device, &steer).unwrap();
    for source in 0..=255 {
        for (to, pair) in [(2, 0), (3, 1), (4, 2), (5, 3), (77, 3)] {
            let frame = udp(MAC, [192, 168, source, 255 - source], [10, 0, 0, to], 60);
            machine.net.wire().send(&frame);
            machine.settle();
            for (number, owned) in pairs.iter_mut().enumerate() {
                let expected: &[_] = if number == pair {
                    std::slice::from_ref(&frame)
                } else {
                    &[]
                };
                assert_eq!(owned.receive().unwrap(), expected, "{source} to {to}");
            }
        }
    }
    let mut arp = udp([0xFF; 6], [10, 0, 0, 9], [10, 0, 0, 2], 60);
    arp[12..14].copy_from_slice(&[8, 6]);
    machine.net.wire().send(&arp);
    machine.settle();
    assert_eq!(pairs[3].receive().unwrap(), [arp]);
    machine.world.trace().assert_clean();
}

/// A pair goes from lease to lease, a thousand times, in the middle of traffic: after each release the device touches
/// nothing of the old lease, says the audit, and the next one gets a pair that works.
fn changes_hands<'a, F: Ring<'a>, T: Transport<Registers: Clone>>(
    machine: &'a Machine,
    device: &mut Device<'_, T>,
    rounds: u64,
) {
    for round in 0..rounds {
        let lease = Lease(round + 1);
        let words = vec![0; 96].leak();
        let before = machine.memory.free_bytes();
        let mut owned = claim::<F, T>(machine, device, 0, lease, words).unwrap();
        for n in 0..4 {
            let frame = udp(
                MAC,
                [10, 0, 0, 1],
                [10, 0, 0, n],
                60 + round as usize % 1000,
            );
            machine.net.wire().send(&frame);
            owned.send(&frame, 4000).unwrap();
            if round % 3 == 0 {
                machine.world.step();
            }
        }
        owned.receive().unwrap();
        device.begin_release(0, machine.world.now()).unwrap();
        poll(machine, |now| device.poll_release(0, now)).unwrap();
        assert_eq!(device.pair_state(0), Some(PairState::Free));
        machine.memory.end(lease);
        machine.settle();
        assert!(machine.memory.escapes().is_empty());
        assert!(before > machine.memory.free_bytes());
    }
    machine.world.trace().assert_clean();
}

#[test]
fn a_pair_changes_hands_in_the_middle_of_traffic() {
    for seed in 0..4 {
        let machine = Machine::new(seed, Bus::Pci, everything());
        let mut pairs = [Pair::EMPTY; 1];
        let transport = machine.pci().unwrap();
        let mut device = machine
            .bring_up(transport, Features::PARTITION, &mut pairs)
            .unwrap();
        changes_hands::<Split<'_, N>, _>(&machine, &mut device, 25);
        let machine = Machine::new(seed, Bus::Pci, everything());
        let mut pairs = [Pair::EMPTY; 1];
        let wanted = Features::PARTITION | Features::RING_PACKED;
        let mut device = machine
            .bring_up(machine.pci().unwrap(), wanted, &mut pairs)
            .unwrap();
        changes_hands::<Packed<'_, N>, _>(&machine, &mut device, 25);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive(usize),
    Send(usize),
    Receive,
    Reclaim,
    Device(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (60..3000_usize).prop_map(Step::Arrive),
        3 => (60..3000_usize).prop_map(Step::Send),
        2 => Just(Step::Receive),
        1 => Just(Step::Reclaim),
        3 => any::<u8>().prop_map(Step::Device),
    ]
}

fn traffic<'a, F: Ring<'a>>(
    machine: &'a Machine,
    more: Features,
    steps: &[Step],
    (words, pairs): (&'a mut [u32], &'a mut [Pair]),
) -> Result<(), TestCaseError> {
    let wanted = Features::PARTITION | Features::MRG_RXBUF | F::FEATURES | more;
    let mut device = machine
        .bring_up(machine.pci().unwrap(), wanted, pairs)
        .unwrap();
    let mut owned = claim::<F, _>(machine, &mut device, 0, KERNEL, words).unwrap();
    let wire = machine.net.wire();
    let (mut arriving, mut sending) = (VecDeque::new(), VecDeque::new());
    for &step in steps {
        match step {
            Step::Arrive(len) => {
                let frame = udp(MAC, [10, 0, 0, 1], [10, 0, 0, 2], len);
                wire.send(&frame);
                arriving.push_back(frame);
            }
            Step::Send(len) => {
                let frame = udp(MAC, [10, 0, 0, 1], [10, 0, 0, 3], len);
                if owned.send(&frame, 1 + len / 3).unwrap() {
                    sending.push_back(frame);
                }
            }
            Step::Receive => {
                for frame in owned.receive().unwrap() {
                    prop_assert_eq!(Some(frame), arriving.pop_front());
                }
            }
            Step::Reclaim => {
                owned.tx.reclaim(&mut owned.pool).unwrap();
            }
            Step::Device(count) => {
                machine.world.settle(count.into());
            }
        }
    }
    for _ in 0..20 {
        machine.settle();
        for frame in owned.receive().unwrap() {
            prop_assert_eq!(Some(frame), arriving.pop_front());
        }
        for frame in wire.take_all() {
            prop_assert_eq!(Some(frame), sending.pop_front());
        }
        owned.tx.reclaim(&mut owned.pool).unwrap();
        owned.rx.arm(&mut owned.pool);
    }
    prop_assert!(arriving.is_empty() && sending.is_empty());
    prop_assert_eq!(owned.tx.in_flight(), 0);
    machine.world.trace().assert_clean();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Every frame arrives once, in order, byte for byte, however driver and device take turns.
    #[test]
    fn every_frame_arrives(
        seed: u64,
        packed: bool,
        in_order: bool,
        data: bool,
        by_index: bool,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut more = Features::empty();
        more.set(Features::IN_ORDER, in_order);
        more.set(Features::NOTIFICATION_DATA, data);
        let mut config = Config { backlog: 4096, ..jumbo() };
        if !by_index {
            config.features.remove(parakernel_mock_hw::virtio_net::Features::EVENT_IDX);
        }
        let machine = Machine::new(seed, Bus::Pci, config);
        let (mut words, mut pairs) = ([0; 96], [Pair::EMPTY; 1]);
        let room: (&mut [u32], &mut [Pair]) = (&mut words, &mut pairs);
        if packed {
            traffic::<Packed<'_, N>>(&machine, more, &steps, room)?;
        } else {
            traffic::<Split<'_, N>>(&machine, more, &steps, room)?;
        }
    }
}
