//! The processes of the manifest: started, stopped, restarted, shown, until all have ended.

mod member;
mod resources;

use core::net::Ipv4Addr;
use core::time::Duration;

use heapless::{String, Vec};
use kernel_formats::command::Command;
use kernel_formats::{archive, manifest};
use parakernel_core::address::{CoreId, NodeId};
use parakernel_core::time::Instant;
use parakernel_nic_virtio::steering::class_of;

use crate::attack::{Aim, Inside};
use crate::boot::Kernel;
use crate::control::Control;
use crate::cores::{CORES_MAX, Calls};
use crate::housekeeping::Turn;
use crate::mailbox::Text;
use crate::panic::{Verdict, power_off};
use crate::report::{self, Counters, Leaks};
use crate::runner::End;
use crate::{print, time};

use member::{Member, State, WORK_LIMIT};
use resources::Resources;

/// Most failures that are told apart.
const FAILURES_MAX: usize = 16;

/// All processes of the manifest.
#[derive(Debug)]
pub(crate) struct Supervisor {
    members: Vec<&'static mut Member, CORES_MAX>,
    settings: manifest::Kernel,
    failures: Vec<&'static str, FAILURES_MAX>,
    restarted: u32,
    before: Resources,
    next_report: Instant,
    end: Option<Instant>,
    is_stopping: bool,
    is_ready: bool,
}

/// The manifest in the archive.
fn text(kernel: &Kernel) -> &'static str {
    let text = archive::find(kernel.archive, "manifest").unwrap_or(b"");
    core::str::from_utf8(text).unwrap_or("")
}

/// The kernel's settings in the manifest.
pub(crate) fn settings(kernel: &Kernel) -> manifest::Kernel {
    manifest::kernel(text(kernel)).unwrap_or_else(|error| {
        print!("{error}\n");
        manifest::DEFAULTS
    })
}

impl Supervisor {
    /// Starts the processes of the manifest.
    pub(crate) fn start(control: &mut Control, settings: manifest::Kernel) -> Self {
        let text = text(control.kernel());
        let now = time::now();
        let mut failures = Vec::new();
        if manifest::kernel(text).is_err() {
            fail(&mut failures, "the manifest's settings are wrong");
        }
        let end = settings
            .seconds
            .map(|seconds| now.saturating_add(Duration::from_secs(seconds)));
        let mut supervisor = Self {
            members: Vec::new(),
            settings,
            failures,
            restarted: 0,
            before: Resources::of(control),
            next_report: now,
            end,
            is_stopping: false,
            is_ready: false,
        };
        for process in manifest::processes(text) {
            match process {
                Ok(process)
                    if control.steers_by_class() && supervisor.steers_like_another(&process) =>
                {
                    print!(
                        "{}: its address equals another's modulo 128, and the card steers by that\n",
                        process.name
                    );
                    fail(
                        &mut supervisor.failures,
                        "two processes' frames cannot be told apart by the card",
                    );
                }
                Ok(process) if !control.make_room(&process) => {
                    print!("{}: no memory for so many queues\n", process.name);
                    fail(
                        &mut supervisor.failures,
                        "there is no memory for a process's queues",
                    );
                }
                Ok(process) => supervisor.add(control.kernel(), process),
                Err(error) => {
                    print!("{error}\n");
                    fail(
                        &mut supervisor.failures,
                        "a process in the manifest is wrong",
                    );
                }
            }
        }
        supervisor.aim(control.kernel());
        supervisor.before = Resources::of(control);
        for member in &mut supervisor.members {
            if !member.process.starts_later {
                member.start(control);
            }
        }
        supervisor
    }

    /// Whether the card would lead the frames of `process` to one that is there already, or the other way round.
    fn steers_like_another(&self, process: &manifest::Process<'_>) -> bool {
        let class = |address: Ipv4Addr| class_of(address.octets());
        process.address.is_some_and(|address| {
            let mut others = self
                .members
                .iter()
                .filter_map(|member| member.process.address);
            others.any(|other| class(other) == class(address))
        })
    }

