//! A boot from start to end: serial ports read, time limited, traces kept.

use super::{Qemu, machine::Machine};
use crate::{
    console::Line,
    log,
    process::{Ending, Group, display_whole},
};
use anyhow::{Context, Result, bail};
use core::{fmt, time::Duration};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
};

/// Exit status of QEMU when the kernel reports success: `(0x10 << 1) | 1`, what `isa-debug-exit` makes of it.
pub(crate) const PASSED: i32 = 33;
/// The same for failure, `0x11`.
const FAILED: i32 = 35;
/// The same for a panic, `0x12`.
const PANICKED: i32 = 37;

/// What QEMU says about itself on its standard error that means nothing: its RSS program cannot be loaded into the
/// host's kernel, so it steers in software; a device over vfio-user has no PCI error reporting that it could listen to.
const HARMLESS: [&str; 3] = [
    "libbpf:",
    "fallback to software RSS",
    "Could not enable error recovery for the device",
];

/// A machine that runs.
#[derive(Debug)]
pub(crate) struct Running {
    group: Group,
    lines: Receiver<String>,
    input: ChildStdin,
    follower: log::Follower,
    console: File,
    errors: PathBuf,
    traces: PathBuf,
}

/// A machine that has ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended {
    /// Why this was no success, if it was none.
    pub(crate) failure: Option<Failure>,
    /// What QEMU objected to: traces of undefined behaviour and errors, messages on its standard error.
    pub(crate) objections: Vec<String>,
}

/// How a machine ended without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The kernel says that it failed.
    Told,
    /// The kernel panicked.
    Panic,
    /// Switched off, or reset, without a verdict.
    Off,
    /// Not at all, in the time it had.
    Late,
    /// QEMU itself ended so.
    Qemu(ExitStatus),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told => f.write_str("the kernel says that it failed"),
            Self::Panic => f.write_str("the kernel panicked"),
            Self::Off => f.write_str("the machine was switched off or reset without a verdict"),
            Self::Late => f.write_str("the machine did not end in time and was stopped"),
            Self::Qemu(status) => write!(f, "QEMU ended with {status}"),
        }
    }
}

/// What came from the machine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Line(Line),
    /// Nothing in the time given.
    Silence,
    /// The machine has closed its serial port: it has ended, or is about to.
    Closed,
}

impl Running {
    /// Starts the machine.
    pub(crate) fn start(qemu: &Qemu, machine: &Machine<'_>, live_log: bool) -> Result<Self> {
        let errors = machine.folder.join("qemu.stderr");
        let frames = machine.log_frames();
        fs::write(&frames, []).with_context(|| format!("cannot write {}", frames.display()))?;
        fs::write(machine.traces(), [])
            .with_context(|| format!("cannot write {}", machine.traces().display()))?;
        let mut command = qemu.command();
        command.args(machine.arguments(qemu)?);
        fs::write(machine.folder.join("qemu.command"), display_whole(&command))?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?);
        let mut group = Group::spawn(&mut command)?;
        let streams = (group.child().stdin.take(), group.child().stdout.take());
        let (Some(input), Some(output)) = streams else {
            bail!("QEMU has no standard streams");
        };
        let follower = log::Follower::start(
            machine.kernel,
            &frames,
            &machine.folder.join("kernel.log"),
            live_log,
        )?;
        let console = File::create(machine.folder.join("com1.log"))?;
        Ok(Self {
            group,
            lines: read_lines(output),
            input,
            follower,
            console,
            errors,
            traces: machine.traces(),
        })
    }

    /// The next line of the first serial port.
    pub(crate) fn next(&mut self, patience: Duration) -> Result<Event> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                writeln!(self.console, "{line}")?;
                Ok(Event::Line(Line::parse(&line)))
            }
            Err(RecvTimeoutError::Timeout) => Ok(Event::Silence),
            Err(RecvTimeoutError::Disconnected) => Ok(Event::Closed),
        }
    }

    /// Says something to the kernel. A kernel that has ended does not hear it, which its exit status tells.
    pub(crate) fn say(&mut self, words: &str) {
        drop(
            self.input
                .write_all(format!("{words}\n").as_bytes())
                .and_then(|()| self.input.flush()),
        );
    }

    /// Waits for the machine to end, for `limit` at most.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<Ended> {
        let ending = self.group.wait(limit)?;
        self.follower.stop()?;
        for line in self.lines.try_iter() {
            writeln!(self.console, "{line}")?;
        }
        let mut objections = read_lines_of(&self.traces)?;
        objections.extend(
            read_lines_of(&self.errors)?
                .into_iter()
                .filter(|line| !HARMLESS.iter().any(|word| line.contains(word))),
        );
        Ok(Ended {
            failure: failure(ending),
            objections,
        })
    }
}

/// Why this ending is no success.
fn failure(ending: Ending) -> Option<Failure> {
    let Ending::Exited(status) = ending else {
        return Some(Failure::Late);
    };
    match status.code() {
        Some(PASSED) => None,
        Some(FAILED) => Some(Failure::Told),
        Some(PANICKED) => Some(Failure::Panic),
        Some(0) => Some(Failure::Off),
        _ => Some(Failure::Qemu(status)),
    }
}

fn read_lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // Serial lines carry any byte; what is no UTF-8 is shown as such.
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    receiver
}

fn read_lines_of(path: &Path) -> Result<Vec<String>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect())
}

impl Ended {
    /// Fails with all that was wrong.
    pub(crate) fn require_clean(&self) -> Result<()> {
        if let Some(failure) = self.failure {
            bail!("{failure}");
        }
        if let Some(first) = self.objections.first() {
            bail!(
                "QEMU objected {} times, first: {first}",
                self.objections.len()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn every_ending_but_success_is_explained() {
        let exited = |code: i32| failure(Ending::Exited(ExitStatus::from_raw(code << 8)));
        assert_eq!(exited(PASSED), None);
        assert_eq!(exited(PANICKED), Some(Failure::Panic));
        assert!(exited(0).is_some() && exited(1).is_some() && failure(Ending::TimedOut).is_some());
    }

    #[test]
    fn an_objection_spoils_a_success() {
        let clean = Ended::default();
        assert!(clean.require_clean().is_ok());
        let objected = Ended {
            objections: vec!["pci_nvme_err_invalid_prp".into()],
            ..clean
        };
        assert_eq!(
            objected.require_clean().unwrap_err().to_string(),
            "QEMU objected 1 times, first: pci_nvme_err_invalid_prp"
        );
    }
}
