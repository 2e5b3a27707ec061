//! Which QEMU runs a boot, and what it can do.

pub(crate) mod machine;
pub(crate) mod run;
pub(crate) mod second;

use crate::{process, tools, workspace::Workspace};
use anyhow::Result;
use core::{fmt, str::FromStr};
use serde::{Deserialize, Serialize};
use std::{
    convert::Infallible,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// Which QEMU to use, as it is written on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The one on the search path, installed if need be.
    #[default]
    System,
    /// A newer one, unpacked below the target folder.
    New,
    /// This program.
    Path(PathBuf),
}

impl FromStr for Choice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "system" => Self::System,
            "new" => Self::New,
            path => Self::Path(path.into()),
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::New => f.write_str("new"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A QEMU that is there and new enough.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Qemu {
    /// Program and first arguments: a loader may come first.
    words: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    pub(crate) version: String,
    /// Whether its network card can promise to use buffers in order (virtio's `IN_ORDER`).
    in_order: bool,
}

impl Qemu {
    /// Finds, or fetches, what was asked for.
    pub(crate) fn choose(workspace: &Workspace, choice: &Choice) -> Result<Self> {
        match choice {
            Choice::System => Self::at(&tools::QEMU.need()?),
            Choice::New => second::fetch(workspace),
            Choice::Path(path) => {
                anyhow::ensure!(
                    path.exists(),
                    "there is no {}; `--qemu` takes `system`, `new` or the path of a program",
                    path.display()
                );
                Self::at(path)
            }
        }
    }

    fn at(path: &Path) -> Result<Self> {
        Self::with(vec![path.into()], Vec::new())
    }

    fn with(words: Vec<OsString>, environment: Vec<(OsString, OsString)>) -> Result<Self> {
        let mut qemu = Self {
            words,
            environment,
            version: String::new(),
            in_order: false,
        };
        let version = tools::version_of(qemu.command().arg("--version"))?;
        anyhow::ensure!(
            version >= tools::OLDEST_QEMU,
            "this QEMU is version {version}; {} or newer is needed: try `--qemu new`",
            tools::OLDEST_QEMU
        );
        qemu.version = version.to_string();
        let offered = process::read(qemu.command().args(["-device", "virtio-net-pci,help"]))?;
        qemu.in_order = offered
            .lines()
            .any(|line| line.trim_start().starts_with("in_order="));
        Ok(qemu)
    }

    /// The one on the search path if it takes devices over vfio-user (10.1 or newer), else a newer one.
    pub(crate) fn with_vfio_user(workspace: &Workspace, choice: &Choice) -> Result<Self> {
        let qemu = Self::choose(workspace, choice)?;
        if qemu.has_vfio_user()? {
            return Ok(qemu);
        }
        anyhow::ensure!(
            *choice == Choice::System,
            "this QEMU ({}) has no `vfio-user-pci`: 10.1 or newer is needed; without `--qemu` one is fetched",
            qemu.version
        );
        second::fetch(workspace)
    }

    fn has_vfio_user(&self) -> Result<bool> {
        let mut command = self.command();
        let asked = process::capture(command.args(["-device", "vfio-user-pci,help"]))?;
        // An older one says on its standard error that it knows no such device, and succeeds.
        Ok(String::from_utf8_lossy(&asked.stdout).contains("socket="))
    }

    /// The program with its first arguments.
    pub(crate) fn command(&self) -> Command {
        let (program, arguments) = self
            .words
            .split_first()
            .map_or((OsString::new(), &[][..]), |(program, rest)| {
                (program.clone(), rest)
            });
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_written_as_it_is_read() {
        for text in ["system", "new", "/opt/qemu"] {
            assert_eq!(text.parse::<Choice>().unwrap().to_string(), text);
        }
    }
}
