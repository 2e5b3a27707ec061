//! Programs that the project needs and does not bring: found, checked, installed where that is allowed.

use crate::process;
use anyhow::{Context, Result, bail};
use core::{fmt, time::Duration};
use std::{env, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

/// How long the package manager may take.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

/// A program somebody else wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tool {
    /// Name of the program.
    pub(crate) program: &'static str,
    /// Debian's package that has it.
    pub(crate) package: &'static str,
    /// Oldest version that will do, and the arguments that print it.
    version: Option<(Version, &'static [&'static str])>,
}

/// `major.minor` of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The oldest QEMU that has what the boots need.
pub(crate) const OLDEST_QEMU: Version = Version { major: 7, minor: 2 };

pub(crate) const QEMU: Tool = Tool {
    program: "qemu-system-x86_64",
    package: "qemu-system-x86",
    version: Some((OLDEST_QEMU, &["--version"])),
};
pub(crate) const IP: Tool = Tool::any("ip", "iproute2");
pub(crate) const UNSHARE: Tool = Tool::any("unshare", "util-linux");
pub(crate) const TSHARK: Tool = Tool::any("tshark", "tshark");
pub(crate) const VALGRIND: Tool = Tool::any("valgrind", "valgrind");
pub(crate) const OBJDUMP: Tool = Tool::any("objdump", "binutils");
pub(crate) const CC: Tool = Tool::any("cc", "gcc");
pub(crate) const CXX: Tool = Tool::any("c++", "g++");
pub(crate) const MEMCACHED_TOOLS: Tool = Tool::any("memccat", "libmemcached-tools");
pub(crate) const MEMCACHED: Tool = Tool::any("memcached", "memcached");
pub(crate) const CPIO: Tool = Tool::any("cpio", "cpio");
/// What unit tests compare with: they fail where one of these is missing.
pub(crate) const FOR_UNIT_TESTS: [Tool; 5] = [MEMCACHED_TOOLS, MEMCACHED, CPIO, CC, CXX];

impl Tool {
    const fn any(program: &'static str, package: &'static str) -> Self {
        Self {
            program,
            package,
            version: None,
        }
    }

    /// Where the program is, installing it first if it is missing and that is allowed.
    pub(crate) fn need(self) -> Result<PathBuf> {
        let path = match find(self.program) {
            Some(path) => path,
            None => self.install()?,
        };
        self.check_version(&path)?;
        Ok(path)
    }

    /// Where the program is, for tests, which install nothing.
    #[cfg(test)]
    #[track_caller]
    pub(crate) fn present(self) -> PathBuf {
        find(self.program).unwrap_or_else(|| {
            panic!(
                "`{}` is missing; install it with: sudo apt-get install -y {}",
                self.program, self.package
            )
        })
    }

    fn install(self) -> Result<PathBuf> {
        let command = format!("apt-get install -y {}", self.package);
        if !rustix::process::geteuid().is_root() {
            bail!(
                "`{}` is missing; install it with: sudo {command}",
                self.program
            );
        }
        if find("apt-get").is_none() {
            bail!(
                "`{}` is missing, and so is apt-get: install `{}` with your package manager",
                self.program,
                self.package
            );
        }
        if env::var_os("XTASK_NO_INSTALL").is_some() {
            bail!(
                "`{}` is missing and XTASK_NO_INSTALL is set; install it with: {command}",
                self.program
            );
        }
        eprintln!("`{}` is missing: running `{command}`", self.program);
        install(self.package)
            .with_context(|| format!("`{}` is missing and cannot be installed", self.program))?;
        find(self.program).with_context(|| {
            format!(
                "package `{}` is installed, but has no `{}`",
                self.package, self.program
            )
        })
    }

    fn check_version(self, path: &PathBuf) -> Result<()> {
        let Some((oldest, args)) = self.version else {
            return Ok(());
        };
        let found = version_of(Command::new(path).args(args))?;
        if found < oldest {
            bail!(
                "{} is version {found}, and {oldest} or newer is needed: give another one with `--qemu PATH`",
                path.display()
            );
        }
        Ok(())
    }
}

/// The program of that name on the search path, or in the folders of the administrator's programs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| {
            file.metadata()
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// What a program says when asked for its version.
pub(crate) fn version_of(command: &mut Command) -> Result<Version> {
    let text = process::read(command)?;
    parse_version(&text).with_context(|| {
        format!(
            "no version in what `{}` prints: {text}",
            process::display(command)
        )
    })
}

/// The first `major.minor` in a text.
fn parse_version(text: &str) -> Option<Version> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .find_map(|word| {
            let mut numbers = word.split('.').map(str::parse);
            Some(Version {
                major: numbers.next()?.ok()?,
                minor: numbers.next()?.ok()?,
            })
        })
}

/// Installs a package of Debian's as root; the package lists are fetched only if it is not known.
fn install(package: &str) -> Result<()> {
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(std::process::Stdio::null());
        process::run(&mut command, INSTALL_LIMIT)
    };
    let install = ["install", "-y", "-q", "--no-install-recommends", package];
    if apt(&install).is_ok() {
        return Ok(());
    }
    apt(&["update", "-q"])?;
    apt(&install)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let version = |major, minor| Some(Version { major, minor });
        assert_eq!(
            parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"),
            version(7, 2)
        );
        assert_eq!(
            parse_version("QEMU emulator version 10.1.0"),
            version(10, 1)
        );
        assert_eq!(parse_version("valgrind-3.19.0"), version(3, 19));
        assert_eq!(parse_version("no number. at all"), None);
        assert!(parse_version("11.0") > parse_version("7.10"));
    }

    #[test]
    fn a_missing_program_is_not_found() {
        assert_eq!(find("no such program"), None);
        assert!(find("sh").is_some());
    }
}
