//! Frames, with nobody between rings and card.

use core::time::Duration;

use parakernel_core::{
    device::QueueIndex,
    handle::RuleId,
    memory::{ArenaLayout, Pool},
    queue::TxQueue,
    steering::{Change, IpPrefix, Ipv4Prefix, Matches},
};
use parakernel_mock_hw::memory::Lease;
use parakernel_nic_ixgbe::{
    descriptor::{Headers, Ip, L4},
    device::{Pair, Vector},
    forward::{self, Forwarded, Forwarder, Verdict},
    offload::{Metadata, Received, Request},
    stats::QueueStatistics,
    steering::{Filter, Filters},
};

use crate::rig::{
    Card, DEVICE, JUMBO, LAYOUT, MAC, Machine, N, QUEUES, Rings, bell, checksum, claim,
    claim_rings, poll, receive, release, udp,
};

#[test]
fn frames_pass_as_they_are() {
    for (terms, most) in [(QUEUES, 1400), (JUMBO, 8900)] {
        let machine = Machine::new(1);
        let mut pairs = [Pair::EMPTY; 2];
        let mut device = machine.with_link(terms, &mut pairs);
        let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::None)).unwrap();
        for round in 0..300_usize {
            let frame = udp(MAC, [10, 0, 0, 1], [10, 0, 0, 2], 60 + (round * 37) % most);
            machine.wire.send(&frame);
            machine.settle();
            assert_eq!(
                owned.receive().unwrap(),
                core::slice::from_ref(&frame),
                "{round}"
            );
            assert!(owned.send(&frame, 300 + round).unwrap(), "{round}");
            machine.settle();
            assert_eq!(machine.wire.take_all(), [frame], "{round}");
            owned.tx.reclaim(&mut owned.pool).unwrap();
        }
        release(&machine, &mut device, 0).unwrap();
        assert_eq!(owned.bury(), usize::from(LAYOUT.count));
        machine.memory.end(Lease(1));
        machine.settle();
        machine.assert_clean();
    }
}

#[test]
fn all_pairs_have_owners_and_pass_their_own_frames() {
    let machine = Machine::new(2);
    let mut pairs = [Pair::EMPTY; 128];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut memory = [Filter::UNUSED; 128];
    let mut filters = Filters::new(&mut memory, 0);
    let count = device.pairs();
    assert_eq!(count, 128);
    let mut owners: Vec<_> = (0..count)
        .map(|pair| {
            let matches = Matches::to(
                device.mac(),
                IpPrefix::V4(Ipv4Prefix::host([10, 0, 0, pair].into())),
            );
            let change = Change::Add {
                rule: RuleId::new(pair.into(), 0),
                matches,
                queue: QueueIndex::new(pair.into()),
            };
            filters.change(&device, change).unwrap();
            claim(
                &machine,
                &mut device,
                pair,
                (Lease(pair.into()), Metadata::None),
            )
            .unwrap()
        })
        .collect();
    for pair in 0..count {
        machine
            .wire
            .send(&udp(MAC, [10, 0, 1, pair], [10, 0, 0, pair], 100));
        assert!(
            owners[usize::from(pair)]
                .send(&udp([6; 6], [10, 0, 0, pair], [10, 0, 1, pair], 90), 50)
                .unwrap()
        );
    }
    machine.settle();
    for (pair, owner) in (0..).zip(&mut owners) {
        assert_eq!(
            owner.receive().unwrap(),
            [udp(MAC, [10, 0, 1, pair], [10, 0, 0, pair], 100)]
        );
        assert_eq!(owner.tx.reclaim(&mut owner.pool), Ok(2));
    }
    let mut sent = machine.wire.take_all();
    sent.sort_by_key(|frame| frame[29]);
    let expected: Vec<_> = (0..count)
        .map(|pair| udp([6; 6], [10, 0, 0, pair], [10, 0, 1, pair], 90))
        .collect();
    assert_eq!(sent, expected);
    for pair in 0..count {
        release(&machine, &mut device, pair).unwrap();
        machine.memory.end(Lease(pair.into()));
    }
    machine.settle();
    machine.assert_clean();
}

