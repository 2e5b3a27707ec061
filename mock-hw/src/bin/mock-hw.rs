//! `mock-hw serve`: device models as PCI devices of a virtual machine.

use core::{iter, net::SocketAddr, str::FromStr};
use std::{
    fs,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use parakernel_mock_hw::{
    Ixgbe, Nvme, VirtioNet, World, ixgbe,
    memory::RequesterId,
    nvme,
    pci::Endpoint,
    plug::{Capture, Datagrams, Plug, Plugs, Tap, remove_socket},
    vfio_user::{Guest, Server},
    virtio_net,
    wire::Wire,
};

/// Device models for machines outside of this process.
#[derive(Debug, Parser)]
#[command(name = "mock-hw", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Be PCI devices of a virtual machine, over vfio-user
    Serve(Serve),
}

#[derive(Debug, Args)]
struct Serve {
    /// Which device; several may be given, each with its socket
    #[arg(long, required = true)]
    device: Vec<Device>,
    /// Where the virtual machine finds the device: a Unix socket, made here
    #[arg(long, value_name = "PATH", required = true)]
    socket: Vec<PathBuf>,
    /// Where the wire of each network device leads, in their order: `tap=NAME`, `unix=LOCAL,REMOTE` or
    /// `udp=LOCAL,REMOTE` (datagrams as QEMU's `-netdev dgram`), `device=NUMBER` (another one here, counted from 1),
    /// `loop` (back) or `none`
    #[arg(long, value_name = "WHERE")]
    wire: Vec<WireTo>,
    /// Address of the first network device, six bytes in hexadecimal with colons between them
    #[arg(long, value_name = "MAC")]
    mac: Option<Mac>,
    /// Write all frames of the first network device to this file
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Serve one machine after another, until interrupted
    #[arg(long)]
    keep: bool,
    /// Seed of the order in which the devices work
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Size of a disk in MiB
    #[arg(long, default_value_t = 256)]
    disk_mib: u64,
    /// Bytes of a block of a disk
    #[arg(long, default_value_t = 512)]
    block: usize,
    /// Queue pairs, where the device leaves that open
    #[arg(long, default_value_t = 4)]
    queues: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Device {
    /// An NVMe controller with one namespace
    Nvme,
    /// A virtio-net device
    VirtioNet,
    /// An Intel 82599 with an SFP+ module
    Ixgbe,
}

/// The address of a network device.
#[derive(Clone, Copy, Debug)]
struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes: Vec<u8> = text
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect::<Result<_, _>>()?;
        let bytes = bytes.try_into();
        bytes
            .map(Self)
            .map_err(|_| anyhow::anyhow!("`{text}` is no address of six bytes"))
    }
}

/// Where a wire leads.
#[derive(Clone, Debug)]
enum WireTo {
    Tap(String),
    Unix(PathBuf, PathBuf),
    Udp(SocketAddr, SocketAddr),
    Device(usize),
    Loop,
    Nowhere,
}

impl FromStr for WireTo {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, rest) = text.split_once('=').unwrap_or((text, ""));
        let two = || {
            rest.split_once(',')
                .with_context(|| format!("`{kind}=` wants two places with a comma between them"))
        };
        Ok(match kind {
            "tap" => Self::Tap(rest.to_owned()),
            "unix" => {
                let (local, remote) = two()?;
                Self::Unix(local.into(), remote.into())
            }
            "udp" => {
                let (local, remote) = two()?;
                Self::Udp(local.parse()?, remote.parse()?)
            }
            "device" => Self::Device(rest.parse()?),
            "loop" => Self::Loop,
            "none" => Self::Nowhere,
            _ => bail!("`{text}` is no place for a wire to lead to"),
        })
    }
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Serve(options) => serve(&options),
    }
}

fn serve(options: &Serve) -> Result<()> {
    if options.device.len() != options.socket.len() {
        bail!("each `--device` needs a `--socket`, in the same order");
    }
    let world = World::new(options.seed);
    let made: Vec<Made> = (1..)
        .zip(&options.device)
        .map(|(number, device)| make(options, *device, number, &world))
        .collect();
    let wires: Vec<Wire> = made.iter().filter_map(|made| made.wire.clone()).collect();
    let mut server = Server::new(&world, plugs(options, &wires)?);
    let mut sockets = Vec::new();
    for (made, path) in made.into_iter().zip(&options.socket) {
        let listener = listen(path)?;
        sockets.push(Socket(path.clone()));
        server.add(made.requester, made.endpoint, made.guest, listener)?;
    }
    loop {
        match server.serve() {
            result if !options.keep => return Ok(result?),
            Ok(()) => {}
            Err(error) => eprintln!("{:#}", anyhow::Error::from(error)),
        }
    }
}

