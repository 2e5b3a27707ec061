//! A process of the manifest: started, watched, revoked, stopped, shown.

use core::fmt::Write;
use core::time::Duration;

use heapless::String;
use kernel_formats::{archive, manifest};
use parakernel_core::abi::Metric;
use parakernel_core::address::CoreId;
use parakernel_core::time::Instant;

use crate::attack::{Aim, Attack, Inside, Said};
use crate::boot::Kernel;
use crate::control::Control;
use crate::cores::{self, Calls};
use crate::mailbox::Text;
use crate::report::{self, Counters};
use crate::runner::End;
use crate::{print, time};

/// Frames each way and commands after which a process has shown that it works, where restarts are what is tested.
const WORK: u64 = 4;
/// How long it may take until then: emulated cores share few real ones.
pub(super) const WORK_LIMIT: Duration = Duration::from_secs(30);
/// How long a process has to let go of its queues before they are taken back: a few of its turns, on emulated cores that share
/// few real ones.
const NOTICE: Duration = Duration::from_millis(200);
/// How long a process may go on after its queues began to be taken back.
const GRACE: Duration = Duration::from_millis(500);
/// Where a process is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
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
pub(super) struct Member {
    pub(super) process: manifest::Process<'static>,
    pub(super) core: CoreId,
    pub(super) state: State,
    pub(super) end: Option<End>,
    pub(super) reason: String<96>,
    pub(super) restarts: u32,
    /// How often it was started.
    pub(super) lives: u32,
    /// How many queue pairs it had when it was first seen at work; each life has to have as many.
    pub(super) queues: Option<u32>,
    /// What it had done when this life began, and whether it was seen at work since.
    pub(super) before: Counters,
    pub(super) has_worked: bool,
    /// What it aims at, if it is there to attack another.
    pub(super) aim: Option<Aim>,
    /// The attack that it has announced and that has not ended.
    pub(super) attack: Option<Attack>,
    /// Since when it has known that its queues will be taken back.
    pub(super) announced: Option<Instant>,
    /// When it ended.
    pub(super) ended_at: Instant,
    /// Until when it has to have ended because its queues were taken back.
    pub(super) due: Option<Instant>,
    /// What it published about itself, as it was last shown.
    pub(super) shown: [u64; Metric::ALL.len()],
}

impl Member {
    pub(super) const fn runs(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    pub(super) fn start(&mut self, control: &mut Control) {
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
    pub(super) fn try_out(
        &mut self,
        control: &mut Control,
        is_late: bool,
    ) -> Result<(), &'static str> {
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
    pub(super) fn revoke(&mut self, control: &mut Control) {
        if !self.runs() || self.announced.is_some() || self.due.is_some() {
            return;
        }
        control.announce_revocation(self.core);
        self.announced = Some(time::now());
    }

    /// Whether its queues are to be taken back now.
    pub(super) fn has_had_notice(&self, now: Instant) -> bool {
        let is_over = |since: Instant| now >= since.saturating_add(NOTICE);
        self.announced.is_some_and(is_over)
    }

    /// Takes back, after they were announced to be, the queues of a process that still runs.
    pub(super) fn take_queues(&mut self, control: &mut Control) {
        self.announced = None;
        control.revoke(self.core);
        self.due = Some(time::now().saturating_add(GRACE));
    }

    pub(super) fn said(&mut self, control: &Control, text: &Text, calls: Calls) {
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
    pub(super) fn settle(&mut self, control: &Control) {
        let core = cores::by_id(self.core);
        if let (Some(attack), Some(aim), Some(core)) = (self.attack.take(), &self.aim, core) {
            let ms = elapsed_ms(self.ended_at);
            let end = (self.end, &*self.reason);
            attack.judge(aim.look(control), core.calls(), end, ms);
        }
    }

    pub(super) fn stop(&self, control: &mut Control) {
        if self.runs() {
            control.stop(self.core);
        }
    }

    pub(super) fn ended(&mut self, end: End) {
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
    pub(super) fn bury(&mut self, kernel: &mut Kernel) -> bool {
        let has_exited = matches!(self.end, Some(End::Exited(_)));
        self.state = if has_exited {
            State::Exited
        } else {
            State::Killed
        };
        let seat = kernel.seats.at(self.core);
        seat.is_some_and(|seat| seat.reclaim(&mut kernel.frames).is_ok())
    }

    pub(super) fn explain(&mut self, reason: core::fmt::Arguments<'_>) {
        self.reason.clear();
        // What does not fit is left out.
        let _is_cut = self.reason.write_fmt(reason).is_err();
    }

    /// Shows what the process has published since the last time.
    pub(super) fn show_metrics(&mut self) {
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

    pub(super) fn show(&mut self, control: &mut Control) {
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

/// How many milliseconds have passed since `start`.
fn elapsed_ms(start: Instant) -> u64 {
    time::now().as_nanos().saturating_sub(start.as_nanos()) / 1_000_000
}