/// An owner of a pair with nobody in between has both data halves from the control half.
#[test]
fn queues_come_with_memory_that_fits() {
    let machine = Machine::new(10);
    let mut pairs = [Pair::EMPTY; 1];
    let device = machine.with_link(QUEUES, &mut pairs);
    let lend = |len: usize| {
        let block = machine.memory.lend(DEVICE, 4096, Lease(1)).unwrap();
        block.split_at(len).unwrap().0
    };
    let pool_of = |layout: ArenaLayout| {
        let arena = machine.memory.lend_arena(DEVICE, layout, Lease(1)).unwrap();
        Pool::new(arena, vec![0; layout.count.into()].leak())
    };
    let pool = pool_of(Metadata::None.layout(96));
    let small = ArenaLayout {
        stride: 1024,
        ..Metadata::None.layout(96)
    };
    let is_made = |pair, lens: [usize; 3], pool: &Pool<'_>| {
        device.queues::<N>(pair, &lens.map(lend), pool).is_some()
    };
    assert!(is_made(0, [16 * N, 16 * N, 4], &pool));
    assert!(is_made(127, [16 * N, 16 * N, 4], &pool));
    assert!(!is_made(128, [16 * N, 16 * N, 4], &pool));
    for lens in [[32 * N, 16 * N, 4], [16 * N, 8 * N, 4], [16 * N, 16 * N, 0]] {
        assert!(!is_made(0, lens, &pool), "{lens:?}");
    }
    assert!(!is_made(0, [16 * N, 16 * N, 4], &pool_of(small)));
    let own = Metadata::Header.layout(96);
    assert_eq!((own.header, own.is_valid()), (16, true));
}

/// A claim begins with a queue that has no buffers, so those of a forwarder that was made before it come when it is armed.
#[test]
fn a_forwarder_that_is_made_before_the_claim_works_once_it_is_armed() {
    let machine = Machine::new(4);
    let mut pairs = [Pair::EMPTY; 2];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let lease = Lease(1);
    let arena = machine.memory.lend_arena(DEVICE, LAYOUT, lease).unwrap();
    let mut words = vec![0; LAYOUT.count.into()];
    let mut pool = Pool::new(arena, &mut words);
    let rings = Rings::new(&machine, [N, N], lease);
    let ring = rings.receive.memory();
    let own = forward::Rings {
        submissions: ring,
        completions: ring,
        transmit: rings.transmit.memory(),
        head: rings.head.memory(),
    };
    let bells = [Card::receive_tail(0), Card::transmit_tail(0)];
    let [receive_bell, transmit_bell] = bells.map(|offset| bell(&machine, offset, N));
    let bells = (receive_bell, transmit_bell);
    let mut forwarder = Forwarder::<_, _, N>::new(own, bells, &mut pool).unwrap();
    let of_card = rings.of_card(forwarder.posted());
    claim_rings(&machine, &mut device, 0, of_card).unwrap();
    forwarder.arm();
    machine.settle();
    for round in 0..100 {
        let frame = udp(MAC, [10, 0, 0, 1], [10, 0, 0, 2], 60 + round);
        machine.wire.send(&frame);
        machine.settle();
        let forwarded = forwarder.forward(16, |_| Verdict::Send);
        let one = Forwarded {
            sent: 1,
            dropped: 0,
        };
        assert_eq!(forwarded, Ok(one), "{round}");
        machine.settle();
        assert_eq!(machine.wire.take_all(), [frame], "{round}");
    }
    release(&machine, &mut device, 0).unwrap();
    machine.assert_clean();
}

/// Frames for a process arrive while its queue is taken back: once it is, the card leaves its memory alone, and another
/// may have the pair.
#[test]
fn a_pair_is_taken_back_under_traffic() {
    let machine = Machine::new(3);
    let mut pairs = [Pair::EMPTY; 2];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    for round in 0..20_u64 {
        let lease = Lease(round);
        let mut owned = claim(&machine, &mut device, 0, (lease, Metadata::None)).unwrap();
        let frame = |n: usize| udp(MAC, [10, 0, 0, 1], [10, 0, 0, 2], 100 + n);
        for n in 0..40 {
            machine.wire.send(&frame(n));
            let _is_room = owned.send(&frame(n), 60).unwrap();
        }
        machine.world.settle(round * 5);
        device.begin_release(0, machine.world.now()).unwrap();
        for n in 0..40 {
            machine.wire.send(&frame(n));
        }
        poll(&machine, |now| device.poll_release(0, now)).unwrap();
        machine.memory.end(lease);
        machine.settle();
        assert_eq!(machine.memory.escapes(), []);
        assert_eq!(owned.bury(), usize::from(LAYOUT.count));
    }
    machine.assert_clean();
}

