//! The virtio-net model, driven register by register and descriptor by descriptor, with numbers from the specification.
#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test; numbers are cut to the width of the field that they go to"
)]

#[path = "virtio_net/guest.rs"]
mod guest;

#[cfg(feature = "proptest")]
#[path = "virtio_net/properties.rs"]
mod properties;

use core::time::Duration;

use guest::{DEVICE, Guest, LEASE};
use parakernel_core::mmio::{Registers, Width};
use parakernel_mock_hw::{
    World,
    fault::{Fault, When},
    virtio_net::{Config, Features},
};

const BASE: Features = Features::VERSION_1.union(Features::ACCESS_PLATFORM);

fn everything() -> Config {
    Config {
        features: Features::all(),
        ..Config::default()
    }
}

/// A UDP frame over IPv4 to the model's own address.
fn udp(from: [u8; 4], to: [u8; 4], ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 1, 8, 0];
    let total = 28 + payload.len() as u16;
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(from);
    frame.extend(to);
    frame.extend(ports[0].to_be_bytes());
    frame.extend(ports[1].to_be_bytes());
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

fn plain(len: usize, seed: u8) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|n| n as u8 ^ seed).collect();
    frame[..14].copy_from_slice(&[
        0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 1, 0x88, 0xb5,
    ]);
    frame
}

/// All ring formats and options that change what a ring looks like.
fn ring_features() -> Vec<Features> {
    let options = [
        Features::empty(),
        Features::EVENT_IDX,
        Features::IN_ORDER,
        Features::NOTIFICATION_DATA | Features::EVENT_IDX,
    ];
    let formats = [Features::empty(), Features::RING_PACKED];
    formats
        .iter()
        .flat_map(|format| options.iter().map(move |option| BASE | *format | *option))
        .collect()
}

#[test]
fn frames_go_both_ways_over_every_ring_and_transport() {
    for (n, features) in ring_features().into_iter().enumerate() {
        for mmio in [false, true] {
            let world = World::new(n as u64);
            let mut guest = if mmio {
                Guest::mmio(&world, everything())
            } else {
                Guest::pci(&world, everything())
            };
            let (mut rx, mut tx) = guest.bring_up(features, 8);
            for round in 0..30_u8 {
                let frame = plain(60 + usize::from(round) * 40, round);
                guest.send(&mut tx, &[0; 12], &frame);
                assert_eq!(
                    guest.net.wire().take(),
                    Some(frame.clone()),
                    "{features:?} {mmio} {round}"
                );

                let at = guest.room(2048);
                guest.submit(&mut rx, &[(at, 2048, true)]);
                guest.net.wire().send(&frame);
                guest.settle();
                let (_, len) = guest.used(&mut rx).unwrap();
                assert_eq!(len as usize, 12 + frame.len());
                let bytes = guest.peek(at, 12 + frame.len());
                assert_eq!(bytes[10..12], [1, 0]);
                assert_eq!(bytes[12..], frame);
            }
            world.trace().assert_clean();
            assert!(guest.memory.escapes().is_empty());
        }
    }
}

#[test]
fn batches_in_order_take_one_used_entry() {
    let mut shorter = false;
    for seed in 0..20 {
        let mut guest = Guest::pci(&World::new(seed), everything());
        let (_, mut tx) = guest.bring_up(BASE | Features::IN_ORDER, 16);
        let at = guest.room(4096);
        guest.poke(at + 12, &plain(60, 0));
        let ids: Vec<u16> = (0..6)
            .map(|_| guest.offer(&mut tx, &[(at, 72, false)]))
            .collect();
        guest.notify(&tx);
        guest.settle();
        assert_eq!(guest.used_index(&tx), 6);
        let first = guest.used(&mut tx).unwrap().0;
        assert!(ids.contains(&first));
        shorter |= first != ids[0];
        guest.world.trace().assert_clean();
    }
    assert!(shorter);
}

#[test]
fn unsound_features_are_refused() {
    let world = World::new(1);
    let mut guest = Guest::pci(&world, everything());
    assert_eq!(guest.offered(), Features::all());
    guest.write(0x00, Width::U32, 0x014, u32::MAX);
    assert_eq!(guest.read(0x04, Width::U32, 0x010), 0);
    for features in [
        Features::ACCESS_PLATFORM,
        Features::VERSION_1,
        BASE | Features::MQ,
        BASE | Features::CTRL_RX,
        BASE | Features::RSS,
        BASE | Features::CTRL_VQ | Features::CTRL_RX_EXTRA,
        BASE | Features::from_bits_retain(1 << 41),
    ] {
        assert!(!guest.negotiate(features), "{features:?}");
    }
    assert_eq!(world.trace().violations().len(), 7);
    assert!(guest.negotiate(BASE | Features::CTRL_VQ | Features::MQ));
    assert_eq!(
        guest.net.features(),
        BASE | Features::CTRL_VQ | Features::MQ
    );
}

