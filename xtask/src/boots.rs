//! The commands that boot the reference kernel: `demo`, `qemu`.

use crate::{
    kernel,
    mutant::Replacement,
    session::{self, BootOptions, Script},
    workspace::Workspace,
};
use anyhow::{Context, Result};
use clap::Args;
use serde::Deserialize;
use std::{fs, path::PathBuf, process::ExitCode};

/// Rules of its own that the kernel breaks when it is told to (`src/sabotage.rs` there), and what its panic says then. Of
/// page faults the error code tells whether a page was written that is not there (2) or may not be (3), or run (0x11).
const SABOTAGES: [(&str, &str); 6] = [
    ("panic", "as ordered"),
    ("stack", "exception 14 (error 0x2)"),
    ("write-code", "exception 14 (error 0x3)"),
    ("write-constant", "exception 14 (error 0x3)"),
    ("run-constant", "exception 14 (error 0x11)"),
    ("run-memory", "exception 14 (error 0x11)"),
];

/// What to show.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoOptions {
    #[command(flatten)]
    boot: BootOptions,
    /// Requests over all network processes, at least
    #[arg(long, default_value_t = 12_000)]
    requests: u64,
    /// Write the judgement to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What to boot.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
#[derive(Args, Clone, Debug)]
pub(crate) struct QemuOptions {
    #[command(flatten)]
    boot: BootOptions,
    /// Let the kernel test itself, and fail if a test does
    #[arg(long, conflicts_with = "restarts")]
    self_test: bool,
    /// Give the SSD so many queue pairs (1 to 65535), let one process claim all of them, and fail if it cannot use each
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["self_test", "restarts", "sabotage"])]
    pairs: Option<u16>,
    /// Let the kernel break its own rules, one a boot, and fail if its protections do not stop it
    #[arg(long, conflicts_with_all = ["self_test", "restarts"])]
    sabotage: bool,
    /// Kill and restart a process so often under traffic, and fail if something leaks
    #[arg(long, value_name = "COUNT")]
    restarts: Option<u64>,
    /// Leave out the stop before memory is freed (xtask/early-free.toml), kill a process under traffic, and fail if the damage is not
    /// found
    #[arg(long, conflicts_with_all = ["self_test", "restarts", "sabotage", "pairs"])]
    early_free: bool,
    /// Reset card and SSD under traffic, and fail if a process does not go on
    #[arg(long, conflicts_with_all = ["self_test", "restarts", "sabotage", "pairs", "early_free"])]
    resets: bool,
    /// Wait for a debugger on TCP port 1234
    #[arg(long)]
    debugger: bool,
}

/// Boots everything at once and judges it.
pub(crate) fn demo(workspace: &Workspace, options: &DemoOptions) -> Result<ExitCode> {
    let json = options
        .json
        .as_deref()
        .map(std::path::absolute)
        .transpose()?;
    let script = Script::Demo {
        requests: options.requests,
        json,
    };
    session::run(workspace, &options.boot, kernel::build(workspace)?, script)
}

/// Boots the machine for whoever works on it.
pub(crate) fn qemu(workspace: &Workspace, options: &QemuOptions) -> Result<ExitCode> {
    if options.sabotage {
        return sabotage(workspace, &options.boot);
    }
    if options.early_free {
        return early_free(workspace, &options.boot);
    }
    let script = match (options.restarts, options.pairs) {
        (Some(count), _) => Script::Restarts { count },
        (None, Some(count)) => Script::Pairs { count },
        (None, None) if options.self_test => Script::SelfTest,
        (None, None) if options.resets => Script::Resets,
        (None, None) => Script::Watch {
            debugger: options.debugger,
        },
    };
    session::run(workspace, &options.boot, kernel::build(workspace)?, script)
}

/// A kernel with pieces of its source replaced.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed {
    change: Vec<Replacement>,
}

/// Kills a process under traffic on a kernel that frees memory before the card has let go of it.
fn early_free(workspace: &Workspace, boot: &BootOptions) -> Result<ExitCode> {
    let changes = Changed::read(workspace)?.change;
    let build = kernel::build_changed(workspace, &changes, &["echo", "kv", "blockbench"])?;
    session::run(workspace, boot, build, Script::EarlyFree)
}

impl Changed {
    /// The kernel that frees memory early.
    fn read(workspace: &Workspace) -> Result<Self> {
        let path = workspace.root.join("xtask/early-free.toml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is no table", path.display()))
    }
}

/// Boots once for each rule that the kernel can be told to break.
fn sabotage(workspace: &Workspace, boot: &BootOptions) -> Result<ExitCode> {
    for (what, words) in SABOTAGES {
        let script = Script::Sabotage {
            what: what.to_owned(),
            words: words.to_owned(),
        };
        if session::run(workspace, boot, kernel::build(workspace)?, script)? != ExitCode::SUCCESS {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_replaced_stands_in_the_source_once() {
        let workspace = Workspace::find().unwrap();
        for change in Changed::read(&workspace).unwrap().change {
            let source = fs::read_to_string(workspace.root.join(&change.file)).unwrap();
            assert_eq!(source.matches(&change.find).count(), 1, "{}", change.find);
        }
    }
}
