//! `cargo xtask test`: every check in stages, each with a time limit.

mod plan;
mod stage;

use crate::workspace::Workspace;
use anyhow::{Result, bail};
use clap::Args;
use stage::{Finished, Outcome, Stage};
use std::{process::ExitCode, time::Instant};

/// What to check.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Only what needs neither QEMU nor valgrind
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// The long forms too, and the boots with a second, newer QEMU
    #[arg(long)]
    full: bool,
    /// Only this stage; may be given several times
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    /// Print the stages and their limits, and run nothing
    #[arg(long)]
    list: bool,
}

/// Runs the stages and prints a table; the last line is for machines.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let stages = selected(options)?;
    if options.list {
        for stage in &stages {
            println!(
                "{:<14} {:>5} s  {}",
                stage.name,
                stage.limit.as_secs(),
                stage.about
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let logs = workspace.scratch("test")?;
    let started = Instant::now();
    let mut results = Vec::new();
    for stage in &stages {
        let result = stage.run(workspace, &logs)?;
        println!("{}", result.line());
        results.push(result);
    }
    print_table(&results);
    println!(
        "{} stages in {:.0} s; logs in {}\n",
        results.len(),
        started.elapsed().as_secs_f64(),
        logs.display()
    );
    let failed = print_closing_line(&results);
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print_table(results: &[Finished]) {
    println!("\n{:<14} {:>9} {:>9}  result", "stage", "time", "limit");
    for result in results {
        println!("{}", result.row());
    }
}

/// The line for machines; returns how many stages failed.
fn print_closing_line(results: &[Finished]) -> usize {
    let count = |wanted: fn(&Outcome) -> bool| {
        results
            .iter()
            .filter(|result| wanted(&result.outcome))
            .count()
    };
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let passed = count(|outcome| matches!(outcome, Outcome::Passed));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed
}

fn selected(options: &Options) -> Result<Vec<&'static Stage>> {
    let all = plan::STAGES;
    for name in &options.only {
        if !all.iter().any(|stage| stage.name == name) {
            let names: Vec<_> = all.iter().map(|stage| stage.name).collect();
            bail!(
                "there is no stage `{name}`; the stages are: {}",
                names.join(", ")
            );
        }
    }
    let wanted = |stage: &Stage| match options.only.is_empty() {
        false => options.only.iter().any(|name| name == stage.name),
        true if options.quick => stage.when == stage::When::Quick,
        true => options.full || stage.when != stage::When::Full,
    };
    Ok(all.iter().filter(|stage| wanted(stage)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(options: &Options) -> Vec<&'static str> {
        selected(options)
            .unwrap()
            .iter()
            .map(|stage| stage.name)
            .collect()
    }

    #[test]
    fn each_choice_contains_the_smaller_one() {
        let quick = names(&Options {
            quick: true,
            ..Options::default()
        });
        let usual = names(&Options::default());
        let full = names(&Options {
            full: true,
            ..Options::default()
        });
        assert!(quick.iter().all(|name| usual.contains(name)) && quick.len() < usual.len());
        assert!(usual.iter().all(|name| full.contains(name)) && usual.len() < full.len());
    }

    #[test]
    fn stages_have_names_of_their_own() {
        let mut all = names(&Options {
            full: true,
            ..Options::default()
        });
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn the_usual_run_fits_its_time() {
        let limit: u64 = selected(&Options::default())
            .unwrap()
            .iter()
            .map(|stage| stage.limit.as_secs())
            .sum();
        // The limits stop what hangs; on two cores the time it takes is about a sixth of them, and 45 minutes are the most.
        assert!(limit <= 118 * 60, "the limits add up to {limit} s");
    }

    #[test]
    fn an_unknown_stage_is_named_with_those_there_are() {
        let options = Options {
            only: vec!["nonsense".into()],
            ..Options::default()
        };
        let error = selected(&options).unwrap_err().to_string();
        assert!(
            error.starts_with("there is no stage `nonsense`; the stages are: fmt, "),
            "{error}"
        );
    }
}
