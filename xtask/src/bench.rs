//! `cargo xtask bench`: instructions per packet and per I/O, counted by callgrind and held against budgets.

mod barriers;
mod budgets;
mod sharing;
mod times;

use crate::{
    process,
    tools::{OBJDUMP, VALGRIND},
    workspace::{Workspace, cargo},
};
use anyhow::{Context, Result, ensure};
use barriers::Disassembly;
use budgets::Budgets;
use clap::Args;
use core::time::Duration;
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Batches that every phase is counted at.
const BATCHES: [u32; 4] = [1, 8, 32, 128];

/// Rounds of the short and of the long run; the figure is the slope between them.
const ROUNDS: [u32; 2] = [64, 192];

/// The function that the harness runs every counted piece in.
const COUNTED: &str = "*counted*";

/// The barriers of a phase that executes exactly one for each item: if they are not found, nobody's are.
const CONTROL: &str = "harness/control:barriers";

/// The data path that the controls are, each with one fault.
const SPOILED: &str = "nic-ixgbe/forward";

/// It with a fence for each frame, and with a check more for each frame.
const FENCE: &str = "harness/fence:barriers";
const CHECK: &str = "harness/check";

/// The processors that the figures are for.
const CPU: &str = "-Ctarget-cpu=x86-64-v3";

/// How long one build, and one run under valgrind, may take.
const LIMIT: Duration = Duration::from_secs(600);

/// What to measure.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Only phases whose names contain this
    filter: Option<String>,
    /// Also trace what memory two partitions share on each data path; takes a minute or more for each
    #[arg(long)]
    sharing: bool,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    name: String,
    batch: u32,
    /// Per item; a figure that is not counted is in its own unit.
    instructions: f64,
    budget: Option<f64>,
}

impl Figure {
    /// Whether the figure is more than its budget and the tolerance allow.
    fn is_over(&self) -> bool {
        self.budget
            .is_some_and(|budget| self.instructions > budget * (1.0 + budgets::TOLERANCE))
    }
}

/// Counts everything and compares.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    VALGRIND.need()?;
    OBJDUMP.need()?;
    let budgets = Budgets::read(&workspace.root.join("benches/budgets.toml"))?;
    let program = build(workspace)?;
    let disassembly = Disassembly::of(&program)?;
    let scratch = workspace.scratch("bench")?;
    let mut figures = Vec::new();
    println!(
        "{:<44} {:>5} {:>12} {:>8}",
        "phase", "batch", "instructions", "budget"
    );
    let list = process::read(Command::new(&program).arg("list"))?;
    let filter = options.filter.as_deref().unwrap_or_default();
    let names: Vec<_> = list.lines().filter(|name| name.contains(filter)).collect();
    for name in &names {
        for batch in BATCHES {
            for (name, value) in count(&program, &disassembly, &scratch, name, batch)? {
                figures.push(figure(&budgets, name, batch, value));
            }
        }
        for (name, value) in known(&program, name)? {
            figures.push(figure(&budgets, name, 1, value));
        }
    }
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&figures)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.sharing {
        sharing::check(&program, &names)?;
    }
    times::compare(&program, &names)?;
    println!("Time goals against peers that no registry installs: not measured in this run.");
    judge(&figures, &budgets)
}

fn figure(budgets: &Budgets, name: String, batch: u32, instructions: f64) -> Figure {
    let budget = budgets.of(&name, batch);
    let figure = Figure {
        name,
        batch,
        instructions,
        budget,
    };
    println!("{}", row(&figure));
    figure
}

/// What a phase knows without being counted: registers written, bytes of memory.
fn known(program: &Path, name: &str) -> Result<Vec<(String, f64)>> {
    let said = process::read(Command::new(program).args(["figures", name]))?;
    let parse = |line: &str| {
        let (what, value) = line.split_once(' ').context("no value")?;
        Ok((format!("{name}:{what}"), value.parse()?))
    };
    said.lines()
        .filter(|line| !line.is_empty())
        .map(parse)
        .collect()
}

