//! A network of our own: a namespace with a multi-queue tap, so that the host's network is left alone.

use crate::{
    cast::{HOST, PREFIX},
    process,
    tools::{self, IP, UNSHARE},
};
use anyhow::{Context, Result};
use core::time::Duration;
use std::{
    fs::OpenOptions,
    path::Path,
    process::{Command, Stdio},
};

/// Name of the tap.
pub(crate) const TAP: &str = "t0";

/// Device through which taps are made.
const TUN: &str = "/dev/net/tun";

/// How long `ip` may take.
const LIMIT: Duration = Duration::from_secs(10);

/// How this machine lets us have a network of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// `unshare` with these options leads into a namespace where taps may be made.
    Namespace(&'static [&'static str]),
    /// It does not, for this reason.
    Impossible(String),
}

/// How many queues the tap has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queues {
    /// As many as whoever opens it wants.
    Several,
    /// One: a model steers by itself.
    One,
}

/// Finds out by trying.
pub(crate) fn isolation() -> Result<Isolation> {
    if tools::find(UNSHARE.program).is_none() || tools::find(IP.program).is_none() {
        UNSHARE.need()?;
        IP.need()?;
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open(TUN) {
        return Ok(Isolation::Impossible(format!(
            "{TUN} cannot be opened ({error})"
        )));
    }
    let root = rustix::process::geteuid().is_root();
    let options: &'static [&'static str] = if root { &["-n"] } else { &["-Urn"] };
    let tried = process::capture(Command::new("unshare").args(options).arg("true"))?;
    if tried.status.success() {
        return Ok(Isolation::Namespace(options));
    }
    let why = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
    Ok(Isolation::Impossible(format!(
        "`unshare {}` is refused ({why})",
        options.join(" ")
    )))
}

/// Runs this program again with `arguments`, inside a new network namespace.
pub(crate) fn command_inside(options: &[&str], arguments: &[&Path]) -> Result<Command> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new("unshare");
    command.args(options).arg("--").arg(own).args(arguments);
    Ok(command)
}

/// Makes the tap, of several queues or of one, and gives the host its address; to be called inside the namespace only.
pub(crate) fn make_tap(queues: Queues) -> Result<()> {
    let address = format!("{HOST}/{PREFIX}");
    for words in [
        &["link", "set", "lo", "up"][..],
        match queues {
            Queues::Several => &["tuntap", "add", "dev", TAP, "mode", "tap", "multi_queue"][..],
            Queues::One => &["tuntap", "add", "dev", TAP, "mode", "tap"],
        },
        &["address", "add", &address, "dev", TAP],
        &["link", "set", TAP, "up"],
    ] {
        let mut ip = Command::new(tools::find(IP.program).context("`ip` is missing")?);
        process::run(ip.args(words).stdin(Stdio::null()), LIMIT)?;
    }
    Ok(())
}
