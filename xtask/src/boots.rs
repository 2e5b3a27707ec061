//! The commands that boot the reference kernel: `demo`, `qemu`.

use crate::{
    kernel,
    session::{self, BootOptions, Script},
    workspace::Workspace,
};
use anyhow::Result;
use clap::Args;
use std::{path::PathBuf, process::ExitCode};

/// Rules of its own that the kernel breaks when it is told to (`src/sabotage.rs` there).
const SABOTAGES: [&str; 6] = [
    "panic",
    "stack",
    "write-code",
    "write-constant",
    "run-constant",
    "run-memory",
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
    let script = match (options.restarts, options.pairs) {
        (Some(count), _) => Script::Restarts { count },
        (None, Some(count)) => Script::Pairs { count },
        (None, None) if options.self_test => Script::SelfTest,
        (None, None) => Script::Watch {
            debugger: options.debugger,
        },
    };
    session::run(workspace, &options.boot, kernel::build(workspace)?, script)
}

/// Boots once for each rule that the kernel can be told to break.
fn sabotage(workspace: &Workspace, boot: &BootOptions) -> Result<ExitCode> {
    for what in SABOTAGES {
        let script = Script::Sabotage {
            what: what.to_owned(),
        };
        if session::run(workspace, boot, kernel::build(workspace)?, script)? != ExitCode::SUCCESS {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