#[test]
fn a_frame_larger_than_a_buffer_spans_several_and_they_appear_together() {
    for packed in [Features::empty(), Features::RING_PACKED] {
        let world = World::new(2);
        let mut guest = Guest::pci(&world, everything());
        let (mut rx, _) = guest.bring_up(BASE | Features::MRG_RXBUF | packed, 16);
        let at = guest.room(8192);
        let frame = plain(1500, 9);
        guest.net.wire().send(&frame);
        for n in 0..3 {
            assert_eq!(guest.used(&mut rx), None);
            guest.submit(
                &mut rx,
                &[(at + 512 * n, 200, true), (at + 512 * n + 200, 312, true)],
            );
            guest.settle();
        }
        let lens: Vec<u32> = (0..3).map(|_| guest.used(&mut rx).unwrap().1).collect();
        assert_eq!(lens, [512, 512, 488]);
        assert_eq!(guest.used(&mut rx), None);
        let bytes = guest.peek(at, 1512);
        assert_eq!(bytes[10..12], [3, 0]);
        assert!(bytes[12..] == frame);
        world.trace().assert_clean();
    }
}

/// Length, flags and next of a descriptor whose address is a page of the guest's.
type Shape = (u32, u16, u16);

fn descriptor(address: u64, (len, flags, next): Shape) -> Vec<u8> {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    bytes
}

/// What the descriptor table holds from its start, what the page holds that descriptors point at, and the head.
const HOSTILE_RINGS: [(&[Shape], Option<Shape>, u16); 9] = [
    (&[], None, 8),
    (&[], None, 0xffff),
    (&[(100, 1, 1), (100, 1, 0)], None, 0),
    (&[(100, 1, 9)], None, 0),
    (&[(100, 3, 1), (100, 0, 0)], None, 0),
    (&[(16, 4, 0)], Some((16, 4, 0)), 0),
    (&[(16, 5, 1)], None, 0),
    (&[(24, 4, 0)], None, 0),
    (&[(16, 4, 0)], Some((16, 1, 1)), 0),
];

#[test]
fn hostile_split_rings_break_the_device_and_nothing_else() {
    for (n, (table, indirect, head)) in HOSTILE_RINGS.into_iter().enumerate() {
        let world = World::new(3);
        let mut guest = Guest::pci(&world, everything());
        let (_, mut tx) = guest.bring_up(BASE | Features::INDIRECT_DESC, 8);
        let at = guest.room(4096);
        for (index, shape) in (0..).zip(table) {
            guest.poke_descriptor(&tx, index, &descriptor(at, *shape));
        }
        if let Some(shape) = indirect {
            guest.poke(at, &descriptor(at, shape));
        }
        guest.offer_head(&mut tx, head);
        guest.notify(&tx);
        guest.settle();
        assert_eq!(guest.status() & 64, 64, "attack {n}");
        assert_eq!(world.trace().violations().len(), 1, "attack {n}");
        assert!(guest.memory.escapes().is_empty());
        guest.reset();
        assert_eq!(guest.status(), 0);
    }
}

#[test]
fn an_available_index_more_than_a_ring_ahead_breaks_the_device() {
    for (ahead, breaks) in [(8, false), (9, true), (5000, true), (0xffff, true)] {
        let world = World::new(3);
        let mut guest = Guest::pci(&world, everything());
        let (_, tx) = guest.bring_up(BASE, 8);
        let at = guest.room(4096);
        for index in 0..8_u16 {
            guest.poke_descriptor(&tx, index, &descriptor(at, (100, 0, 0)));
            guest.poke_available(&tx, index, index);
        }
        guest.poke_available_index(&tx, ahead);
        guest.notify(&tx);
        guest.settle();
        assert_eq!(guest.status() & 64 == 64, breaks, "{ahead}");
    }
}

