//! The boots there are: what happens in each, and how it is judged.

use super::{
    Spec,
    play::{Goal, Plot, goes_on, pestered, play},
    protection,
    scene::Scene,
};
use crate::{
    attacks::{Seen, Try},
    cast::{BAIT, Cast, ROGUE, Settings},
    console::State,
    observed::Observed,
    qemu::{machine::Wire, run::Ended},
    report::{Evidence, Outcome, Report},
};
use anyhow::{Context, Result, ensure};
use core::time::Duration;
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, process::ExitCode, time::Instant};

/// The process that is killed where memory is freed early, and how long frames for it go on coming.
const ECHO: &str = "echo0";
const AFTERMATH: Duration = Duration::from_secs(1);

/// Requests to each process in boots that are about something else.
const FEW_REQUESTS: u64 = 200;

/// Queue pairs of the SSD in boots that are about something else.
const BLOCK_PAIRS: u16 = 64;

/// Entries of each ring of the card's.
const RING_ENTRIES: u64 = 256;
/// Nearly what a storage queue gets to finish what it was given, 2 s; otherwise that takes a few milliseconds.
const TOO_LATE_MS: u64 = 1900;

/// What happens in a boot.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Script {
    /// Everything at once, judged and reported.
    Demo {
        requests: u64,
        json: Option<PathBuf>,
    },
    /// The kernel tests itself.
    SelfTest,
    /// The kernel breaks one of its own rules, and has to be stopped by its own protection.
    Sabotage { what: String, words: String },
    /// Attacks on a kernel without the check against them: each has to succeed.
    Unchecked { tries: Vec<Try> },
    /// A process is killed and started again so often, under traffic; nothing may leak.
    Restarts { count: u64 },
    /// A process is killed under traffic, and the kernel frees its memory too early: that has to be found.
    EarlyFree,
    /// Card and SSD are reset under traffic; everybody goes on.
    Resets,
    /// One process claims every queue pair of the SSD, which has so many.
    Pairs { count: u16 },
    /// Nothing but the machine, until it ends.
    Watch { debugger: bool },
}

impl Script {
    /// Name of the folder for what the boot leaves behind.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Demo { .. } => "demo".into(),
            Self::SelfTest => "self-test".into(),
            Self::Sabotage { what, .. } => format!("sabotage-{what}"),
            Self::Unchecked { tries } => {
                let first = tries.first();
                let name = first.map_or("nothing", |first| first.name.as_str());
                format!("unchecked-{name}")
            }
            Self::Restarts { .. } => "restarts".into(),
            Self::EarlyFree => "early-free".into(),
            Self::Resets => "resets".into(),
            Self::Pairs { .. } => "pairs".into(),
            Self::Watch { .. } => "qemu".into(),
        }
    }

    /// Whether a capture that cannot be made is no failure.
    pub(crate) const fn is_forgiving(&self) -> bool {
        matches!(
            self,
            Self::Watch { .. }
                | Self::SelfTest
                | Self::Restarts { .. }
                | Self::EarlyFree
                | Self::Resets
                | Self::Pairs { .. }
        )
    }
}

impl Spec {
    /// Boots the machine and judges what happened.
    pub(crate) fn play(&self) -> Result<ExitCode> {
        match &self.script {
            Script::Demo { requests, json } => self.demo(*requests, json.as_ref()),
            Script::SelfTest => self.self_test(),
            Script::Sabotage { what, words } => self.sabotage(what, words),
            Script::Unchecked { tries } => self.unchecked(tries),
            Script::Restarts { count } => self.restarts(*count),
            Script::EarlyFree => self.early_free(),
            Script::Resets => super::resets::play(self, &self.cast(&[])?.without(ROGUE)),
            Script::Pairs { count } => self.pairs(*count),
            Script::Watch { debugger } => self.watch(*debugger),
        }
    }

