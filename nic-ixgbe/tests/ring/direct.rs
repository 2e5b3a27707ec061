//! Nobody between ring and device.

use std::collections::VecDeque;

use parakernel_core::{
    memory::{Pool, SegmentList},
    queue::{RxQueue, TxQueue},
    ring::RingSize,
};
use parakernel_nic_ixgbe::{
    descriptor::{Headers, Ip, L4},
    doorbell::Tail,
    error::RingError,
    offload::{Metadata, Received, Request},
    rx::Receiver,
    tx::Sender,
};
use proptest::prelude::*;

use crate::{
    card::{BUFFERS, Bus, Card, HEAD, N, RX_RING, TX_RING, TailCell},
    rig::{CAPACITY, LAYOUT, Step, frame, poll, pool, step, submit},
};

type Bell = Tail<TailCell>;

struct Rig {
    card: Card,
    rx: Receiver<'static, Bell, N>,
    tx: Sender<'static, Bell, N>,
    pool: Pool<'static>,
}

fn rig(metadata: Metadata) -> Rig {
    let card = Card::new(Bus::new());
    let bus = card.bus;
    let pool = pool(bus, BUFFERS);
    let size = RingSize::new(16).unwrap();
    let bell = |cell: &TailCell| Tail::new(cell.clone(), 0x18, size);
    let ring = bus.shared(RX_RING, 16 * N);
    let rx = Receiver::new(ring, ring, bell(&card.rdt), &LAYOUT, metadata).unwrap();
    assert_eq!(rx.posted(), 1024);
    let (ring, head) = (bus.shared(TX_RING, 16 * N), bus.shared(HEAD, 4));
    let tx = Sender::new(ring, head, bell(&card.tdt), pool.arena().again(), metadata).unwrap();
    Rig { card, rx, tx, pool }
}

proptest! {
    /// Whatever the order of events, frames arrive and leave as they were, once, in order; what does not fit is dropped
    /// by the device alone; and no buffer is lost.
    #[test]
    fn frames_pass_as_they_are(steps in prop::collection::vec(step(), 0..120)) {
        let Rig { mut card, mut rx, mut tx, mut pool } = rig(Metadata::None);
        let (mut arriving, mut leaving) = (VecDeque::new(), VecDeque::new());
        let mut left: VecDeque<Vec<u8>> = VecDeque::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send { len, part } => {
                    let frame = frame(number, len);
                    if submit(&mut tx, &mut pool, &frame, part, [0; 16]).unwrap() {
                        leaving.push_back(frame);
                    }
                }
                Step::DeviceSends(budget) => {
                    for sent in card.send(budget) {
                        prop_assert_eq!(sent.offloads, None);
                        left.push_back(sent.bytes);
                    }
                }
                Step::Reclaim => {
                    tx.reclaim(&mut pool).unwrap();
                }
                Step::Arrive(len) => {
                    let frame = frame(number, len);
                    let armed = card.armed();
                    let fits = card.receive(&frame);
                    prop_assert_eq!(fits, len.div_ceil(1024) <= armed);
                    if fits {
                        arriving.push_back(frame);
                    }
                }
                Step::Poll(budget) => {
                    for frame in poll(&mut rx, &mut pool, budget) {
                        prop_assert_eq!(Some(frame), arriving.pop_front());
                    }
                }
                Step::Arm => {
                    rx.arm(&mut pool);
                    prop_assert!(pool.free() == 0 || card.armed() + arriving.len() >= 1);
                }
            }
        }
        left.extend(card.send(usize::MAX).into_iter().map(|sent| sent.bytes));
        prop_assert_eq!(&left, &leaving);
        tx.reclaim(&mut pool).unwrap();
        prop_assert_eq!((tx.sent(), tx.in_flight()), (leaving.len() as u64, 0));
        loop {
            let frames = poll(&mut rx, &mut pool, 3);
            if frames.is_empty() {
                break;
            }
            for frame in frames {
                prop_assert_eq!(Some(frame), arriving.pop_front());
            }
        }
        prop_assert!(arriving.is_empty());
        // SAFETY: the device is the test's, and does nothing more.
        unsafe { rx.dismantle(&mut pool) };
        // SAFETY: as above.
        unsafe { tx.dismantle(&mut pool) };
        prop_assert_eq!(pool.free(), usize::from(LAYOUT.count));
    }

    /// A device that writes anything at all is met with an error or with frames that fit their buffers.
    #[test]
    fn lies_are_met_with_errors(words in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u16>()), 1..60)) {
        let Rig { card, mut rx, mut tx, mut pool } = rig(Metadata::Header);
        rx.arm(&mut pool);
        for (number, (first, second, head)) in words.into_iter().enumerate() {
            let at = RX_RING + 16 * (number % N) as u64;
            card.bus.set_word(at, first);
            card.bus.set_word(at + 8, second & 0xFFFF_07FF_FFFF_FFFF);
            card.bus.write(HEAD, &(u32::from(head) & 0x1F).to_le_bytes());
            submit(&mut tx, &mut pool, &frame(number, 100), 60, [0; 16]).unwrap();
            let mut list = [0; 40];
            let mut list = SegmentList::new(&mut list);
            let received = rx.poll(&mut pool, &mut list, 40);
            prop_assert!(list.iter().all(|segment| (1..=1024).contains(&segment.len())));
            list.clear_into(&mut pool);
            let reclaimed = tx.reclaim(&mut pool);
            if received.is_err() || reclaimed.is_err() {
                break;
            }
        }
        // SAFETY: the device is the test's, and does nothing more.
        unsafe { rx.dismantle(&mut pool) };
        // SAFETY: as above.
        unsafe { tx.dismantle(&mut pool) };
        prop_assert_eq!(pool.free(), usize::from(LAYOUT.count));
    }
}