#[test]
fn indirect_tables_carry_frames() {
    for packed in [Features::empty(), Features::RING_PACKED] {
        let world = World::new(4);
        let mut guest = Guest::pci(&world, everything());
        let (_, mut tx) = guest.bring_up(BASE | Features::INDIRECT_DESC | packed, 8);
        let at = guest.room(4096);
        let frame = plain(100, 7);
        guest.poke(at + 1012, &frame);
        let mut table = Vec::new();
        for (n, (address, len)) in [(at + 1000, 12_u32), (at + 1012, 100)]
            .into_iter()
            .enumerate()
        {
            table.extend(address.to_le_bytes());
            table.extend(len.to_le_bytes());
            if packed.is_empty() {
                table.extend([u8::from(n == 0), 0, 1, 0]);
            } else {
                table.extend([0; 4]);
            }
        }
        guest.poke(at, &table);
        guest.offer(&mut tx, &[(at, 32, false)]);
        // Makes the descriptor that was just written an indirect one.
        let flags = if packed.is_empty() {
            (12, [4, 0])
        } else {
            (14, [0x84, 0])
        };
        let mut descriptor = at.to_le_bytes().to_vec();
        descriptor.extend([32, 0, 0, 0, 0, 0, 0, 0]);
        descriptor[flags.0..flags.0 + 2].copy_from_slice(&flags.1);
        guest.poke_descriptor(&tx, 0, &descriptor);
        guest.notify(&tx);
        guest.settle();
        assert_eq!(guest.net.wire().take(), Some(frame));
        world.trace().assert_clean();
    }
}

#[test]
fn checksums_are_completed_and_reported() {
    let world = World::new(5);
    let mut guest = Guest::pci(&world, everything());
    let (mut rx, mut tx) = guest.bring_up(BASE | Features::CSUM | Features::GUEST_CSUM, 8);
    let mut frame = udp([10, 0, 0, 1], [10, 0, 0, 2], [1000, 2000], b"hello");
    // The pseudo header's sum, as a driver leaves it: addresses, protocol 17, length 13.
    let pseudo = 0x0a00_u32 + 0x0001 + 0x0a00 + 0x0002 + 17 + 13;
    frame[40..42].copy_from_slice(&(pseudo as u16).to_be_bytes());
    guest.send(&mut tx, &[1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0], &frame);
    let sent = guest.net.wire().take().unwrap();
    assert_ne!(sent[40..42], frame[40..42]);
    for (frame, flags) in [(sent.clone(), 2), (frame, 0)] {
        let at = guest.room(2048);
        guest.submit(&mut rx, &[(at, 2048, true)]);
        guest.net.wire().send(&frame);
        guest.settle();
        guest.used(&mut rx).unwrap();
        assert_eq!(guest.peek(at, 1)[0], flags);
    }
    world.trace().assert_clean();
    guest.send(&mut tx, &[1, 0, 0, 0, 0, 0, 34, 0, 20, 0, 0, 0], &sent);
    guest.send(&mut tx, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &sent);
    assert_eq!(world.trace().violations().len(), 2);
    assert_eq!(guest.net.wire().take(), None);
}

/// "If the driver negotiates `VIRTIO_NET_F_MTU`, it MUST supply enough receive buffers to receive at least one receive packet
/// of size `mtu` (plus low level ethernet header length)": 5.1.4.2. Without, 1,526 bytes: 5.1.6.3.1.
#[test]
fn a_receive_buffer_that_is_too_small_is_a_violation() {
    let (mtu, merged) = (Features::MTU, Features::MTU | Features::MRG_RXBUF);
    let cases = [
        (Features::empty(), 1526, 0),
        (Features::empty(), 1525, 1),
        (mtu, 9026, 0),
        (mtu, 9025, 1),
        (mtu, 1526, 1),
        (merged, 1526, 0),
        (merged, 64, 0),
    ];
    for (features, len, violations) in cases {
        let world = World::new(12);
        let config = Config {
            mtu: 9000,
            ..everything()
        };
        let mut guest = Guest::pci(&world, config);
        let (mut rx, _) = guest.bring_up(BASE | features, 8);
        let at = guest.room(16_384);
        guest.submit(&mut rx, &[(at, len, true)]);
        guest.net.wire().send(&plain(40, 1));
        guest.settle();
        assert!(guest.used(&mut rx).is_some());
        let found = world.trace().violations().len();
        assert_eq!(found, violations, "{features:?} {len}");
    }
}

