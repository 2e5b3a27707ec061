//! A granted queue, as its process finds it in its memory.
#![expect(unsafe_code, reason = "views memory that the kernel mapped")]

use core::ptr::{self, NonNull};

use parakernel_core::{
    abi::{LeaseMap, LeaseRing, LeaseState, SharedDoorbell, StatusPage, SubmissionPage},
    device::Epoch,
    handle::LeaseId,
    memory::SharedMemory,
};

use crate::process::address;

/// A granted queue.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    id: LeaseId,
    status: &'static StatusPage,
    submission: &'static SubmissionPage,
    map: LeaseMap,
}

impl Lease {
    pub(crate) fn new(id: LeaseId, status: &'static StatusPage) -> Option<Self> {
        let map = status.map()?;
        Some(Self {
            id,
            status,
            submission: view(map.submission_page, size_of::<SubmissionPage>() as u64)?.view(0)?,
            map,
        })
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> LeaseId {
        self.id
    }

    /// Where its parts are.
    #[must_use]
    pub const fn map(&self) -> &LeaseMap {
        &self.map
    }

    /// What the kernel says of it.
    #[must_use]
    pub fn state(&self) -> LeaseState {
        let word = &self.status.state;
        LeaseState::from_word(word.load(core::sync::atomic::Ordering::Acquire))
    }

    /// The epoch to acknowledge where it is lost.
    #[must_use]
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch::new(
            self.status
                .epoch
                .load(core::sync::atomic::Ordering::Relaxed),
        )
    }

    /// The same lease, as the kernel describes it now.
    pub(crate) fn again(&self) -> Option<Self> {
        Self::new(self.id, self.status)
    }

    /// The doorbell of one of its rings.
    #[must_use]
    pub const fn doorbell(&self, ring: LeaseRing) -> SharedDoorbell<'static> {
        SharedDoorbell::new(self.submission, self.status, ring)
    }

    /// What the process writes of a ring.
    #[must_use]
    pub fn submissions(&self, ring: LeaseRing) -> Option<SharedMemory<'static>> {
        let ring = self.map.rings.get(ring as usize)?;
        view(ring.submissions, ring.submissions_len)
    }

    /// What the process reads of a ring.
    #[must_use]
    pub fn completions(&self, ring: LeaseRing) -> Option<SharedMemory<'static>> {
        let ring = self.map.rings.get(ring as usize)?;
        view(ring.completions, ring.completions_len)
    }
}

/// Memory of a lease.
fn view(base: u64, len: u64) -> Option<SharedMemory<'static>> {
    let base = NonNull::new(ptr::with_exposed_provenance_mut(address(base)))?;
    // SAFETY: the kernel says on the status page that it mapped this. It takes it away only with the lease, and stops a
    // process that still looks then.
    Some(unsafe { SharedMemory::new(base, address(len)) })
}