fn judge(figures: &[Figure], budgets: &Budgets) -> Result<ExitCode> {
    let miscounted = figures
        .iter()
        .find(|figure| figure.name == CONTROL && figure.instructions != 1.0);
    ensure!(
        miscounted.is_none(),
        "the control is miscounted, so no figure can be trusted: {miscounted:?}"
    );
    let missed = figures.iter().find(|figure| !is_caught(figure, budgets));
    ensure!(
        missed.is_none(),
        "a planted fault is not found, so none would be: {missed:?}"
    );
    let over = figures.iter().filter(|figure| figure.is_over()).count();
    let compiler = budgets::compiler()?;
    if compiler != budgets.rustc {
        println!(
            "budgets are for rustc {}, this is {compiler}: reported only",
            budgets.rustc
        );
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(over == 0, "{over} figures are over their budgets");
    Ok(ExitCode::SUCCESS)
}

/// Whether a figure of a data path with a planted fault shows it; true of all others.
fn is_caught(figure: &Figure, budgets: &Budgets) -> bool {
    let budget = match figure.name.as_str() {
        FENCE => Some(0.0),
        CHECK => budgets.of(SPOILED, figure.batch),
        _ => return true,
    };
    Figure {
        budget,
        ..figure.clone()
    }
    .is_over()
}

fn row(figure: &Figure) -> String {
    let budget = figure
        .budget
        .map_or_else(|| "-".to_owned(), |budget| format!("{budget:.1}"));
    let mark = if figure.is_over() { "  OVER" } else { "" };
    format!(
        "{:<44} {:>5} {:>12.1} {budget:>8}{mark}",
        figure.name, figure.batch, figure.instructions
    )
}

fn build(workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.target.join("bench");
    let mut command = cargo();
    command
        .args([
            "build",
            "--profile",
            "bench",
            "--package",
            "parakernel-bench",
            "--target-dir",
        ])
        .arg(&target);
    command.env("RUSTFLAGS", CPU).current_dir(&workspace.root);
    process::run(&mut command, LIMIT).context("the phases do not build")?;
    Ok(target.join("release/parakernel-bench"))
}

/// What one run under callgrind brought.
#[derive(Clone, Copy, Debug)]
struct Count {
    items: u64,
    instructions: u64,
    /// Executed instructions that lock the bus, wait for stores, or call the kernel.
    barriers: u64,
}

/// Instructions, and barriers, per item.
fn count(
    program: &Path,
    disassembly: &Disassembly,
    scratch: &Path,
    name: &str,
    batch: u32,
) -> Result<[(String, f64); 2]> {
    let [short, long] =
        ROUNDS.map(|rounds| run_counted(program, disassembly, scratch, name, (batch, rounds)));
    let (short, long) = (short?, long?);
    let items = long.items.saturating_sub(short.items);
    ensure!(items > 0, "phase `{name}` does nothing at batch {batch}");
    let slope = |long: u64, short: u64| ratio(long.saturating_sub(short), items);
    Ok([
        (
            name.to_owned(),
            slope(long.instructions, short.instructions),
        ),
        (
            format!("{name}:barriers"),
            slope(long.barriers, short.barriers),
        ),
    ])
}

/// Counts stay far below 2⁵³, so the quotient is exact enough.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a run of seconds fit into the mantissa"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn run_counted(
    program: &Path,
    disassembly: &Disassembly,
    scratch: &Path,
    name: &str,
    (batch, rounds): (u32, u32),
) -> Result<Count> {
    let output = scratch.join(format!(
        "{}-{batch}-{rounds}.callgrind",
        name.replace('/', "-")
    ));
    let mut command = callgrind(&output);
    command
        .arg(program)
        .args(["run", name])
        .arg(batch.to_string())
        .arg(rounds.to_string());
    let run = process::capture(&mut command)?;
    let said = String::from_utf8_lossy(&run.stdout);
    ensure!(
        run.status.success(),
        "`{}` failed: {}",
        process::display(&command),
        String::from_utf8_lossy(&run.stderr)
    );
    let items = said
        .lines()
        .find_map(|line| line.strip_prefix("items "))
        .context("the phase does not say what it did")?
        .parse()?;
    let profile =
        fs::read_to_string(&output).with_context(|| format!("cannot read {}", output.display()))?;
    let instructions =
        barriers::total(&profile).with_context(|| format!("no total in {}", output.display()))?;
    ensure!(
        instructions > 0,
        "nothing was counted in phase `{name}`: is its work still inside `counted`?"
    );
    Ok(Count {
        items,
        instructions,
        barriers: disassembly.barriers_in(&profile),
    })
}

/// Callgrind, counting in the one function, each instruction on a line of its own.
fn callgrind(output: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--dump-instr=yes"])
        .args(["--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", output.display()));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_percent_over_is_within_a_budget_and_more_is_not() {
        let figure = |instructions| Figure {
            name: "a/b".into(),
            batch: 32,
            instructions,
            budget: Some(100.0),
        };
        assert!(!figure(100.9).is_over() && figure(101.1).is_over());
        assert!(
            !Figure {
                budget: None,
                ..figure(1000.0)
            }
            .is_over()
        );
    }

    #[test]
    fn a_planted_fault_has_to_show() {
        let budgets = Budgets::read(Path::new("../benches/budgets.toml")).unwrap();
        let within = budgets.of(SPOILED, 32).unwrap();
        let figure = |name: &str, instructions| Figure {
            name: name.into(),
            batch: 32,
            instructions,
            budget: None,
        };
        assert!(
            !is_caught(&figure(FENCE, 0.0), &budgets) && is_caught(&figure(FENCE, 1.0), &budgets)
        );
        assert!(!is_caught(&figure(CHECK, within), &budgets));
        assert!(is_caught(&figure(CHECK, within + 1.0), &budgets));
        assert!(is_caught(&figure(SPOILED, 0.0), &budgets));
    }

    #[test]
    fn the_object_of_a_figure_has_the_fields_that_were_agreed() {
        let figure = Figure {
            name: "a/b".into(),
            batch: 8,
            instructions: 1.5,
            budget: None,
        };
        assert_eq!(
            serde_json::to_string(&figure).unwrap(),
            r#"{"name":"a/b","batch":8,"instructions":1.5,"budget":null}"#
        );
    }
}
