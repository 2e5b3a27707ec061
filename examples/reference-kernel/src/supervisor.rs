//! The processes of the manifest: started, stopped, restarted, shown, until all have ended.

use core::fmt::Write;
use core::net::Ipv4Addr;
use core::time::Duration;

use heapless::{String, Vec};
use kernel_formats::command::Command;
use kernel_formats::{archive, manifest};
use parakernel_core::abi::Metric;
use parakernel_core::address::{CoreId, NodeId};
use parakernel_core::control::Quarantine;
use parakernel_core::time::Instant;
use parakernel_nic_virtio::steering::class_of;

use crate::attack::{Aim, Attack, Inside, Said};
use crate::boot::Kernel;
use crate::control::Control;
use crate::cores::{self, CORES_MAX, Calls};
use crate::housekeeping::Turn;
use crate::mailbox::Text;
use crate::panic::{Verdict, power_off};
use crate::report::{self, Counters, Leaks};
use crate::runner::End;
use crate::{print, time, vectors};

/// Frames each way and commands after which a process has shown that it works, where restarts are what is tested.
const WORK: u64 = 4;
/// How long it may take until then: emulated cores share few real ones.
const WORK_LIMIT: Duration = Duration::from_secs(30);
/// How long a process has to let go of its queues before they are taken back: a few of its turns, on emulated cores that share
/// few real ones.
const NOTICE: Duration = Duration::from_millis(200);
/// How long a process may go on after its queues began to be taken back.
const GRACE: Duration = Duration::from_millis(500);
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
    /// How often it was started.
    lives: u32,
    /// How many queue pairs it had when it was first seen at work; each life has to have as many.
    queues: Option<u32>,
    /// What it had done when this life began, and whether it was seen at work since.
    before: Counters,
    has_worked: bool,
    /// What it aims at, if it is there to attack another.
    aim: Option<Aim>,
    /// The attack that it has announced and that has not ended.
    attack: Option<Attack>,
    /// Since when it has known that its queues will be taken back.
    announced: Option<Instant>,
    /// When it ended.
    ended_at: Instant,
    /// Until when it has to have ended because its queues were taken back.
    due: Option<Instant>,
    /// What it published about itself, as it was last shown.
    shown: [u64; Metric::ALL.len()],
}

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

