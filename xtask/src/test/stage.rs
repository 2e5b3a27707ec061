//! One stage: some commands under one time limit, their output in a log.

use crate::{
    process::{Ending, Group, display},
    workspace::Workspace,
};
use anyhow::{Context, Result};
use core::time::Duration;
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// Lines of the log that are shown when a stage fails.
const SHOWN_LINES: usize = 60;

/// When a stage is part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Always.
    Quick,
    /// Unless `--quick`.
    Usual,
    /// Only with `--full`.
    Full,
}

/// What a stage is to do here.
#[derive(Debug)]
pub(crate) enum Plan {
    /// These commands, one after the other, until one fails.
    Run(Vec<Command>),
    /// Nothing, for this reason.
    Skip(String),
}

/// A check with a name.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) when: When,
    pub(crate) limit: Duration,
    pub(crate) plan: fn(&Workspace) -> Result<Plan>,
}

/// What became of a stage.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// A stage that has been run.
#[derive(Debug)]
pub(crate) struct Finished {
    name: &'static str,
    limit: Duration,
    time: Duration,
    pub(crate) outcome: Outcome,
}

impl Stage {
    /// Runs the stage; its output goes to `logs`, and its end to the terminal if it fails.
    pub(crate) fn run(&self, workspace: &Workspace, logs: &Path) -> Result<Finished> {
        print!("{:<14} … ", self.name);
        std::io::stdout().flush()?;
        let started = Instant::now();
        let log = logs.join(format!("{}.log", self.name));
        let outcome = match (self.plan)(workspace) {
            Ok(Plan::Skip(reason)) => Outcome::Skipped(reason),
            Ok(Plan::Run(commands)) => self.run_all(commands, workspace, &log, started)?,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        Ok(Finished {
            name: self.name,
            limit: self.limit,
            time: started.elapsed(),
            outcome,
        })
    }

    fn run_all(
        &self,
        commands: Vec<Command>,
        workspace: &Workspace,
        path: &PathBuf,
        started: Instant,
    ) -> Result<Outcome> {
        let mut log =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        for mut command in commands {
            let shown = display(&command);
            writeln!(log, "$ {shown}")?;
            command
                .current_dir(&workspace.root)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log.try_clone()?);
            let left = self.limit.saturating_sub(started.elapsed());
            let failure = match Group::spawn(&mut command)?.wait(left)? {
                Ending::Exited(status) if status.success() => continue,
                Ending::Exited(status) => format!("`{shown}`: {status}"),
                Ending::TimedOut => format!(
                    "`{shown}`: still running at the limit of {} s",
                    self.limit.as_secs()
                ),
            };
            println!(
                "\n{}",
                last_lines(&fs::read_to_string(path).unwrap_or_default(), SHOWN_LINES)
            );
            return Ok(Outcome::Failed(failure));
        }
        Ok(Outcome::Passed)
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

impl Finished {
    /// The rest of the line that began with the stage's name.
    pub(crate) fn line(&self) -> String {
        let time = self.time.as_secs_f64();
        let limit = self.limit.as_secs();
        match &self.outcome {
            Outcome::Passed => format!("ok, {time:.1} s of {limit} s"),
            Outcome::Failed(why) => format!("FAILED after {time:.1} s of {limit} s: {why}"),
            Outcome::Skipped(why) => format!("skipped: {why}"),
        }
    }

    /// A line of the table at the end.
    pub(crate) fn row(&self) -> String {
        let (time, limit) = (self.time.as_secs_f64(), self.limit.as_secs());
        let result = match &self.outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Failed(why) => format!("FAILED: {why}"),
            Outcome::Skipped(why) => format!("skipped: {why}"),
        };
        format!("{:<14} {time:>7.1} s {limit:>7} s  {result}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(limit: Duration, plan: fn(&Workspace) -> Result<Plan>) -> Outcome {
        let folder = std::env::temp_dir().join(format!("xtask-stage-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let workspace = Workspace {
            root: folder.clone(),
            target: folder.clone(),
            packages: Vec::new(),
        };
        let stage = Stage {
            name: "tried",
            about: "",
            when: When::Quick,
            limit,
            plan,
        };
        stage.run(&workspace, &folder).unwrap().outcome
    }

    fn sleep(seconds: &str) -> Command {
        let mut command = Command::new("sleep");
        command.arg(seconds);
        command
    }

    #[test]
    fn a_stage_that_overruns_fails() {
        let outcome = outcome(Duration::from_millis(200), |_| {
            Ok(Plan::Run(vec![sleep("0"), sleep("60")]))
        });
        assert!(
            matches!(outcome, Outcome::Failed(why) if why.contains("`sleep 60`: still running at the limit"))
        );
    }

    #[test]
    fn a_stage_passes_if_all_its_commands_do() {
        let limit = Duration::from_secs(10);
        assert!(matches!(
            outcome(limit, |_| Ok(Plan::Run(vec![sleep("0"), sleep("0")]))),
            Outcome::Passed
        ));
        assert!(matches!(
            outcome(limit, |_| Ok(Plan::Run(vec![
                sleep("0"),
                Command::new("false")
            ]))),
            Outcome::Failed(_)
        ));
        assert!(matches!(
            outcome(limit, |_| Ok(Plan::Skip("why".into()))),
            Outcome::Skipped(_)
        ));
        assert!(matches!(
            outcome(limit, |_| anyhow::bail!("no")),
            Outcome::Failed(_)
        ));
    }

    #[test]
    fn the_end_of_a_log_is_shown() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }
}
