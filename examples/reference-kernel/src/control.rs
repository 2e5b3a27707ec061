//! The control plane: what processes ask for, and what they are given.

use parakernel_core::abi::Message;
use parakernel_core::address::CoreId;

use crate::boot::Kernel;
use crate::housekeeping::Turn;
use crate::report::Counters;

/// What all processes together were given.
#[derive(Debug, Default)]
pub(crate) struct Control {}

impl Control {
    /// A control plane that has given nothing to anybody.
    pub(crate) fn new(_kernel: &mut Kernel) -> Self {
        Self::default()
    }

    /// Takes a request of the process on `core`. There is nothing to be had yet, so each is answered with itself.
    #[expect(clippy::unused_self, reason = "nothing is given yet")]
    pub(crate) fn request(&mut self, kernel: &mut Kernel, core: CoreId, request: &Message) {
        let Some(seat) = kernel.seats.at(core) else {
            return;
        };
        if seat.deliver(request).is_err() {
            seat.stop();
        }
    }

    /// Takes back all that the process on `core` was given, because it has ended or is to give it up.
    #[expect(clippy::unused_self, reason = "nothing is given yet")]
    pub(crate) const fn revoke(&mut self, _kernel: &mut Kernel, _core: CoreId) {}

    /// Whether the process on `core` has nothing any more: only then may its memory be used again.
    #[expect(clippy::unused_self, reason = "nothing is given yet")]
    pub(crate) const fn has_nothing(&self, _core: CoreId) -> bool {
        true
    }

    /// What the process on `core` has done.
    #[expect(clippy::unused_self, reason = "nothing is given yet")]
    pub(crate) fn counters(&self, _core: CoreId) -> Counters {
        Counters::default()
    }

    /// Does what there is to do without being asked.
    #[expect(clippy::unused_self, reason = "nothing is given yet")]
    pub(crate) const fn turn(&mut self, _kernel: &mut Kernel) -> Turn {
        Turn::Idle(None)
    }
}
