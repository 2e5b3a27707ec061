//! Builds the reference kernel and its processes, and packs the initial RAM disk.

use crate::{
    cast::Cast,
    cpio::Archive,
    mutant::{Replacement, Tree},
    process::display,
    workspace::{Workspace, cargo},
};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

/// Name of the kernel's binary; every other binary of its workspace is a process.
const KERNEL: &str = "kernel";

/// What a build made.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Build {
    pub(crate) kernel: PathBuf,
    /// Programs of processes by name.
    pub(crate) programs: BTreeMap<String, PathBuf>,
}

/// A message of cargo's, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    target: Option<MessageTarget>,
}

#[derive(Deserialize)]
struct MessageTarget {
    name: String,
}

/// Builds the kernel and every process.
pub(crate) fn build(workspace: &Workspace) -> Result<Build> {
    let target = workspace.target.join("kernel");
    build_in(&workspace.kernel_folder(), &target, &["--workspace"])
}

/// Builds the kernel, and these processes, from a copy of the project with these changes.
pub(crate) fn build_changed(
    workspace: &Workspace,
    changes: &[Replacement],
    programs: &[&str],
) -> Result<Build> {
    let tree = Tree::copy(workspace, "unchecked")?;
    for change in changes {
        tree.apply(change)?;
    }
    let folder = workspace.kernel_folder();
    let folder = tree.root().join(folder.strip_prefix(&workspace.root)?);
    let what = ["--workspace", "--bin", KERNEL].into_iter();
    let what = what.chain(programs.iter().flat_map(|program| ["--bin", program]));
    let what: Vec<_> = what.collect();
    build_in(&folder, &workspace.target.join("kernel-unchecked"), &what)
}

fn build_in(folder: &Path, target: &Path, what: &[&str]) -> Result<Build> {
    ensure!(
        folder.join("Cargo.toml").exists(),
        "there is no reference kernel in {}",
        folder.display()
    );
    let mut command = cargo();
    command.args([
        "build",
        "--release",
        "--message-format=json-render-diagnostics",
    ]);
    command.args(what).arg("--target-dir").arg(target);
    // The kernel's folder has settings of its own (link arguments, log level); the caller's would spoil them.
    for name in [
        "RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
    ] {
        command.env_remove(name);
    }
    // Cargo looks for `.cargo/config.toml` from the folder it is started in.
    command.current_dir(folder).stderr(Stdio::inherit());
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", display(&command)))?;
    if !output.status.success() {
        bail!(
            "the kernel does not build: `{}`: {}",
            display(&command),
            output.status
        );
    }
    collect(&String::from_utf8_lossy(&output.stdout))
}

fn collect(messages: &str) -> Result<Build> {
    let mut kernel = None;
    let mut programs = BTreeMap::new();
    for line in messages.lines() {
        let Ok(Message {
            reason,
            executable: Some(path),
            target: Some(target),
        }) = serde_json::from_str(line)
        else {
            continue;
        };
        match (reason.as_str(), target.name.as_str()) {
            ("compiler-artifact", KERNEL) => kernel = Some(path),
            ("compiler-artifact", name) => drop(programs.insert(name.to_owned(), path)),
            _ => {}
        }
    }
    let kernel =
        kernel.with_context(|| format!("the kernel's workspace has no binary `{KERNEL}`"))?;
    Ok(Build { kernel, programs })
}

impl Build {
    /// Keeps copies in `folder`, so that the next build does not take them away.
    pub(crate) fn keep(self, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let copy = |from: &Path| -> Result<PathBuf> {
            let to = folder.join(from.file_name().context("a program without a name")?);
            fs::copy(from, &to)
                .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
            Ok(to)
        };
        let programs = self
            .programs
            .into_iter()
            .map(|(name, path)| Ok((name, copy(&path)?)));
        Ok(Self {
            kernel: copy(&self.kernel)?,
            programs: programs.collect::<Result<_>>()?,
        })
    }

    /// Writes the initial RAM disk: the manifest and every program; those that the manifest names have to be there.
    pub(crate) fn write_initrd(&self, cast: &Cast, path: &Path) -> Result<()> {
        for name in cast.processes.iter().map(|process| process.program) {
            ensure!(
                self.programs.contains_key(name),
                "the kernel's workspace has no process `{name}`; it has: {}",
                self.known_programs()
            );
        }
        let mut archive = Archive::default();
        archive.add("manifest", cast.manifest().as_bytes())?;
        for (name, program) in &self.programs {
            let elf =
                fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
            archive.add(name, &elf)?;
        }
        fs::write(path, archive.finish()?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn known_programs(&self) -> String {
        self.programs
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_taken_from_cargos_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"parakernel_core"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"kernel"},"executable":"/t/release/kernel"}
            {"reason":"compiler-artifact","target":{"name":"echo"},"executable":"/t/release/echo"}
            {"reason":"build-finished","success":true}"#;
        let build = collect(messages).unwrap();
        assert_eq!(build.kernel, Path::new("/t/release/kernel"));
        assert_eq!(build.programs.keys().collect::<Vec<_>>(), ["echo"]);
        assert!(collect("").is_err());
    }
}