/// A pair whose owner never looks does not keep another from its frames.
#[test]
fn a_full_queue_drops_its_own_frames_only() {
    let machine = Machine::new(4);
    let mut pairs = [Pair::EMPTY; 3];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut memory = [Filter::UNUSED; 8];
    let mut filters = Filters::new(&mut memory, 1);
    let matches = Matches::to(
        device.mac(),
        IpPrefix::V4(Ipv4Prefix::host([10, 0, 0, 1].into())),
    );
    let change = Change::Add {
        rule: RuleId::new(0, 0),
        matches,
        queue: QueueIndex::new(0),
    };
    filters.change(&device, change).unwrap();
    let [mut kernel, _lazy] =
        [0, 1].map(|pair| claim(&machine, &mut device, pair, (Lease(0), Metadata::None)).unwrap());
    device.set_counter(1, 5);
    for _ in 0..10 {
        for _ in 0..20 {
            machine
                .wire
                .send(&udp(MAC, [10, 0, 0, 9], [10, 0, 0, 1], 200));
        }
        machine
            .wire
            .send(&udp(MAC, [10, 0, 0, 9], [10, 0, 0, 3], 100));
        machine.settle();
        assert_eq!(kernel.receive().unwrap().len(), 1);
    }
    let mut sum = QueueStatistics::default();
    device.add_statistics(5, &mut sum);
    // All but one of the ring's buffers are filled, and the rest is dropped.
    let received = N as u64 - 1;
    assert_eq!((sum.received, sum.dropped), (received, 200 - received));
    assert_eq!(device.take_missed(), 0);
    machine.assert_clean();
}

#[test]
fn what_passes_is_counted() {
    let machine = Machine::new(5);
    let mut pairs = [Pair::EMPTY; 2];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::None)).unwrap();
    device.set_counter(0, 3);
    let mut sum = QueueStatistics::default();
    for round in 1..4 {
        for _ in 0..10 {
            machine
                .wire
                .send(&udp(MAC, [10, 0, 0, 9], [10, 0, 0, 1], 200));
            assert!(
                owned
                    .send(&udp(MAC, [10, 0, 0, 1], [10, 0, 0, 9], 100), 60)
                    .unwrap()
            );
        }
        machine.settle();
        assert_eq!(owned.receive().unwrap().len(), 10);
        owned.tx.reclaim(&mut owned.pool).unwrap();
        device.add_statistics(3, &mut sum);
        let expected = QueueStatistics {
            received: 10 * round,
            // With their CRCs.
            received_bytes: 10 * round * 204,
            dropped: 0,
            transmitted: 10 * round,
        };
        assert_eq!(sum, expected);
    }
    machine.assert_clean();
}

#[test]
fn interrupts_come_when_they_are_asked_for() {
    let machine = Machine::new(6);
    let mut pairs = [Pair::EMPTY; 2];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    machine.enable_interrupts(3);
    let taken = || -> Vec<u32> {
        machine.world.run_for(Duration::from_millis(1));
        let messages = machine.world.interrupts().take_all();
        messages.into_iter().map(|message| message.data).collect()
    };
    let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::None)).unwrap();
    let frame = udp(MAC, [10, 0, 0, 9], [10, 0, 0, 1], 200);
    let _before = taken();
    machine.wire.send(&frame);
    assert!(taken().is_empty(), "masked");
    device.arm(Vector::new(1).unwrap());
    assert_eq!(taken(), [0x41], "what arrived before is told");
    machine.wire.send(&frame);
    assert!(taken().is_empty(), "masked again by its message");
    device.arm(Vector::new(1).unwrap());
    assert_eq!(taken(), [0x41]);
    assert_eq!(owned.receive().unwrap().len(), 2);
    device.watch_port();
    machine.card.set_link(false);
    assert_eq!(taken(), [0x40]);
    assert!(device.take_cause().is_link());
    machine.assert_clean();
}

/// The headers of `udp`'s frames.
const HEADERS: Headers = Headers {
    mac_len: 14,
    ip: Ip::V4,
    ip_len: 20,
    l4: L4::Udp,
    l4_len: 8,
};

/// The sum over a frame's IP packet, with its pseudo header, as a receiver does it: 0 where it is right.
fn l4_sum(frame: &[u8]) -> u16 {
    let payload = &frame[34..];
    let mut bytes = frame[26..34].to_vec();
    bytes.extend([0, frame[23]]);
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    checksum(&bytes)
}

