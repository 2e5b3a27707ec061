//! `cargo xtask attack`: each attack on a kernel that lacks the one check against it, to show that the check is what
//! stops it.

use crate::{
    kernel,
    mutant::Replacement,
    report::ATTACKS,
    session::{self, BootOptions, Script},
    workspace::Workspace,
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::{fs, process::ExitCode};

/// Which attacks to try.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    boot: BootOptions,
    /// Only this attack; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

/// Where an attack that succeeds is seen.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Seen {
    /// By the kernel, in the victim's memory, or by the attacker.
    Kernel,
    /// By the host, on the disk.
    Disk,
    /// By the host, in the capture at the tap.
    Tap,
    /// By the host, in that the kernel goes on speaking of the attacker as running, with leases that are not over.
    Endless,
}

/// An attack, and what the source is without the check against it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attack {
    name: String,
    device: String,
    /// What is no longer checked.
    about: String,
    seen: Seen,
    change: Vec<Replacement>,
}

/// The file of attacks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    attack: Vec<Attack>,
}

/// Tries them one after the other.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    for name in &options.only {
        let known = ATTACKS.join(", ");
        ensure!(
            ATTACKS.contains(&name.as_str()),
            "there is no attack `{name}`; the attacks are: {known}"
        );
    }
    let mut failed = Vec::new();
    for attack in table(workspace)? {
        if !options.only.is_empty() && !options.only.contains(&attack.name) {
            continue;
        }
        println!("{}: {}", attack.name, attack.about);
        match attack.run(workspace, &options.boot) {
            Ok(code) if code == ExitCode::SUCCESS => {}
            Ok(_) => failed.push(attack.name),
            Err(error) => {
                eprintln!("error: {}: {error:#}", attack.name);
                failed.push(attack.name);
            }
        }
    }
    ensure!(
        failed.is_empty(),
        "no visible success without the check: {}",
        failed.join(", ")
    );
    Ok(ExitCode::SUCCESS)
}

fn table(workspace: &Workspace) -> Result<Vec<Attack>> {
    let path = workspace.root.join("xtask/attacks.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: Table =
        toml::from_str(&text).context("xtask/attacks.toml is no table of attacks")?;
    Ok(table.attack)
}

impl Attack {
    fn run(&self, workspace: &Workspace, boot: &BootOptions) -> Result<ExitCode> {
        let build = kernel::build_changed(workspace, &self.change)?;
        let script = Script::Unchecked {
            attack: self.name.clone(),
            device: self.device.clone(),
            seen: self.seen,
        };
        session::run(workspace, boot, build, script)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attack_has_its_check_and_every_check_is_in_the_source() {
        let workspace = Workspace::find().unwrap();
        let attacks = table(&workspace).unwrap();
        let names: Vec<_> = attacks.iter().map(|attack| attack.name.as_str()).collect();
        assert_eq!(names, ATTACKS);
        for attack in &attacks {
            assert!(!attack.change.is_empty(), "{}", attack.name);
            for change in &attack.change {
                let source = fs::read_to_string(workspace.root.join(&change.file)).unwrap();
                assert_eq!(
                    source.matches(&change.find).count(),
                    1,
                    "{}: {}",
                    attack.name,
                    change.find
                );
            }
        }
    }
}
