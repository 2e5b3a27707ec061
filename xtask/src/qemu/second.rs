//! A second, newer QEMU, without root and without touching the system: Debian's packages of a newer suite, downloaded
//! through apt folders of our own and unpacked below the target folder.

use super::Qemu;
use crate::{process, tools, workspace::Workspace};
use anyhow::{Context, Result, bail};
use core::time::Duration;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Suites that have a QEMU of 10.1 or newer, in the order they are tried.
const SUITES: [&str; 2] = ["forky", "trixie-backports"];

/// How long a download may take.
const LIMIT: Duration = Duration::from_secs(300);

/// The packages wanted; what they depend on comes with them.
const PACKAGES: [&str; 1] = ["qemu-system-x86"];

/// The unpacked QEMU, fetched at the first call.
pub(crate) fn fetch(workspace: &Workspace) -> Result<Qemu> {
    let folder = workspace.target.join("xtask/second-qemu");
    let tree = folder.join("tree");
    if !folder.join("complete").exists() {
        for tool in ["apt-get", "dpkg"] {
            if tools::find(tool).is_none() {
                bail!(
                    "a second QEMU is fetched with `{tool}`, which is missing: build QEMU 10.1 or newer and give it with `--qemu PATH`"
                );
            }
        }
        let mirror = mirror()?;
        let mut tried = Ok(());
        for suite in SUITES {
            eprintln!(
                "fetching a newer QEMU from Debian's `{suite}` into {}",
                folder.display()
            );
            tried = download(&folder, &mirror, suite).and_then(|()| unpack(&folder, &tree));
            if tried.is_ok() {
                break;
            }
        }
        tried.context("no newer QEMU could be fetched; give one with `--qemu PATH`")?;
        fs::write(folder.join("complete"), [])?;
    }
    start_through_own_loader(&tree)
}

/// Where this machine gets Debian's packages from.
fn mirror() -> Result<String> {
    let listed = process::read(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(SITE) $(RELEASE) $(ORIGIN)",
    ]))?;
    first_debian(&listed).context("apt knows no mirror of Debian's: add one to its sources, or give a QEMU with `--qemu PATH`")
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
fn download(folder: &Path, mirror: &str, suite: &str) -> Result<()> {
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
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    fs::write(
        folder.join("etc/sources.list"),
        format!("deb [signed-by={keyring}] {mirror} {suite} main\n"),
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
        .args(PACKAGES);
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

/// The QEMU in `tree`, run with that tree's own loader, libraries, firmware and modules.
fn start_through_own_loader(tree: &Path) -> Result<Qemu> {
    let existing = |parts: &[&str]| {
        parts
            .iter()
            .map(|part| tree.join(part))
            .find(|path| path.exists())
    };
    let loader = existing(&[
        "usr/lib64/ld-linux-x86-64.so.2",
        "lib64/ld-linux-x86-64.so.2",
        "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    ])
    .context("the unpacked packages have no loader")?;
    let libraries = [
        "usr/lib/x86_64-linux-gnu",
        "lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu/pulseaudio",
    ]
    .map(|part| tree.join(part).display().to_string())
    .join(":");
    let mut words = vec![
        loader.into_os_string(),
        "--library-path".into(),
        libraries.into(),
        tree.join("usr/bin/qemu-system-x86_64").into_os_string(),
    ];
    for part in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        words.extend(["-L".into(), tree.join(part).into_os_string()]);
    }
    let modules = tree.join("usr/lib/x86_64-linux-gnu/qemu").into_os_string();
    Qemu::with(words, vec![("QEMU_MODULE_DIR".into(), modules)])
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
