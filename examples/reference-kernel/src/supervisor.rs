//! The processes of the manifest: started, stopped, restarted, shown, until all have ended.

use core::fmt::Write;
use core::time::Duration;

use heapless::{String, Vec};
use kernel_formats::command::Command;
use kernel_formats::{archive, manifest};
use parakernel_core::address::{CoreId, NodeId};
use parakernel_core::time::Instant;

use crate::boot::Kernel;
use crate::control::Control;
use crate::cores::{self, CORES_MAX};
use crate::housekeeping::Turn;
use crate::panic::{Verdict, power_off};
use crate::process::Plan;
use crate::report::{self, Leaks};
use crate::runner::End;
use crate::{print, time, vectors};

/// How long a process runs before it is stopped, where restarts are what is tested.
const SHORT_LIFE: Duration = Duration::from_millis(20);
/// Most failures that are told apart.
const FAILURES_MAX: usize = 16;

/// Where a process is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It has not been started.
    Waiting,
    /// It runs, since then.
    Running(Instant),
    /// It has ended, and what it had is being taken back.
    Ending,
    /// It has ended by itself, and nothing of it is left.
    Exited,
    /// It was ended, and nothing of it is left.
    Killed,
}

/// A process of the manifest.
#[derive(Debug)]
struct Member {
    process: manifest::Process<'static>,
    core: CoreId,
    state: State,
    end: Option<End>,
    reason: String<96>,
    restarts: u32,
}

/// All processes of the manifest.
#[derive(Debug)]
pub(crate) struct Supervisor {
    members: Vec<&'static mut Member, CORES_MAX>,
    settings: manifest::Kernel<'static>,
    failures: Vec<&'static str, FAILURES_MAX>,
    restarted: u32,
    before: Resources,
    next_report: Instant,
    end: Option<Instant>,
    is_stopping: bool,
    is_ready: bool,
}

/// What there is as long as nobody has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Resources {
    frames: usize,
    vectors: usize,
}

