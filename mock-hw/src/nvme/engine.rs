//! The controller at work: one fetch, one piece of a transfer, or one completion at a time, in seeded order.

use alloc::collections::VecDeque;
use core::time::Duration;

use parakernel_core::time::Instant;

use super::{
    command::Command,
    controller::{Controller, Life, Shutdown},
    pointer::{self, Piece, Rules},
    queue::{Posting, Submission},
    status::Status,
};
use crate::{
    fault::Fault,
    random::Random,
    world::{Activity, Device, Turn},
};

/// What a command needs after its fields were checked.
#[derive(Debug)]
pub(super) enum Work {
    /// Nothing: the result is dword 0 of the completion.
    Done(u32),
    /// These bytes go to the host.
    Send(Vec<u8>),
    /// This many bytes come from the host.
    Receive(usize),
    /// It is answered later, or never.
    Hold,
}

/// A command that was fetched and whose data moves.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) submission: u16,
    pub(super) command: Command,
    pieces: VecDeque<Piece>,
    bytes: Vec<u8>,
    done: usize,
    to_host: bool,
}

impl Job {
    /// Whether it is too late to abort it.
    pub(super) const fn is_committed(&self) -> bool {
        self.done > 0
    }
}

/// What the controller can do next.
#[derive(Clone, Copy, Debug)]
enum Action {
    Fetch(u16),
    Move(usize),
    Post(u16),
}

impl Device for Controller {
    fn step(&mut self, turn: &mut Turn<'_>) -> Activity {
        let timer = self.live(turn.now);
        if self.function.is_gone() {
            return timer.map_or(Activity::Idle, Activity::Waiting);
        }
        self.break_down();
        let (actions, report) = self.actions(turn.now);
        let Some(action) = actions.get(turn.random.index(actions.len())) else {
            let next = [timer, report].into_iter().flatten().min();
            return next.map_or(Activity::Idle, Activity::Waiting);
        };
        match *action {
            Action::Fetch(queue) => self.fetch(queue, turn.random),
            Action::Move(job) => self.transfer(job),
            Action::Post(queue) => self.post_next(queue, turn.now),
        }
        Activity::Worked
    }
}

impl Controller {
    /// Faults of the whole device.
    fn break_down(&mut self) {
        if self.life != Life::Ready {
            return;
        }
        if self.function.faults().fires(Fault::FatalStatus) {
            self.function.fault(format_args!("controller fatal status"));
            self.life = Life::Failed;
        }
        if self.function.faults().fires(Fault::Removal) {
            self.function.fault(format_args!("removed"));
            self.remove();
        }
        if self.function.faults().fires(Fault::LinkFlap) {
            self.function.fault(format_args!("PCIe link down"));
            self.remove();
            self.link_back = Some(
                self.function
                    .clock()
                    .now()
                    .saturating_add(Duration::from_millis(1)),
            );
        }
    }

    /// Pulls the device.
    pub(super) fn remove(&mut self) {
        self.stop();
        self.written = super::controller::Written::default();
        self.function.set_gone(true);
    }

    /// What can be done now, and when the next coalesced interrupt is due.
    fn actions(&mut self, now: Instant) -> (Vec<Action>, Option<Instant>) {
        let mut actions = Vec::new();
        match self.life {
            Life::Ready => {}
            Life::Disabling { .. } => {
                actions.extend((0..self.jobs.len()).map(Action::Move));
                return (actions, None);
            }
            Life::Disabled | Life::Enabling { .. } | Life::Failed => return (actions, None),
        }
        if self.shutdown == Shutdown::No {
            let limit = self.config.in_flight;
            self.active
                .retain(|id| self.submissions.get(id).is_some_and(Submission::has_work));
            let fetching = self
                .active
                .iter()
                .filter(|id| self.submissions[id].in_flight < limit);
            actions.extend(fetching.map(|id| Action::Fetch(*id)));
        }
        actions.extend((0..self.jobs.len()).map(Action::Move));
        let mut report = None;
        let completions = &self.completions;
        self.posting.retain(|id| {
            completions
                .get(id)
                .is_some_and(|cq| cq.report_at.is_some() || !cq.waiting.is_empty())
        });
        for id in &self.posting {
            let completion = &completions[id];
            let due = completion.report_at;
            if completion.can_post() || due.is_some_and(|due| due <= now) {
                actions.push(Action::Post(*id));
            }
            report = [report, due].into_iter().flatten().min();
        }
        (actions, report)
    }

    fn fetch(&mut self, id: u16, random: &mut Random) {
        if self.function.faults().fires(Fault::StuckQueue(id)) {
            self.function
                .fault(format_args!("submission queue {id} not served"));
            self.active.remove(&id);
            return;
        }
        if self.shadow.is_some() && id > 0 && !self.read_shadow_tail(id) {
            return;
        }
        let Some(submission) = self.submissions.get_mut(&id) else {
            return;
        };
        if submission.head == submission.tail {
            return;
        }
        let address = submission.address();
        let Ok(bytes) = self.function.read_array(address) else {
            self.fail("a submission queue entry could not be read");
            return;
        };
        submission.advance();
        submission.in_flight += 1;
        self.begin(id, Command(bytes), random);
    }

