//! The model's side: `mock-hw serve` as a program of its own.

use crate::{
    process::{self, Ending, Group},
    workspace::{self, Workspace},
};
use anyhow::{Context, Result, bail};
use core::time::Duration;
use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

/// How long the build may take, the sockets may take to appear, and the server to end after the guest.
const BUILD: Duration = Duration::from_secs(600);
const START: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_secs(10);

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Serving {
    group: Group,
    sockets: Vec<PathBuf>,
    said: PathBuf,
}

/// Builds the server; where it is.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    build_in(&workspace.root, &workspace.target)
}

/// Builds the server of the project, or of a copy of it, at `root`.
pub(crate) fn build_in(root: &Path, target: &Path) -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo
        .args(["build", "--quiet", "--package", "parakernel-mock-hw"])
        .args(["--features", "program", "--bin", "mock-hw", "--target-dir"])
        .arg(target)
        .current_dir(root);
    process::run(&mut cargo, BUILD)?;
    Ok(target.join("debug/mock-hw"))
}

/// The value of QEMU's `-device` for the model at `socket`, on a bus by name or on the board's own.
pub(crate) fn device(socket: &Path, bus: Option<&str>) -> String {
    let mut device = serde_json::json!({
        "driver": "vfio-user-pci",
        "socket": { "type": "unix", "path": socket },
    });
    if let Some(bus) = bus {
        device["bus"] = bus.into();
    }
    device.to_string()
}

impl Serving {
    /// Starts it with models of these devices, and `more` words; it takes clients when this returns. Sockets and what it
    /// says go to `folder`, with `name` in their names.
    pub(crate) fn start(
        program: &Path,
        (name, devices): (&str, &[&str]),
        more: &[OsString],
        folder: &Path,
    ) -> Result<Self> {
        let socket = |n: usize| folder.join(format!("{name}-{n}.socket"));
        let sockets: Vec<PathBuf> = (1..=devices.len()).map(socket).collect();
        let said = folder.join(format!("{name}-model.log"));
        let mut command = Command::new(program);
        command.arg("serve");
        for (device, socket) in devices.iter().zip(&sockets) {
            command.args(["--device", device, "--socket"]).arg(socket);
        }
        command.args(more);
        let output = File::create(&said)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut serving = Self {
            group: Group::spawn(&mut command)?,
            sockets,
            said,
        };
        serving.wait_for_sockets()?;
        Ok(serving)
    }

    pub(crate) fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.group.id()
    }

    fn wait_for_sockets(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while !self.sockets.iter().all(|socket| socket.exists()) {
            if let Some(status) = self.group.try_wait()? {
                let said = fs::read_to_string(&self.said)?;
                bail!("the model ended with {status}: {}", said.trim());
            }
            if Instant::now() > deadline {
                bail!("the model made no socket within {} s", START.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The guest is gone: the server has to end by itself. What it objected to.
    pub(crate) fn finish(mut self) -> Result<Vec<String>> {
        match self.group.wait(END)? {
            Ending::Exited(status) if status.success() => {}
            Ending::Exited(status) => {
                bail!("the model ended with {status}; see {}", self.said.display())
            }
            Ending::TimedOut => bail!("the model did not end after QEMU went away"),
        }
        let said = fs::read_to_string(&self.said).context("the model's words cannot be read")?;
        Ok(said.lines().map(str::to_owned).collect())
    }
}