#[test]
fn checksums_are_made_and_tags_inserted() {
    let machine = Machine::new(7);
    let mut pairs = [Pair::EMPTY; 1];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::Header)).unwrap();
    for len in [60, 61, 700, 1400] {
        let mut frame = udp([6; 6], [10, 0, 0, 1], [10, 0, 0, 9], len);
        frame[24..26].fill(0);
        // The device takes the sum of the pseudo header as its start.
        let mut pseudo = frame[26..34].to_vec();
        pseudo.extend([0, 17]);
        pseudo.extend((len as u16 - 34).to_be_bytes());
        let start = !checksum(&pseudo);
        frame[40..42].copy_from_slice(&start.to_be_bytes());
        let request = Request::checksums(HEADERS);
        assert!(owned.send_with(&frame, 500, request.to_bytes()).unwrap());
        assert!(
            owned
                .send_with(&frame, 500, request.with_vlan(0x2064).to_bytes())
                .unwrap()
        );
        machine.settle();
        let sent = machine.wire.take_all();
        assert_eq!(sent.len(), 2);
        assert_eq!(
            (checksum(&sent[0][14..34]), l4_sum(&sent[0])),
            (0, 0),
            "{len}"
        );
        assert_eq!(sent[0][42..], frame[42..]);
        assert_eq!(sent[1][12..16], [0x81, 0, 0x20, 0x64]);
        assert_eq!([&sent[1][..12], &sent[1][16..]].concat(), sent[0]);
        owned.tx.reclaim(&mut owned.pool).unwrap();
    }
    machine.assert_clean();
}

#[test]
fn a_long_payload_is_cut_into_segments() {
    let machine = Machine::new(8);
    let mut pairs = [Pair::EMPTY; 1];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::Header)).unwrap();
    let headers = Headers {
        l4: L4::Tcp,
        l4_len: 20,
        ..HEADERS
    };
    for payload in [1, 1000, 1001, 5000] {
        let mut frame = udp([6; 6], [10, 0, 0, 1], [10, 0, 0, 9], 54 + payload);
        frame[16..18].fill(0);
        frame[23] = 6;
        frame[24..26].fill(0);
        frame[38..54].fill(0);
        frame[46] = 0x50;
        // ACK and PSH; the latter belongs to the last segment alone.
        frame[47] = 0x18;
        let mut pseudo = frame[26..34].to_vec();
        pseudo.extend([0, 6]);
        frame[50..52].copy_from_slice(&(!checksum(&pseudo)).to_be_bytes());
        let request = Request::segments(headers, 1000);
        assert!(owned.send_with(&frame, 2000, request.to_bytes()).unwrap());
        machine.settle();
        let sent = machine.wire.take_all();
        assert_eq!(sent.len(), payload.div_ceil(1000));
        let mut joined: Vec<u8> = Vec::new();
        for (number, segment) in sent.iter().enumerate() {
            let is_last = number + 1 == sent.len();
            let len = if is_last {
                payload - 1000 * number
            } else {
                1000
            };
            let segment = &segment[..54 + len];
            assert_eq!(segment[16..18], (40 + len as u16).to_be_bytes());
            assert_eq!(
                (checksum(&segment[14..34]), l4_sum(segment)),
                (0, 0),
                "{payload} {number}"
            );
            assert_eq!(segment[38..42], (1000 * number as u32).to_be_bytes());
            assert_eq!(segment[47], if is_last { 0x18 } else { 0x10 });
            joined.extend(&segment[54..]);
        }
        assert_eq!(joined, frame[54..]);
        owned.tx.reclaim(&mut owned.pool).unwrap();
    }
    machine.assert_clean();
}

#[test]
fn what_the_card_found_is_told() {
    let machine = Machine::new(9);
    let mut pairs = [Pair::EMPTY; 1];
    let mut device = machine.with_link(QUEUES, &mut pairs);
    let mut owned = claim(&machine, &mut device, 0, (Lease(1), Metadata::Header)).unwrap();
    let mut good = udp(MAC, [10, 0, 0, 9], [10, 0, 0, 1], 200);
    let sum = l4_sum(&good);
    good[40..42].copy_from_slice(&sum.to_be_bytes());
    let unsummed = udp(MAC, [10, 0, 0, 9], [10, 0, 0, 1], 200);
    let mut bad = good.clone();
    bad[100] ^= 1;
    let mut bad_ip = good.clone();
    bad_ip[22] ^= 1;
    for frame in [&good, &unsummed, &bad, &bad_ip] {
        machine.wire.send(frame);
    }
    machine.settle();
    let found = receive(&mut owned.rx, &mut owned.pool).unwrap();
    let sums: Vec<_> = found
        .iter()
        .map(|(_, header)| {
            let done = Received::from_bytes(header).completion;
            (done.ip_checksum(), done.l4_checksum())
        })
        .collect();
    let expected = [
        (Some(true), Some(true)),
        (Some(true), None),
        (Some(true), Some(false)),
        (Some(false), Some(true)),
    ];
    assert_eq!(sums, expected);
    machine.assert_clean();
}
