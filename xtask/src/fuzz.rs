//! `cargo xtask fuzz`: runs the fuzz targets on the stable compiler, without `cargo-fuzz` and without sanitizers.
//!
//! The targets are those of `cargo fuzz`; the flags below are what it passes with `--sanitizer none`, so that both use
//! the same corpus and find the same things.

use crate::{
    process::{self, Ending, Group},
    tools::CXX,
    workspace::{Workspace, cargo, members},
};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use core::time::Duration;
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

pub(crate) mod sampler;

/// How long building all targets may take.
const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// Time on top of that which was asked for.
const MARGIN: Duration = Duration::from_secs(60);

/// Coverage by counters in line, with the compared values recorded: what libFuzzer steers by.
const COVERAGE: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// What to fuzz, and how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Only these targets
    target: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 30, conflicts_with = "runs")]
    seconds: u64,
    /// Inputs for each target, instead of a time
    #[arg(long)]
    runs: Option<u64>,
    /// So many random inputs for each target instead of libFuzzer's, to see how many of each shape are accepted
    #[arg(long, value_name = "INPUTS", conflicts_with_all = ["seconds", "runs"])]
    sample: Option<u64>,
    /// Print the targets and run nothing
    #[arg(long)]
    list: bool,
}

/// Builds the targets and runs one after the other.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let targets = selected(workspace, &options.target)?;
    if options.list {
        targets.iter().for_each(|target| println!("{target}"));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(inputs) = options.sample {
        return sample(workspace, &targets, inputs);
    }
    CXX.need()?;
    build(workspace)?;
    let mut failed = Vec::new();
    for target in &targets {
        if !fuzz(workspace, target, options)? {
            failed.push(target.as_str());
        }
    }
    ensure!(
        failed.is_empty(),
        "these targets found something: {}",
        failed.join(", ")
    );
    Ok(ExitCode::SUCCESS)
}

/// Runs the plain sampler, which judges by itself whether enough was accepted.
fn sample(workspace: &Workspace, targets: &[String], inputs: u64) -> Result<ExitCode> {
    let program = sampler::build(&workspace.fuzz_manifest(), &target_folder(workspace))?;
    for target in targets {
        let mut command = Command::new(&program);
        command.args([target, &inputs.to_string()]);
        process::run(&mut command, MARGIN + Duration::from_millis(inputs))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn selected(workspace: &Workspace, wanted: &[String]) -> Result<Vec<String>> {
    let packages = members(&workspace.fuzz_manifest())?;
    let all: Vec<String> = packages
        .iter()
        .flat_map(|package| package.targets_of("bin"))
        .map(str::to_owned)
        .collect();
    for name in wanted {
        ensure!(
            all.contains(name),
            "there is no fuzz target `{name}`; the targets are: {}",
            all.join(", ")
        );
    }
    Ok(if wanted.is_empty() {
        all
    } else {
        wanted.to_vec()
    })
}

fn target_folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("fuzz")
}

fn build(workspace: &Workspace) -> Result<()> {
    let mut command = cargo();
    command
        .args([
            "build",
            "--release",
            "--bins",
            "--target",
            HOST,
            "--manifest-path",
        ])
        .arg(workspace.fuzz_manifest());
    // With a target given, build scripts and procedural macros are built without these flags.
    command
        .arg("--target-dir")
        .arg(target_folder(workspace))
        .env("RUSTFLAGS", COVERAGE.join(" "));
    process::run(&mut command, BUILD_LIMIT).context("the fuzz targets do not build")
}

/// The machine that the fuzz targets run on.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// Runs one target; returns whether it found nothing.
fn fuzz(workspace: &Workspace, target: &str, options: &Options) -> Result<bool> {
    let scratch = workspace.scratch("fuzz")?;
    let artifacts = workspace.root.join("fuzz/artifacts").join(target);
    fs::create_dir_all(&artifacts)?;
    let mut command = command(workspace, target, &scratch)?;
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    let (limit, wanted) = limits(&mut command, options);
    print!("{target}: {wanted} … ");
    std::io::stdout().flush()?;
    let log = scratch.join(format!("{target}.log"));
    command.stdout(Stdio::null()).stderr(File::create(&log)?);
    let ending = Group::spawn(&mut command)?.wait(limit)?;
    let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    match ending {
        Ending::Exited(status) if status.success() => {
            println!("{}", summary(&said));
            Ok(true)
        }
        Ending::Exited(status) => {
            println!(
                "{status}; what it found is in {}\n{said}",
                artifacts.display()
            );
            Ok(false)
        }
        Ending::TimedOut => bail!(
            "fuzz target `{target}` did not end by itself; see {}",
            log.display()
        ),
    }
}

fn command(workspace: &Workspace, target: &str, scratch: &Path) -> Result<Command> {
    let mut command = Command::new(
        target_folder(workspace)
            .join(HOST)
            .join("release")
            .join(target),
    );
    let corpus = scratch.join(target);
    fs::create_dir_all(&corpus)?;
    command.arg(corpus);
    // Inputs that are kept with the project are read, and added to elsewhere.
    let kept = workspace.root.join("fuzz/corpus").join(target);
    if kept.is_dir() {
        command.arg(kept);
    }
    command.args([
        "-verbosity=0",
        "-print_final_stats=1",
        "-timeout=10",
        "-rss_limit_mb=2048",
    ]);
    Ok(command)
}

/// How much was tried, from libFuzzer's final statistics.
fn summary(said: &str) -> String {
    let number = |name: &str| {
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
        line.map_or("?", |value| value.trim_start_matches(':').trim())
            .to_owned()
    };
    let (inputs, speed) = (
        number("number_of_executed_units"),
        number("average_exec_per_sec"),
    );
    format!("{inputs} inputs, {speed} a second, nothing found")
}

fn limits(command: &mut Command, options: &Options) -> (Duration, String) {
    if let Some(runs) = options.runs {
        command.arg(format!("-runs={runs}"));
        // A thousand inputs in a second is slow even for a target that runs a whole model.
        return (
            Duration::from_millis(runs) + MARGIN,
            format!("{runs} inputs"),
        );
    }
    command.arg(format!("-max_total_time={}", options.seconds));
    (
        Duration::from_secs(options.seconds) + MARGIN,
        format!("{} s", options.seconds),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_final_statistics_are_summed_up() {
        let said =
            "Done\nstat::number_of_executed_units: 452901\nstat::average_exec_per_sec:     75483\n";
        assert_eq!(
            summary(said),
            "452901 inputs, 75483 a second, nothing found"
        );
    }
}
