//! `cargo xtask attack`: each attack on a kernel that lacks the one check against it, to show that the check is what
//! stops it.

use crate::{
    console::Attack,
    kernel,
    mutant::Replacement,
    observed::Observed,
    qemu::machine::Nic,
    report::ATTACKS,
    session::{self, BootOptions, Script},
    workspace::Workspace,
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::{fs, process::ExitCode, time::Instant};

/// Which attacks to try.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    boot: BootOptions,
    /// Only this attack, on all devices; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

/// The programs of those who are there when an attack is tried.
const COMPANY: [&str; 3] = ["echo", "rogue", "blockbench"];

/// Where an attack that succeeds is seen. The attacker's own word is nowhere enough.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Seen {
    /// By the kernel, in memory that is not the attacker's to have written, or in a device that had to be reset.
    Kernel,
    /// By the host, on the disk.
    Disk,
    /// By the host, at the tap: a frame that is not the attacker's to send, which `trace` tells from others.
    Tap,
    /// By the host, at the tap: more frames than the attacker's ring has entries.
    Flood,
    /// By the host, on the console: what only the victim was told.
    Console,
    /// By the model of the device, which objects with what `trace` says.
    Model,
    /// By the kernel: what another process published moved, though that process never called the kernel for it.
    Bait,
    /// By the kernel: the device never finished, and what the attacker had was taken back only when the time for that was up.
    Late,
    /// By the host, in that the kernel goes on speaking of the attacker as running, with leases that are not over.
    Endless,
}

/// An attack, and where its success is seen.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Try {
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) seen: Seen,
    /// What has to be in the line that tells of it, where several could.
    #[serde(default)]
    pub(crate) trace: String,
}

impl Try {
    /// How the attacker is told of it.
    pub(crate) fn pair(&self) -> String {
        format!("{}:{}", self.name, self.device)
    }

    /// What the kernel says became of it.
    pub(crate) fn told<'a>(&self, observed: &'a Observed) -> Option<&'a Attack> {
        let mut attacks = observed.attacks.iter();
        attacks.find(|told| told.name == self.name && told.device == self.device)
    }
}

/// The project with one check left out, and the attacks that this check is against.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    /// What is no longer checked.
    about: String,
    /// The network card whose driver has the check; any if there is none.
    nic: Option<Nic>,
    change: Vec<Replacement>,
    attack: Vec<Try>,
    /// Attacks that the same check is against, and that are not tried.
    #[serde(default)]
    covers: Vec<Covered>,
}

/// An attack that need not be tried without its check, because another is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Covered {
    name: String,
    device: String,
    because: String,
}

/// The file of attacks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    build: Vec<Build>,
}

/// Tries them, one build after the other.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    for only in &options.only {
        let mut known: Vec<_> = ATTACKS.map(|(name, ..)| name).into();
        known.dedup();
        ensure!(
            known.contains(&only.as_str()),
            "there is no attack `{only}`; the attacks are: {}",
            known.join(", ")
        );
    }
    let mut failed = Vec::new();
    for mut build in table(workspace)? {
        let is_wanted = |it: &Try| options.only.is_empty() || options.only.contains(&it.name);
        build.attack.retain(is_wanted);
        if build.attack.is_empty() || !build.is_for(options.boot.nic) {
            continue;
        }
        println!("without a check: {}", build.about);
        for Covered {
            name,
            device,
            because,
        } in &build.covers
        {
            println!("{name}:{device} is not tried beside: {because}");
        }
        match build.run(workspace, &options.boot) {
            Ok(code) if code == ExitCode::SUCCESS => {}
            Ok(_) => failed.push(build.names()),
            Err(error) => {
                eprintln!("error: {}: {error:#}", build.names());
                failed.push(build.names());
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

fn table(workspace: &Workspace) -> Result<Vec<Build>> {
    let path = workspace.root.join("xtask/attacks.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: Table =
        toml::from_str(&text).context("xtask/attacks.toml is no table of attacks")?;
    Ok(table.build)
}

impl Build {
    /// Whether it is one for machines with this card.
    fn is_for(&self, nic: Nic) -> bool {
        self.nic.is_none_or(|it| it == nic)
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.attack.iter().map(Try::pair).collect();
        names.join(", ")
    }

    fn run(&self, workspace: &Workspace, boot: &BootOptions) -> Result<ExitCode> {
        let started = Instant::now();
        let build = kernel::build_changed(workspace, &self.change, &COMPANY)?;
        let built = started.elapsed().as_secs_f64();
        let tries = self.attack.clone();
        let code = session::run(workspace, boot, build, Script::Unchecked { tries })?;
        let all = started.elapsed().as_secs_f64();
        println!("built in {built:.1} s, tried in {:.1} s", all - built);
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::IXGBE;

    #[test]
    fn every_attack_has_its_check_and_every_check_is_in_the_source() {
        let workspace = Workspace::find().unwrap();
        let builds = table(&workspace).unwrap();
        for nic in [Nic::Virtio, Nic::Ixgbe] {
            let builds = builds.iter().filter(|build| build.is_for(nic));
            let tries = builds.clone().flat_map(|build| &build.attack);
            let covered = builds.flat_map(|build| &build.covers);
            assert!(covered.clone().all(|it| it.because.len() > 20), "a reason");
            let covered = covered.map(|it| (it.name.as_str(), it.device.as_str()));
            let mut tried: Vec<_> = tries
                .map(|it| (it.name.as_str(), it.device.as_str()))
                .chain(covered)
                .collect();
            let is_there = |device: &str| device != IXGBE || nic == Nic::Ixgbe;
            let all = ATTACKS.iter().map(|(name, device, _)| (*name, *device));
            let mut all: Vec<_> = all.filter(|(_, device)| is_there(device)).collect();
            tried.sort_unstable();
            all.sort_unstable();
            assert_eq!(tried, all, "{nic:?}: each on each device, once");
        }
        for build in &builds {
            assert!(!build.change.is_empty(), "{}", build.about);
            for change in &build.change {
                let source = fs::read_to_string(workspace.root.join(&change.file)).unwrap();
                assert_eq!(
                    source.matches(&change.find).count(),
                    1,
                    "{}: {}",
                    build.about,
                    change.find
                );
            }
        }
    }
}
