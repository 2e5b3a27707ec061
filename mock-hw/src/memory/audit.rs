//! Every transfer of every device, held against the leases in force.

use alloc::collections::{BTreeMap, VecDeque};

use parakernel_core::{
    address::{BusAddress, Direction, PhysAddr},
    time::Instant,
};

use super::{Range, RequesterId};

/// What a grant belongs to: a number that the test chooses, one for each lease of a queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lease(pub u64);

/// What happens to a transfer that no lease covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Escapes {
    /// It is recorded and does not happen; the device sees a failed transfer.
    #[default]
    Blocked,
    /// It is recorded and happens, as on a machine without this referee.
    Performed,
}

/// What became of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A lease in force covers all of it.
    Allowed(Lease),
    /// No lease covers all of it.
    Escaped,
}

/// One transfer: a piece of a DMA that lies in one page of the bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dma {
    /// The device.
    pub requester: RequesterId,
    /// The address that the device used.
    pub address: BusAddress,
    /// The memory behind it.
    pub memory: PhysAddr,
    /// How many bytes.
    pub len: usize,
    /// [`ToDevice`](Direction::ToDevice) for a read of memory, [`FromDevice`](Direction::FromDevice) for a write.
    pub direction: Direction,
    /// When.
    pub at: Instant,
    /// What became of it.
    pub outcome: Outcome,
}

/// What one lease has allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allowed {
    /// How many transfers.
    pub transfers: u64,
    /// How many bytes in all.
    pub bytes: u64,
    /// When the last of them was.
    pub last: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    start: u64,
    end: u64,
    direction: Direction,
    lease: Lease,
}

#[derive(Debug)]
pub(super) struct Audit {
    grants: BTreeMap<RequesterId, Vec<Grant>>,
    allowed: BTreeMap<Lease, Allowed>,
    pub(super) escapes: Escapes,
    pub(super) escaped: Vec<Dma>,
    pub(super) log: VecDeque<Dma>,
    keep: usize,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            grants: BTreeMap::new(),
            allowed: BTreeMap::new(),
            escapes: Escapes::default(),
            escaped: Vec::new(),
            log: VecDeque::new(),
            keep: 1024,
        }
    }
}

impl Audit {
    const ESCAPE_LIMIT: usize = 10_000;

    pub(super) fn grant(
        &mut self,
        requester: RequesterId,
        range: Range,
        direction: Direction,
        lease: Lease,
    ) {
        let grant = Grant {
            start: range.start.as_u64(),
            end: range.end(),
            direction,
            lease,
        };
        self.grants.entry(requester).or_default().push(grant);
    }

    pub(super) fn end(&mut self, lease: Lease) {
        for grants in self.grants.values_mut() {
            grants.retain(|grant| grant.lease != lease);
        }
    }

    pub(super) fn end_range(&mut self, lease: Lease, range: Range) {
        let (start, end) = (range.start.as_u64(), range.end());
        for grants in self.grants.values_mut() {
            let mut kept = Vec::with_capacity(grants.len());
            for grant in grants.drain(..) {
                if grant.lease != lease || grant.end <= start || end <= grant.start {
                    kept.push(grant);
                    continue;
                }
                let below = Grant {
                    end: start,
                    ..grant
                };
                let above = Grant {
                    start: end,
                    ..grant
                };
                kept.extend(
                    [below, above]
                        .into_iter()
                        .filter(|part| part.start < part.end),
                );
            }
            *grants = kept;
        }
    }

    /// Records the transfer, whose outcome is not yet filled in; whether it shall happen.
    pub(super) fn admit(&mut self, mut dma: Dma) -> bool {
        let lease = self.covering(&dma);
        if let Some(lease) = lease {
            let allowed = self.allowed.entry(lease).or_default();
            allowed.transfers += 1;
            allowed.bytes += dma.len as u64;
            allowed.last = dma.at;
            dma.outcome = Outcome::Allowed(lease);
        } else {
            dma.outcome = Outcome::Escaped;
            if self.escaped.len() < Self::ESCAPE_LIMIT {
                self.escaped.push(dma);
            }
        }
        self.note(dma);
        lease.is_some() || self.escapes == Escapes::Performed
    }

    pub(super) fn allowed(&self, lease: Lease) -> Allowed {
        self.allowed.get(&lease).copied().unwrap_or_default()
    }

    pub(super) fn keep(&mut self, count: usize) {
        self.keep = count;
        while self.log.len() > count {
            self.log.pop_front();
        }
    }

    pub(super) fn clear(&mut self) {
        self.escaped.clear();
        self.log.clear();
    }

    fn note(&mut self, dma: Dma) {
        if self.keep == 0 {
            return;
        }
        if self.log.len() == self.keep {
            self.log.pop_front();
        }
        self.log.push_back(dma);
    }

    /// The lease whose grants, taken together, cover the whole transfer.
    fn covering(&self, dma: &Dma) -> Option<Lease> {
        let grants = self.grants.get(&dma.requester)?;
        let (start, len) = (dma.memory.as_u64(), dma.len as u64);
        let end = start.checked_add(len)?;
        let usable = |grant: &&Grant| grant.direction.allows(dma.direction);
        let candidates = grants
            .iter()
            .filter(usable)
            .filter(|grant| grant.start <= start && start < grant.end);
        for candidate in candidates {
            let mut covered = candidate.end;
            // Each round moves `covered` over at least one more grant, so there are at most as many as grants.
            while covered < end {
                let next = grants.iter().filter(usable).find(|grant| {
                    grant.lease == candidate.lease && grant.start <= covered && covered < grant.end
                });
                match next {
                    Some(grant) => covered = grant.end,
                    None => break,
                }
            }
            if covered >= end {
                return Some(candidate.lease);
            }
        }
        None
    }
}
