//! Admin commands (NVMe 1.4, 5).

use parakernel_core::address::BusAddress;

use super::{
    command::Command,
    controller::Controller,
    engine::Work,
    queue::{Completion, Posting, Submission},
    status::Status,
};
use crate::random::Random;

impl Controller {
    pub(super) fn begin_admin(
        &mut self,
        command: &Command,
        random: &mut Random,
    ) -> Result<Work, Status> {
        let done = |result| Ok(Work::Done(result));
        match command.opcode() {
            0x00 => self.delete_submission(command, random).and_then(done),
            0x01 => self.create_submission(command).and_then(done),
            0x02 => self.log_page(command).map(Work::Send),
            0x04 => self.delete_completion(command).and_then(done),
            0x05 => self.create_completion(command).and_then(done),
            0x06 => self.identify(command).map(Work::Send),
            0x08 => done(self.abort(command)),
            0x09 => self.set_feature(command).and_then(done),
            0x0a => self.get_feature(command).and_then(done),
            0x0c => self.hold_request(command.id()).map(|()| Work::Hold),
            0x80 => self.format(command).and_then(done),
            0x7c if self.config.options.has_shadow_doorbells() => {
                self.configure_shadow(command).and_then(done)
            }
            other => {
                self.function
                    .left_out(format_args!("admin command {other:#04x}"));
                Err(Status::INVALID_OPCODE)
            }
        }
    }

    /// Queue id and entries of a create command: dword 10.
    fn new_queue(&self, command: &Command, limit: u16, exists: bool) -> Result<(u16, u32), Status> {
        let (id, size) = (command.dword(10) & 0xffff, command.dword(10) >> 16);
        let id = u16::try_from(id).unwrap_or(0);
        if id == 0 || id - 1 > limit || exists {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if size == 0 || size >= self.config.queue_entries {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        if command.dword(11) & 1 == 0 {
            // CAP.CQR is 1: queues in pieces are not supported.
            return Err(Status::INVALID_FIELD);
        }
        if !command.prp1().is_multiple_of(self.page()) {
            self.function.violation(
                "NVMe 1.4, 5.3 and 5.4",
                format_args!("queue base {:#x}", command.prp1()),
            );
            return Err(Status::PRP_OFFSET_INVALID);
        }
        Ok((id, size + 1))
    }

    fn queue_id(command: &Command) -> u16 {
        u16::try_from(command.dword(10) & 0xffff).unwrap_or(0)
    }

    fn create_completion(&mut self, command: &Command) -> Result<u32, Status> {
        let exists = self.completions.contains_key(&Self::queue_id(command));
        let (id, entries) = self.new_queue(command, self.features.queues.1, exists)?;
        let cc = self.written.configuration;
        if (cc >> 20) & 0xf != 4 {
            let text = format_args!("I/O completion queue with CC.IOCQES {}", (cc >> 20) & 0xf);
            self.function.violation("NVMe 1.4, 3.1.5", text);
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        let attributes = command.dword(11);
        let vector = u16::try_from(attributes >> 16).unwrap_or(0);
        if !self.function.has_vector(vector) {
            return Err(Status::INVALID_VECTOR);
        }
        let vector = (attributes & 2 != 0).then_some(vector);
        self.completions
            .insert(id, Completion::new(command.prp1(), entries, vector));
        Ok(0)
    }

    fn create_submission(&mut self, command: &Command) -> Result<u32, Status> {
        let exists = self.submissions.contains_key(&Self::queue_id(command));
        let (id, entries) = self.new_queue(command, self.features.queues.0, exists)?;
        let cc = self.written.configuration;
        if (cc >> 16) & 0xf != 6 {
            let text = format_args!("I/O submission queue with CC.IOSQES {}", (cc >> 16) & 0xf);
            self.function.violation("NVMe 1.4, 3.1.5", text);
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        let completion = u16::try_from(command.dword(11) >> 16).unwrap_or(0);
        if completion == 0 || completion - 1 > self.features.queues.1 {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if !self.completions.contains_key(&completion) {
            return Err(Status::CQ_INVALID);
        }
        self.submissions
            .insert(id, Submission::new(command.prp1(), entries, completion));
        Ok(0)
    }

    /// Commands of the queue that were fetched are aborted: some say so, others just vanish, as 5.6 allows.
    ///
    /// What is said is said before the deletion completes.
    fn delete_submission(&mut self, command: &Command, random: &mut Random) -> Result<u32, Status> {
        let id = Self::queue_id(command);
        let completion = self
            .submissions
            .get(&id)
            .filter(|_| id > 0)
            .map(|submission| submission.completion);
        let completion = completion.ok_or(Status::INVALID_QUEUE_ID)?;
        let told = random.chance(500);
        let mut aborted = Vec::new();
        self.jobs.retain(|job| {
            let stays = job.submission != id;
            if !stays && told {
                aborted.push(job.command.id());
            }
            stays
        });
        for command in aborted {
            self.post(Posting {
                submission: id,
                id: command,
                status: Status::ABORTED_BY_DELETION,
                result: 0,
                repeated: false,
            });
        }
        self.post_all(completion);
        if let Some(completion) = self.completions.get_mut(&completion) {
            completion
                .waiting
                .retain(|posting| posting.submission != id);
        }
        self.submissions.remove(&id);
        self.active.remove(&id);
        Ok(0)
    }

    fn delete_completion(&mut self, command: &Command) -> Result<u32, Status> {
        let id = Self::queue_id(command);
        if id == 0 || !self.completions.contains_key(&id) {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if self
            .submissions
            .values()
            .any(|submission| submission.completion == id)
        {
            return Err(Status::INVALID_QUEUE_DELETION);
        }
        self.completions.remove(&id);
        self.posting.remove(&id);
        Ok(0)
    }

    /// Bit 0 of the result: the command was *not* aborted.
    fn abort(&mut self, command: &Command) -> u32 {
        let (queue, id) = (
            Self::queue_id(command),
            u16::try_from(command.dword(10) >> 16).unwrap_or(0),
        );
        if queue == 0 && self.events.abort(id) {
            self.post_aborted(queue, id);
            return 0;
        }
        let found = self
            .jobs
            .iter()
            .position(|job| job.submission == queue && job.command.id() == id);
        let Some(found) = found else { return 1 };
        if self.jobs[found].is_committed() {
            return 1;
        }
        self.jobs.swap_remove(found);
        self.post_aborted(queue, id);
        0
    }

    fn post_aborted(&mut self, submission: u16, id: u16) {
        self.post(Posting {
            submission,
            id,
            status: Status::ABORT_REQUESTED,
            result: 0,
            repeated: false,
        });
    }

    /// Doorbell Buffer Config (5.7): both buffers are pages.
    fn configure_shadow(&mut self, command: &Command) -> Result<u32, Status> {
        let (shadow, event) = (command.prp1(), command.prp2());
        let page = self.page();
        if shadow == 0 || event == 0 || !shadow.is_multiple_of(page) || !event.is_multiple_of(page)
        {
            return Err(Status::INVALID_FIELD);
        }
        self.shadow = Some((BusAddress::new(shadow), BusAddress::new(event)));
        Ok(0)
    }
}
