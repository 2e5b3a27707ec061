//! Both sides of a virtual queue, and processes that lie about it.
#![expect(
    clippy::unwrap_used,
    unsafe_code,
    reason = "the helpers of a test may panic as the test itself; memory is shared as between processes"
)]

extern crate alloc;

use alloc::collections::VecDeque;
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use parakernel_core::{
    abi::{LeaseRing, SharedDoorbell, StatusPage, SubmissionPage},
    address::Iova,
    memory::{Arena, ArenaLayout, Pool, SegmentList, SharedMemory},
    queue::{RxQueue, TxQueue},
    ring::{Position, RingSize},
    validate::Violation,
    virtual_queue::{
        Delivery, ReceivePort, TransmitPort, VirtualLayout, VirtualQueueError, VirtualReceiver,
        VirtualSender,
    },
};
use proptest::prelude::*;

const LAYOUT: VirtualLayout = VirtualLayout {
    entries: RingSize::new(4).unwrap(),
    slot_bytes: 96,
};
const BUFFERS: ArenaLayout = ArenaLayout {
    stride: 64,
    headroom: 24,
    header: 12,
    count: 12,
};

/// Memory that both sides map, for as long as the test runs.
fn shared(bytes: usize) -> SharedMemory<'static> {
    let words: &[AtomicU64] =
        Vec::leak((0..bytes.div_ceil(8)).map(|_| AtomicU64::new(0)).collect());
    // SAFETY: atomics that are never freed.
    unsafe { SharedMemory::new(NonNull::from(words).cast(), bytes) }
}

fn pool() -> Pool<'static> {
    let memory: &'static mut [u8] = Vec::leak(vec![0; BUFFERS.bytes()]);
    // SAFETY: never freed, and used through this arena only.
    let arena = unsafe { Arena::new(NonNull::from(memory).cast(), Iova::new(0), BUFFERS) };
    Pool::new(arena.unwrap(), Vec::leak(vec![0; 12]))
}

/// A queue pair with both of its sides.
struct Pair {
    submission: &'static SubmissionPage,
    status: &'static StatusPage,
    receive_memory: SharedMemory<'static>,
    transmit_memory: SharedMemory<'static>,
    receiver: VirtualReceiver<'static, SharedDoorbell<'static>>,
    sender: VirtualSender<'static, SharedDoorbell<'static>>,
    receive_port: ReceivePort<'static>,
    transmit_port: TransmitPort<'static>,
    pool: Pool<'static>,
}

impl Pair {
    fn new() -> Self {
        let (submission, status) = (Box::leak(Box::default()), Box::leak(Box::default()));
        let (receive_memory, transmit_memory) = (shared(LAYOUT.bytes()), shared(LAYOUT.bytes()));
        let doorbell = |ring| SharedDoorbell::new(submission, status, ring);
        let pool = pool();
        let mut pair = Self {
            receiver: VirtualReceiver::new(receive_memory, LAYOUT, doorbell(LeaseRing::First))
                .unwrap(),
            sender: VirtualSender::new(
                transmit_memory,
                LAYOUT,
                doorbell(LeaseRing::Second),
                pool.arena().again(),
                Vec::leak(vec![0; 12]),
            )
            .unwrap(),
            receive_port: ReceivePort::new(receive_memory, LAYOUT).unwrap(),
            transmit_port: TransmitPort::new(transmit_memory, LAYOUT).unwrap(),
            submission,
            status,
            receive_memory,
            transmit_memory,
            pool,
        };
        assert_eq!(pair.receiver.arm(&mut pair.pool), 4);
        assert_eq!(pair.receiver.arm(&mut pair.pool), 0);
        pair
    }

    fn tail(&self, ring: LeaseRing) -> Position {
        Position::new(self.submission.tails[ring as usize].load(Relaxed))
    }

    fn accept(&self, ring: LeaseRing, position: Position) {
        self.status.accepted[ring as usize].store(position.as_u32(), Relaxed);
    }

    fn deliver(&mut self, frame: &[u8]) -> Delivery {
        self.receive_port
            .offer(self.tail(LeaseRing::First))
            .unwrap();
        let delivery = self.receive_port.deliver(frame);
        self.accept(LeaseRing::First, self.receive_port.filled());
        delivery
    }

    /// The frames that the process finds, put together again.
    fn receive(&mut self, budget: usize) -> Vec<Vec<u8>> {
        let mut words = [0; 8];
        let mut list = SegmentList::new(&mut words);
        let count = self
            .receiver
            .poll(&mut self.pool, &mut list, budget)
            .unwrap();
        let mut frames = vec![Vec::new()];
        while let Some(segment) = list.pop() {
            frames
                .last_mut()
                .unwrap()
                .extend_from_slice(self.pool.arena().bytes(&segment));
            if !segment.has_more() {
                frames.push(Vec::new());
            }
            self.pool.put(segment);
        }
        frames.pop();
        assert_eq!(frames.len(), count);
        frames
    }