#[test]
fn a_full_ring_tells_the_device_of_all_but_one() {
    let Rig {
        mut card,
        mut rx,
        mut tx,
        mut pool,
    } = rig(Metadata::None);
    assert_eq!(rx.arm(&mut pool), N);
    assert_eq!(card.armed(), N - 1);
    for number in 0..N - 1 {
        assert!(card.receive(&frame(number, 60)));
        assert!(submit(&mut tx, &mut pool, &frame(number, 60), 60, [0; 16]).unwrap());
    }
    assert!(!card.receive(&frame(0, 60)));
    assert!(!submit(&mut tx, &mut pool, &frame(0, 60), 60, [0; 16]).unwrap());
    assert_eq!(poll(&mut rx, &mut pool, 100).len(), N - 1);
    assert_eq!(card.armed(), N - 1);
    assert_eq!(card.send(100).len(), N - 1);
}

#[test]
fn a_damaged_frame_is_dropped_and_counted() {
    let Rig {
        mut card,
        mut rx,
        mut pool,
        ..
    } = rig(Metadata::None);
    rx.arm(&mut pool);
    let free = pool.free();
    assert!(card.receive(&frame(1, 100)));
    assert!(card.receive_as(&frame(2, 2000), 1 << 29, 0));
    assert!(card.receive(&frame(3, 100)));
    assert_eq!(poll(&mut rx, &mut pool, 10), [frame(1, 100), frame(3, 100)]);
    assert_eq!((rx.received(), rx.damaged()), (2, 1));
    assert_eq!((pool.free(), card.armed()), (free, N - 1));
}

#[test]
fn a_frame_stays_where_there_is_no_room_or_no_buffer_for_it() {
    let Rig {
        mut card,
        mut rx,
        mut pool,
        ..
    } = rig(Metadata::None);
    rx.arm(&mut pool);
    assert!(card.receive(&frame(1, 3000)));
    let mut words = [0; 2];
    let mut list = SegmentList::new(&mut words);
    assert_eq!(rx.poll(&mut pool, &mut list, 8), Ok(0));
    assert!(list.is_empty());
    let held: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    let mut words = [0; 4];
    let mut list = SegmentList::new(&mut words);
    assert_eq!(rx.poll(&mut pool, &mut list, 8), Ok(0));
    held.into_iter().for_each(|segment| pool.put(segment));
    assert_eq!(rx.poll(&mut pool, &mut list, 8), Ok(1));
    list.clear_into(&mut pool);
}

#[test]
fn a_length_that_was_not_posted_is_refused() {
    for len in [0_u64, 1025, 0xFFFF] {
        let Rig {
            card,
            mut rx,
            mut pool,
            ..
        } = rig(Metadata::None);
        rx.arm(&mut pool);
        card.bus.set_word(RX_RING + 8, 3 | len << 32);
        let mut words = [0; 4];
        let result = rx.poll(&mut pool, &mut SegmentList::new(&mut words), 8);
        let len = u32::try_from(len).unwrap();
        assert_eq!(result, Err(RingError::Length { len, posted: 1024 }));
    }
}

