//! Storage queue pairs in `Checked` mode.

use core::sync::atomic::Ordering;

use parakernel_core::abi::{LeaseRing, StatusPage, SubmissionPage};
use parakernel_core::memory::RegionTable;
use parakernel_core::mmio::MappedRegisters;
use parakernel_core::ring::Position;
use parakernel_nvme::checked::{CheckedQueue, Claim, ServiceError};
use parakernel_nvme::doorbell::RegisterDoorbell;

use super::Fault;

/// A doorbell of the controller.
pub(crate) type Doorbell = RegisterDoorbell<'static, &'static MappedRegisters>;

/// A storage queue pair.
#[derive(Debug)]
pub(crate) struct BlockQueue {
    pair: CheckedQueue<'static, Doorbell>,
    accepted: Position,
    /// How many completions have been seen.
    completed: u64,
    /// Up to where completions have been counted.
    counted: Position,
}

impl From<ServiceError> for Fault {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Violation(violation) => Self::Process(violation),
            ServiceError::Completion(_) => Self::Device,
        }
    }
}

impl BlockQueue {
    /// A queue that nothing has gone through.
    pub(crate) const fn new(pair: CheckedQueue<'static, Doorbell>) -> Self {
        Self {
            pair,
            accepted: Position::START,
            completed: 0,
            counted: Position::START,
        }
    }

    /// How many commands have been completed.
    pub(crate) const fn completed(&self) -> u64 {
        self.completed
    }

    pub(super) fn serve(
        &mut self,
        submission: &SubmissionPage,
        status: &StatusPage,
        regions: &RegionTable<'_>,
        budget: u32,
    ) -> Result<bool, Fault> {
        let position = |ring: LeaseRing| {
            let word = &submission.tails[ring as usize];
            Position::new(word.load(Ordering::Acquire))
        };
        let claim = Claim {
            tail: position(LeaseRing::First),
            head: position(LeaseRing::Second),
        };
        let served = self.pair.service(claim, regions, budget);
        let has_news = self.count();
        self.accepted = served?;
        status.accepted[LeaseRing::First as usize].store(self.accepted.as_u32(), Ordering::Release);
        Ok(has_news)
    }

    pub(super) fn look(&mut self) -> Result<bool, Fault> {
        self.pair
            .has_news(self.counted)
            .map_err(|_| Fault::Device)?;
        Ok(self.count())
    }

    /// Takes completions in the place of a process that no longer does; how many commands are still with the controller.
    pub(crate) fn drain(&mut self) -> Result<u32, Fault> {
        self.pair.drain().map_err(|_| Fault::Device)
    }

    /// Counts completions that were seen; whether there were any.
    fn count(&mut self) -> bool {
        let harvested = self.pair.harvested();
        let new = harvested.since(self.counted);
        self.counted = harvested;
        self.completed += u64::from(new);
        new > 0
    }
}
