//! Whether the checks find anything: defects planted in copies of the models, each to be found by a check named with it.

use super::{Audience, Device, Options, Outcome, Trial, guest};
use crate::{
    mutant::{Replacement, Tree},
    qemu::Qemu,
    serve,
    workspace::Workspace,
};
use anyhow::{Context, Result, bail};
use clap::ValueEnum as _;
use core::time::Duration;
use serde::Deserialize;
use std::{fs, process::ExitCode};

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

/// Plants one defect after the other.
pub(super) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let file = workspace.root.join("xtask/planted.toml");
    let table: Table = toml::from_str(&fs::read_to_string(&file)?)
        .with_context(|| format!("cannot read {}", file.display()))?;
    // A check that fails anyway finds nothing.
    let checks: Vec<String> = table
        .defect
        .iter()
        .filter(|defect| defect.device == options.device.name())
        .map(|defect| defect.check.clone())
        .collect();
    anyhow::ensure!(
        !checks.is_empty(),
        "{} names no defect of {}",
        file.display(),
        options.device.name()
    );
    let untouched = plant(workspace, options, None, checks)?;
    if !untouched.failures.is_empty() {
        bail!("the model without any defect fails:\n{untouched}");
    }
    let mut missed = 0;
    for defect in &table.defect {
        let Ok(device) = Device::from_str(&defect.device, true) else {
            bail!("`{}` is no model", defect.device);
        };
        if device != options.device {
            continue;
        }
        let checks = vec![defect.check.clone()];
        let outcome = plant(workspace, options, Some(&defect.change), checks)
            .with_context(|| format!("defect `{}`", defect.name))?;
        if outcome.report.has_failed(&defect.check) {
            println!(
                "found: {} ({}) by `{}`",
                defect.name, defect.about, defect.check
            );
        } else {
            missed += 1;
            println!("MISSED: {} ({})\n{outcome}", defect.name, defect.about);
        }
    }
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs a short form of the checks on a copy of the model with this change.
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
