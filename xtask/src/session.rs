//! One boot of the reference kernel: prepared outside, run inside a network namespace.

mod play;
mod protection;
mod resets;
mod scene;
mod script;

pub(crate) use script::Script;

use crate::{
    kernel::Build,
    net::{self, Isolation, Queues, TAP},
    process::{Ending, Group},
    qemu::{
        Choice, Qemu,
        machine::{Board, Machine, Nic, Ring, Wire},
    },
    serve,
    workspace::Workspace,
};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use core::time::Duration;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Time on top of the kernel's own limit for everything around the boot.
const MARGIN: Duration = Duration::from_secs(120);

/// What every boot can be told.
#[derive(Args, Clone, Debug)]
pub(crate) struct BootOptions {
    /// QEMU to use: `system`, `new` (10.1 or newer, fetched without root), or a path
    #[arg(long, default_value_t = Choice::System, value_name = "system|new|PATH")]
    pub(crate) qemu: Choice,
    /// Kind of the machine; `microvm` has virtio over MMIO and no SSD
    #[arg(long, value_enum, default_value_t = Board::Q35)]
    pub(crate) board: Board,
    /// Form of the network card's rings
    #[arg(long, value_enum, default_value_t = Ring::Split)]
    pub(crate) ring: Ring,
    /// The network card: QEMU's own, or the model of the 82599 over vfio-user (QEMU 10.1 or newer, fetched if need be)
    #[arg(long, value_enum, default_value_t = Nic::Virtio)]
    pub(crate) nic: Nic,
    /// Policy of the kernel, words separated by commas
    #[arg(long, default_value = "integrity,availability,no-spoof")]
    pub(crate) policy: String,
    /// Only these processes of the cast, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) cast: Vec<String>,
    /// How the machine is connected
    #[arg(long, value_enum, default_value_t = Net::Auto)]
    pub(crate) net: Net,
    /// Pull the cable of the model of the 82599 every so many seconds, for 300 ms
    #[arg(long, value_name = "SECONDS")]
    pub(crate) unplug: Option<u64>,
    /// Put an IOMMU into the machine
    #[arg(long)]
    pub(crate) iommu: bool,
    /// Longest time that the machine runs, in seconds
    #[arg(long, default_value_t = 120)]
    pub(crate) seconds: u64,
    /// Show the kernel's log while it runs
    #[arg(long)]
    pub(crate) log: bool,
}

/// How the machine is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Net {
    /// A tap where that is possible, else QEMU's own stack
    Auto,
    /// A multi-queue tap in a network namespace
    Tap,
    /// QEMU's own stack: one queue pair
    User,
    /// No network
    None,
}

/// Everything that a boot needs, handed from outside the namespace to inside.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Spec {
    build: Build,
    qemu: Qemu,
    wire: Wire,
    board: Board,
    ring: Ring,
    /// The program that serves the network card, if that is a model.
    model: Option<PathBuf>,
    /// How many seconds there are between two times that its cable is pulled, if it is.
    unplug: Option<u64>,
    policy: String,
    /// Names of the processes to start; all if empty.
    cast: Vec<String>,
    iommu: bool,
    seconds: u64,
    live_log: bool,
    /// Where images, logs and captures go.
    folder: PathBuf,
    script: Script,
}

/// Boots a kernel and runs the script.
pub(crate) fn run(
    workspace: &Workspace,
    options: &BootOptions,
    build: Build,
    script: Script,
) -> Result<ExitCode> {
    let (qemu, model) = match options.nic {
        Nic::Virtio => (Qemu::choose(workspace, &options.qemu)?, None),
        Nic::Ixgbe => {
            let qemu = Qemu::with_vfio_user(workspace, &options.qemu)?;
            (qemu, Some(serve::build(workspace)?))
        }
    };
    let folder = workspace.scratch(&script.name())?;
    let build = build.keep(&folder.join("programs"))?;
    let (wire, isolation) = connect(options.net)?;
    ensure!(
        model.is_none() || matches!(wire, Wire::Tap(_)) && options.board == Board::Q35,
        "the model of a card needs a tap, and a board with PCI"
    );
    ensure!(
        model.is_some() || options.unplug.is_none(),
        "only a model's cable can be pulled: `--nic ixgbe`"
    );
    let spec = Spec {
        build,
        qemu,
        wire,
        board: options.board,
        ring: options.ring,
        model,
        unplug: options.unplug,
        policy: options.policy.clone(),
        cast: options.cast.clone(),
        iommu: options.iommu,
        seconds: options.seconds,
        live_log: options.log,
        folder,
        script,
    };
    match isolation {
        Some(options) => enter(&spec, options),
        None => spec.play(),
    }
}

/// Decides how the machine is connected, and with which options of `unshare`.
fn connect(net: Net) -> Result<(Wire, Option<&'static [&'static str]>)> {
    let user = || Ok((Wire::User(scene::forwards()), None));
    match (net, net::isolation()?) {
        (Net::None, _) => Ok((Wire::None, None)),
        (Net::User, _) => user(),
        (Net::Tap | Net::Auto, Isolation::Namespace(options)) => {
            Ok((Wire::Tap(TAP.to_owned()), Some(options)))
        }
        (Net::Tap, Isolation::Impossible(why)) => bail!("no tap: {why}; try `--net user`"),
        (Net::Auto, Isolation::Impossible(why)) => {
            println!(
                "no multi-queue tap: {why}; QEMU's own network stack is used, with one queue pair and virtual queues"
            );
            user()
        }
    }
}

/// Runs this program again inside a network namespace, which leaves the host's network alone.
fn enter(spec: &Spec, options: &[&str]) -> Result<ExitCode> {
    let file = spec.folder.join("spec.json");
    fs::write(&file, serde_json::to_string(spec)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = net::command_inside(options, &[Path::new("inside"), &file])?;
    match Group::spawn(&mut command)?.wait(Duration::from_secs(spec.seconds) + MARGIN)? {
        Ending::Exited(status) if status.success() => Ok(ExitCode::SUCCESS),
        Ending::Exited(_) => Ok(ExitCode::FAILURE),
        Ending::TimedOut => bail!(
            "the boot took longer than {} s and was ended",
            spec.seconds + MARGIN.as_secs()
        ),
    }
}

/// The hidden command: plays what a file describes, inside the namespace.
pub(crate) fn inside(file: &Path) -> Result<ExitCode> {
    let json =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let spec: Spec = serde_json::from_str(&json)
        .with_context(|| format!("{} is no description of a boot", file.display()))?;
    if matches!(spec.wire, Wire::Tap(_)) {
        net::make_tap(if spec.model.is_some() {
            Queues::One
        } else {
            Queues::Several
        })?;
    }
    spec.play()
}

impl Spec {
    /// The machine, whose network card is served at `model` if it is one.
    fn machine<'a>(
        &'a self,
        (initrd, words): (&'a Path, &'a str),
        model: Option<&'a Path>,
        debugger: bool,
    ) -> Machine<'a> {
        Machine {
            kernel: &self.build.kernel,
            initrd,
            words,
            folder: &self.folder,
            wire: &self.wire,
            board: self.board,
            ring: self.ring,
            model,
            iommu: self.iommu,
            block_pairs: self.block_pairs(),
            debugger,
        }
    }
}
