//! The fixed way: frames leave from the buffers that they came into.

use std::collections::VecDeque;

use parakernel_core::ring::RingSize;
use parakernel_nic_ixgbe::{
    doorbell::Tail,
    error::RingError,
    forward::{Forwarder, Rings, Verdict},
};
use proptest::prelude::*;

use crate::{
    card::{BUFFERS, Bus, Card, HEAD, N, RX_RING, TX_RING, TailCell},
    rig::{CAPACITY, frame, pool},
};

type Bell = Tail<TailCell>;

fn rig() -> (
    Card,
    Forwarder<'static, Bell, Bell, N>,
    parakernel_core::memory::Pool<'static>,
) {
    let card = Card::new(Bus::new());
    let bus = card.bus;
    let mut pool = pool(bus, BUFFERS);
    let size = RingSize::new(16).unwrap();
    let bell = |cell: &TailCell| Tail::new(cell.clone(), 0x18, size);
    let ring = bus.shared(RX_RING, 16 * N);
    let rings = Rings {
        submissions: ring,
        completions: ring,
        transmit: bus.shared(TX_RING, 16 * N),
        head: bus.shared(HEAD, 4),
    };
    let bells = (bell(&card.rdt), bell(&card.tdt));
    let mut forwarder = Forwarder::new(rings, bells, &mut pool).unwrap();
    forwarder.arm();
    (card, forwarder, pool)
}

/// The last byte says what becomes of a frame; what is sent says that it was looked at.
fn look(frame: &mut [u8]) -> Verdict {
    frame[0] = 0xEE;
    match frame.last() {
        Some(last) if last % 3 == 0 => Verdict::Drop,
        _ => Verdict::Send,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Receive { len: usize, is_damaged: bool },
    Forward { budget: usize },
    Send { budget: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![8 => 17_usize..=CAPACITY, 1 => 1_usize..17, 1 => CAPACITY..3 * CAPACITY];
    prop_oneof![
        6 => (len, prop::bool::weighted(0.1)).prop_map(|(len, is_damaged)| Step::Receive { len, is_damaged }),
        2 => (0_usize..20).prop_map(|budget| Step::Forward { budget }),
        2 => (0_usize..20).prop_map(|budget| Step::Send { budget }),
    ]
}

proptest! {
    /// Whole good frames that are to be sent leave once, in order, changed as they were; all others are dropped and counted;
    /// and no buffer is lost, so that in the end a full ring's worth is received again.
    #[test]
    fn frames_leave_from_where_they_came(steps in prop::collection::vec(step(), 0..150)) {
        let (mut card, mut forwarder, mut pool) = rig();
        let free = pool.free();
        let mut waiting = VecDeque::new();
        let mut leaving: VecDeque<Vec<u8>> = VecDeque::new();
        let mut all = steps;
        // In the end all is forwarded, sent, and forwarded once more, to take back what was sent.
        all.extend([1, 2, 3].map(|_| [Step::Forward { budget: 64 }, Step::Send { budget: 64 }]).concat());
        all.push(Step::Forward { budget: 64 });
        for (number, step) in all.into_iter().enumerate() {
            match step {
                Step::Receive { len, is_damaged } => {
                    let frame = frame(number, len);
                    if card.receive_as(&frame, u64::from(is_damaged) << 29, 0) {
                        waiting.push_back((frame, is_damaged));
                    }
                }
                Step::Forward { budget } => {
                    let forwarded = forwarder.forward(budget, look).unwrap();
                    let count = forwarded.sent + forwarded.dropped;
                    prop_assert_eq!(count, budget.min(waiting.len()));
                    let mut sent = 0;
                    for (mut frame, is_damaged) in waiting.drain(..count) {
                        let is_whole = (17..=CAPACITY).contains(&frame.len()) && !is_damaged;
                        if is_whole && look(&mut frame) == Verdict::Send {
                            leaving.push_back(frame);
                            sent += 1;
                        }
                    }
                    prop_assert_eq!(forwarded.sent, sent);
                }
                Step::Send { budget } => {
                    for sent in card.send(budget) {
                        prop_assert_eq!(Some(sent.bytes), leaving.pop_front());
                    }
                }
            }
        }
        prop_assert!(waiting.is_empty() && leaving.is_empty());
        prop_assert_eq!((forwarder.in_flight(), card.armed()), (0, N - 1));
        // SAFETY: the device is the test's, and does nothing more.
        let _bells = unsafe { forwarder.dismantle(&mut pool) };
        prop_assert_eq!(pool.free(), free + N);
    }
}

#[test]
fn a_slot_is_not_read_again_before_it_is_armed_again() {
    let (mut card, mut forwarder, _pool) = rig();
    for number in 0..N - 1 {
        assert!(card.receive(&frame(number, 61)));
    }
    let forwarded = forwarder.forward(64, |_| Verdict::Send).unwrap();
    assert_eq!((forwarded.sent, forwarded.dropped), (N - 1, 0));
    // Nothing was sent yet, so nothing is armed, and what the ring still says is old.
    assert!(!card.receive(&frame(0, 61)));
    assert_eq!(
        forwarder.forward(64, |_| Verdict::Send),
        Ok(Default::default())
    );
    assert_eq!(card.send(64).len(), N - 1);
    assert_eq!(
        forwarder.forward(64, |_| Verdict::Send),
        Ok(Default::default())
    );
    assert_eq!(card.armed(), N - 1);
}

#[test]
fn a_device_that_breaks_the_rules_is_found_out() {
    let (card, mut forwarder, _pool) = rig();
    card.bus.set_word(RX_RING + 8, 3 | 2000 << 32);
    let length = RingError::Length {
        len: 2000,
        posted: 1024,
    };
    assert_eq!(forwarder.forward(1, |_| Verdict::Send), Err(length));
    let (card, mut forwarder, _pool) = rig();
    card.bus.write(HEAD, &1_u32.to_le_bytes());
    let head = RingError::Head {
        head: 1,
        outstanding: 0,
    };
    assert_eq!(forwarder.forward(1, |_| Verdict::Send), Err(head));
}
