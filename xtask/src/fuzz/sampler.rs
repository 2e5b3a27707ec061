//! The sampler: the fuzz targets on seeded random inputs, without libFuzzer and its C++ compiler.

use crate::{process, workspace::cargo};
use anyhow::{Context, Result};
use core::time::Duration;
use std::path::{Path, PathBuf};

/// How the line begins with which the sampler reports a finding.
pub(crate) const FINDING: &str = "sample: a finding: ";

/// How long building it may take.
const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// Builds the sampler of the fuzz targets at `manifest`; where it is.
pub(crate) fn build(manifest: &Path, target: &Path) -> Result<PathBuf> {
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--release", "--no-default-features"])
        .args(["--example", "sample", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target);
    process::run(&mut command, BUILD_LIMIT).context("the sampler does not build")?;
    Ok(target.join("release/examples/sample"))
}
