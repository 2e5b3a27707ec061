//! The boots there are: what happens in each, and how it is judged.

use super::{
    Spec,
    play::{Goal, Plot, goes_on, pestered, play},
    scene::Scene,
};
use crate::{
    attacks::Seen,
    cast::{Cast, Settings},
    console::State,
    observed::Observed,
    qemu::{
        machine::Wire,
        run::{Ended, Failure},
    },
    report::{Evidence, Outcome, ROGUE, Report},
};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, process::ExitCode};

/// Requests to each process in boots that are about something else.
const FEW_REQUESTS: u64 = 200;

/// Queue pairs of the SSD in boots that are about something else.
const BLOCK_PAIRS: u16 = 64;

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
    Sabotage { what: String },
    /// One attack on a kernel without the check against it: it has to succeed.
    Unchecked {
        attack: String,
        device: String,
        seen: Seen,
    },
    /// A process is killed and started again so often, under traffic; nothing may leak.
    Restarts { count: u64 },
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
            Self::Sabotage { what } => format!("sabotage-{what}"),
            Self::Unchecked { attack, .. } => format!("unchecked-{attack}"),
            Self::Restarts { .. } => "restarts".into(),
            Self::Pairs { .. } => "pairs".into(),
            Self::Watch { .. } => "qemu".into(),
        }
    }

    /// Whether a capture that cannot be made is no failure.
    pub(crate) const fn is_forgiving(&self) -> bool {
        matches!(
            self,
            Self::Watch { .. } | Self::SelfTest | Self::Restarts { .. } | Self::Pairs { .. }
        )
    }
}

impl Spec {
    /// Boots the machine and judges what happened.
    pub(crate) fn play(&self) -> Result<ExitCode> {
        match &self.script {
            Script::Demo { requests, json } => self.demo(*requests, json.as_ref()),
            Script::SelfTest => self.self_test(),
            Script::Sabotage { what } => self.sabotage(what),
            Script::Unchecked {
                attack,
                device,
                seen,
            } => self.unchecked(attack, device, *seen),
            Script::Restarts { count } => self.restarts(*count),
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
        Cast::of_the_demo(settings).keep(&self.cast)
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
        ensure!(
            !observed.selftests.is_empty(),
            "the kernel ran no self-test"
        );
        let failed: Vec<_> = observed
            .selftests
            .iter()
            .filter(|test| !test.pass)
            .map(|test| test.name.as_str())
            .collect();
        ensure!(
            failed.is_empty(),
            "these self-tests failed: {}",
            failed.join(", ")
        );
        println!("{} self-tests passed", observed.selftests.len());
        Ok(ExitCode::SUCCESS)
    }

    fn sabotage(&self, what: &str) -> Result<ExitCode> {
        let mut cast = self.cast(&[&format!("sabotage={what}")])?;
        cast.processes.clear();
        let (_, ended) = self.watched(&cast, false)?;
        ensure!(
            ended.failure == Some(Failure::Panic),
            "no panic after `{what}`, but: {:?}",
            ended.failure
        );
        println!("{what}: stopped by a panic");
        Ok(ExitCode::SUCCESS)
    }

    fn unchecked(&self, name: &str, device: &str, seen: Seen) -> Result<ExitCode> {
        let mut cast = self.cast(&[&format!("attack={name}")])?;
        cast.narrow(ROGUE, &format!("attack={name} device={device}"));
        let plot = Plot {
            requests: FEW_REQUESTS,
            rogue: true,
            goal: match seen {
                Seen::Endless => Goal::Endless,
                Seen::Kernel | Seen::Disk | Seen::Tap => Goal::Attack(name),
            },
        };
        let evidence = success(name, seen, &play(self, &cast, plot)?)
            .context("the check was left out, and still the attack does not succeed")?;
        println!("{name}: without its check it succeeds: {evidence}");
        Ok(ExitCode::SUCCESS)
    }

    fn restarts(&self, count: u64) -> Result<ExitCode> {
        let cast = self.cast(&[&format!("restarts={count}")])?.without(ROGUE);
        let (observed, ended) = pestered(self, &cast)?;
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

/// How one can see that an attack succeeded; from outside the machine where it leaves a trace there.
fn success(name: &str, seen: Seen, outcome: &Outcome) -> Result<String> {
    let told = outcome
        .observed
        .attacks
        .iter()
        .find(|attack| attack.name == name);
    let found = match seen {
        Seen::Disk => outcome.disk.failures.first(),
        Seen::Tap => outcome
            .capture
            .as_ref()
            .and_then(|capture| capture.spoofed.first()),
        Seen::Kernel => told
            .filter(|attack| !attack.stopped)
            .map(|attack| &attack.evidence),
        Seen::Endless => return endless(&outcome.observed),
    };
    let found = found.filter(|found| !found.is_empty()).cloned();
    found.with_context(|| match told {
        Some(attack) => format!("nothing is seen, and the kernel says: {attack}"),
        None => format!(
            "the kernel says nothing about it ({})",
            outcome.failures.join("; ")
        ),
    })
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
    use core::time::Duration;
    use std::time::Instant;

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

    #[test]
    fn what_leaves_a_trace_outside_is_judged_outside() {
        let claimed = Attack {
            name: "foreign-lba".into(),
            evidence: "I did it".into(),
            ..Attack::default()
        };
        let mut outcome = outcome(claimed);
        assert!(
            success("foreign-lba", Seen::Disk, &outcome).is_err(),
            "a claim alone does not do"
        );
        outcome.disk.failures.push("block 3".into());
        assert_eq!(
            success("foreign-lba", Seen::Disk, &outcome).unwrap(),
            "block 3"
        );
        assert!(success("foreign-lba", Seen::Tap, &outcome).is_err());
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

    #[test]
    fn the_rest_needs_evidence() {
        let attack = Attack {
            name: "tail-jump".into(),
            ..Attack::default()
        };
        let of = |attack: Attack| success("tail-jump", Seen::Kernel, &outcome(attack));
        assert!(of(attack.clone()).is_err());
        let with_evidence = Attack {
            evidence: "victim's byte 7".into(),
            ..attack.clone()
        };
        assert_eq!(of(with_evidence.clone()).unwrap(), "victim's byte 7");
        assert!(
            of(Attack {
                stopped: true,
                ..with_evidence
            })
            .is_err()
        );
        assert!(of(Attack::default()).is_err());
    }
}
