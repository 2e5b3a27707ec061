//! What has to be there again when all processes are gone.

use parakernel_core::control::Quarantine;

use crate::control::Control;
use crate::report::Leaks;
use crate::{cores, vectors};

/// What there is as long as nobody has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Resources {
    frames: usize,
    vectors: usize,
    queues: usize,
    regions: usize,
    rules: usize,
}

impl Resources {
    pub(super) fn of(control: &mut Control) -> Self {
        let [leases, regions, rules] = control.counts();
        Self {
            frames: control.kernel().frames.free_total(),
            vectors: cores::all().map(vectors::in_use).sum(),
            queues: leases,
            regions,
            rules,
        }
    }

    /// What is missing of `before`, and what there is more of than before.
    pub(super) fn less(self, before: Self) -> Leaks {
        Leaks {
            frames: difference(before.frames, self.frames),
            vectors: difference(self.vectors, before.vectors),
            rules: difference(self.rules, before.rules),
            queues: difference(self.queues, before.queues),
            ..Leaks::default()
        }
    }

    /// The same once a reset of the device has given back what is quarantined.
    pub(super) fn with(self, quarantined: &Quarantine) -> Self {
        let pages = usize::try_from(quarantined.pages).unwrap_or(usize::MAX);
        Self {
            frames: self.frames.saturating_add(pages),
            queues: self.queues.saturating_sub(quarantined.leases),
            regions: self.regions.saturating_sub(quarantined.regions),
            ..self
        }
    }
}

/// `more - less`, both counts of things in memory.
fn difference(more: usize, less: usize) -> i64 {
    let signed = |count| i64::try_from(count).unwrap_or(i64::MAX);
    signed(more) - signed(less)
}
