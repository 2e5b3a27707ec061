//! The stock driver of a Linux distribution, in a guest, on our device model.
//!
//! The guest is Debian's kernel with its own modules, a busybox and a few programs, all of them packages unpacked below
//! the target folder. The model is a PCI device of the guest over vfio-user. For a network card there are two of
//! them, joined by a wire inside one `mock-hw serve`; the guest moves the second one into a network namespace, so no
//! network of the host is needed. The guest's script says of each check whether it passed, and prints its kernel log,
//! which is judged here.

mod boot;
mod console;
mod guest;
mod judge;
mod memory;
mod planted;
mod wire;

use crate::{
    qemu::{Choice, Qemu},
    serve::{self, Serving},
    workspace::Workspace,
};
use anyhow::{Result, ensure};
use boot::{Audience, Boot};
use clap::{Args, ValueEnum};
use core::{fmt, time::Duration};
use judge::Report;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};
use wire::Wire;

/// How long the short form may take, and the long one.
const SHORT: Duration = Duration::from_secs(600);
const LONG: Duration = Duration::from_secs(3600);

/// What to run.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Which model
    device: Device,
    /// 1 GiB instead of 64 MiB, and 100 reloads of the driver instead of 5
    #[arg(long)]
    full: bool,
    /// Only this check and those that it rests on; may be given several times
    #[arg(long, value_name = "CHECK")]
    only: Vec<String>,
    /// Plant defects in a copy of the model, one at a time, and see that each makes a check fail
    #[arg(long, conflicts_with = "full")]
    planted: bool,
    /// QEMU to use: `system`, `new`, or a path; one without vfio-user is replaced by `new`
    #[arg(long, default_value = "system")]
    qemu: Choice,
}

/// A model, and the driver for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// Intel 82599, driver `ixgbe`
    Ixgbe,
    /// Virtual functions of an Intel 82599, driver `ixgbevf`
    Ixgbevf,
    /// virtio-net, driver `virtio_net`
    VirtioNet,
    /// NVMe, driver `nvme`
    Nvme,
}

impl Device {
    /// Its name in messages and files.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ixgbe => "ixgbe",
            Self::Ixgbevf => "ixgbevf",
            Self::VirtioNet => "virtio-net",
            Self::Nvme => "nvme",
        }
    }

    /// The shortest frame that it sends: a real card fills up what is shorter than Ethernet allows.
    const fn shortest_frame(self) -> usize {
        match self {
            Self::Ixgbe | Self::Ixgbevf => 60,
            Self::VirtioNet | Self::Nvme => 14,
        }
    }

    /// What `mock-hw serve` is to be: the guest's slots, in their order. Two cards have a wire between them.
    const fn slots(self) -> &'static [&'static str] {
        match self {
            Self::Ixgbe => &["ixgbe", "ixgbe"],
            Self::Ixgbevf => &["ixgbe-hosted-vf", "ixgbe-hosted-vf", "ixgbe"],
            Self::VirtioNet => &["virtio-net", "virtio-net"],
            Self::Nvme => &["nvme"],
        }
    }

    const fn has_wire(self) -> bool {
        !matches!(self, Self::Nvme)
    }
}

/// Boots the guest and judges what it says.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    for name in &options.only {
        ensure!(
            guest::has_check(options.device, name),
            "{} has no check `{name}`; docs/linux-on-model.md lists the checks",
            options.device.name()
        );
    }
    if options.planted {
        return planted::run(workspace, options);
    }
    let amount = guest::Amount {
        mebibytes: if options.full { 1024 } else { 64 },
        reloads: if options.full { 100 } else { 5 },
        patience: Duration::from_secs(if options.full { 300 } else { 120 }),
        only: options.only.clone(),
    };
    let trial = Trial {
        qemu: Qemu::with_vfio_user(workspace, &options.qemu)?,
        tree: guest::packages(workspace)?,
        folder: workspace.scratch("linux-on-model")?,
        device: options.device,
        amount,
        limit: if options.full { LONG } else { SHORT },
        audience: Audience::Terminal,
    };
    let outcome = trial.run(&serve::build(workspace)?)?;
    print!("{outcome}");
    Ok(if outcome.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One guest on one model.
#[derive(Debug)]
struct Trial {
    qemu: Qemu,
    /// The guest's packages.
    tree: PathBuf,
    /// Where everything goes.
    folder: PathBuf,
    device: Device,
    amount: guest::Amount,
    limit: Duration,
    audience: Audience,
}

/// What became of it.
#[derive(Debug)]
struct Outcome {
    report: Report,
    wire: Option<Wire>,
    failures: Vec<String>,
    /// The last line, for a reader.
    verdict: String,
}

impl Trial {
    /// Runs the checks on the model that the program `model` serves.
    fn run(&self, model: &Path) -> Result<Outcome> {
        let place = |suffix: &str| self.folder.join(format!("{}.{suffix}", self.device.name()));
        let (initrd, console) = (place("cpio"), place("log"));
        guest::write(&self.tree, self.device, &self.amount, &initrd)?;
        let device = (self.device.name(), self.device.slots());
        let serving = Serving::start(model, device, &self.words(), &self.folder)?;
        let boot = Boot {
            qemu: &self.qemu,
            kernel: guest::kernel(&self.tree)?,
            initrd: &initrd,
            console: &console,
            limit: self.limit,
            audience: self.audience,
        };
        let report = boot.run(&serving)?;
        let objections = serving.finish()?;
        let mut failures = report.failures(self.device, &objections);
        failures.extend(
            self.amount
                .only
                .iter()
                .filter(|name| !report.has_made(name))
                .map(|name| format!("no check `{name}` was made")),
        );
        let wire = self.wire()?;
        failures.extend(
            wire.iter()
                .flat_map(|wire| wire.failures(report.has_made("vlan"))),
        );
        let verdict = format!(
            "{}: stock Linux {} on the model of {}, QEMU {}; console in {}",
            if failures.is_empty() { "pass" } else { "FAIL" },
            report.release(),
            self.device.name(),
            self.qemu.version,
            console.display()
        );
        Ok(Outcome {
            report,
            wire,
            failures,
            verdict,
        })
    }

    /// Where the frames between two cards are captured.
    fn capture(&self) -> PathBuf {
        self.folder.join(format!("{}.pcap", self.device.name()))
    }

    /// What the server is told beside the devices: two cards are connected.
    fn words(&self) -> Vec<OsString> {
        if !self.device.has_wire() {
            return Vec::new();
        }
        let words = ["--wire", "device=2", "--pcap"].map(OsString::from);
        words.into_iter().chain([self.capture().into()]).collect()
    }

    /// What was said between two cards.
    fn wire(&self) -> Result<Option<Wire>> {
        if !self.device.has_wire() {
            return Ok(None);
        }
        Wire::read(&self.capture(), self.device.shortest_frame()).map(Some)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.report)?;
        if let Some(wire) = &self.wire {
            writeln!(f, "{wire}")?;
        }
        for failure in &self.failures {
            writeln!(f, "  {failure}")?;
        }
        writeln!(f, "{}", self.verdict)
    }
}
