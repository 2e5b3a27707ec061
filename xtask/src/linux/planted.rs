//! Whether the checks find anything: defects planted in copies of the models, each to be found by a check named with it.

use super::{Audience, Options, Outcome, Trial, guest};
use crate::{
    mutant::{Replacement, Tree},
    qemu::Qemu,
    serve,
    workspace::Workspace,
};
use anyhow::{Context, Result, bail, ensure};
use core::{fmt, time::Duration};
use serde::Deserialize;
use std::{fs, process::ExitCode, time::Instant};

/// The defects, from the project's root on.
const FILE: &str = "xtask/planted.toml";

/// How long one guest may take: a defect may make it wait for what never comes.
const LIMIT: Duration = Duration::from_secs(600);

/// The file of defects.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    defect: Vec<Defect>,
}

/// A planted defect.
#[derive(Clone, Debug, Deserialize)]
struct Defect {
    name: String,
    /// What the model does wrong then.
    about: String,
    /// The model, as it is called on the command line.
    device: String,
    /// The check that has to fail.
    check: String,
    #[serde(flatten)]
    change: Replacement,
}

/// Plants one defect after the other; with checks named by `--only`, those that these are to find.
pub(super) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let defects = chosen(read(workspace)?, options);
    ensure!(
        !defects.is_empty(),
        "{FILE} has no such defect of {}",
        options.device.name()
    );
    // A check that fails anyway finds nothing.
    let checks = defects.iter().map(|defect| defect.check.clone()).collect();
    let untouched = plant(workspace, options, None, checks)?;
    if !untouched.failures.is_empty() {
        bail!("the model without any defect fails:\n{untouched}");
    }
    println!("the model without any defect passes");
    let mut missed = 0;
    for defect in &defects {
        let begun = Instant::now();
        let checks = vec![defect.check.clone()];
        let outcome = plant(workspace, options, Some(&defect.change), checks)
            .with_context(|| format!("defect `{}`", defect.name))?;
        let seconds = begun.elapsed().as_secs();
        if outcome.report.has_failed(&defect.check) {
            println!("found: {defect}, in {seconds} s");
        } else {
            missed += 1;
            println!("MISSED: {defect}\n{outcome}");
        }
    }
    println!("{} defects planted, {missed} missed", defects.len());
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read(workspace: &Workspace) -> Result<Vec<Defect>> {
    let text = fs::read_to_string(workspace.root.join(FILE))
        .with_context(|| format!("cannot read {FILE}"))?;
    let table: Table = toml::from_str(&text).with_context(|| format!("cannot read {FILE}"))?;
    Ok(table.defect)
}

/// The defects of the model that was asked for.
fn chosen(defects: Vec<Defect>, options: &Options) -> Vec<Defect> {
    let is_wanted = |defect: &Defect| {
        defect.device == options.device.name()
            && (options.only.is_empty() || options.only.contains(&defect.check))
    };
    defects.into_iter().filter(is_wanted).collect()
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) by `{}`", self.name, self.about, self.check)
    }
}

/// Runs these checks, with those that they rest on, on a copy of the model with this change.
fn plant(
    workspace: &Workspace,
    options: &Options,
    change: Option<&Replacement>,
    only: Vec<String>,
) -> Result<Outcome> {
    let copy = Tree::copy(workspace, "planted")?;
    if let Some(change) = change {
        copy.apply(change)?;
    }
    let trial = Trial {
        qemu: Qemu::with_vfio_user(workspace, &options.qemu)?,
        tree: guest::packages(workspace)?,
        folder: workspace.scratch("planted/run")?,
        device: options.device,
        amount: guest::Amount {
            mebibytes: 16,
            reloads: 2,
            patience: Duration::from_secs(30),
            only,
        },
        limit: LIMIT,
        audience: Audience::Nobody,
    };
    let model = serve::build_in(copy.root(), &workspace.scratch("planted/target")?)?;
    trial.run(&model)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::Device;
    use clap::ValueEnum as _;
    use std::collections::BTreeSet;

    #[test]
    fn every_defect_fits_the_source_and_names_a_check() {
        let workspace = Workspace::find().unwrap();
        let defects = read(&workspace).unwrap();
        let names: BTreeSet<&str> = defects.iter().map(|defect| defect.name.as_str()).collect();
        assert_eq!(names.len(), defects.len(), "a name twice");
        for defect in &defects {
            let source = fs::read_to_string(workspace.root.join(&defect.change.file)).unwrap();
            let count = source.matches(&defect.change.find).count();
            assert_eq!(count, 1, "{defect}");
            let device = Device::from_str(&defect.device, false).unwrap();
            assert!(guest::has_check(device, &defect.check), "{defect}");
        }
    }

    #[test]
    fn every_model_has_defects() {
        let defects = read(&Workspace::find().unwrap()).unwrap();
        for device in Device::value_variants() {
            let name = device.name();
            assert!(defects.iter().any(|defect| defect.device == name), "{name}");
        }
    }
}