    /// Checks the command and starts its work.
    fn begin(&mut self, submission: u16, command: Command, random: &mut Random) {
        if submission == 0 && self.function.faults().fires(Fault::AdminTimeout) {
            self.function
                .fault(format_args!("admin command {} swallowed", command.id()));
            return;
        }
        match self.start_work(submission, &command, random) {
            Ok(Work::Hold) => {}
            Ok(Work::Done(result)) => self.complete(submission, &command, Ok(result)),
            Ok(Work::Send(bytes)) => self.move_data(submission, command, bytes, true),
            Ok(Work::Receive(len)) => self.move_data(submission, command, vec![0; len], false),
            Err(status) => self.complete(submission, &command, Err(status)),
        }
    }

    fn start_work(
        &mut self,
        submission: u16,
        command: &Command,
        random: &mut Random,
    ) -> Result<Work, Status> {
        if self.is_in_flight(submission, command.id()) {
            let text = format_args!(
                "command id {} used twice in queue {submission}",
                command.id()
            );
            self.function.violation("NVMe 1.4, 4.2", text);
            return Err(Status::ID_CONFLICT);
        }
        if command.fuse() != 0 || command.reserved_flags() != 0 || command.psdt() == 3 {
            let text = format_args!(
                "command flags {:#04x} are not supported or reserved",
                command.0[1]
            );
            self.function.violation("NVMe 1.4, 4.2", text);
            return Err(Status::INVALID_FIELD);
        }
        if command.psdt() == 0 && command.metadata_pointer() != 0 && submission > 0 {
            let text = format_args!("metadata pointer without metadata");
            self.function.left_out(text);
        }
        if let Some(status) = self.injected_status(submission, command) {
            return Err(status);
        }
        if submission == 0 {
            self.begin_admin(command, random)
        } else {
            self.begin_io(command)
        }
    }

    /// Whether a command with this id was fetched and its completion not yet posted.
    fn is_in_flight(&self, submission: u16, id: u16) -> bool {
        let completion = self
            .submissions
            .get(&submission)
            .map_or(0, |submission| submission.completion);
        let mut waiting = self
            .completions
            .get(&completion)
            .into_iter()
            .flat_map(|completion| &completion.waiting);
        let mut jobs = self.jobs.iter();
        let held = submission == 0 && self.events.holds(id);
        held || jobs.any(|job| job.submission == submission && job.command.id() == id)
            || waiting.any(|posting| {
                !posting.repeated && posting.submission == submission && posting.id == id
            })
    }

    fn injected_status(&mut self, submission: u16, command: &Command) -> Option<Status> {
        let matching = |rule: &super::StatusRule| {
            rule.queue.is_none_or(|queue| queue == submission)
                && rule.opcode.is_none_or(|opcode| opcode == command.opcode())
        };
        let index = self.rules.iter().position(matching)?;
        let rule = self.rules.get_mut(index)?;
        rule.count -= 1;
        let status = rule.status;
        if rule.count == 0 {
            self.rules.remove(index);
        }
        Some(status)
    }

    fn move_data(&mut self, submission: u16, command: Command, mut bytes: Vec<u8>, to_host: bool) {
        let rules = Rules {
            page: self.page(),
            sgl: self.config.options.has_sgl() && submission > 0,
            to_host,
        };
        match pointer::pieces(&self.function, &command, bytes.len(), rules) {
            Ok(pieces) => {
                if to_host && submission == 0 {
                    self.function.faults().corrupt(&mut bytes);
                }
                let job = Job {
                    submission,
                    command,
                    pieces,
                    bytes,
                    done: 0,
                    to_host,
                };
                self.jobs.push(job);
            }
            Err(status) => self.complete(submission, &command, Err(status)),
        }
    }

    /// Moves the next piece of a job's data; after the last one the command takes effect.
    fn transfer(&mut self, index: usize) {
        if self.function.faults().fires(Fault::ResetMidDma) {
            self.function
                .fault(format_args!("reset in the middle of a transfer"));
            self.stop();
            return;
        }
        let job = &mut self.jobs[index];
        let Some(piece) = job.pieces.pop_front() else {
            let job = self.jobs.swap_remove(index);
            if self.life == Life::Ready {
                self.finish(&job);
            }
            return;
        };
        let end = (job.done + piece.len).min(job.bytes.len());
        let range = job.done..end;
        let moved = match piece.address {
            None => Ok(()),
            Some(address) if job.to_host => self.function.write(address, &job.bytes[range]),
            Some(address) => self.function.read(address, &mut job.bytes[range]),
        };
        job.done = end;
        if moved.is_err() {
            let job = self.jobs.swap_remove(index);
            self.complete(
                job.submission,
                &job.command,
                Err(Status::DATA_TRANSFER_ERROR),
            );
        }
    }

    fn finish(&mut self, job: &Job) {
        let mut result = Ok(0);
        if !job.to_host {
            result = self.received(&job.command, &job.bytes).map(|()| 0);
        }
        self.complete(job.submission, &job.command, result);
    }

    fn complete(&mut self, submission: u16, command: &Command, result: Result<u32, Status>) {
        let (status, result) = match result {
            Ok(result) => (Status::SUCCESS, result),
            Err(status) => {
                self.note_failure(submission, command, status);
                (status, 0)
            }
        };
        let posting = Posting {
            submission,
            id: command.id(),
            status,
            result,
            repeated: false,
        };
        self.post(posting);
        if submission > 0 && self.function.faults().fires(Fault::DuplicateCompletion) {
            self.function
                .fault(format_args!("completion of {} posted twice", command.id()));
            self.post(Posting {
                repeated: true,
                ..posting
            });
        }
    }

    /// The largest transfer in bytes: MDTS.
    pub(super) const fn transfer_limit(&self) -> usize {
        match self.config.transfer_exponent {
            0 => usize::MAX,
            exponent => 4096 << exponent,
        }
    }
}