    fn add(&mut self, kernel: &mut Kernel, process: manifest::Process<'static>) {
        let restarts = process.restarts.max(self.settings.restarts);
        let member = Member {
            process,
            core: CoreId::new(process.core),
            state: State::Waiting,
            end: None,
            reason: String::new(),
            restarts,
            lives: 0,
            queues: None,
            before: Counters::default(),
            has_worked: false,
            aim: None,
            attack: None,
            ended_at: Instant::from_nanos(0),
            due: None,
            announced: None,
            shown: [0; _],
        };
        let node = kernel.frames.node_with_memory(NodeId::new(0));
        let member = kernel.frames.place(node, member);
        if member.is_none_or(|member| self.members.push(member).is_err()) {
            fail(&mut self.failures, "there are more processes than cores");
        }
    }

    /// Has each process that attacks another aim at that one.
    fn aim(&mut self, kernel: &mut Kernel) {
        for index in 0..self.members.len() {
            let attacked = self.members[index].process.attacks;
            let Some(name) = attacked else { continue };
            let mut others = self.members.iter();
            let victim = others.find(|other| other.process.name == name);
            let core = victim.map(|victim| victim.core);
            self.members[index].aim = core.and_then(|core| Aim::take(kernel, core));
            if self.members[index].aim.is_none() {
                fail(
                    &mut self.failures,
                    "a process is to attack one that is not there",
                );
            }
        }
    }

    /// Takes note that the process on `core` has ended.
    pub(crate) fn ended(&mut self, control: &mut Control, core: CoreId, end: End) {
        if let Some(attack) = self
            .member_on(core)
            .and_then(|member| member.attack.as_mut())
            && let Some(seat) = control.seats().get(core)
        {
            attack.examine(Inside::look(seat));
        }
        control.end(core);
        if let Some(member) = self.member_on(core) {
            member.ended(end);
        }
    }

    /// The process that runs on `core`.
    fn member_on(&mut self, core: CoreId) -> Option<&mut Member> {
        let mut members = self.members.iter_mut().map(|member| &mut **member);
        members.find(|member| member.core == core && member.runs())
    }

    /// Carries out what the host wants.
    pub(crate) fn command(&mut self, control: &mut Control, command: Command<'_>) {
        match command {
            Command::Stop => self.stop(control),
            Command::Report => self.show(control),
            Command::Start(name) => {
                if let Some(member) = self.member(name) {
                    member.start(control);
                }
            }
            Command::Kill(name) => {
                if let Some(member) = self.member(name) {
                    member.restarts = 0;
                    member.stop(control);
                }
            }
            Command::Restart(name) => {
                if let Some(member) = self.member(name) {
                    member.restarts += 1;
                    member.stop(control);
                }
            }
            Command::Reset(device) => control.reset(device),
            Command::Revoke(name) => {
                if let Some(member) = self.member(name) {
                    member.revoke(control);
                }
            }
        }
    }

    /// Takes note of what the process on `core` says of an attack.
    pub(crate) fn said(&mut self, control: &Control, core: CoreId, text: &Text, calls: Calls) {
        if let Some(member) = self.member_on(core) {
            member.said(control, text, calls);
        }
    }

    /// Does what is due; powers off when all is over.
    pub(crate) fn turn(&mut self, control: &mut Control) -> Turn {
        let now = time::now();
        if self.end.is_some_and(|end| now >= end) {
            self.stop(control);
        }
        for index in 0..self.members.len() {
            self.advance(index, control, now);
        }
        if self.is_tested_out() {
            self.stop(control);
        }
        if !self.is_ready
            && self
                .members
                .iter()
                .all(|member| member.state != State::Waiting || member.process.starts_later)
        {
            self.is_ready = true;
            control.report_drops();
            report::ready();
        }
        if now >= self.next_report {
            self.show(control);
            self.next_report = now.saturating_add(Duration::from_millis(self.settings.report_ms));
        }
        let is_over = |member: &&mut Member| match member.state {
            State::Exited | State::Killed => true,
            State::Waiting => self.is_stopping || !member.process.starts_later,
            State::Running(_) | State::Ending => false,
        };
        // What the dead left in quarantine may be on its way back after a reset.
        if self.members.iter().all(is_over) && control.is_idle() {
            self.finish(control);
        }
        Turn::Idle(Some(self.next_report))
    }

