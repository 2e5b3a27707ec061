//! Submission and completion queues, as the controller keeps them (NVMe 1.4, 4.1).

use alloc::collections::VecDeque;

use parakernel_core::{address::BusAddress, time::Instant};

use super::status::Status;

/// A submission queue.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) base: u64,
    pub(super) entries: u32,
    /// The next entry to fetch.
    pub(super) head: u32,
    /// As the doorbell, or the shadow doorbell, said.
    pub(super) tail: u32,
    /// As the doorbell register said: what the next write is compared with.
    pub(super) rung: u32,
    pub(super) completion: u16,
    /// Commands fetched whose completions are not posted.
    pub(super) in_flight: u32,
    /// The shadow doorbell is looked at until it is found unchanged.
    pub(super) awake: bool,
}

/// What waits to be posted to a completion queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Posting {
    pub(super) submission: u16,
    pub(super) id: u16,
    pub(super) status: Status,
    pub(super) result: u32,
    /// Whether it answers a command, or is a fault's repetition.
    pub(super) repeated: bool,
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) base: u64,
    pub(super) entries: u32,
    /// As the doorbell said: the next entry that the host looks at.
    pub(super) head: u32,
    /// The next entry to write.
    pub(super) tail: u32,
    pub(super) phase: bool,
    pub(super) vector: Option<u16>,
    pub(super) waiting: VecDeque<Posting>,
    /// It was full when last looked at, and a doorbell will tell that it no longer is.
    pub(super) blocked: bool,
    /// Entries posted since the last interrupt, and when the first of them must be reported.
    pub(super) unreported: u32,
    pub(super) report_at: Option<Instant>,
}

impl Submission {
    pub(super) const fn new(base: u64, entries: u32, completion: u16) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            rung: 0,
            completion,
            in_flight: 0,
            awake: false,
        }
    }

    pub(super) const fn has_work(&self) -> bool {
        self.head != self.tail || self.awake
    }

    /// Where the entry at `head` lies.
    pub(super) fn address(&self) -> BusAddress {
        BusAddress::new(self.base.wrapping_add(u64::from(self.head) * 64))
    }

    pub(super) const fn advance(&mut self) {
        self.head = (self.head + 1) % self.entries;
    }

    /// Whether a tail may follow the one before: in range, different, and no more entries than are free.
    pub(super) const fn accepts(&self, tail: u32) -> bool {
        if tail >= self.entries || tail == self.tail {
            return false;
        }
        let added = (tail + self.entries - self.tail) % self.entries;
        let used = (self.tail + self.entries - self.head) % self.entries;
        added + used < self.entries
    }
}

impl Completion {
    pub(super) const fn new(base: u64, entries: u32, vector: Option<u16>) -> Self {
        Self {
            base,
            entries,
            head: 0,
            tail: 0,
            phase: true,
            vector,
            waiting: VecDeque::new(),
            blocked: false,
            unreported: 0,
            report_at: None,
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        (self.tail + 1) % self.entries == self.head
    }

    pub(super) fn can_post(&self) -> bool {
        !self.waiting.is_empty() && !self.blocked
    }

    pub(super) fn address(&self) -> BusAddress {
        BusAddress::new(self.base.wrapping_add(u64::from(self.tail) * 16))
    }

    pub(super) const fn advance(&mut self) {
        self.tail = (self.tail + 1) % self.entries;
        if self.tail == 0 {
            self.phase = !self.phase;
        }
    }

    /// Whether a head may follow the one before: in range, different, and not past what was posted.
    pub(super) const fn accepts(&self, head: u32) -> bool {
        if head >= self.entries || head == self.head {
            return false;
        }
        let taken = (head + self.entries - self.head) % self.entries;
        let posted = (self.tail + self.entries - self.head) % self.entries;
        taken <= posted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counting one by one, with no arithmetic on distances.
    fn reach(from: u32, to: u32, entries: u32, limit: u32) -> bool {
        (1..=limit).any(|n| (from + n) % entries == to)
    }

    #[test]
    fn doorbells_are_accepted_exactly_when_counting_says_so() {
        for entries in 2..6 {
            for head in 0..entries {
                for tail in 0..entries {
                    let used = (tail + entries - head) % entries;
                    for written in 0..entries + 2 {
                        let mut sq = Submission::new(0, entries, 0);
                        (sq.head, sq.tail) = (head, tail);
                        let free = entries - 1 - used;
                        let expected = written < entries && reach(tail, written, entries, free);
                        assert_eq!(
                            sq.accepts(written),
                            expected,
                            "{entries} {head} {tail} {written}"
                        );

                        let mut cq = Completion::new(0, entries, None);
                        (cq.head, cq.tail) = (head, tail);
                        let expected = written < entries && reach(head, written, entries, used);
                        assert_eq!(
                            cq.accepts(written),
                            expected,
                            "{entries} {head} {tail} {written}"
                        );
                    }
                }
            }
        }
    }
}