impl Supervisor {
    /// Reads the manifest and starts its processes.
    pub(crate) fn start(kernel: &mut Kernel) -> Self {
        let text = archive::find(kernel.archive, "manifest").unwrap_or(b"");
        let text = core::str::from_utf8(text).unwrap_or("");
        let now = time::now();
        let mut failures = Vec::new();
        let settings = manifest::kernel(text).unwrap_or_else(|error| {
            print!("{error}\n");
            fail(&mut failures, "the manifest's settings are wrong");
            manifest::DEFAULTS
        });
        let end = settings
            .seconds
            .map(|seconds| now.saturating_add(Duration::from_secs(seconds)));
        let mut supervisor = Self {
            members: Vec::new(),
            settings,
            failures,
            restarted: 0,
            before: Resources::of(kernel),
            next_report: now,
            end,
            is_stopping: false,
            is_ready: false,
        };
        for process in manifest::processes(text) {
            match process {
                Ok(process) => supervisor.add(kernel, process),
                Err(error) => {
                    print!("{error}\n");
                    fail(
                        &mut supervisor.failures,
                        "a process in the manifest is wrong",
                    );
                }
            }
        }
        supervisor.before = Resources::of(kernel);
        for member in &mut supervisor.members {
            if !member.process.starts_later {
                member.start(kernel);
            }
        }
        supervisor
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
        };
        let node = kernel.frames.node_with_memory(NodeId::new(0));
        let member = kernel.frames.place(node, member);
        if member.is_none_or(|member| self.members.push(member).is_err()) {
            fail(&mut self.failures, "there are more processes than cores");
        }
    }

    /// Takes note that the process on `core` has ended.
    pub(crate) fn ended(
        &mut self,
        kernel: &mut Kernel,
        control: &mut Control,
        core: CoreId,
        end: End,
    ) {
        control.revoke(kernel, core);
        let mut members = self.members.iter_mut().map(|member| &mut **member);
        let is_it = |member: &&mut Member| member.core == core && member.runs();
        if let Some(member) = members.find(is_it) {
            member.ended(end);
        }
    }

    /// Carries out what the host wants.
    pub(crate) fn command(
        &mut self,
        kernel: &mut Kernel,
        control: &mut Control,
        command: Command<'_>,
    ) {
        match command {
            Command::Stop => self.stop(kernel),
            Command::Report => self.show(control),
            Command::Start(name) => {
                if let Some(member) = self.member(name) {
                    member.start(kernel);
                }
            }
            Command::Kill(name) => {
                if let Some(member) = self.member(name) {
                    member.restarts = 0;
                    member.stop(kernel);
                }
            }
            Command::Restart(name) => {
                if let Some(member) = self.member(name) {
                    member.restarts += 1;
                    member.stop(kernel);
                }
            }
            Command::Revoke(name) => {
                if let Some(core) = self.member(name).map(|member| member.core) {
                    control.revoke(kernel, core);
                }
            }
        }
    }

    /// Does what is due; powers off when all is over.
    pub(crate) fn turn(&mut self, kernel: &mut Kernel, control: &mut Control) -> Turn {
        let now = time::now();
        if self.end.is_some_and(|end| now >= end) {
            self.stop(kernel);
        }
        for index in 0..self.members.len() {
            self.advance(index, kernel, control, now);
        }
        if !self.is_ready
            && self
                .members
                .iter()
                .all(|member| member.state != State::Waiting || member.process.starts_later)
        {
            self.is_ready = true;
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
        if self.members.iter().all(is_over) {
            self.finish(kernel, control);
        }
        Turn::Idle(Some(self.next_report))
    }

    /// Moves one process on.
    fn advance(&mut self, index: usize, kernel: &mut Kernel, control: &Control, now: Instant) {
        let Some(member) = self.members.get_mut(index) else {
            return;
        };
        let is_tested = self.settings.restarts > 0 && member.restarts > 0;
        match member.state {
            State::Running(since) if is_tested && now > since.saturating_add(SHORT_LIFE) => {
                member.stop(kernel);
            }
            State::Ending if control.has_nothing(member.core) => {
                if !member.bury(kernel) {
                    fail(
                        &mut self.failures,
                        "a process's frames did not all come back",
                    );
                }
                if member.restarts > 0 && !self.is_stopping {
                    member.restarts -= 1;
                    self.restarted += 1;
                    member.start(kernel);
                }
            }
            State::Running(_) | State::Ending | State::Waiting | State::Exited | State::Killed => {}
        }
    }

    fn stop(&mut self, kernel: &mut Kernel) {
        self.is_stopping = true;
        for member in &self.members {
            member.stop(kernel);
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

    fn show(&self, control: &Control) {
        for member in &self.members {
            member.show(control);
        }
    }

    /// The last lines, and the end.
    fn finish(&mut self, kernel: &Kernel, control: &Control) -> ! {
        self.show(control);
        let after = Resources::of(kernel);
        if after != self.before {
            fail(&mut self.failures, "not all frames and vectors came back");
        }
        report::leaks(&Leaks {
            restarts: self.restarted,
            frames: difference(self.before.frames, after.frames),
            vectors: difference(after.vectors, self.before.vectors),
            ..Leaks::default()
        });
        report::verdict(&self.failures);
        power_off(if self.failures.is_empty() {
            Verdict::Pass
        } else {
            Verdict::Fail
        });
    }
}

impl Member {
    const fn runs(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    fn start(&mut self, kernel: &mut Kernel) {
        let process = self.process;
        let file = archive::find(kernel.archive, process.executable).unwrap_or(&[]);
        let plan = Plan {
            name: process.name,
            file,
            arguments: process.arguments,
            core: self.core,
        };
        match kernel
            .seats
            .start(&mut kernel.frames, kernel.tables.tables(), &plan)
        {
            Ok(()) => {
                self.state = State::Running(time::now());
                self.reason.clear();
            }
            Err(error) => {
                self.state = State::Killed;
                self.explain(format_args!("does not start: {error:?}"));
            }
        }
    }

    fn stop(&self, kernel: &mut Kernel) {
        if let (State::Running(_), Some(seat)) = (self.state, kernel.seats.at(self.core)) {
            seat.stop();
        }
    }

    fn ended(&mut self, end: End) {
        self.state = State::Ending;
        self.end = Some(end);
        match end {
            End::Exited(code) => self.explain(format_args!("exit code {code}")),
            End::Stopped => self.explain(format_args!("stopped")),
            End::Faulted(fault) => self.explain(format_args!("{fault}")),
        }
    }

    /// Takes the memory back; whether all of it came.
    fn bury(&mut self, kernel: &mut Kernel) -> bool {
        let has_exited = matches!(self.end, Some(End::Exited(_)));
        self.state = if has_exited {
            State::Exited
        } else {
            State::Killed
        };
        let seat = kernel.seats.at(self.core);
        seat.is_some_and(|seat| seat.reclaim(&mut kernel.frames).is_ok())
    }

    fn explain(&mut self, reason: core::fmt::Arguments<'_>) {
        self.reason.clear();
        // What does not fit is left out.
        let _is_cut = self.reason.write_fmt(reason).is_err();
    }

    fn show(&self, control: &Control) {
        let node = cores::by_id(self.core).map_or(0, |core| core.node.index());
        report::process(&report::Process {
            name: self.process.name,
            core: self.core.index(),
            node,
            state: match self.state {
                State::Waiting | State::Running(_) => "running",
                State::Exited => "exited",
                State::Ending if matches!(self.end, Some(End::Exited(_))) => "exited",
                State::Ending | State::Killed => "killed",
            },
            reason: &self.reason,
            counters: control.counters(self.core),
        });
    }
}

impl Resources {
    fn of(kernel: &Kernel) -> Self {
        Self {
            frames: kernel.frames.free_total(),
            vectors: cores::all().map(vectors::in_use).sum(),
        }
    }
}

/// Notes a failure; the first few are enough.
fn fail(failures: &mut Vec<&'static str, FAILURES_MAX>, failure: &'static str) {
    if !failures.contains(&failure) {
        let _full = failures.push(failure).is_err();
    }
}

/// `more - less`, both counts of things in memory.
fn difference(more: usize, less: usize) -> i64 {
    let signed = |count| i64::try_from(count).unwrap_or(i64::MAX);
    signed(more) - signed(less)
}
