//! Other programs: each a process group of its own that is ended whole, at the latest after its time limit.

use anyhow::{Context, Result, bail};
use core::time::Duration;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    ffi::OsStr,
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Mutex,
    thread,
    time::Instant,
};

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(20);

/// How long a program may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(3);

/// Every group that runs now, so that an interrupt can end them all.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Makes Ctrl-C, `SIGTERM` and `SIGHUP` end every running group before this program.
pub(crate) fn end_children_on_interrupt() -> Result<()> {
    ctrlc::set_handler(|| {
        let groups = RUNNING
            .lock()
            .map(|groups| groups.clone())
            .unwrap_or_default();
        for group in &groups {
            signal(*group, Signal::TERM);
        }
        thread::sleep(Duration::from_millis(500));
        for group in groups {
            signal(group, Signal::KILL);
        }
        std::process::exit(130);
    })
    .context("cannot handle Ctrl-C")
}

/// A running program and everything it started; dropping it ends them.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    pid: Pid,
    name: String,
    ended: bool,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By itself.
    Exited(ExitStatus),
    /// It was ended because its time was up.
    TimedOut,
}

impl Group {
    /// Starts `command` as a process group of its own.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{name}`"))?;
        let pid = Pid::from_child(&child);
        if let Ok(mut running) = RUNNING.lock() {
            running.push(pid);
        }
        Ok(Self {
            child,
            pid,
            name,
            ended: false,
        })
    }

    /// The number of the program's process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The program itself, for its standard streams.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The status of the program if it has ended. What it left behind in its group is killed then, while nobody else
    /// can have got the group's number.
    pub(crate) fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let status = self
            .child
            .try_wait()
            .with_context(|| format!("cannot wait for `{}`", self.name))?;
        if status.is_some() && !self.ended {
            self.ended = true;
            signal(self.pid, Signal::KILL);
        }
        Ok(status)
    }

    /// Waits until the program ends, for `limit` at most; then it is ended.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Ending> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Ending::Exited(status));
            }
            if Instant::now() >= deadline {
                self.end()?;
                return Ok(Ending::TimedOut);
            }
            thread::sleep(POLL);
        }
    }

    /// Asks the group to end, and kills it after [`GRACE`].
    pub(crate) fn end(&mut self) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        signal(self.pid, Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while self.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                signal(self.pid, Signal::KILL);
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // An error here means that the group is gone already.
        drop(self.end());
        if let Ok(mut running) = RUNNING.lock() {
            running.retain(|pid| *pid != self.pid);
        }
    }
}

fn signal(group: Pid, signal: Signal) {
    // The only errors are "no such group", which is what is wanted, and "not permitted", which cannot be helped.
    let _: rustix::io::Result<()> = kill_process_group(group, signal);
}

/// Runs `command` to its end and fails if it fails or takes longer than `limit`.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let shown = display(command);
    match Group::spawn(command)?.wait(limit)? {
        Ending::Exited(status) if status.success() => Ok(()),
        Ending::Exited(status) => bail!("`{shown}` failed: {status}"),
        Ending::TimedOut => bail!(
            "`{shown}` took longer than {} s and was ended",
            limit.as_secs()
        ),
    }
}

/// Runs `command` and returns its standard output; its errors go to the terminal.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = capture(command.stderr(Stdio::inherit()))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", display(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed something that is no text", display(command)))
}

/// Runs `command` and returns all that it said, whether or not it succeeded.
pub(crate) fn capture(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", display(command)))
}

/// A command for a message: the program without its folder.
pub(crate) fn display(command: &Command) -> String {
    let program = Path::new(command.get_program());
    words(program.file_name().unwrap_or(program.as_os_str()), command)
}

/// A command as one would type it anywhere.
pub(crate) fn display_whole(command: &Command) -> String {
    words(command.get_program(), command)
}

fn words(program: &OsStr, command: &Command) -> String {
    core::iter::once(program)
        .chain(command.get_args())
        .map(|word| quote(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended_with_its_children() {
        let file = std::env::temp_dir().join(format!("xtask-outlived-{}", std::process::id()));
        let script = format!("(sleep 1; touch {}) & sleep 60", file.display());
        let mut group = Group::spawn(&mut shell(&script)).unwrap();
        assert_eq!(
            group.wait(Duration::from_millis(100)).unwrap(),
            Ending::TimedOut
        );
        thread::sleep(Duration::from_millis(1500));
        assert!(!file.exists(), "a child outlived its group");
    }

    #[test]
    fn failure_names_the_command() {
        let error = run(&mut shell("exit 3"), GRACE).unwrap_err().to_string();
        assert_eq!(error, "`sh -c 'exit 3'` failed: exit status: 3");
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(quote("a-b=c"), "a-b=c");
        assert_eq!(quote("pci_nvme_ub*"), "'pci_nvme_ub*'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }
}