    /// Sends a frame in segments of up to `piece` bytes; `Ok(false)` where the queue has no room now.
    fn send(&mut self, frame: &[u8], piece: usize) -> Result<bool, VirtualQueueError> {
        let mut words = [0; 12];
        let mut list = SegmentList::new(&mut words);
        let pieces = frame.chunks(piece).len();
        for (number, bytes) in frame.chunks(piece).enumerate() {
            let Some(segment) = self.pool.take() else {
                break;
            };
            let mut segment = segment.with_len(bytes.len()).with_more(number + 1 < pieces);
            self.pool
                .arena()
                .bytes_mut(&mut segment)
                .copy_from_slice(bytes);
            list.push(segment).unwrap();
        }
        let sent = self.sender.submit(&mut list);
        list.clear_into(&mut self.pool);
        self.sender.reclaim(&mut self.pool).unwrap();
        sent.map(|count| count == 1)
    }

    fn taken(&mut self, budget: usize) -> Result<Vec<Vec<u8>>, Violation> {
        let mut frames = Vec::new();
        let mut buffer = [0; 96];
        let tail = self.tail(LeaseRing::Second);
        let each = |frame: &[u8]| {
            frames.push(frame.to_vec());
            Ok(true)
        };
        self.transmit_port.take(tail, budget, &mut buffer, each)?;
        self.accept(LeaseRing::Second, self.transmit_port.emptied());
        Ok(frames)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(Vec<u8>),
    Receive(usize),
    Send(Vec<u8>, usize),
    Take(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let frame = || prop::collection::vec(any::<u8>(), 14..=96);
    prop_oneof![
        frame().prop_map(Step::Deliver),
        (0_usize..4).prop_map(Step::Receive),
        (frame(), 10_usize..=40).prop_map(|(frame, piece)| Step::Send(frame, piece)),
        (0_usize..4).prop_map(Step::Take),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Each direction behaves like a queue of four frames.
    #[test]
    fn frames_arrive_whole_and_in_order(steps in prop::collection::vec(step(), 0..80)) {
        let mut pair = Pair::new();
        let (mut inbound, mut outbound) = (VecDeque::new(), VecDeque::new());
        for step in steps {
            match step {
                Step::Deliver(frame) => {
                    let expected = if inbound.len() < 4 { Delivery::Delivered } else { Delivery::Full };
                    prop_assert_eq!(pair.deliver(&frame), expected);
                    if expected == Delivery::Delivered {
                        inbound.push_back(frame);
                    }
                }
                Step::Receive(budget) => {
                    let frames = pair.receive(budget);
                    prop_assert!(frames.len() == budget.min(inbound.len()) || frames.len() >= 2);
                    for frame in frames {
                        prop_assert_eq!(Some(frame), inbound.pop_front());
                    }
                }
                Step::Send(frame, piece) => {
                    let sent = pair.send(&frame, piece).unwrap();
                    prop_assert_eq!(sent, outbound.len() < 4);
                    if sent {
                        outbound.push_back(frame);
                    }
                }
                Step::Take(budget) => {
                    let frames = pair.taken(budget).unwrap();
                    prop_assert_eq!(frames.len(), budget.min(outbound.len()));
                    for frame in frames {
                        prop_assert_eq!(Some(frame), outbound.pop_front());
                    }
                }
            }
            prop_assert_eq!(pair.pool.free(), 12);
        }
    }

    /// Whatever a process writes, the kernel takes at most a ring's worth of whole frames, or says what was wrong.
    #[test]
    fn a_lying_process_is_found_out(
        tails in prop::collection::vec(prop_oneof![4 => 0_u32..12, 1 => any::<u32>()], 1..6),
        lengths in prop::collection::vec(prop_oneof![8 => 14_u32..=96, 1 => 90_u32..110, 1 => any::<u32>()], 4),
    ) {
        let mut pair = Pair::new();
        for (slot, len) in lengths.iter().enumerate() {
            pair.transmit_memory.view::<AtomicU32>(slot * 4).unwrap().store(*len, Relaxed);
        }
        let mut emptied = 0_u32;
        for tail in tails {
            pair.submission.tails[1].store(tail, Relaxed);
            let claimed = tail.wrapping_sub(emptied);
            let of = |n: u32| lengths[(emptied.wrapping_add(n) % 4) as usize];
            let all_fit = claimed <= 4 && (0..claimed).all(|n| (14..=96).contains(&of(n)));
            match pair.taken(usize::MAX) {
                Ok(frames) => {
                    prop_assert!(all_fit);
                    prop_assert!(frames.iter().zip(0..).all(|(frame, n)| frame.len() == of(n) as usize));
                    emptied = tail;
                }
                Err(Violation::TailJump { .. }) => prop_assert!(claimed > 4),
                Err(Violation::Length { len }) => prop_assert!(!(14..=96).contains(&len)),
                Err(other) => prop_assert!(false, "{other:?}"),
            }
            if !all_fit {
                break;
            }
        }
    }

    /// Slots are offered once, and never more than there are.
    #[test]
    fn a_process_offers_what_it_has(claims in prop::collection::vec((any::<u32>(), any::<bool>(), 0_u32..3), 1..20)) {
        let mut port = ReceivePort::new(shared(LAYOUT.bytes()), LAYOUT).unwrap();
        let (mut offered, mut filled) = (0_u32, 0_u32);
        for (claim, wild, frames) in claims {
            let claim = if wild { claim } else { offered + claim % 6 };
            let honest = claim >= offered && claim <= filled + 4;
            prop_assert_eq!(port.offer(Position::new(claim)).is_ok(), honest);
            if honest {
                offered = claim;
            }
            for _ in 0..frames {
                let expected = if filled < offered { Delivery::Delivered } else { Delivery::Full };
                prop_assert_eq!(port.deliver(&[0; 60]), expected);
                filled += u32::from(expected == Delivery::Delivered);
            }
        }
    }
}

#[test]
fn a_frame_that_does_not_fit_is_not_carried() {
    let mut pair = Pair::new();
    assert_eq!(pair.deliver(&[0; 97]), Delivery::TooLong);
    assert_eq!(
        pair.send(&[0; 97], 40),
        Err(VirtualQueueError::Length { len: 97 })
    );
    assert_eq!(pair.pool.free(), 12);
    assert_eq!(pair.receive(4).len(), 0);
}

#[test]
fn a_frame_waits_for_buffers_and_room() {
    let mut pair = Pair::new();
    pair.deliver(&[7; 90]);
    let held: Vec<_> = core::iter::from_fn(|| pair.pool.take()).take(10).collect();
    assert_eq!(
        pair.receive(4).len(),
        0,
        "three buffers are needed, two are there"
    );
    for segment in held {
        pair.pool.put(segment);
    }
    let mut words = [0; 2];
    let mut list = SegmentList::new(&mut words);
    assert_eq!(pair.receiver.poll(&mut pair.pool, &mut list, 4), Ok(0));
    assert_eq!(pair.receive(4), [vec![7; 90]]);
}

#[test]
fn a_frame_that_is_refused_stays_first() {
    let mut pair = Pair::new();
    pair.send(&[1; 20], 40).unwrap();
    pair.send(&[2; 20], 40).unwrap();
    let tail = pair.tail(LeaseRing::Second);
    let mut buffer = [0; 96];
    let full = |_: &[u8]| Ok(false);
    assert_eq!(pair.transmit_port.take(tail, 4, &mut buffer, full), Ok(0));
    assert_eq!(pair.taken(1).unwrap(), [vec![1; 20]]);
    let found = Violation::Length { len: 1 };
    let spoofed = |_: &[u8]| Err(found);
    assert_eq!(
        pair.transmit_port.take(tail, 4, &mut buffer, spoofed),
        Err(found)
    );
    assert_eq!(pair.taken(4).unwrap(), [vec![2; 20]]);
}

#[test]
fn what_the_kernel_cannot_mean_is_an_error() {
    let mut pair = Pair::new();
    pair.status.accepted[0].store(5, Relaxed);
    let mut words = [0; 4];
    let mut list = SegmentList::new(&mut words);
    let polled = pair.receiver.poll(&mut pair.pool, &mut list, 4);
    assert_eq!(polled, Err(VirtualQueueError::Protocol));
    pair.status.accepted[0].store(1, Relaxed);
    pair.receive_memory
        .view::<AtomicU32>(0)
        .unwrap()
        .store(97, Relaxed);
    let polled = pair.receiver.poll(&mut pair.pool, &mut list, 4);
    assert_eq!(polled, Err(VirtualQueueError::Protocol));
    pair.status.accepted[1].store(1, Relaxed);
    assert_eq!(pair.send(&[0; 20], 40), Err(VirtualQueueError::Protocol));
}

#[test]
fn layouts_that_do_not_fit_are_refused() {
    assert!(ReceivePort::new(shared(LAYOUT.bytes() - 8), LAYOUT).is_none());
    for slot_bytes in [0, 12] {
        let layout = VirtualLayout {
            slot_bytes,
            ..LAYOUT
        };
        assert!(TransmitPort::new(shared(4096), layout).is_none());
    }
}
