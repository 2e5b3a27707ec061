//! Processes on the family's drivers, and these on the models of their devices: the whole stack but the kernel.
#![expect(clippy::unwrap_used, reason = "tests")]

extern crate alloc;

use core::{task::Poll, time::Duration};

use parakernel_apps::runtime::Runtime;
use parakernel_core::time::Instant;
use parakernel_mock_hw::{
    World,
    memory::{Lease, RequesterId},
};

mod block;
mod disk;
#[cfg(feature = "net")]
mod echo;
mod machine;
mod nic;
mod restart;

const DEVICE: RequesterId = RequesterId(0x0100);
const PROCESS: Lease = Lease(1);

/// Polls a control half until it has an answer, for three seconds at most.
fn poll<T>(world: &World, mut look: impl FnMut(Instant) -> Poll<T>) -> T {
    let answer = (0..30_000).find_map(|_| match look(world.now()) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => {
            world.run_for(Duration::from_micros(100));
            None
        }
    });
    answer.unwrap()
}

/// A kernel that gives the device some time at the end of each turn, and more while the process sleeps.
struct Kernel<'w, F> {
    world: &'w World,
    /// Done at the end of each turn.
    meanwhile: F,
}

impl<F: FnMut()> Runtime for Kernel<'_, F> {
    fn now(&mut self) -> Instant {
        self.world.now()
    }

    fn end_of_turn(&mut self) {
        self.world.run_for(Duration::from_micros(1));
        (self.meanwhile)();
    }

    fn wait(&mut self, _deadline: Option<Instant>) {
        self.world.run_for(Duration::from_micros(500));
        (self.meanwhile)();
    }
}