/// What there is as long as nobody has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Resources {
    frames: usize,
    vectors: usize,
    queues: usize,
    regions: usize,
    rules: usize,
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
        report::leaks(&Leaks {
            restarts: self.restarted,
            frames: difference(self.before.frames, after.frames),
            vectors: difference(after.vectors, self.before.vectors),
            rules: signed(after.rules) - signed(self.before.rules),
            queues: signed(after.queues) - signed(self.before.queues),
            quarantined,
            compared: found.compared,
            damaged: found.damaged,
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

    fn start(&mut self, control: &mut Control) {
        let archive = control.kernel().archive;
        let file = archive::find(archive, self.process.executable).unwrap_or(&[]);
        self.lives += 1;
        (self.has_worked, self.before) = (false, control.counters(self.core));
        let aim = self.aim.as_ref();
        let words = aim.map(|aim| aim.words(control.seats(), self.lives - 1));
        match control.start(&self.process, file, &words.unwrap_or_default()) {
            Ok(()) => {
                self.state = State::Running(time::now());
                self.reason.clear();
            }
            Err(error) => {
                self.state = State::Killed;
                self.explain(format_args!("does not start: {error}"));
            }
        }
    }

    /// Watches a life that is there to see whether the next one gets the same; ends it once the process has worked.
    fn try_out(&mut self, control: &mut Control, is_late: bool) -> Result<(), &'static str> {
        if self.has_worked {
            return Ok(());
        }
        let (now, before) = (control.counters(self.core), self.before);
        let frames = (now.rx_frames - before.rx_frames).min(now.tx_frames - before.tx_frames);
        let is_on_network = self.process.nic_queues == 0 || frames >= WORK;
        let is_on_disk = self.process.nvme_queues == 0 || now.ios - before.ios >= WORK;
        if !(is_on_network && is_on_disk) {
            return if is_late {
                Err("a restarted process does not get to work")
            } else {
                Ok(())
            };
        }
        let queues = *self.queues.get_or_insert(now.queues);
        if queues != now.queues {
            let (name, life) = (self.process.name, self.lives);
            print!(
                "{name}: {} queues in life {life}, {queues} in the first\n",
                now.queues
            );
            return Err("a restarted process has not as many queues as before");
        }
        self.has_worked = true;
        if self.restarts > 0 {
            self.stop(control);
        }
        Ok(())
    }

    /// Tells the process that its queues are taken back, and does so once it has had time to let go of them. It is to end
    /// then, and is ended where it does not.
    fn revoke(&mut self, control: &mut Control) {
        if !self.runs() || self.announced.is_some() || self.due.is_some() {
            return;
        }
        control.announce_revocation(self.core);
        self.announced = Some(time::now());
    }

    /// Whether its queues are to be taken back now.
    fn has_had_notice(&self, now: Instant) -> bool {
        let is_over = |since: Instant| now >= since.saturating_add(NOTICE);
        self.announced.is_some_and(is_over)
    }

    /// Takes back, after they were announced to be, the queues of a process that still runs.
    fn take_queues(&mut self, control: &mut Control) {
        self.announced = None;
        control.revoke(self.core);
        self.due = Some(time::now().saturating_add(GRACE));
    }

    fn said(&mut self, control: &Control, text: &Text, calls: Calls) {
        // Nobody else's word means anything.
        let Some(aim) = &self.aim else { return };
        let seat = control.seats().get(self.core);
        match (Said::of(text), &mut self.attack, seat) {
            (Some(Said::Begins), _, Some(seat)) => {
                let (look, inside) = (aim.look(control), Inside::look(seat));
                self.attack = Attack::begin(text, calls, look, inside);
            }
            (Some(Said::Survived), Some(attack), _) => attack.confess(text),
            _ => {}
        }
    }

    /// Says what became of the attack that the process was at when it ended, now that nothing of it is left.
    fn settle(&mut self, control: &Control) {
        let core = cores::by_id(self.core);
        if let (Some(attack), Some(aim), Some(core)) = (self.attack.take(), &self.aim, core) {
            let ms = elapsed_ms(self.ended_at);
            let end = (self.end, &*self.reason);
            attack.judge(aim.look(control), core.calls(), end, ms);
        }
    }

    fn stop(&self, control: &mut Control) {
        if self.runs() {
            control.stop(self.core);
        }
    }

    fn ended(&mut self, end: End) {
        self.state = State::Ending;
        self.end = Some(end);
        self.announced = None;
        self.ended_at = time::now();
        let is_late = self.due.take().is_some_and(|due| time::now() >= due);
        match end {
            End::Exited(code) => self.explain(format_args!("exit code {code}")),
            End::Stopped if is_late => {
                self.explain(format_args!(
                    "an interrupt, {} ms after its queues began to be taken back",
                    GRACE.as_millis()
                ));
            }
            End::Stopped => self.explain(format_args!("stopped")),
            End::Faulted(fault) => self.explain(format_args!("{fault}")),
            End::Violated(violation) => self.explain(format_args!("{violation}")),
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

    /// Shows what the process has published since the last time.
    fn show_metrics(&mut self) {
        let Some(core) = cores::by_id(self.core) else {
            return;
        };
        for (index, metric) in Metric::ALL.into_iter().enumerate() {
            let value = core.metric(metric);
            if value != self.shown[index] {
                report::number(self.process.name, metric.name(), value);
                self.shown[index] = value;
            }
        }
    }

    fn show(&mut self, control: &mut Control) {
        let core = cores::by_id(self.core);
        let node = core.map_or(0, |core| core.node.index());
        let mut counters = control.counters(self.core);
        counters.strays = core.map_or(0, |core| core.metric(Metric::Strays));
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
            counters,
        });
        self.show_metrics();
    }
}

impl Resources {
    fn of(control: &mut Control) -> Self {
        let [leases, regions, rules] = control.counts();
        Self {
            frames: control.kernel().frames.free_total(),
            vectors: cores::all().map(vectors::in_use).sum(),
            queues: leases,
            regions,
            rules,
        }
    }

    /// The same once a reset of the device has given back what is quarantined.
    fn with(self, quarantined: &Quarantine) -> Self {
        let pages = usize::try_from(quarantined.pages).unwrap_or(usize::MAX);
        Self {
            frames: self.frames.saturating_add(pages),
            queues: self.queues.saturating_sub(quarantined.leases),
            regions: self.regions.saturating_sub(quarantined.regions),
            ..self
        }
    }
}

/// How many milliseconds have passed since `start`.
fn elapsed_ms(start: Instant) -> u64 {
    time::now().as_nanos().saturating_sub(start.as_nanos()) / 1_000_000
}

/// A count as a number that may be subtracted from another.
fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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