#[test]
fn rss_steers_by_a_one_bit_key_and_reports_the_hash() {
    let world = World::new(6);
    let mut guest = Guest::pci(&world, everything());
    let features = BASE | Features::CTRL_VQ | Features::MQ | Features::RSS | Features::HASH_REPORT;
    assert!(guest.negotiate(features));
    let mut rings: Vec<guest::Ring> = (0..4).map(|pair| guest.queue(2 * pair, 8)).collect();
    let mut control = guest.queue(8, 8);
    guest.start();
    // The last byte of the destination address is bits 56 to 63 of the input. A key of the single bit 56 + 31 puts
    // the byte's first bit into bit 0 of the hash, its second into bit 1.
    let bit = 56 + 31;
    let mut key = [0; 40];
    key[bit / 8] = 0x80 >> (bit % 8);
    let mut rss = 1_u32.to_le_bytes().to_vec();
    rss.extend([3, 0, 3, 0]);
    for queue in [0_u16, 1, 2, 2] {
        rss.extend(queue.to_le_bytes());
    }
    rss.extend(4_u16.to_le_bytes());
    rss.push(40);
    rss.extend(key);
    assert_eq!(guest.control(&mut control, 4, 1, &rss), 0);
    let places: Vec<u64> = rings.iter_mut().map(|_| guest.room(2048)).collect();
    for (ring, place) in rings.iter_mut().zip(&places) {
        guest.submit(ring, &[(*place, 2048, true)]);
    }
    for (last, queue) in [(0_u8, 0_usize), (0x80, 1), (0x40, 2)] {
        guest
            .net
            .wire()
            .send(&udp([192, 168, 7, 9], [10, 0, 0, last], [1, 2], b""));
        guest.settle();
        assert!(guest.used(&mut rings[queue]).is_some(), "{last}");
        let header = guest.peek(places[queue], 20);
        assert_eq!(header[16..18], [1, 0]);
        assert_eq!(
            u32::from_le_bytes(header[12..16].try_into().unwrap()) & 3,
            queue as u32
        );
    }
    // No IP at all: unclassified.
    guest.net.wire().send(&plain(60, 0));
    guest.settle();
    assert!(guest.used(&mut rings[3]).is_some());
    assert_eq!(guest.peek(places[3], 20)[12..18], [0; 6]);
    world.trace().assert_clean();
    rss[8] = 4;
    assert_eq!(guest.control(&mut control, 4, 1, &rss), 1);
}

