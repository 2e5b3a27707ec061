//! Completions and their interrupts, immediate or coalesced (NVMe 1.4, 4.6 and 5.21.1.8).

use core::time::Duration;

use parakernel_core::{mmio::Width, time::Instant};

use super::{
    controller::Controller,
    queue::{Completion, Posting},
};
use crate::{
    bytes::{array_at, put},
    fault::Fault,
};

impl Controller {
    /// Queues a completion for posting.
    pub(super) fn post(&mut self, posting: Posting) {
        let Some(submission) = self.submissions.get(&posting.submission) else {
            return;
        };
        let id = submission.completion;
        if let Some(completion) = self.completions.get_mut(&id) {
            completion.waiting.push_back(posting);
            self.posting.insert(id);
        }
    }

    /// Writes one completion, or reports those that were written.
    pub(super) fn post_next(&mut self, id: u16, now: Instant) {
        let shadowed = self.shadow.is_some() && id > 0;
        if shadowed {
            self.read_shadow_head(id);
        }
        let Some(completion) = self.completions.get_mut(&id) else {
            return;
        };
        completion.blocked = completion.is_full();
        if completion.blocked || completion.waiting.is_empty() {
            let due = completion.report_at.is_some_and(|due| due <= now);
            if shadowed && completion.blocked {
                self.await_shadow_head(id);
            }
            if due {
                self.interrupt(id);
            }
            return;
        }
        let Some(posting) = completion.waiting.pop_front() else {
            return;
        };
        let (address, phase) = (completion.address(), completion.phase);
        completion.advance();
        completion.unreported += 1;
        let entry = self.entry(posting, phase);
        if self.function.write(address, &entry).is_err() {
            self.fail("a completion could not be written");
            return;
        }
        self.coalesce(id, now);
    }

    /// Posts what waits for queue `id`, as far as there is room.
    pub(super) fn post_all(&mut self, id: u16) {
        let now = self.function.clock().now();
        while self.completions.get(&id).is_some_and(Completion::can_post) {
            self.post_next(id, now);
        }
    }

    /// The 16 bytes of a completion (4.6), with what faults and lies make of them.
    fn entry(&mut self, mut posting: Posting, mut phase: bool) -> [u8; 16] {
        let mut head = 0;
        if let Some(submission) = self.submissions.get_mut(&posting.submission) {
            head = submission.head;
            if !posting.repeated {
                submission.in_flight = submission.in_flight.saturating_sub(1);
            }
        }
        self.spoil(&mut posting, &mut head, &mut phase);
        let faults = self.function.faults();
        let status = posting.status.field() | u16::from(phase);
        let mut entry = [0; 16];
        put(
            &mut entry,
            0,
            &low32(faults.bend(u64::from(posting.result), Width::U32)),
        );
        put(
            &mut entry,
            8,
            &low16(faults.bend(u64::from(head), Width::U16)),
        );
        put(
            &mut entry,
            10,
            &low16(faults.bend(u64::from(posting.submission), Width::U16)),
        );
        put(
            &mut entry,
            12,
            &low16(faults.bend(u64::from(posting.id), Width::U16)),
        );
        put(
            &mut entry,
            14,
            &low16(faults.bend(u64::from(status), Width::U16)),
        );
        entry
    }

    /// Faults of a completion.
    fn spoil(&self, posting: &mut Posting, head: &mut u32, phase: &mut bool) {
        let function = &self.function;
        let faults = function.faults();
        let wrong = if posting.submission == 0 {
            Fault::AdminWrongId
        } else {
            Fault::BadId
        };
        if faults.fires(wrong) {
            let id = posting.id ^ u16::try_from(1 + faults.random(0xffff)).unwrap_or(1);
            function.fault(format_args!("command {} completed as {id}", posting.id));
            posting.id = id;
        }
        if faults.fires(Fault::IndexJump) {
            *head =
                head.wrapping_add(1 + u32::try_from(faults.random(0xfffe)).unwrap_or(0)) & 0xffff;
            function.fault(format_args!("submission queue head reported as {head}"));
        }
        if faults.fires(Fault::StuckDone) {
            *phase = !*phase;
            function.fault(format_args!(
                "completion of {} with the old phase",
                posting.id
            ));
        }
    }

    /// Interrupts now, or once enough completions were posted or enough time has passed (5.21.1.8).
    fn coalesce(&mut self, id: u16, now: Instant) {
        let (threshold, time) = self.features.coalescing;
        let Some(completion) = self.completions.get_mut(&id) else {
            return;
        };
        let direct = id == 0
            || completion
                .vector
                .is_none_or(|vector| !self.features.coalesces(vector));
        if direct || completion.unreported > u32::from(threshold) {
            self.interrupt(id);
        } else if completion.report_at.is_none() {
            let delay = Duration::from_micros(100 * u64::from(time));
            completion.report_at = Some(now.saturating_add(delay));
        }
    }

    fn interrupt(&mut self, id: u16) {
        let Some(completion) = self.completions.get_mut(&id) else {
            return;
        };
        completion.unreported = 0;
        completion.report_at = None;
        // Queue 0's vector is used only where the host enabled MSI-X; a polled admin queue is nothing to report.
        let polled = id == 0 && !self.function.uses_msix();
        if let (Some(vector), false) = (completion.vector, polled) {
            self.function.interrupt(vector);
        }
    }
}

fn low16(value: u64) -> [u8; 2] {
    let [first, second, ..] = value.to_le_bytes();
    [first, second]
}

fn low32(value: u64) -> [u8; 4] {
    array_at(&value.to_le_bytes(), 0)
}
