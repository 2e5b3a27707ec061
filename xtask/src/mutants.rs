//! `cargo xtask mutants`: whether the fuzz targets find bugs that are planted in the validators.
//!
//! Each bug of `fuzz/mutants.toml` is one replacement in a copy of the project; the target named there must find it on
//! seeded random inputs, on the stable compiler and without libFuzzer, within the number of inputs given there.

use crate::{
    fuzz::sampler,
    mutant::{Replacement, Tree},
    process,
    workspace::Workspace,
};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;
use std::{fs, process::Command, process::ExitCode};

/// Which bugs to plant.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Only these bugs
    name: Vec<String>,
    /// Print the bugs and run nothing
    #[arg(long)]
    list: bool,
}

/// The file of planted bugs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    mutant: Vec<Mutant>,
}

/// A planted bug.
#[derive(Clone, Debug, Deserialize)]
struct Mutant {
    name: String,
    /// What the validator then lets through.
    about: String,
    /// Which fuzz target must find it.
    target: String,
    /// Within how many inputs.
    inputs: u64,
    #[serde(flatten)]
    change: Replacement,
}

/// Plants one bug after the other, and has each looked for.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let mutants = selected(workspace, &options.name)?;
    if options.list {
        for mutant in &mutants {
            println!("{}: {}", mutant.name, mutant.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut survivors = Vec::new();
    for mutant in &mutants {
        let found = hunt(workspace, mutant).with_context(|| format!("mutant `{}`", mutant.name))?;
        match &found {
            Some(at) => println!("{}: found by {at}", mutant.name),
            None => println!("{}: not found in {} inputs", mutant.name, mutant.inputs),
        }
        if found.is_none() {
            survivors.push(mutant.name.as_str());
        }
    }
    ensure!(
        survivors.is_empty(),
        "these bugs were not found: {}",
        survivors.join(", ")
    );
    println!("all {} planted bugs were found", mutants.len());
    Ok(ExitCode::SUCCESS)
}

fn selected(workspace: &Workspace, wanted: &[String]) -> Result<Vec<Mutant>> {
    let path = workspace.root.join("fuzz/mutants.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: Table = toml::from_str(&text).context("fuzz/mutants.toml is no table of mutants")?;
    let Some(unknown) = wanted
        .iter()
        .find(|name| table.mutant.iter().all(|mutant| mutant.name != **name))
    else {
        let mut mutants = table.mutant;
        mutants.retain(|mutant| wanted.is_empty() || wanted.contains(&mutant.name));
        return Ok(mutants);
    };
    bail!("there is no mutant `{unknown}`; `cargo xtask mutants --list` names them");
}

/// Plants a bug and looks for it; what the sampler said when it was found.
fn hunt(workspace: &Workspace, mutant: &Mutant) -> Result<Option<String>> {
    let tree = Tree::copy(workspace, "mutants")?;
    tree.apply(&mutant.change)?;
    let manifest = tree.root().join("fuzz/Cargo.toml");
    let program = sampler::build(&manifest, &workspace.scratch("mutants")?.join("target"))?;
    let mut command = Command::new(program);
    command.args([&mutant.target, &mutant.inputs.to_string()]);
    let output = process::capture(command.env("RUST_BACKTRACE", "0"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let finding = said
        .lines()
        .find_map(|line| line.strip_prefix(sampler::FINDING));
    Ok(finding.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_planted_bug_fits_the_source() {
        let workspace = Workspace::find().unwrap();
        let mutants = selected(&workspace, &[]).unwrap();
        let names: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
        assert_eq!(names.len(), mutants.len(), "a name twice");
        for mutant in &mutants {
            let source = fs::read_to_string(workspace.root.join(&mutant.change.file)).unwrap();
            let count = source.matches(&mutant.change.find).count();
            assert_eq!(count, 1, "{}", mutant.name);
        }
    }
}
