//! Faults that a device can be told to have, and a device that lies.
//!
//! A fault is injected with a [`When`]; it takes effect at an *opportunity*, a point where the model does the thing
//! that can go wrong: posts a completion, sends an interrupt, becomes ready. Which of the faults a model has is in
//! its documentation. [`Count`] tells injected from activated, so that a campaign cannot pass by injecting nothing.

mod lie;

use alloc::{collections::BTreeMap, sync::Arc};
use std::sync::Mutex;

use parakernel_core::mmio::Width;

pub use lie::Liar;

use crate::{random::Random, sync::lock};

/// What can go wrong with a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The link goes down and comes back.
    LinkFlap,
    /// The device stops serving this queue.
    StuckQueue(u16),
    /// The bit that says "done" keeps its old value.
    StuckDone,
    /// An interrupt message is not sent.
    LostInterrupt,
    /// The device resets itself in the middle of a transfer.
    ResetMidDma,
    /// The device reports a fatal error and stops.
    FatalStatus,
    /// The device is pulled: reads are all ones from now on, and no transfer is made any more.
    Removal,
    /// An administrative command is never answered.
    AdminTimeout,
    /// An administrative command is answered with another command's identity.
    AdminWrongId,
    /// A completion names something that was never handed out.
    BadId,
    /// A completion claims more, or fewer, bytes than is possible.
    BadLength,
    /// A completion is posted twice.
    DuplicateCompletion,
    /// The device's index jumps ahead.
    IndexJump,
    /// The device takes longer to become ready than its specification allows.
    SlowReady,
    /// The IOMMU refuses a transfer.
    IommuFault,
}

impl Fault {
    /// All faults, a stuck queue being that of queue 1.
    pub const ALL: [Self; 15] = [
        Self::LinkFlap,
        Self::StuckQueue(1),
        Self::StuckDone,
        Self::LostInterrupt,
        Self::ResetMidDma,
        Self::FatalStatus,
        Self::Removal,
        Self::AdminTimeout,
        Self::AdminWrongId,
        Self::BadId,
        Self::BadLength,
        Self::DuplicateCompletion,
        Self::IndexJump,
        Self::SlowReady,
        Self::IommuFault,
    ];
}

/// When an injected fault takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Once, after letting this many opportunities pass.
    After(u64),
    /// At each opportunity with this probability, in thousandths.
    Chance(u16),
    /// At every opportunity, until the fault is cleared.
    Always,
}

impl When {
    /// At the next opportunity, once.
    pub const NEXT: Self = Self::After(0);
}

/// What became of one kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// How often it was injected.
    pub injected: u64,
    /// How often it took effect.
    pub activated: u64,
}

/// The faults of one device. Clones are the same faults.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Random,
    pending: Vec<(Fault, When)>,
    counts: BTreeMap<Fault, Count>,
    liar: Option<Liar>,
}

impl Faults {
    /// No fault; `seed` decides the random ones.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: Random::new(seed),
            pending: Vec::new(),
            counts: BTreeMap::new(),
            liar: None,
        })))
    }

    /// Injects `fault`.
    pub fn inject(&self, fault: Fault, when: When) {
        let mut state = lock(&self.0);
        state.pending.push((fault, when));
        state.counts.entry(fault).or_default().injected += 1;
    }

    /// Takes back all injections of `fault`.
    pub fn clear(&self, fault: Fault) {
        lock(&self.0)
            .pending
            .retain(|(pending, _)| *pending != fault);
    }

    /// Takes back all injections of all faults, and the lies.
    pub fn clear_all(&self) {
        let mut state = lock(&self.0);
        state.pending.clear();
        state.liar = None;
    }

    /// How often `fault` was injected and took effect.
    #[must_use]
    pub fn count(&self, fault: Fault) -> Count {
        lock(&self.0)
            .counts
            .get(&fault)
            .copied()
            .unwrap_or_default()
    }

    /// The same for all faults together.
    #[must_use]
    pub fn total(&self) -> Count {
        lock(&self.0)
            .counts
            .values()
            .fold(Count::default(), |sum, count| Count {
                injected: sum.injected + count.injected,
                activated: sum.activated + count.activated,
            })
    }

    /// Makes the device lie: values that the driver gets from it are bent as `bytes` say, until they are used up.
    pub fn lie(&self, bytes: Vec<u8>) {
        lock(&self.0).liar = Some(Liar::new(bytes));
    }

    /// Whether `fault` takes effect at this opportunity.
    pub(crate) fn fires(&self, fault: Fault) -> bool {
        let mut state = lock(&self.0);
        let State {
            random,
            pending,
            counts,
            ..
        } = &mut *state;
        let mut fires = false;
        pending.retain_mut(|(other, when)| {
            if *other != fault {
                return true;
            }
            match when {
                When::After(0) => {
                    fires = true;
                    return false;
                }
                When::After(left) => *left -= 1,
                When::Chance(per_mille) => fires |= random.chance(*per_mille),
                When::Always => fires = true,
            }
            true
        });
        if fires {
            counts.entry(fault).or_default().activated += 1;
        }
        fires
    }

    /// The value that the driver gets instead of `truth`.
    pub(crate) fn bend(&self, truth: u64, width: Width) -> u64 {
        match &mut lock(&self.0).liar {
            Some(liar) => liar.bend(truth, width),
            None => truth,
        }
    }

    /// Changes a few bytes of what the driver gets, where the device lies.
    pub(crate) fn corrupt(&self, bytes: &mut [u8]) {
        if let Some(liar) = &mut lock(&self.0).liar {
            liar.corrupt(bytes);
        }
    }

    /// A random number for the details of a fault.
    pub(crate) fn random(&self, bound: u64) -> u64 {
        lock(&self.0).random.below(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_fires_when_told_and_is_counted() {
        let faults = Faults::new(1);
        faults.inject(Fault::BadId, When::After(2));
        let fired: Vec<bool> = (0..5).map(|_| faults.fires(Fault::BadId)).collect();
        assert_eq!(fired, [false, false, true, false, false]);
        assert!(!faults.fires(Fault::StuckQueue(1)));
        faults.inject(Fault::StuckQueue(2), When::Always);
        assert!(!faults.fires(Fault::StuckQueue(1)));
        assert!(faults.fires(Fault::StuckQueue(2)) && faults.fires(Fault::StuckQueue(2)));
        faults.clear(Fault::StuckQueue(2));
        assert!(!faults.fires(Fault::StuckQueue(2)));
        assert_eq!(
            faults.total(),
            Count {
                injected: 2,
                activated: 3
            }
        );
    }

    #[test]
    fn a_fault_by_chance_fires_about_that_often() {
        let faults = Faults::new(2);
        faults.inject(Fault::LostInterrupt, When::Chance(250));
        let fired = (0..4000)
            .filter(|_| faults.fires(Fault::LostInterrupt))
            .count();
        assert!((800..1200).contains(&fired), "{fired}");
    }
}
