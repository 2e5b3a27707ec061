//! Steps that bring-up and reset share (NVMe 1.4 §3.1.5, §7.6.1), and what can be known before.

use parakernel_core::mmio::{Register, Registers, Window};

use super::{Controller, MAX_PAIRS};
use crate::{
    command::{self, Command, Feature},
    error::InitError,
    identify::{COMPLETION_ENTRY_LOG2, SUBMISSION_ENTRY_LOG2},
    regs::{Cap, Cc, ControllerBlock, Csts, DOORBELLS},
};

impl<R: Registers> Controller<'_, R> {
    /// The most I/O queue pairs that the controller behind `registers` can have: those whose doorbells lie there. So many
    /// [`PairSlot`](super::PairSlot)s are enough; how many pairs there are, bring-up asks for.
    #[must_use]
    pub fn most_pairs(registers: R) -> u16 {
        let len = registers.len();
        if len < DOORBELLS {
            return 0;
        }
        let cap: Cap = Window::<_, ControllerBlock>::new(registers, 0).read();
        cap.pairs_with_doorbells(len)
    }

    pub(super) fn is_between_states(&self) -> bool {
        let cc: Cc = self.window.read();
        let csts: Csts = self.window.read();
        cc.is_set(Cc::EN) && !csts.is_set(Csts::RDY) && !csts.is_set(Csts::CFS)
    }

    pub(super) fn clear_enable(&self) {
        self.window
            .modify(|cc: Cc| cc.with(Cc::EN, 0).with(Cc::SHN, 0));
    }

    pub(super) fn is_disabled(&self) -> Result<bool, InitError> {
        let csts: Csts = self.window.read();
        if csts.bits() == u64::from(u32::MAX) {
            return Err(InitError::Removed);
        }
        Ok(!csts.is_set(Csts::RDY))
    }

    pub(super) fn set_enable(&self) {
        let cc = Cc::default()
            .with(Cc::IOSQES, SUBMISSION_ENTRY_LOG2.into())
            .with(Cc::IOCQES, COMPLETION_ENTRY_LOG2.into())
            .with(Cc::EN, 1);
        self.window.write(cc);
    }

    pub(super) fn is_ready(&self) -> Result<bool, InitError> {
        let csts: Csts = self.window.read();
        if csts.bits() == u64::from(u32::MAX) {
            return Err(InitError::Removed);
        }
        if csts.is_set(Csts::CFS) {
            return Err(InitError::Fatal);
        }
        Ok(csts.is_set(Csts::RDY))
    }

    /// Number of Queues for all pairs that there is memory for.
    pub(super) fn queue_request(&self) -> Command {
        command::set_feature(Feature::NumberOfQueues(
            self.limits.pairs.clamp(1, MAX_PAIRS) - 1,
        ))
    }

    /// Lowers the number of pairs to what the controller granted, each way less one.
    pub(super) fn limit_pairs(&mut self, granted: u32) {
        let [submission, completion] =
            [granted & 0xffff, granted >> 16].map(|less_one| less_one + 1);
        let granted = u16::try_from(submission.min(completion)).unwrap_or(MAX_PAIRS);
        self.limits.pairs = self.limits.pairs.min(granted);
    }
}
