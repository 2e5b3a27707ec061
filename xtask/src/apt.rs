//! Debian's packages, unpacked below the target folder: without root, and without touching the system.

use crate::{process, tools, workspace::Workspace};
use anyhow::{Context, Result, bail};
use core::time::Duration;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// How long a download may take.
const LIMIT: Duration = Duration::from_secs(300);

/// What to unpack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Name of the folder, and what it is for a reader.
    pub(crate) folder: &'static str,
    pub(crate) what: &'static str,
    /// Suites that have it, in the order they are tried.
    pub(crate) suites: &'static [&'static str],
    /// The packages; what they depend on comes with them.
    pub(crate) packages: &'static [&'static str],
    /// What to do where it cannot be fetched.
    pub(crate) otherwise: &'static str,
}

/// Whose signatures are believed, and the package that has them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const KEYRING_PACKAGE: &str = "debian-archive-keyring";

/// The folder with the unpacked packages, fetched at the first call.
pub(crate) fn fetch(workspace: &Workspace, wanted: Wanted) -> Result<PathBuf> {
    let folder = workspace.target.join("xtask").join(wanted.folder);
    let tree = folder.join("tree");
    // What was fetched for an older list lacks something.
    let complete = folder.join("complete");
    let list = wanted.packages.join("\n") + "\n";
    if fs::read_to_string(&complete).is_ok_and(|fetched| fetched == list) {
        return Ok(tree);
    }
    fetch_anew(&folder, &tree, wanted)
        .with_context(|| format!("{} could not be fetched: {}", wanted.what, wanted.otherwise))?;
    fs::write(complete, list)?;
    Ok(tree)
}

fn fetch_anew(folder: &Path, tree: &Path, wanted: Wanted) -> Result<()> {
    for tool in ["apt-get", "dpkg"] {
        if tools::find(tool).is_none() {
            bail!("`{tool}`, which fetches it, is missing");
        }
    }
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing; install it with: sudo apt-get install -y {KEYRING_PACKAGE}");
    }
    let mirror = mirror()?;
    let mut tried = Ok(());
    for suite in wanted.suites {
        eprintln!(
            "fetching {} from Debian's `{suite}` into {}",
            wanted.what,
            folder.display()
        );
        tried =
            download(folder, &mirror, suite, wanted.packages).and_then(|()| unpack(folder, tree));
        match &tried {
            Ok(()) => break,
            Err(error) => eprintln!("{error:#}"),
        }
    }
    tried.with_context(|| {
        format!("{mirror} gave none of it; `apt-get update` says whether it answers")
    })
}

/// The unpacked loader, and the folders where libraries lie.
pub(crate) fn loader(tree: &Path, more: &[&str]) -> Result<(PathBuf, String)> {
    let found = [
        "usr/lib64/ld-linux-x86-64.so.2",
        "lib64/ld-linux-x86-64.so.2",
        "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    ]
    .iter()
    .map(|part| tree.join(part))
    .find(|path| path.exists());
    let loader = found.context("the unpacked packages have no loader")?;
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .iter()
        .chain(more)
        .map(|part| tree.join(part).display().to_string())
        .collect::<Vec<_>>()
        .join(":");
    Ok((loader, libraries))
}

/// Where this machine gets Debian's packages from.
fn mirror() -> Result<String> {
    let listed = process::read(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(SITE) $(RELEASE) $(ORIGIN)",
    ]))?;
    first_debian(&listed).context("apt knows no mirror of Debian's: add one to its sources")
}

/// The first site that carries Debian itself.
fn first_debian(listed: &str) -> Option<String> {
    listed.lines().find_map(|line| {
        let mut words = line.split(' ');
        let site = words.next()?;
        let is_debian = words.next_back() == Some("Debian") && !site.contains("security");
        is_debian.then(|| site.to_owned())
    })
}

/// Downloads the packages of `suite` through apt folders of our own.
fn download(folder: &Path, mirror: &str, suite: &str, packages: &[&str]) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    for part in [
        "etc/preferences.d",
        "etc/apt.conf.d",
        "state/lists/partial",
        "cache/archives/partial",
    ] {
        fs::create_dir_all(folder.join(part))?;
    }
    fs::write(folder.join("status"), [])?;
    fs::write(
        folder.join("etc/sources.list"),
        format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"),
    )?;
    process::run(apt(folder).args(["update", "-q"]), LIMIT)?;
    let mut install = apt(folder);
    install
        .args([
            "install",
            "-y",
            "-q",
            "--download-only",
            "--no-install-recommends",
        ])
        .args(packages);
    process::run(&mut install, LIMIT)
}

/// `apt-get` that sees nothing of the system's packages, and leaves them alone.
fn apt(folder: &Path) -> Command {
    let mut command = Command::new("apt-get");
    let path = |part: &str| folder.join(part).display().to_string();
    for setting in [
        format!("Dir={}", folder.display()),
        format!("Dir::Etc={}", path("etc")),
        format!("Dir::State={}", path("state")),
        format!("Dir::State::status={}", path("status")),
        format!("Dir::Cache={}", path("cache")),
        "APT::Sandbox::User=".to_owned(),
        "APT::Architecture=amd64".to_owned(),
        "Debug::NoLocking=1".to_owned(),
        // A frozen mirror's release file may have run out.
        "Acquire::Check-Valid-Until=false".to_owned(),
        // A mirror that does not answer is an error, soon, and one that stumbles is asked again.
        "Acquire::http::Timeout=30".to_owned(),
        "Acquire::https::Timeout=30".to_owned(),
        "Acquire::Retries=3".to_owned(),
        // What cannot be fetched is an error at once, not a package that is missing later.
        "APT::Update::Error-Mode=any".to_owned(),
    ] {
        command.args(["-o", &setting]);
    }
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::process::Stdio::null());
    command
}

fn unpack(folder: &Path, tree: &Path) -> Result<()> {
    fs::create_dir_all(tree)?;
    let archives = fs::read_dir(folder.join("cache/archives"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let packages: Vec<PathBuf> = archives
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    if packages.is_empty() {
        bail!("apt downloaded nothing");
    }
    for package in packages {
        process::run(
            Command::new("dpkg").arg("-x").arg(&package).arg(tree),
            LIMIT,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_machines_own() {
        let listed = "http://other.example/apt cloud Other\nhttp://security.example/debian-security stable-security Debian\nhttp://mirror.example/debian stable Debian\n";
        assert_eq!(
            first_debian(listed).as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(first_debian("http://other.example/apt cloud Other\n"), None);
    }
}
