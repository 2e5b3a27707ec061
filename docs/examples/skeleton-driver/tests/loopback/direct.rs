//! Bring-up, and a queue whose owner has the device's ring and doorbell.

use core::task::Poll;

use parakernel_core::{
    access::AccessMode,
    address::NodeId,
    device::{Operation, QueueDevice, QueueIndex, QueueSpec, Vector},
    handle::LeaseId,
    memory::{ArenaLayout, Pool, SegmentList},
    queue::{RxQueue, TxQueue},
    ring::RingSize,
};
use parakernel_mock_hw::{
    Memory, World,
    memory::{Lease, RequesterId},
};
use skeleton_driver::{
    device::Mirror,
    error::{BringUpError, QueueError},
    queue::Queue,
};

use crate::model::{Model, Trouble};

pub(crate) const CARD: RequesterId = RequesterId(1);
pub(crate) const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: 0,
    count: 16,
};
const QUEUE: QueueIndex = QueueIndex::new(0);

/// A device of which the kernel owns a ring of 8 entries, brought up.
pub(crate) fn bring_up<'m>(
    world: &World,
    memory: &'m Memory,
    trouble: Trouble,
) -> Result<Mirror<'m, Model, 8>, BringUpError> {
    let ring = memory.lend(CARD, 128, Lease(1)).unwrap();
    let model = Model::new(world, memory, CARD, trouble);
    Mirror::bring_up(model, ring, NodeId::new(0), &mut &*world)
}

/// Begins an operation and polls it to its end.
pub(crate) fn perform(world: &World, device: &mut impl QueueDevice, operation: Operation) {
    assert!(device.begin(operation, world.now()).is_ok());
    for _ in 0..1000 {
        if let Poll::Ready(result) = device.poll(operation, world.now()) {
            return assert!(result.is_ok());
        }
        world.step();
    }
    panic!("{operation:?} does not end");
}

pub(crate) fn claim(mode: AccessMode) -> Operation {
    let size = RingSize::new(8).unwrap();
    Operation::Claim(QueueSpec {
        lease: LeaseId::new(0, 0),
        queue: QUEUE,
        first_ring: size,
        second_ring: size,
        first_mode: mode,
        second_mode: mode,
        vector: Vector::None,
        volume: None,
    })
}

/// A frame with two addresses and a number.
pub(crate) fn frame(number: u8) -> [u8; 60] {
    let mut frame = [number; 60];
    frame[..6].fill(0xd0);
    frame[6..12].fill(0x50);
    frame
}

/// What becomes of it in the mirror.
pub(crate) fn mirrored(number: u8) -> [u8; 60] {
    let mut frame = frame(number);
    frame[..6].fill(0x50);
    frame[6..12].fill(0xd0);
    frame
}

/// Sends `count` frames, as many at a time as the ring takes, and checks what comes back. `publish` stands between.
pub(crate) fn exchange(
    world: &World,
    queue: &mut (impl TxQueue<Error = QueueError> + RxQueue<Error = QueueError>),
    pool: &mut Pool<'_>,
    count: u8,
    mut publish: impl FnMut(),
) {
    let (mut words, mut expected) = ([0; 16], 0);
    let mut frames = SegmentList::new(&mut words);
    for number in 0..count {
        let mut segment = pool.take().unwrap().with_len(60);
        pool.arena()
            .bytes_mut(&mut segment)
            .copy_from_slice(&frame(number));
        frames.push(segment).unwrap();
        if number % 5 != 4 && number != count - 1 {
            continue;
        }
        queue.submit(&mut frames).unwrap();
        publish();
        world.settle(1000);
        queue.poll(pool, &mut frames, 16).unwrap();
        while let Some(segment) = frames.pop() {
            assert_eq!(pool.arena().bytes(&segment), mirrored(expected));
            expected += 1;
            pool.put(segment);
        }
    }
    assert_eq!(expected, count);
}