/// A device that is ready to be served.
struct Made {
    requester: RequesterId,
    endpoint: Endpoint,
    guest: Guest,
    /// If it is one for the network.
    wire: Option<Wire>,
}

fn make(options: &Serve, device: Device, number: u8, world: &World) -> Made {
    let guest = Guest::default();
    let memory = world.host_memory(guest.memory());
    let requester = RequesterId(u16::from(number) << 8);
    let mac = |mac| {
        let first = options.mac.filter(|_| number == 1);
        first.map_or(mac, |Mac(bytes)| bytes)
    };
    let (endpoint, wire) = match device {
        Device::Nvme => {
            let namespace = nvme::NamespaceConfig {
                blocks: (options.disk_mib << 20) / options.block.max(512) as u64,
                block_len: options.block.max(512),
            };
            let config = nvme::Config {
                namespaces: vec![namespace],
                queue_pairs: options.queues,
                vectors: options.queues.saturating_add(1),
                ..nvme::Config::default()
            };
            let nvme = Nvme::new(world, &memory, requester, config);
            (nvme.endpoint(), None)
        }
        Device::VirtioNet => {
            let config = virtio_net::Config {
                queue_pairs: options.queues,
                vectors: options.queues.saturating_mul(2).saturating_add(2),
                mac: mac([0x52, 0x54, 0, 0x12, 0x34, number]),
                mtu: 9000,
                ..virtio_net::Config::default()
            };
            let net = VirtioNet::pci(world, &memory, requester, config);
            (net.endpoint(), Some(net.wire()))
        }
        Device::Ixgbe => {
            let config = ixgbe::Config {
                mac: mac([0x02, 0x1b, 0x21, 0, 0, number]),
                ..ixgbe::Config::default()
            };
            let card = Ixgbe::new(world, &memory, requester, config);
            (card.endpoint(), Some(card.wire()))
        }
    };
    Made {
        requester,
        endpoint,
        guest,
        wire,
    }
}

/// Plugs the wires in where they lead to.
fn plugs(options: &Serve, wires: &[Wire]) -> Result<Plugs> {
    if options.wire.len() > wires.len() {
        bail!("there are more `--wire` than network devices");
    }
    let mut capture = options
        .pcap
        .as_deref()
        .map(|path| {
            Capture::create(path).with_context(|| format!("cannot write {}", path.display()))
        })
        .transpose()?;
    let mut plugs = Plugs::default();
    let places = options.wire.iter().chain(iter::repeat(&WireTo::Nowhere));
    for (wire, to) in wires.iter().zip(places) {
        let plug: Option<Box<dyn Plug>> = match to {
            WireTo::Tap(name) => {
                let tap = Tap::open(name);
                Some(Box::new(
                    tap.with_context(|| format!("cannot open the tap `{name}`"))?,
                ))
            }
            WireTo::Unix(local, remote) => {
                let made = Datagrams::unix(local, remote);
                let made = made.with_context(|| format!("cannot make {}", local.display()))?;
                Some(Box::new(made))
            }
            WireTo::Udp(local, remote) => {
                let made = Datagrams::udp(*local, *remote);
                Some(Box::new(
                    made.with_context(|| format!("cannot use {local}"))?,
                ))
            }
            WireTo::Device(number) => {
                let other = number.checked_sub(1).and_then(|index| wires.get(index));
                let other =
                    other.with_context(|| format!("there is no network device {number}"))?;
                Wire::connect(wire, other);
                None
            }
            WireTo::Loop => {
                wire.loop_back();
                None
            }
            WireTo::Nowhere => None,
        };
        plugs.add(wire.clone(), plug, capture.take());
    }
    Ok(plugs)
}

/// A socket that is removed at the end.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        // That somebody removed it before is as good.
        let _gone = fs::remove_file(&self.0);
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    remove_socket(path)?;
    UnixListener::bind(path).with_context(|| format!("cannot make {}", path.display()))
}
