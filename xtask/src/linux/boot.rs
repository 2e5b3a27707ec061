//! The guest's machine: QEMU with the models in its slots.

use super::{
    console::Console,
    judge::{Heard, Report},
    memory::Usage,
};
use crate::{
    process::{self, Group},
    qemu::Qemu,
    serve::{self, Serving},
};
use anyhow::{Context, Result, ensure};
use core::time::Duration;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

/// How long a guest may say nothing: every wait of its checks is shorter.
const SILENCE: Duration = Duration::from_secs(400);

/// How often the console is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Who is told of each check as soon as it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    Terminal,
    Nobody,
}

/// What is booted.
#[derive(Debug)]
pub(super) struct Boot<'a> {
    pub(super) qemu: &'a Qemu,
    pub(super) kernel: PathBuf,
    pub(super) initrd: &'a Path,
    /// Where what it says goes.
    pub(super) console: &'a Path,
    pub(super) limit: Duration,
    pub(super) audience: Audience,
}

impl Boot<'_> {
    /// Runs the guest to its end, or to the end of its time.
    pub(super) fn run(&self, serving: &Serving) -> Result<Report> {
        let mut group = self.start(serving)?;
        let mut console = Console::open(self.console)?;
        let mut report = Report::default();
        let started = Instant::now();
        let mut spoke = started;
        loop {
            // Asked before the console is read: what a guest that is gone has said is there then.
            let ended = group.try_wait()?;
            for line in console.lines()? {
                spoke = Instant::now();
                match report.hear(&line) {
                    Heard::Check(check) if self.audience == Audience::Terminal => {
                        println!("{check}");
                    }
                    Heard::Sample => report.add_usage(Usage::of(serving.pid())?),
                    Heard::Check(_) | Heard::Nothing => {}
                }
            }
            if let Some(status) = ended {
                let shown = self.console.display();
                ensure!(status.success(), "QEMU ended with {status}; see {shown}");
                return Ok(report);
            }
            if let Some(late) = self.late(started, spoke) {
                report.stop(late);
                return Ok(report);
            }
            thread::sleep(POLL);
        }
    }

    fn start(&self, serving: &Serving) -> Result<Group> {
        let mut command = self.command();
        add_devices(&mut command, serving);
        let output = File::create(self.console)
            .with_context(|| format!("cannot write {}", self.console.display()))?;
        command.stdin(Stdio::null()).stdout(output);
        fs::write(
            self.console.with_extension("command"),
            process::display_whole(&command) + "\n",
        )?;
        Group::spawn(&mut command)
    }

    /// Why the guest gets no more time, if that is so.
    fn late(&self, started: Instant, spoke: Instant) -> Option<String> {
        if started.elapsed() >= self.limit {
            return Some(format!(
                "the guest did not end within {} s",
                self.limit.as_secs()
            ));
        }
        (spoke.elapsed() >= SILENCE)
            .then(|| format!("the guest said nothing for {} s", SILENCE.as_secs()))
    }

    fn command(&self) -> Command {
        let mut command = self.qemu.command();
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-accel", "tcg", "-smp", "4", "-no-reboot"]);
        command.args(["-machine", "q35,memory-backend=memory"]);
        command.args([
            "-object",
            "memory-backend-memfd,id=memory,size=1G,share=on",
            "-serial",
            "stdio",
            "-append",
            // A hundred reloads say more than the usual 128 KiB hold, and all of it is judged.
            "console=ttyS0 rdinit=/init quiet panic=-1 log_buf_len=16M",
        ]);
        command.arg("-kernel").arg(&self.kernel);
        command.arg("-initrd").arg(self.initrd);
        command
    }
}

/// Each model behind a PCI Express port of its own, as a card in its slot.
fn add_devices(command: &mut Command, serving: &Serving) {
    for (n, socket) in serving.sockets().iter().enumerate() {
        let slot = n + 1;
        command.args([
            "-device",
            &format!("pcie-root-port,id=port{slot},slot={slot}"),
        ]);
        let device = serve::device(socket, Some(&format!("port{slot}")));
        command.args(["-device", &device]);
    }
}
