//! What tests of the data half share: an arena, its pool, frames.

use parakernel_core::{
    address::Iova,
    memory::{Arena, ArenaLayout, Pool, SegmentList},
    queue::{RxQueue, TxQueue},
};
use parakernel_nic_ixgbe::error::RingError;

use crate::card::{BUFFERS, Bus};

pub(crate) const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 1088,
    headroom: 64,
    header: 16,
    count: 64,
};
pub(crate) const CAPACITY: usize = 1024;

/// A pool of the buffers at [`BUFFERS`], which processes know by `iova`.
pub(crate) fn pool(bus: Bus, iova: u64) -> Pool<'static> {
    assert!(bus.host(BUFFERS + LAYOUT.bytes() as u64 - 1) > bus.host(BUFFERS));
    // SAFETY: leaked memory, used through this arena and by the device only.
    let arena = unsafe { Arena::new(bus.host(BUFFERS), Iova::new(iova), LAYOUT) }.unwrap();
    Pool::new(arena, vec![0; LAYOUT.count.into()].leak())
}

/// Polls for frames and takes their bytes.
pub(crate) fn poll(
    rx: &mut impl RxQueue<Error = RingError>,
    pool: &mut Pool<'_>,
    budget: usize,
) -> Vec<Vec<u8>> {
    let mut words = [0; 32];
    let mut list = SegmentList::new(&mut words);
    let count = rx.poll(pool, &mut list, budget).unwrap();
    let mut frames = vec![Vec::new()];
    while let Some(segment) = list.pop() {
        let last = frames.last_mut().unwrap();
        last.extend_from_slice(pool.arena().bytes(&segment));
        if !segment.has_more() {
            frames.push(Vec::new());
        }
        pool.put(segment);
    }
    assert_eq!(frames.pop(), Some(Vec::new()));
    assert_eq!(frames.len(), count);
    frames
}

/// Submits `frame` in segments of `part` bytes, with `header` before it; `false` where there is no room.
pub(crate) fn submit(
    tx: &mut impl TxQueue<Error = RingError>,
    pool: &mut Pool<'_>,
    frame: &[u8],
    part: usize,
    header: [u8; 16],
) -> Result<bool, RingError> {
    let mut words = [0; 64];
    let mut list = SegmentList::new(&mut words);
    let count = frame.len().div_ceil(part);
    if pool.free() < count {
        return Ok(false);
    }
    for (number, bytes) in frame.chunks(part).enumerate() {
        let mut segment = pool.take().unwrap().with_len(bytes.len());
        pool.arena().bytes_mut(&mut segment).copy_from_slice(bytes);
        pool.arena()
            .header_mut(&mut segment)
            .copy_from_slice(&header);
        list.push(segment.with_more(number + 1 < count)).unwrap();
    }
    let result = tx.submit(&mut list);
    list.clear_into(pool);
    result.map(|sent| sent == 1)
}

pub(crate) fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + number * 13) as u8).collect()
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send { len: usize, part: usize },
    DeviceSends(usize),
    Reclaim,
    Arrive(usize),
    Poll(usize),
    Arm,
}

pub(crate) fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    prop_oneof![
        3 => (17..2500_usize, 400..=CAPACITY).prop_map(|(len, part)| Step::Send { len, part }),
        2 => (1..20_usize).prop_map(Step::DeviceSends),
        1 => Just(Step::Reclaim),
        2 => (1..CAPACITY).prop_map(Step::Arrive),
        1 => (1..4000_usize).prop_map(Step::Arrive),
        2 => (1..20_usize).prop_map(Step::Poll),
        1 => Just(Step::Arm),
    ]
}
