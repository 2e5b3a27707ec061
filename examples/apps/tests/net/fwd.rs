//! The forwarder between two wires.

use crate::wire::{Behaviour, Shared, direction, pool, words};
use parakernel_apps::{
    executor::Flag,
    fwd::{self, Forwarder, Mode},
    runtime::{Metric, Runtime},
};
use parakernel_core::{
    error::ErrorKind,
    memory::{Pool, Segment, SegmentList},
    queue::TxQueue,
    time::Instant,
};
use proptest::prelude::*;

/// A kernel that ends the forwarder's work when it sleeps for the third time.
struct Kernel {
    wire: Shared,
    sleeps: u32,
    served: u64,
}

impl Runtime for Kernel {
    fn now(&mut self) -> Instant {
        Instant::default()
    }

    fn end_of_turn(&mut self) {}

    fn wait(&mut self, deadline: Option<Instant>) {
        assert_eq!(deadline, None);
        self.sleeps += 1;
        if self.sleeps == 3 {
            self.wire.borrow_mut().failure = Some(ErrorKind::Revoked);
        }
    }

    fn report(&mut self, metric: Metric, value: u64) {
        assert_eq!(metric, Metric::Served);
        self.served = value;
    }
}

/// What arrives behind a forwarder that is sent `frames`, cut into buffers of `chunk` bytes.
fn forwarded(frames: &[Vec<u8>], chunk: usize, mode: Mode) -> Vec<Vec<u8>> {
    let behaviour = Behaviour {
        chunk,
        ring: 256,
        ..Behaviour::default()
    };
    let (_to_forwarder, rx, incoming) = direction(behaviour);
    let (tx, _from_forwarder, outgoing) = direction(behaviour);
    let mut forwarder = Forwarder::new(rx, tx, pool(600), words(200), mode);
    for frame in frames {
        incoming.borrow_mut().put(frame.clone());
    }
    let mut kernel = Kernel {
        wire: incoming,
        sleeps: 0,
        served: 0,
    };
    let flags = Box::leak(Box::new([Flag::new()]));
    let end = fwd::run(&mut kernel, &mut forwarder, 16, flags);
    assert_eq!(end, ErrorKind::Revoked);
    assert_eq!(kernel.served, frames.len() as u64);
    assert_eq!(forwarder.dropped(), 0);
    outgoing.borrow().seen.clone()
}

proptest! {
    #[test]
    fn frames_leave_in_order_and_whole(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 14..300), 0..60),
        chunk in 12..300_usize,
        echo in any::<bool>(),
    ) {
        let mode = if echo { Mode::Echo } else { Mode::Forward };
        let expected: Vec<_> = frames
            .iter()
            .map(|frame| match mode {
                Mode::Forward => frame.clone(),
                Mode::Echo => [&frame[6..12], &frame[..6], &frame[12..]].concat(),
            })
            .collect();
        prop_assert_eq!(forwarded(&frames, chunk, mode), expected);
    }
}

/// A transmit queue that takes two frames per call and sends none.
struct Narrow(Vec<Segment>);

impl TxQueue for Narrow {
    type Error = ErrorKind;

    fn submit(&mut self, frames: &mut SegmentList<'_>) -> Result<usize, ErrorKind> {
        self.0.extend((0..2).filter_map(|_| frames.pop()));
        Ok(self.0.len())
    }

    fn reclaim(&mut self, pool: &mut Pool<'_>) -> Result<usize, ErrorKind> {
        let count = self.0.len();
        self.0.drain(..).for_each(|segment| pool.put(segment));
        Ok(count)
    }
}

#[test]
fn what_has_no_room_is_dropped_and_its_buffers_are_not_lost() {
    let (_sender, rx, incoming) = direction(Behaviour::default());
    let mut forwarder = Forwarder::new(rx, Narrow(Vec::new()), pool(80), words(32), Mode::Forward);
    for round in 1..50 {
        (0..5).for_each(|_| incoming.borrow_mut().put(vec![1; 60]));
        assert_eq!(forwarder.turn(16), Ok(5));
        assert_eq!(forwarder.dropped(), round * 3);
    }
}
