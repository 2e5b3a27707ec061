//! The command line.

use crate::{
    attacks, bench, boots, fuzz, linux, loc, mutants, publish, session, test, workspace::Workspace,
};
use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Everything that a developer or a user of the project types.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Boot the parakernel with isolated processes and an attacker, under real traffic, and judge it
    Demo(boots::DemoOptions),
    /// Check everything, as continuous integration does
    Test(test::Options),
    /// Boot the machine alone, its self-tests, or its restarts
    Qemu(boots::QemuOptions),
    /// Show that each attack succeeds where the one check against it is compiled out
    Attack(attacks::Options),
    /// Run the fuzz targets, on the stable compiler
    Fuzz(fuzz::Options),
    /// Plant bugs in the validators, one at a time, and see the fuzz targets find them
    Mutants(mutants::Options),
    /// Count instructions per packet and per I/O, and hold them against the budgets
    Bench(bench::Options),
    /// Check that every library is ready for a registry
    PublishCheck,
    /// Print the size of the trusted base, in lines
    Loc,
    /// Run a stock Linux driver, in a guest, against a device model
    LinuxOnModel(linux::Options),
    /// Run the Linux VFIO harness in a guest (not built yet)
    Vfio,
    /// Play what FILE describes; this program calls itself so, inside a network namespace
    #[command(hide = true)]
    Inside {
        /// Description of the boot
        file: PathBuf,
    },
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        match self.task {
            Task::Demo(options) => boots::demo(&workspace, &options),
            Task::Qemu(options) => boots::qemu(&workspace, &options),
            Task::Attack(options) => attacks::run(&workspace, &options),
            Task::Inside { file } => session::inside(&file),
            Task::Test(options) => test::run(&workspace, &options),
            Task::Fuzz(options) => fuzz::run(&workspace, &options),
            Task::Mutants(options) => mutants::run(&workspace, &options),
            Task::Bench(options) => bench::run(&workspace, &options),
            Task::PublishCheck => publish::run(&workspace),
            Task::Loc => loc::run(&workspace),
            Task::LinuxOnModel(options) => linux::run(&workspace, &options),
            Task::Vfio => bail!(
                "`vfio` is not built yet (issue 6): it needs the Linux harness in examples/vfio-harness; \
                 README.md says what there is, and `cargo xtask demo` runs it"
            ),
        }
    }
}
