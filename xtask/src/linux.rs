//! The stock driver of a Linux distribution, in a guest, on our device model.
//!
//! The guest is Debian's kernel with its own modules, a busybox and a few programs, all of them packages unpacked below
//! the target folder. The model is a PCI device of the guest over vfio-user. For a network card there are two of
//! them, joined by a wire inside one `mock-hw serve`; the guest moves the second one into a network namespace, so no
//! network of the host is needed. The guest's script says of each check whether it passed, and prints its kernel log,
//! which is judged here.

mod guest;
mod judge;
mod serve;
mod wire;

use crate::{
    process::{self, Ending, Group},
    qemu::{Choice, Qemu},
    workspace::Workspace,
};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use core::time::Duration;
use judge::Report;
use serve::Serving;
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};
use wire::Wire;

/// How long the short form may take, and the long one.
const SHORT: Duration = Duration::from_secs(240);
const LONG: Duration = Duration::from_secs(3600);

/// What to run.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Which model
    device: Device,
    /// 1 GiB instead of 64 MiB, and 100 reloads of the driver instead of 5
    #[arg(long)]
    full: bool,
    /// QEMU to use: `system`, `new`, or a path; one without vfio-user is replaced by `new`
    #[arg(long, default_value = "system")]
    qemu: Choice,
}

/// A model, and the driver for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// Intel 82599, driver `ixgbe`
    Ixgbe,
    /// virtio-net, driver `virtio_net`
    VirtioNet,
    /// NVMe, driver `nvme`
    Nvme,
}

impl Device {
    /// Its name for `mock-hw serve`, and in messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ixgbe => "ixgbe",
            Self::VirtioNet => "virtio-net",
            Self::Nvme => "nvme",
        }
    }

    /// The shortest frame that it sends: a real card fills up what is shorter than Ethernet allows.
    const fn shortest_frame(self) -> usize {
        match self {
            Self::Ixgbe => 60,
            Self::VirtioNet | Self::Nvme => 14,
        }
    }

    /// How many of them the guest has.
    const fn count(self) -> usize {
        match self {
            Self::Ixgbe | Self::VirtioNet => 2,
            Self::Nvme => 1,
        }
    }
}

/// Boots the guest and judges what it says.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let qemu = Qemu::with_vfio_user(workspace, &options.qemu)?;
    let folder = workspace.scratch("linux-on-model")?;
    let initrd = folder.join(format!("{}.cpio", options.device.name()));
    let tree = guest::packages(workspace)?;
    let amount = guest::Amount {
        mebibytes: if options.full { 1024 } else { 64 },
        reloads: if options.full { 100 } else { 5 },
    };
    guest::write(&tree, options.device, amount, &initrd)?;
    let model = serve::build(workspace)?;
    let serving = Serving::start(&model, options.device, &folder)?;
    let limit = if options.full { LONG } else { SHORT };
    let console = folder.join(format!("{}.log", options.device.name()));
    let boot = Boot {
        qemu: &qemu,
        kernel: guest::kernel(&tree)?,
        initrd: &initrd,
        console: &console,
        limit,
    };
    boot.run(&serving)?;
    let objections = serving.finish()?;
    let report = Report::read(BufReader::new(File::open(&console)?).lines())?;
    print!("{report}");
    let mut failures = report.failures(options.device, &objections);
    if options.device.count() > 1 {
        let wire = Wire::read(
            &serve::capture(&folder, options.device),
            options.device.shortest_frame(),
        )?;
        println!("{wire}");
        failures.extend(wire.failures());
    }
    for failure in &failures {
        println!("  {failure}");
    }
    println!(
        "{}: stock Linux {} on the model of {}, QEMU {}; console in {}",
        if failures.is_empty() { "pass" } else { "FAIL" },
        report.release(),
        options.device.name(),
        qemu.version,
        console.display()
    );
    Ok(if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The guest's machine.
#[derive(Debug)]
struct Boot<'a> {
    qemu: &'a Qemu,
    kernel: PathBuf,
    initrd: &'a Path,
    /// Where what it says goes.
    console: &'a Path,
    limit: Duration,
}

impl Boot<'_> {
    /// Runs the guest to its end.
    fn run(&self, serving: &Serving) -> Result<()> {
        let mut command = self.command();
        add_devices(&mut command, serving);
        let shown = self.console.display();
        let output = File::create(self.console).with_context(|| format!("cannot write {shown}"))?;
        command.stdin(Stdio::null()).stdout(output);
        fs::write(
            self.console.with_extension("command"),
            process::display_whole(&command) + "\n",
        )?;
        match Group::spawn(&mut command)?.wait(self.limit)? {
            Ending::Exited(status) if status.success() => Ok(()),
            Ending::Exited(status) => bail!("QEMU ended with {status}; see {shown}"),
            Ending::TimedOut => bail!(
                "the guest did not end within {} s; see {shown}",
                self.limit.as_secs()
            ),
        }
    }

    fn command(&self) -> Command {
        let mut command = self.qemu.command();
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-accel", "tcg", "-smp", "4", "-no-reboot"]);
        command.args(["-machine", "q35,memory-backend=memory"]);
        command.args([
            "-object",
            "memory-backend-memfd,id=memory,size=1G,share=on",
            "-serial",
            "stdio",
            "-append",
            "console=ttyS0 rdinit=/init quiet panic=-1",
        ]);
        command.arg("-kernel").arg(&self.kernel);
        command.arg("-initrd").arg(self.initrd);
        command
    }
}

/// Each model behind a PCI Express port of its own, as a card in its slot.
fn add_devices(command: &mut Command, serving: &Serving) {
    for (n, socket) in serving.sockets().iter().enumerate() {
        let slot = n + 1;
        command.args([
            "-device",
            &format!("pcie-root-port,id=port{slot},slot={slot}"),
        ]);
        let device = serde_json::json!({
            "driver": "vfio-user-pci",
            "bus": format!("port{slot}"),
            "socket": { "type": "unix", "path": socket },
        });
        command.args(["-device", &device.to_string()]);
    }
}