#[test]
fn the_control_queue_filters_by_address_and_vlan() {
    let world = World::new(7);
    let mut guest = Guest::pci(&world, everything());
    let features = BASE
        | Features::CTRL_VQ
        | Features::CTRL_RX
        | Features::CTRL_VLAN
        | Features::CTRL_MAC_ADDR;
    assert!(guest.negotiate(features));
    let mut rx = guest.queue(0, 16);
    // Without MQ the control queue is queue 2.
    let mut control = guest.queue(2, 16);
    guest.start();
    let at = guest.room(2048);
    let mut arrives = |guest: &mut Guest, frame: &[u8]| {
        guest.net.wire().send(frame);
        guest.submit(&mut rx, &[(at, 2048, true)]);
        guest.settle();
        let arrived = guest.used(&mut rx).is_some();
        if !arrived {
            guest.net.wire().send(
                &[[0xff; 6], [0; 6]]
                    .concat()
                    .into_iter()
                    .chain([8, 6, 0])
                    .collect::<Vec<u8>>(),
            );
            guest.settle();
            assert!(guest.used(&mut rx).is_some());
        }
        arrived
    };
    let mut other = plain(60, 0);
    other[5] = 0x99;
    assert!(arrives(&mut guest, &other));
    assert_eq!(guest.control(&mut control, 0, 0, &[0]), 0);
    assert!(!arrives(&mut guest, &other));
    assert!(arrives(&mut guest, &plain(60, 0)));
    let mut table = vec![1, 0, 0, 0];
    table.extend(&other[..6]);
    table.extend([0; 4]);
    assert_eq!(guest.control(&mut control, 1, 0, &table), 0);
    assert!(arrives(&mut guest, &other));
    let mut tagged = plain(60, 0);
    tagged[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
    assert!(!arrives(&mut guest, &tagged));
    assert_eq!(guest.control(&mut control, 2, 0, &[5, 0]), 0);
    assert!(arrives(&mut guest, &tagged));
    assert_eq!(guest.control(&mut control, 1, 1, &[2, 2, 2, 2, 2, 2]), 0);
    assert!(!arrives(&mut guest, &plain(60, 0)));
    world.trace().assert_clean();
    assert_eq!(guest.control(&mut control, 4, 0, &[2, 0]), 1);
    assert_eq!(world.trace().violations().len(), 1);
}

#[test]
fn a_reset_queue_touches_nothing_any_more_and_can_be_used_again() {
    for seed in 0..40 {
        for packed in [Features::empty(), Features::RING_PACKED] {
            let world = World::new(seed);
            let mut guest = Guest::pci(&world, everything());
            let (mut rx, _) = guest.bring_up(BASE | Features::RING_RESET | packed, 16);
            let at = guest.room(8 * 2048);
            for n in 0..8 {
                guest.submit(
                    &mut rx,
                    &[
                        (at + 2048 * n, 1024, true),
                        (at + 2048 * n + 1024, 1024, true),
                    ],
                );
                guest.net.wire().send(&plain(1400, n as u8));
            }
            for _ in 0..seed {
                world.step();
            }
            guest.write(0x16, Width::U16, 0x030, 0);
            guest.write(0x3a, Width::U16, 0x0c0, 1);
            while guest.read(0x3a, Width::U16, 0x0c0) != 0 {
                world.run_for(Duration::from_micros(1));
            }
            assert_eq!(guest.read(0x1c, Width::U16, 0x044), 0);
            guest.memory.end(LEASE);
            guest.settle();
            assert!(guest.memory.escapes().is_empty());

            let again = guest.memory.allocate(1 << 20).unwrap();
            guest.memory.grant(
                DEVICE,
                again,
                parakernel_core::address::Direction::Bidirectional,
                LEASE,
            );
            let mut guest = guest.moved_to(again);
            let mut rx = guest.queue(0, 16);
            let at = guest.room(2048);
            guest.submit(&mut rx, &[(at, 2048, true)]);
            guest.net.wire().send(&plain(200, 1));
            guest.settle();
            assert_eq!(guest.used(&mut rx).map(|(_, len)| len), Some(212));
            world.trace().assert_clean();
        }
    }
}

#[test]
fn link_changes_and_faults_are_told() {
    let world = World::new(8);
    let mut guest = Guest::pci(&world, everything());
    let (_, mut tx) = guest.bring_up(BASE | Features::STATUS, 8);
    assert_eq!(guest.read_config(6, Width::U16), 1);
    let generation = guest.read(0x15, Width::U8, 0x0fc);
    guest.net.set_link(false);
    assert_eq!(guest.read_config(6, Width::U16), 0);
    assert_ne!(guest.read(0x15, Width::U8, 0x0fc), generation);
    guest.net.set_link(true);
    world.trace().assert_clean();

    let faults = guest.net.faults();
    faults.inject(Fault::BadId, When::NEXT);
    let at = guest.room(4096);
    guest.poke(at + 12, &plain(60, 0));
    guest.submit(&mut tx, &[(at, 72, false)]);
    guest.settle();
    assert_eq!(guest.used_index(&tx), 1);
    faults.inject(Fault::FatalStatus, When::NEXT);
    guest.settle();
    assert_eq!(guest.status() & 64, 64);
    assert_eq!(faults.total().activated, 2);
    guest.net.remove();
    assert_eq!(guest.status(), 0xff);
}

#[test]
fn rules_broken_outside_the_rings_are_reported() {
    let world = World::new(9);
    let mut guest = Guest::pci(&world, everything());
    let cases: [fn(&mut Guest); 6] = [
        |guest| assert_eq!(guest.net.bar(4).read64(0x20), u64::MAX),
        |guest| guest.set_status(7),
        |guest| guest.net.bar(4).write16(0x2006, 0),
        |guest| guest.set_status(1),
        |guest| {
            assert!(guest.negotiate(BASE));
            guest.net.bar(4).write16(0x3000, 0);
        },
        |guest| {
            guest.write(0x16, Width::U16, 0x030, 0);
            guest.write(0x18, Width::U16, 0x038, 512);
            guest.write(0x1c, Width::U16, 0x044, 1);
        },
    ];
    for (n, case) in cases.iter().enumerate() {
        case(&mut guest);
        assert_eq!(world.trace().violations().len(), n + 1, "case {n}");
    }
}

#[test]
fn the_window_in_configuration_space_reaches_the_registers() {
    let world = World::new(10);
    let guest = Guest::pci(&world, everything());
    let space = guest.net.config_space();
    let mut at = usize::from(space.read8(0x34));
    while space.read8(at) != 0x09 || space.read8(at + 3) != 5 {
        at = usize::from(space.read8(at + 1));
    }
    space.write8(at + 4, 4);
    space.write32(at + 8, 0x12);
    space.write32(at + 12, 2);
    assert_eq!(space.read16(at + 16), 9);
    space.write32(at + 8, 0x14);
    space.write32(at + 12, 1);
    space.write8(at + 16, 1);
    assert_eq!(guest.status(), 1);
    world.trace().assert_clean();
}

#[test]
fn every_fault_takes_effect() {
    for packed in [Features::empty(), Features::RING_PACKED] {
        for fault in Fault::ALL {
            let world = World::new(5);
            let mut guest = Guest::pci(&world, everything());
            assert!(guest.negotiate(BASE | Features::CTRL_VQ | packed));
            let (mut tx, mut control) = (guest.queue(1, 8), guest.queue(2, 8));
            guest.use_interrupts();
            guest.start();
            let faults = guest.net.faults();
            faults.inject(fault, When::NEXT);
            if fault == Fault::SlowReady {
                guest.set_status(0);
            }
            let at = guest.room(4096);
            guest.poke(at + 12, &plain(60, 0));
            guest.offer(&mut tx, &[(at, 72, false)]);
            guest.offer(&mut control, &[(at, 2, false), (at + 3000, 1, true)]);
            guest.notify(&tx);
            guest.notify(&control);
            guest.settle();
            assert_eq!(faults.count(fault).activated, 1, "{fault:?}");
        }
    }
}

#[test]
fn interrupts_come_where_they_are_wanted_and_not_where_they_are_not() {
    for features in [
        Features::empty(),
        Features::EVENT_IDX,
        Features::RING_PACKED,
    ] {
        let world = World::new(11);
        let mut guest = Guest::pci(&world, everything());
        assert!(guest.negotiate(BASE | Features::STATUS | features));
        let mut tx = guest.queue(1, 8);
        guest.use_interrupts();
        guest.start();
        let vectors = || {
            world
                .interrupts()
                .take_all()
                .iter()
                .map(|message| message.vector)
                .collect::<Vec<_>>()
        };
        guest.send(&mut tx, &[0; 12], &plain(60, 0));
        assert_eq!(vectors(), [1]);
        guest.suppress_interrupts(&tx);
        guest.send(&mut tx, &[0; 12], &plain(60, 0));
        assert_eq!(vectors(), [0_u16; 0]);
        guest.net.set_link(false);
        assert_eq!(vectors(), [3]);
        world.trace().assert_clean();
    }
}

#[test]
fn an_answer_comes_to_the_pair_that_asked() {
    let world = World::new(12);
    let mut guest = Guest::pci(&world, everything());
    assert!(guest.negotiate(BASE | Features::CTRL_VQ | Features::MQ));
    let mut rings: Vec<guest::Ring> = (0..4).map(|queue| guest.queue(queue, 8)).collect();
    let mut control = guest.queue(8, 8);
    guest.start();
    assert_eq!(guest.control(&mut control, 4, 0, &[2, 0]), 0);
    for ring in [0, 2] {
        let at = guest.room(2048);
        guest.submit(&mut rings[ring], &[(at, 2048, true)]);
    }
    let (here, there) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    guest.send(&mut rings[3], &[0; 12], &udp(here, there, [7, 8], b"ask"));
    guest.net.wire().send(&udp(there, here, [8, 7], b"answer"));
    guest.settle();
    assert!(guest.used(&mut rings[2]).is_some());
    guest.net.wire().send(&udp(there, here, [9, 7], b"other"));
    guest.settle();
    assert!(guest.used(&mut rings[0]).is_some());
    world.trace().assert_clean();
}

#[test]
fn a_seed_replays_every_transfer() {
    let run = |seed| {
        let mut guest = Guest::pci(&World::new(seed), everything());
        guest.memory.keep_log(100_000);
        let (_, mut tx) = guest.bring_up(BASE, 32);
        let at = guest.room(4096);
        for _ in 0..12 {
            guest.offer(&mut tx, &[(at, 100, false), (at + 100, 100, false)]);
        }
        guest.notify(&tx);
        guest.settle();
        let log: Vec<_> = guest
            .memory
            .log()
            .iter()
            .map(|dma| (dma.address, dma.len, dma.at))
            .collect();
        (log, guest.world.now())
    };
    assert!(run(5) == run(5));
    assert!(run(5) != run(6));
}

#[test]
fn a_descriptor_in_use_cannot_be_offered_again() {
    let world = World::new(13);
    let mut guest = Guest::pci(&world, everything());
    let (_, mut tx) = guest.bring_up(BASE, 8);
    let at = guest.room(4096);
    let head = guest.offer(&mut tx, &[(at, 100, false)]);
    guest.offer_head(&mut tx, head);
    guest.notify(&tx);
    guest.settle();
    assert_eq!(guest.status() & 64, 64);
    assert_eq!(world.trace().violations().len(), 1);
}

/// What the first entries of a packed ring hold, as length, id and flags, and what the page holds they point at.
const HOSTILE_PACKED_RINGS: [(&[Shape], Option<Shape>); 6] = [
    // The second descriptor of a chain is not yet available.
    (&[(100, 0, 0x81), (100, 0, 0)], None),
    // INDIRECT behind another descriptor.
    (&[(100, 0, 0x81), (16, 0, 0x84)], Some((100, 0, 0))),
    // INDIRECT and NEXT.
    (&[(16, 0, 0x85), (100, 0, 0x80)], Some((100, 0, 0))),
    // A flag in an indirect table.
    (&[(16, 0, 0x84)], Some((100, 0, 4))),
    // Two chains with one id.
    (&[(100, 3, 0x80), (100, 3, 0x80)], None),
    // A chain as long as the ring that goes on.
    (
        &[(1, 0, 0x81), (1, 0, 0x81), (1, 0, 0x81), (1, 0, 0x81)],
        None,
    ),
];

#[test]
fn hostile_packed_rings_break_the_device_and_nothing_else() {
    for (n, (entries, indirect)) in HOSTILE_PACKED_RINGS.into_iter().enumerate() {
        let world = World::new(14);
        let mut guest = Guest::pci(&world, everything());
        let (_, tx) = guest.bring_up(BASE | Features::INDIRECT_DESC | Features::RING_PACKED, 4);
        let at = guest.room(4096);
        for (index, (len, id, flags)) in (0..).zip(entries) {
            guest.poke_descriptor(&tx, index, &descriptor(at, (*len, *id, *flags)));
        }
        if let Some((len, id, flags)) = indirect {
            guest.poke(at, &descriptor(at, (len, id, flags)));
        }
        guest.notify(&tx);
        guest.settle();
        assert_eq!(guest.status() & 64, 64, "ring {n}");
        assert_eq!(world.trace().violations().len(), 1, "ring {n}");
        assert!(guest.memory.escapes().is_empty());
    }
}

#[test]
fn transfers_go_on_until_a_reset_is_complete() {
    let mut late = 0;
    for seed in 0..20 {
        let world = World::new(seed);
        let mut guest = Guest::pci(&world, everything());
        let (_, mut tx) = guest.bring_up(BASE, 16);
        let at = guest.room(4096);
        for _ in 0..4 {
            let parts = [0, 1, 2].map(|n| (at + 100 * n, 100, false));
            guest.offer(&mut tx, &parts);
        }
        guest.notify(&tx);
        for _ in 0..6 {
            world.step();
        }
        let reset = world.now();
        guest.reset();
        late += guest
            .memory
            .log()
            .iter()
            .filter(|dma| dma.at > reset)
            .count();
    }
    assert!(late > 10, "{late}");
}

#[test]
fn a_frame_larger_than_the_agreed_mtu_goes_nowhere() {
    let world = World::new(15);
    let mut guest = Guest::pci(
        &world,
        Config {
            mtu: 500,
            ..everything()
        },
    );
    let (mut rx, mut tx) = guest.bring_up(BASE | Features::MTU, 8);
    let at = guest.room(2048);
    guest.submit(&mut rx, &[(at, 2048, true)]);
    for (len, arrives) in [(515, false), (514, true)] {
        guest.net.wire().send(&plain(len, 0));
        guest.settle();
        assert_eq!(guest.used(&mut rx).is_some(), arrives);
        guest.send(&mut tx, &[0; 12], &plain(len, 0));
        assert_eq!(guest.net.wire().take().is_some(), arrives);
    }
    assert_eq!(world.trace().violations().len(), 1);
}
