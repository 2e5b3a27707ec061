//! `cargo xtask publish-check`: is everything ready for a registry?

use crate::{
    process,
    workspace::{Package, Workspace, cargo},
};
use anyhow::{Context, Result, ensure};
use core::time::Duration;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(900);

/// Files that every package brings.
const FILES: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"];

/// Most keywords that crates.io takes.
const MOST_KEYWORDS: usize = 5;

/// The packages that may use the standard library always.
pub(crate) const WITH_STD: [&str; 2] = ["parakernel-mock-hw", "parakernel-mock-hw-capi"];

/// How a library gives up the standard library, in the first lines of its root.
const WITHOUT_STD: [&str; 3] = [
    "#![no_std]",
    "#![cfg_attr(not(test), no_std)]",
    "#![cfg_attr(not(any(test, feature = \"std\")), no_std)]",
];

/// Runs every check; the first that fails ends it, but what is wrong with packages' descriptions is listed whole.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let faults: Vec<_> = workspace.published().flat_map(faults).collect();
    ensure!(
        faults.is_empty(),
        "not ready to be published:\n  {}",
        faults.join("\n  ")
    );
    println!("descriptions, licences and `no_std` are in order");
    let packed = workspace.target.join("package");
    if packed.exists() {
        fs::remove_dir_all(&packed)
            .with_context(|| format!("cannot remove {}", packed.display()))?;
    }
    process::run(
        cargo()
            .args(["publish", "--workspace", "--dry-run", "--allow-dirty"])
            .current_dir(&workspace.root),
        LIMIT,
    )?;
    let unpacked = unpack(workspace)?;
    for (package, folder) in workspace.published().zip(&unpacked) {
        try_examples(workspace, package, folder, &unpacked)?;
    }
    println!("{} packages can be published", unpacked.len());
    Ok(ExitCode::SUCCESS)
}

/// What a package lacks.
fn faults(package: &Package) -> Vec<String> {
    let mut faults = Vec::new();
    let mut require = |holds: bool, what: &str| {
        if !holds {
            faults.push(format!("{}: {what}", package.name));
        }
    };
    for file in FILES {
        require(package.folder().join(file).is_file(), &format!("no {file}"));
    }
    require(
        package
            .description
            .as_ref()
            .is_some_and(|text| !text.is_empty()),
        "no description",
    );
    require(
        (1..=MOST_KEYWORDS).contains(&package.keywords.len()),
        "one to five keywords",
    );
    require(!package.categories.is_empty(), "no category");
    require(package.rust_version.is_some(), "no `rust-version`");
    let documented = package
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.pointer("/docs/rs/all-features"));
    require(
        documented.and_then(serde_json::Value::as_bool) == Some(true),
        "docs.rs is not told to use all features",
    );
    require(has_example(package), "no example");
    let root = fs::read_to_string(package.folder().join("src/lib.rs")).unwrap_or_default();
    require(
        WITH_STD.contains(&package.name.as_str()) || is_no_std(&root),
        "the library is not `no_std`",
    );
    faults
}

/// Whether the package has an example: one that cargo knows, or one in C, which the package's tests compile and run.
fn has_example(package: &Package) -> bool {
    let folder = fs::read_dir(package.folder().join("examples"));
    let mut files = folder.into_iter().flatten().flatten();
    package.targets_of("example").next().is_some()
        || files.any(|file| file.path().extension().is_some_and(|kind| kind == "c"))
}

/// Whether a crate's root gives up the standard library, tests aside, and asks for it or for `alloc` only by a feature.
fn is_no_std(root: &str) -> bool {
    let gives_up = root.lines().any(|line| WITHOUT_STD.contains(&line.trim()));
    let mut previous = "";
    let asks_always = root.lines().any(|line| {
        let asks = matches!(line.trim(), "extern crate std;" | "extern crate alloc;")
            && !previous.trim().starts_with("#[cfg(");
        previous = line;
        asks
    });
    gives_up && !asks_always
}

/// Unpacks what `cargo publish` has packed, each package in a folder of its own.
fn unpack(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let folder = workspace.scratch("publish-check")?;
    let mut unpacked = Vec::new();
    for package in workspace.published() {
        let name = format!("{}-{}", package.name, package.version);
        let archive = archive(workspace, &name)?;
        let target = folder.join(&name);
        if target.exists() {
            fs::remove_dir_all(&target)
                .with_context(|| format!("cannot remove {}", target.display()))?;
        }
        process::run(
            Command::new("tar")
                .arg("-xzf")
                .arg(&archive)
                .arg("-C")
                .arg(&folder),
            LIMIT,
        )?;
        unpacked.push(target);
    }
    Ok(unpacked)
}

/// The file that cargo has packed; a dry run leaves it in a folder of its own.
fn archive(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let package = workspace.target.join("package");
    ["tmp-crate", ""]
        .map(|folder| package.join(folder).join(format!("{name}.crate")))
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("cargo has not packed {name} into {}", package.display()))
}

/// Builds and runs a package's examples as its users would, with nothing but the other packages beside it.
fn try_examples(
    workspace: &Workspace,
    package: &Package,
    folder: &Path,
    unpacked: &[PathBuf],
) -> Result<()> {
    for example in package.targets_of("example") {
        println!("{}: example `{example}`", package.name);
        let mut command = cargo();
        command
            .args(["run", "--quiet", "--example", example])
            .current_dir(folder);
        for (name, path) in patches(workspace, unpacked) {
            command.args([
                "--config",
                &format!(
                    "patch.crates-io.{name}.path={:?}",
                    path.display().to_string()
                ),
            ]);
        }
        command
            .arg("--target-dir")
            .arg(workspace.target.join("publish-check"));
        process::run(&mut command, LIMIT)?;
    }
    Ok(())
}

/// Where to find the other packages instead of the registry.
fn patches(workspace: &Workspace, unpacked: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    workspace
        .published()
        .map(|package| package.name.clone())
        .zip(unpacked.iter().cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_library_may_come_by_a_feature_only() {
        assert!(is_no_std("//! Doc.\n#![no_std]\n"));
        assert!(is_no_std(
            "#![cfg_attr(not(test), no_std)]\n#[cfg(feature = \"std\")]\nextern crate std;\n"
        ));
        assert!(!is_no_std("//! Doc.\n"));
        assert!(!is_no_std("#![no_std]\nextern crate alloc;\n"));
    }
}
