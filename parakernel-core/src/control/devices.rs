//! What the control plane remembers of devices: which queues and vectors are free, and whether it works.

use super::{entries::Quota, queues::Queued, reset::Failure};
use crate::{
    device::{Epoch, Limits, QueueIndex, Vector},
    handle::RuleId,
    time::Deadline,
};

/// Room for a device.
#[derive(Debug)]
pub struct DeviceEntry {
    pub(super) limits: Limits,
    pub(super) health: Health,
    pub(super) epoch: Epoch,
    pub(super) queues: FreeList,
    pub(super) vectors: FreeList,
    /// The vector that leases share which came too late, and how many do.
    pub(super) shared: Option<(u32, u32)>,
    /// How many rules take up its room for rules.
    pub(super) rules: u32,
    /// The rule whose change is under way.
    pub(super) steering: Option<RuleId>,
    /// It failed again before its leases were told of the first time.
    pub(super) failed_again: Option<Failure>,
    pub(super) queued: Queued,
}

/// Whether a device works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Health {
    Up,
    /// Its leases are being fenced; `left` are not yet.
    Fencing {
        left: u32,
        next: AfterFence,
    },
    Resetting(Deadline),
    /// The reset is over; leases are told, those before `lease` have been.
    Restoring {
        lease: usize,
        end: ResetEnd,
    },
    Gone,
    /// Out of service, but not off the bus: it may still reach what its leases had.
    Loose,
}

/// What is done with a device when its leases are fenced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AfterFence {
    Reset,
    GiveUp,
}

/// How a reset ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ResetEnd {
    /// The device works again.
    Up,
    /// It was given up, and is off the bus.
    Gone,
    /// It was given up, and refuses to be taken off the bus.
    Loose,
}

impl DeviceEntry {
    /// Takes a vector for a lease of a process that uses this much of its quota.
    ///
    /// The last vector is kept for sharing while there are more queues to come, so that a lease that was told that a
    /// vector is its own keeps it to itself.
    pub(super) fn take_vector(&mut self, links: &mut [u32], quota: &Quota, used: &Quota) -> Vector {
        let is_last = self.vectors.count == 1 && self.queues.count > 0;
        if used.vectors < quota.vectors
            && !is_last
            && let Some(number) = self.vectors.take(links)
        {
            return Vector::Own(number);
        }
        if self.shared.is_none() {
            self.shared = self.vectors.take(links).map(|number| (number, 0));
        }
        match &mut self.shared {
            Some((number, users)) => {
                *users += 1;
                Vector::Shared(*number)
            }
            None => Vector::None,
        }
    }

    /// Takes a vector back.
    pub(super) fn return_vector(&mut self, links: &mut [u32], vector: Vector) {
        match (vector, self.shared) {
            (Vector::Own(number), _) => self.vectors.put(links, number),
            (Vector::Shared(_), Some((number, 1))) => {
                self.vectors.put(links, number);
                self.shared = None;
            }
            (Vector::Shared(_), Some((number, users))) => self.shared = Some((number, users - 1)),
            (Vector::Shared(_), None) | (Vector::None, _) => {}
        }
    }

    /// Takes a queue.
    pub(super) fn take_queue(&mut self, links: &mut [u32]) -> Option<QueueIndex> {
        self.queues.take(links).map(QueueIndex::new)
    }

    /// Offers a queue again.
    pub(super) fn return_queue(&mut self, links: &mut [u32], queue: QueueIndex) {
        self.queues.put(links, queue.as_u32());
    }
}

/// Free numbers from 0 on, chained through a part of the caller's memory: taken and put back in constant time.
#[derive(Debug)]
pub(super) struct FreeList {
    base: usize,
    first: u32,
    pub(super) count: u32,
}

const END: u32 = u32::MAX;

impl FreeList {
    /// All numbers below `count`, chained through the `count` words from `base` on; `None` where there are fewer.
    pub(super) fn new(links: &mut [u32], base: usize, count: u32) -> Option<Self> {
        let words = links.get_mut(base..)?.get_mut(..count as usize)?;
        for (next, word) in (1..).zip(&mut *words) {
            *word = if next == count { END } else { next };
        }
        let first = if count == 0 { END } else { 0 };
        Some(Self { base, first, count })
    }

    fn take(&mut self, links: &mut [u32]) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let number = self.first;
        self.first = *links.get(self.base + number as usize)?;
        self.count -= 1;
        Some(number)
    }

    fn put(&mut self, links: &mut [u32], number: u32) {
        if let Some(word) = links.get_mut(self.base + number as usize) {
            *word = self.first;
            self.first = number;
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each number is out at most once, and all come back.
        #[test]
        fn a_free_list_is_a_set(count in 0_u32..6, steps in prop::collection::vec(any::<Option<prop::sample::Index>>(), 0..60)) {
            let mut links = [0; 8];
            let mut list = FreeList::new(&mut links, 2, count).unwrap();
            let mut out = Vec::new();
            for step in steps {
                match step {
                    None => match list.take(&mut links) {
                        Some(number) => {
                            prop_assert!(number < count && !out.contains(&number));
                            out.push(number);
                        }
                        None => prop_assert_eq!(out.len(), count as usize),
                    },
                    Some(pick) if !out.is_empty() => {
                        let number = out.swap_remove(pick.index(out.len()));
                        list.put(&mut links, number);
                    }
                    Some(_) => {}
                }
                prop_assert_eq!(list.count as usize + out.len(), count as usize);
            }
        }
    }

    #[test]
    fn a_list_that_does_not_fit_is_refused() {
        assert!(FreeList::new(&mut [0; 4], 2, 3).is_none());
        assert!(FreeList::new(&mut [0; 4], 5, 0).is_none());
    }
}