    fn cast(&self, more: &[&str]) -> Result<Cast> {
        let mut words = vec![format!("ring={}", self.ring)];
        words.extend(more.iter().map(|word| (*word).to_owned()));
        let settings = Settings {
            policy: self.policy.clone(),
            seconds: self.seconds,
            more: words,
        };
        let cast = match self.model {
            Some(_) if !matches!(self.script, Script::Unchecked { .. }) => {
                Cast::with_four_servers(settings)
            }
            _ => Cast::of_the_demo(settings),
        };
        cast.keep(&self.cast)
    }

    fn demo(&self, requests: u64, json: Option<&PathBuf>) -> Result<ExitCode> {
        let cast = self.cast(&[])?;
        let serving = cast
            .processes
            .iter()
            .filter(|process| process.service().is_some())
            .count();
        let each = requests.div_ceil(u64::try_from(serving.max(1))?);
        let plot = Plot {
            requests: each,
            rogue: cast.named(ROGUE).is_some(),
            goal: Goal::Demo(&cast),
        };
        let outcome = play(self, &cast, plot)?;
        let report = Report::judge(&Evidence {
            cast: &cast,
            qemu: &self.qemu.version,
            multi_queue: matches!(self.wire, Wire::Tap(_)),
            wanted: if serving > 0 { requests } else { 0 },
            is_unplugged: self.unplug.is_some(),
            outcome: &outcome,
        })?;
        report.print();
        if let Some(path) = json {
            report.write(path)?;
        }
        println!(
            "logs, images and the capture are in {}",
            self.folder.display()
        );
        Ok(if report.passed() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn self_test(&self) -> Result<ExitCode> {
        let mut cast = self.cast(&["selftest"])?;
        cast.processes.clear();
        let (observed, ended) = self.watched(&cast, false)?;
        ended.require_clean()?;
        protection::passed(&observed, protection::self_tests(self.board, &self.wire))?;
        println!("{} self-tests passed", observed.selftests.len());
        Ok(ExitCode::SUCCESS)
    }

    fn sabotage(&self, what: &str, words: &str) -> Result<ExitCode> {
        let mut cast = self.cast(&[&format!("sabotage={what}")])?;
        cast.processes.clear();
        let (observed, ended) = self.watched(&cast, false)?;
        protection::stopped(&observed, &ended, what, words)?;
        println!("{what}: stopped by a panic");
        Ok(ExitCode::SUCCESS)
    }

    fn unchecked(&self, tries: &[Try]) -> Result<ExitCode> {
        let has = |seen: Seen| tries.iter().any(|it| it.seen == seen);
        // A few are company enough.
        let mut cast = self.cast(&[])?.without("kv0").without("blk1");
        if has(Seen::Bait) {
            cast = cast.with_bait();
        }
        let only: Vec<_> = tries.iter().map(Try::pair).collect();
        cast.narrow(ROGUE, &format!("only={}", only.join(",")));
        let plot = Plot {
            requests: FEW_REQUESTS,
            rogue: true,
            goal: if has(Seen::Endless) {
                Goal::Endless
            } else {
                Goal::Attacks(tries)
            },
        };
        let outcome = play(self, &cast, plot)?;
        for it in tries {
            let pair = it.pair();
            let evidence = success(it, &cast, &outcome).with_context(|| {
                format!("{pair}: the check was left out, and still no success is seen")
            })?;
            println!("{pair}: without its check it succeeds: {evidence}");
        }
        Ok(ExitCode::SUCCESS)
    }

    fn restarts(&self, count: u64) -> Result<ExitCode> {
        let cast = self.cast(&[&format!("restarts={count}")])?.without(ROGUE);
        let (observed, ended) = pestered(self, &cast, Scene::until_end)?;
        let failures = observed.verdict.unwrap_or_default().failures;
        ensure!(
            failures.is_empty(),
            "the kernel says: {}",
            failures.join("; ")
        );
        ended.require_clean()?;
        let leaks = observed.leaks.unwrap_or_default();
        let wanted = count * u64::try_from(cast.processes.len())?;
        ensure!(
            leaks.is_nothing() && leaks.restarts >= wanted,
            "after {} restarts instead of {wanted}: {leaks:?}",
            leaks.restarts
        );
        println!(
            "{} restarts, nothing leaked; {} freed frames compared, none written to",
            leaks.restarts, leaks.compared
        );
        Ok(ExitCode::SUCCESS)
    }

    fn early_free(&self) -> Result<ExitCode> {
        ensure!(
            matches!(self.wire, Wire::Tap(_)),
            "without a queue of the card's own no card writes to a process's memory: this needs a multi-queue tap, so root or user namespaces"
        );
        let cast = self.cast(&[])?.without(ROGUE);
        let (observed, _) = pestered(self, &cast, |scene| {
            scene.until("frames came", |observed| observed.has_received(ECHO, 100))?;
            scene.say(&format!("kill {ECHO}"));
            let killed = Instant::now();
            scene.until("enough time", |_| killed.elapsed() > AFTERMATH)?;
            scene.say("stop");
            scene.until_end()
        })?;
        let leaks = observed
            .leaks
            .context("the kernel did not get to its end")?;
        ensure!(
            leaks.damaged > 0,
            "memory was freed early, and none of {} freed frames was found written to",
            leaks.compared
        );
        println!(
            "of {} freed frames {} were found written to, as they had to be",
            leaks.compared, leaks.damaged
        );
        Ok(ExitCode::SUCCESS)
    }

    fn pairs(&self, count: u16) -> Result<ExitCode> {
        let cast = self.cast(&[])?.with_one_hoarder(count);
        let (observed, ended) = self.watched(&cast, false)?;
        ended.require_clean()?;
        let hoarder = observed.processes.values().next();
        let hoarder = hoarder.context("the kernel says nothing of the process")?;
        ensure!(
            hoarder.state == State::Exited && hoarder.reason == "exit code 0",
            "the process did not get and use all of them: {:?} {}",
            hoarder.state,
            hoarder.reason
        );
        println!("one process had {count} queue pairs at once, and used each");
        Ok(ExitCode::SUCCESS)
    }

    /// How many queue pairs the SSD has.
    pub(super) const fn block_pairs(&self) -> u16 {
        match self.script {
            Script::Pairs { count } => count,
            Script::Demo { .. }
            | Script::SelfTest
            | Script::Sabotage { .. }
            | Script::Unchecked { .. }
            | Script::Restarts { .. }
            | Script::EarlyFree
            | Script::Resets
            | Script::Watch { .. } => BLOCK_PAIRS,
        }
    }

    fn watch(&self, debugger: bool) -> Result<ExitCode> {
        let (_, ended) = self.watched(&self.cast(&[])?, debugger)?;
        ended.require_clean()?;
        Ok(ExitCode::SUCCESS)
    }

    /// Boots and listens until the machine ends by itself, or its time is up.
    fn watched(&self, cast: &Cast, debugger: bool) -> Result<(Observed, Ended)> {
        let mut scene = Scene::open(self, cast, debugger)?;
        scene.until_end()?;
        scene.close()
    }
}

/// How one can see that an attack succeeded. What the attacker says of it is no evidence.
fn success(it: &Try, cast: &Cast, outcome: &Outcome) -> Result<String> {
    let told = it.told(&outcome.observed);
    let found = match it.seen {
        Seen::Endless => return endless(&outcome.observed),
        Seen::Kernel => told.map(|told| told.evidence.clone()),
        Seen::Disk => outcome.disk.trespasses.first().cloned(),
        Seen::Tap => outcome
            .capture
            .as_ref()
            .and_then(|capture| traced(&capture.spoofed, &it.trace)),
        Seen::Model => traced(&outcome.ended.objections, &it.trace),
        Seen::Flood => flood(cast, outcome),
        Seen::Console => leak(cast, &outcome.observed),
        Seen::Bait => bite(&it.device, &outcome.observed),
        Seen::Late => told.filter(|told| told.ms >= TOO_LATE_MS).map(|told| {
            format!(
                "the device did not finish: what the attacker had was taken back only after {} ms",
                told.ms
            )
        }),
    };
    let found = found.filter(|found| !found.is_empty());
    found.with_context(|| match told {
        Some(attack) => format!("nothing is seen, and the kernel says: {attack}"),
        None => format!(
            "the kernel says nothing about it ({})",
            outcome.failures.join("; ")
        ),
    })
}

/// The first of these lines that tells of it.
fn traced(lines: &[String], trace: &str) -> Option<String> {
    lines.iter().find(|line| line.contains(trace)).cloned()
}

/// More frames from the attacker than its ring holds, at the tap.
fn flood(cast: &Cast, outcome: &Outcome) -> Option<String> {
    let address = cast.named(ROGUE)?.network?.address;
    let seen = outcome.capture.as_ref()?.by_address.get(&address)?;
    let found = format!(
        "{} frames were sent, {RING_ENTRIES} were published",
        seen.discarded
    );
    (seen.discarded > RING_ENTRIES).then_some(found)
}

/// What only the attacker's victim was told, said by the attacker.
fn leak(cast: &Cast, observed: &Observed) -> Option<String> {
    let victim = cast.named(cast.named(ROGUE)?.attacks?)?;
    let key = format!("key={:#x}", victim.network?.key);
    let by = format!("[{ROGUE}] ");
    let mut said = observed.said.iter();
    let line = said.find(|line| line.starts_with(&by) && line.contains(&key))?;
    Some(format!(
        "the key of {} is on the console: {line}",
        victim.name
    ))
}

/// What the bait published has moved.
fn bite(device: &str, observed: &Observed) -> Option<String> {
    let bait = observed.processes.get(BAIT)?;
    let (count, what) = match device {
        "nvme" => (bait.ios, "block was written"),
        _ => (bait.tx_frames, "frame was sent"),
    };
    let found = format!("{count} {what} for a process that never called for it");
    (count > 0).then_some(found)
}

/// How one can see that a process does not stop, and that what it had does not come back.
fn endless(observed: &Observed) -> Result<String> {
    let state = goes_on(observed).context("the kernel says too little of the attacker")?;
    ensure!(
        state.state == State::Running && state.leases > 0,
        "it was stopped: {:?} {}, {} leases",
        state.state,
        state.reason,
        state.leases
    );
    Ok(format!(
        "long after its queues began to be taken back it runs, and {} leases are not over",
        state.leases
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        capture::Analysis,
        console::{Attack, Attempt, ProcessState},
        report::NO_STOP,
    };

    fn outcome(attack: Attack) -> Outcome {
        Outcome {
            observed: Observed {
                attacks: vec![attack],
                ..Observed::default()
            },
            ended: Ended::default(),
            tallies: Default::default(),
            capture: Some(Analysis::default()),
            disk: Default::default(),
            failures: Vec::new(),
        }
    }

    fn cast() -> Cast {
        Cast::of_the_demo(Settings {
            policy: "integrity".into(),
            seconds: 1,
            more: Vec::new(),
        })
    }

    fn judged(seen: Seen, outcome: &Outcome) -> Result<String> {
        let it = Try {
            name: "a".into(),
            device: "nvme".into(),
            seen,
            trace: "trace".into(),
        };
        success(&it, &cast(), outcome)
    }

    /// An attack of which its process says that it succeeded, and nobody else.
    fn claimed() -> Outcome {
        outcome(Attack {
            name: "a".into(),
            device: "nvme".into(),
            why: "I did it".into(),
            ..Attack::default()
        })
    }

    #[test]
    fn an_attackers_word_is_no_evidence() {
        let claimed = claimed();
        for seen in [
            Seen::Kernel,
            Seen::Disk,
            Seen::Tap,
            Seen::Model,
            Seen::Flood,
            Seen::Console,
            Seen::Bait,
            Seen::Late,
            Seen::Endless,
        ] {
            assert!(judged(seen, &claimed).is_err(), "{seen:?}");
        }
    }

    #[test]
    fn each_trace_counts_where_it_is_looked_for() {
        let spoiled = |seen, spoil: &dyn Fn(&mut Outcome)| {
            let mut outcome = claimed();
            spoil(&mut outcome);
            judged(seen, &outcome)
        };
        let evidence = |outcome: &mut Outcome| {
            outcome.observed.attacks[0].evidence = "victim's byte 7".into();
        };
        assert_eq!(spoiled(Seen::Kernel, &evidence).unwrap(), "victim's byte 7");
        assert!(spoiled(Seen::Disk, &evidence).is_err());
        let disk = |outcome: &mut Outcome| outcome.disk.trespasses.push("block 3".into());
        assert_eq!(spoiled(Seen::Disk, &disk).unwrap(), "block 3");
        let bad = |outcome: &mut Outcome| outcome.disk.failures.push("block 4".into());
        assert!(spoiled(Seen::Disk, &bad).is_err(), "within a volume");
        let late = |outcome: &mut Outcome| outcome.observed.attacks[0].ms = 2003;
        assert!(spoiled(Seen::Late, &late).is_ok());
        let sent = |count| {
            move |outcome: &mut Outcome| {
                let capture = outcome.capture.as_mut().unwrap();
                let address = cast().named(ROGUE).unwrap().network.unwrap().address;
                capture.by_address.entry(address).or_default().discarded = count;
            }
        };
        assert!(spoiled(Seen::Flood, &sent(257)).is_ok());
        assert!(spoiled(Seen::Flood, &sent(256)).is_err());
        let line = |by: &'static str| {
            move |outcome: &mut Outcome| {
                let line = format!("[{by}] name=echo0 key=0x6563686f00000001 net");
                outcome.observed.said.push(line);
            }
        };
        assert!(spoiled(Seen::Console, &line("rogue")).is_ok());
        assert!(
            spoiled(Seen::Console, &line("echo0")).is_err(),
            "its own key"
        );
        let moved = |ios, tx_frames| {
            move |outcome: &mut Outcome| {
                let bait = ProcessState {
                    ios,
                    tx_frames,
                    ..ProcessState::default()
                };
                outcome.observed.processes.insert(BAIT.into(), bait);
            }
        };
        assert!(spoiled(Seen::Bait, &moved(1, 0)).is_ok());
        assert!(
            spoiled(Seen::Bait, &moved(0, 1)).is_err(),
            "the other device"
        );
    }

    #[test]
    fn where_several_traces_could_be_the_one_that_is_named_counts() {
        let left = |seen, in_capture: &str, by_model: &str| {
            let mut outcome = claimed();
            let spoofed = &mut outcome.capture.as_mut().unwrap().spoofed;
            spoofed.extend(["something else".to_owned(), in_capture.to_owned()]);
            let objections = &mut outcome.ended.objections;
            objections.extend(["something else".to_owned(), by_model.to_owned()]);
            judged(seen, &outcome).ok()
        };
        let trace = "a trace of it";
        for (seen, found) in [
            (left(Seen::Tap, trace, ""), true),
            (left(Seen::Tap, "", trace), false),
            (left(Seen::Model, "", trace), true),
            (left(Seen::Model, trace, ""), false),
        ] {
            assert_eq!(seen.as_deref(), found.then_some(trace));
        }
    }

    #[test]
    fn an_endless_process_has_to_be_seen_running_with_its_leases() {
        let seen = |state: State, leases: u64, seconds: u64| {
            let begun = Instant::now();
            let attempt = Attempt {
                name: NO_STOP.into(),
                ..Attempt::default()
            };
            let process = ProcessState {
                state,
                leases,
                ..ProcessState::default()
            };
            endless(&Observed {
                attempt: Some((attempt, begun)),
                processes: [(ROGUE.into(), process)].into(),
                heard: [(ROGUE.into(), begun + Duration::from_secs(seconds))].into(),
                ..Observed::default()
            })
        };
        assert!(seen(State::Running, 1, 6).is_ok());
        assert!(seen(State::Running, 1, 1).is_err(), "too early to tell");
        assert!(seen(State::Running, 0, 6).is_err(), "taken back");
        assert!(seen(State::Killed, 1, 6).is_err(), "stopped");
        assert!(endless(&Observed::default()).is_err());
    }
}