#[test]
fn frames_come_back_mirrored_across_the_wrap() {
    let world = World::new(1);
    let memory = world.memory(1 << 20);
    let mut device = bring_up(&world, &memory, Trouble::None).unwrap();
    perform(&world, &mut device, claim(AccessMode::Direct));

    let arena = memory.lend_arena(CARD, LAYOUT, Lease(2)).unwrap();
    let ring = device.ring().memory();
    let mut queue = Queue::<_, 8>::new(ring, ring, device.doorbell(), &arena).unwrap();
    let (mut words, count) = ([0; 16], 100);
    let mut pool = Pool::new(arena, &mut words);
    exchange(&world, &mut queue, &mut pool, count, || {});
    assert_eq!(pool.free(), 16);
    assert!(memory.escapes().is_empty());
}

#[test]
fn a_device_that_returns_more_than_it_had_ends_the_queue() {
    let world = World::new(2);
    let memory = world.memory(1 << 20);
    let mut device = bring_up(&world, &memory, Trouble::LongLength).unwrap();
    perform(&world, &mut device, claim(AccessMode::Direct));

    let arena = memory.lend_arena(CARD, LAYOUT, Lease(2)).unwrap();
    let ring = device.ring().memory();
    let mut queue = Queue::<_, 8>::new(ring, ring, device.doorbell(), &arena).unwrap();
    let (mut stack, mut list) = ([0; 16], [0; 4]);
    let mut pool = Pool::new(arena, &mut stack);
    let mut frames = SegmentList::new(&mut list);
    frames.push(pool.take().unwrap().with_len(60)).unwrap();
    assert_eq!(queue.submit(&mut frames), Ok(1));
    world.settle(100);
    let lie = QueueError::Length {
        returned: 61,
        given: 60,
    };
    assert_eq!(queue.poll(&mut pool, &mut frames, 4), Err(lie));
}

#[test]
fn a_frame_that_cannot_be_sent_stays_first() {
    let world = World::new(3);
    let memory = world.memory(1 << 20);
    let device = bring_up(&world, &memory, Trouble::None).unwrap();
    let arena = memory.lend_arena(CARD, LAYOUT, Lease(2)).unwrap();
    let ring = device.ring().memory();
    let mut queue = Queue::<_, 8>::new(ring, ring, device.doorbell(), &arena).unwrap();
    let (mut stack, mut list) = ([0; 16], [0; 4]);
    let mut pool = Pool::new(arena, &mut stack);
    let mut frames = SegmentList::new(&mut list);
    frames.push(pool.take().unwrap().with_len(13)).unwrap();
    let error = QueueError::Frame { len: 13 };
    assert_eq!(queue.submit(&mut frames), Err(error));
    assert_eq!(frames.len(), 1);
}

#[test]
fn bring_up_of_a_device_that_is_stuck_ends() {
    let world = World::new(4);
    let memory = world.memory(1 << 20);
    let stuck = bring_up(&world, &memory, Trouble::Stuck);
    assert!(matches!(stuck, Err(BringUpError::Reset(_))));
}

#[test]
fn nothing_moves_once_the_queue_is_stopped() {
    let world = World::new(5);
    let memory = world.memory(1 << 20);
    let mut device = bring_up(&world, &memory, Trouble::None).unwrap();
    perform(&world, &mut device, claim(AccessMode::Direct));
    let arena = memory.lend_arena(CARD, LAYOUT, Lease(2)).unwrap();
    let ring = device.ring().memory();
    let mut queue = Queue::<_, 8>::new(ring, ring, device.doorbell(), &arena).unwrap();
    let (mut stack, mut list) = ([0; 16], [0; 8]);
    let mut pool = Pool::new(arena, &mut stack);
    let mut frames = SegmentList::new(&mut list);
    for _ in 0..8 {
        frames.push(pool.take().unwrap().with_len(60)).unwrap();
    }
    assert_eq!(queue.submit(&mut frames), Ok(8));
    world.step();

    perform(&world, &mut device, Operation::Stop(QUEUE));
    perform(&world, &mut device, Operation::Flush(QUEUE));
    memory.end(Lease(1));
    memory.end(Lease(2));
    world.settle(1000);
    assert!(memory.escapes().is_empty());

    // The audit is not blind: a queue that was not stopped is caught.
    perform(&world, &mut device, claim(AccessMode::Direct));
    let mut again = Queue::<_, 8>::new(ring, ring, device.doorbell(), pool.arena()).unwrap();
    frames.push(pool.take().unwrap().with_len(60)).unwrap();
    assert_eq!(again.submit(&mut frames), Ok(1));
    world.settle(1000);
    assert!(!memory.escapes().is_empty());
}
