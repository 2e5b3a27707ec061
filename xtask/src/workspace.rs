//! Where things are, and what cargo says about the packages.

use crate::process;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The checked-out project.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    /// The folder that holds the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where everything built goes.
    pub(crate) target: PathBuf,
    /// Members of the root workspace.
    pub(crate) packages: Vec<Package>,
}

/// A package as `cargo metadata` describes it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) features: BTreeMap<String, Vec<String>>,
    pub(crate) targets: Vec<Target>,
    pub(crate) description: Option<String>,
    pub(crate) keywords: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) metadata: Option<serde_json::Value>,
    pub(crate) rust_version: Option<String>,
    publish: Option<Vec<String>>,
}

/// Something that cargo builds from a package.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

/// `cargo`, as the toolchain that runs this program has it.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` set for this program means nothing to the next one.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    command
}

impl Workspace {
    /// Asks cargo about the project this program was built from.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let Metadata {
            packages,
            workspace_root,
            target_directory,
        } = metadata(&manifest)?;
        Ok(Self {
            root: workspace_root,
            target: target_directory,
            packages,
        })
    }

    /// A folder for what `what` leaves behind, made if need be.
    pub(crate) fn scratch(&self, what: &str) -> Result<PathBuf> {
        let folder = self.target.join("xtask").join(what);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }

    /// The libraries that are published.
    pub(crate) fn published(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| package.is_published())
    }

    /// The folder of the reference kernel, which is a workspace of its own.
    pub(crate) fn kernel_folder(&self) -> PathBuf {
        self.root.join("examples/reference-kernel")
    }

    /// The manifest of the reference kernel.
    pub(crate) fn kernel_manifest(&self) -> PathBuf {
        self.kernel_folder().join("Cargo.toml")
    }

    /// The manifest of the fuzz targets, which are a workspace of their own.
    pub(crate) fn fuzz_manifest(&self) -> PathBuf {
        self.root.join("fuzz/Cargo.toml")
    }
}

impl Package {
    /// Whether the package may go to a registry.
    pub(crate) fn is_published(&self) -> bool {
        self.publish
            .as_ref()
            .is_none_or(|registries| !registries.is_empty())
    }

    /// The folder of the package.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path
            .parent()
            .unwrap_or_else(|| Path::new("."))
    }

    /// Names of the targets of this kind (`lib`, `bin`, `example`).
    pub(crate) fn targets_of(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.targets
            .iter()
            .filter(move |target| target.kind.iter().any(|k| k == kind))
            .map(|target| target.name.as_str())
    }
}

/// The members of the workspace that `manifest` belongs to.
pub(crate) fn members(manifest: &Path) -> Result<Vec<Package>> {
    Ok(metadata(manifest)?.packages)
}

fn metadata(manifest: &Path) -> Result<Metadata> {
    let json = process::read(
        cargo()
            .args([
                "metadata",
                "--no-deps",
                "--format-version",
                "1",
                "--manifest-path",
            ])
            .arg(manifest),
    )?;
    serde_json::from_str(&json).with_context(|| {
        format!(
            "`cargo metadata` for {} said something unexpected",
            manifest.display()
        )
    })
}