    /// Whether restarts are what is tested, and everybody lives the last life.
    fn is_tested_out(&self) -> bool {
        let mut members = self.members.iter();
        self.settings.restarts > 0
            && !self.is_stopping
            && members.all(|member| {
                let is_last = member.restarts == 0 && member.runs();
                member.process.starts_later || (is_last && member.has_worked)
            })
    }

    /// Moves one process on.
    fn advance(&mut self, index: usize, control: &mut Control, now: Instant) {
        let Some(member) = self.members.get_mut(index) else {
            return;
        };
        let is_tested = self.settings.restarts > 0 && !self.is_stopping;
        match member.state {
            State::Running(_) if member.due.is_some_and(|due| now >= due) => {
                member.stop(control);
            }
            State::Running(_) if member.has_had_notice(now) => member.take_queues(control),
            State::Running(since) if is_tested => {
                let limit = since.saturating_add(WORK_LIMIT);
                if let Err(failure) = member.try_out(control, now > limit) {
                    fail(&mut self.failures, failure);
                    self.stop(control);
                }
            }
            State::Ending if is_tested && matches!(member.end, Some(End::Exited(_))) => {
                fail(&mut self.failures, "a restarted process gave up");
                self.stop(control);
            }
            State::Ending if control.has_nothing(member.core) => {
                if !member.bury(control.kernel()) {
                    fail(
                        &mut self.failures,
                        "a process's frames did not all come back",
                    );
                }
                member.settle(control);
                if member.restarts > 0 && !self.is_stopping {
                    member.restarts -= 1;
                    self.restarted += 1;
                    member.start(control);
                }
            }
            State::Running(_) | State::Ending | State::Waiting | State::Exited | State::Killed => {}
        }
    }

    fn stop(&mut self, control: &mut Control) {
        self.is_stopping = true;
        for member in &self.members {
            member.stop(control);
        }
    }

    fn member(&mut self, name: &str) -> Option<&mut Member> {
        let found = self
            .members
            .iter_mut()
            .find(|member| member.process.name == name);
        if found.is_none() {
            print!("no process {name}\n");
        }
        found.map(|member| &mut **member)
    }

    fn show(&mut self, control: &mut Control) {
        for member in &mut self.members {
            member.show(control);
        }
    }

    /// The last lines, and the end.
    fn finish(&mut self, control: &mut Control) -> ! {
        self.show(control);
        control.report_drops();
        let quarantined = control.quarantined();
        if quarantined.leases > 0 {
            fail(
                &mut self.failures,
                "a queue did not stop, and is quarantined with what it may reach",
            );
        }
        let after = Resources::of(control).with(&quarantined);
        if after != self.before {
            fail(&mut self.failures, "not all frames and vectors came back");
        }
        let found = control.kernel().frames.inspect();
        if found.damaged > 0 {
            fail(
                &mut self.failures,
                "frames were written to after they were freed",
            );
        }
        if control.machine().freed_early > 0 {
            fail(
                &mut self.failures,
                "memory was to be freed that a core could still reach",
            );
        }
        report::leaks(&Leaks {
            restarts: self.restarted,
            quarantined,
            compared: found.compared,
            damaged: found.damaged,
            ..after.less(self.before)
        });
        report::verdict(&self.failures);
        power_off(if self.failures.is_empty() {
            Verdict::Pass
        } else {
            Verdict::Fail
        });
    }
}

/// Notes a failure; the first few are enough.
fn fail(failures: &mut Vec<&'static str, FAILURES_MAX>, failure: &'static str) {
    if !failures.contains(&failure) {
        let _full = failures.push(failure).is_err();
    }
}