#[test]
fn a_frame_without_an_end_is_refused() {
    let Rig {
        card,
        mut rx,
        mut pool,
        ..
    } = rig(Metadata::None);
    rx.arm(&mut pool);
    for slot in 0..N as u64 {
        card.bus.set_word(RX_RING + 16 * slot + 8, 1 | 1024 << 32);
    }
    let mut words = [0; 32];
    let result = rx.poll(&mut pool, &mut SegmentList::new(&mut words), 8);
    assert_eq!(result, Err(RingError::Endless));
}

#[test]
fn a_head_beyond_what_was_given_is_refused() {
    for (head, is_right) in [
        (0_u32, true),
        (3, true),
        (4, false),
        (15, false),
        (16, false),
        (u32::MAX, false),
    ] {
        let Rig {
            card,
            mut tx,
            mut pool,
            ..
        } = rig(Metadata::None);
        for number in 0..3 {
            assert!(submit(&mut tx, &mut pool, &frame(number, 60), 60, [0; 16]).unwrap());
        }
        card.bus.write(HEAD, &head.to_le_bytes());
        let result = tx.reclaim(&mut pool);
        assert_eq!(result.is_ok(), is_right, "{head}");
        assert_eq!(result.ok(), is_right.then_some(head as usize));
    }
}

#[test]
fn what_can_never_be_sent_is_refused_and_stays() {
    let Rig {
        mut tx,
        mut pool,
        mut card,
        ..
    } = rig(Metadata::None);
    for (len, part) in [(16, 16), (16, 1), (17 * CAPACITY, CAPACITY)] {
        let count = len.div_ceil(part);
        let result = submit(&mut tx, &mut pool, &frame(1, len), part, [0; 16]);
        assert_eq!(result, Err(RingError::Frame { segments: count }));
    }
    assert!(card.send(10).is_empty());
    assert!(submit(&mut tx, &mut pool, &frame(1, 17), 17, [0; 16]).unwrap());
    assert_eq!(card.send(10).len(), 1);
}

#[test]
fn offloads_go_by_a_context_that_is_set_once() {
    let Rig {
        mut card,
        mut tx,
        mut pool,
        ..
    } = rig(Metadata::Header);
    let headers = Headers {
        mac_len: 14,
        ip: Ip::V4,
        ip_len: 20,
        l4: L4::Tcp,
        l4_len: 20,
    };
    let request = Request::segments(headers, 500).with_vlan(7);
    for number in 0..2 {
        assert!(
            submit(
                &mut tx,
                &mut pool,
                &frame(number, 1500),
                800,
                request.to_bytes()
            )
            .unwrap()
        );
    }
    assert!(submit(&mut tx, &mut pool, &frame(2, 100), 800, [0; 16]).unwrap());
    // Five data descriptors and one context.
    assert_eq!(card.tdt.0.get(), 6);
    let context = [
        7 << 16 | 14 << 9 | 20,
        500 << 48 | 20 << 40 | 1 << 29 | 2 << 20 | 1 << 11 | 1 << 10,
    ];
    let offloads = Some((context, 1 << 30 | 1 << 31 | 1 << 39 | 1 << 40 | 1 << 41));
    let sent = card.send(100);
    let seen: Vec<_> = sent.iter().map(|sent| sent.offloads).collect();
    assert_eq!(seen, [offloads, offloads, None]);
    assert_eq!(sent[1].bytes, frame(1, 1500));
    assert_eq!(tx.reclaim(&mut pool), Ok(5));
    assert_eq!((tx.in_flight(), tx.sent()), (0, 3));
}

#[test]
fn a_header_tells_what_the_device_found() {
    let Rig {
        mut card,
        mut rx,
        mut pool,
        ..
    } = rig(Metadata::Header);
    rx.arm(&mut pool);
    assert!(card.receive_as(
        &frame(1, 1500),
        1 << 3 | 1 << 6 | 5 << 48,
        0x1234_5678_0000_0002
    ));
    let mut words = [0; 4];
    let mut list = SegmentList::new(&mut words);
    assert_eq!(rx.poll(&mut pool, &mut list, 8), Ok(1));
    let header = pool.arena().header(&list.segments()[0]);
    let received = Received::from_bytes(header.first_chunk().unwrap());
    assert_eq!(received.completion.vlan(), Some(5));
    assert_eq!(received.completion.ip_checksum(), Some(true));
    assert_eq!(received.completion.l4_checksum(), None);
    assert_eq!(received.classification.rss_hash(), Some(0x1234_5678));
    list.clear_into(&mut pool);
}
