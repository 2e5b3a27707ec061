//! A page table per requester, and the translations that failed.

use alloc::collections::BTreeMap;

use parakernel_core::{
    address::{BusAddress, Direction, PhysAddr},
    time::Instant,
};

use super::{PAGE, Range, RequesterId};

/// How a device's addresses become memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Translation {
    /// Bus addresses are physical addresses: no IOMMU, or one that lets this device pass.
    Identity,
    /// Through the pages that [`Memory::map`](super::Memory::map) made.
    Mapped,
    /// Not at all: every transfer faults.
    Blocked,
}

/// A translation that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The device that asked.
    pub requester: RequesterId,
    /// The address that it used.
    pub address: BusAddress,
    /// What it wanted to do.
    pub direction: Direction,
    /// When.
    pub at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    page: u64,
    direction: Direction,
}

#[derive(Debug)]
struct Domain {
    translation: Translation,
    pages: BTreeMap<u64, Entry>,
    /// Removed from the tables, and still in the IOMMU's caches.
    stale: BTreeMap<u64, Entry>,
    fail_next: u32,
}

impl Default for Domain {
    fn default() -> Self {
        Self {
            translation: Translation::Identity,
            pages: BTreeMap::new(),
            stale: BTreeMap::new(),
            fail_next: 0,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Iommu {
    domains: BTreeMap<RequesterId, Domain>,
    pub(super) faults: Vec<Fault>,
}

impl Iommu {
    const FAULT_LIMIT: usize = 10_000;

    pub(super) fn set(&mut self, requester: RequesterId, translation: Translation) {
        self.domain(requester).translation = translation;
    }

    pub(super) fn translation(&self, requester: RequesterId) -> Translation {
        self.domains
            .get(&requester)
            .map_or(Translation::Identity, |domain| domain.translation)
    }

    pub(super) fn map(
        &mut self,
        requester: RequesterId,
        bus: BusAddress,
        range: Range,
        direction: Direction,
    ) {
        let domain = self.domain(requester);
        let (from, to) = (
            bus.as_u64() / PAGE as u64,
            range.start.as_u64() / PAGE as u64,
        );
        for n in 0..(range.len / PAGE) as u64 {
            domain.pages.insert(
                from + n,
                Entry {
                    page: to + n,
                    direction,
                },
            );
        }
    }

    pub(super) fn unmap(&mut self, requester: RequesterId, bus: BusAddress, len: usize) {
        let domain = self.domain(requester);
        let first = bus.as_u64() / PAGE as u64;
        for page in first..first + len.div_ceil(PAGE) as u64 {
            if let Some(entry) = domain.pages.remove(&page) {
                domain.stale.insert(page, entry);
            }
        }
    }

    pub(super) fn invalidate(&mut self, requester: RequesterId) {
        self.domain(requester).stale.clear();
    }

    pub(super) fn fail_next(&mut self, requester: RequesterId, count: u32) {
        self.domain(requester).fail_next = count;
    }

    /// The memory behind `address`; notes a fault where there is none.
    pub(super) fn translate(
        &mut self,
        requester: RequesterId,
        address: BusAddress,
        direction: Direction,
        at: Instant,
    ) -> Result<PhysAddr, Fault> {
        let found = self.domain(requester).translate(address, direction);
        found.ok_or_else(|| {
            let fault = Fault {
                requester,
                address,
                direction,
                at,
            };
            if self.faults.len() < Self::FAULT_LIMIT {
                self.faults.push(fault);
            }
            fault
        })
    }

    fn domain(&mut self, requester: RequesterId) -> &mut Domain {
        self.domains.entry(requester).or_default()
    }
}

impl Domain {
    fn translate(&mut self, address: BusAddress, direction: Direction) -> Option<PhysAddr> {
        if self.fail_next > 0 {
            self.fail_next -= 1;
            return None;
        }
        let number = address.as_u64();
        let physical = match self.translation {
            Translation::Identity => number,
            Translation::Blocked => return None,
            Translation::Mapped => {
                let page = number / PAGE as u64;
                let entry = self.pages.get(&page).or_else(|| self.stale.get(&page))?;
                if !entry.direction.allows(direction) {
                    return None;
                }
                entry.page * PAGE as u64 + number % PAGE as u64
            }
        };
        Some(PhysAddr::new(physical))
    }
}
