//! `mock-hw serve`: device models as PCI devices of a virtual machine.

use core::{iter, net::SocketAddr, str::FromStr, time::Duration};
use std::{
    fs,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use parakernel_mock_hw::{
    Ixgbe, Nvme, VirtioNet, World, ixgbe,
    memory::RequesterId,
    nvme,
    pci::Endpoint,
    plug::{Capture, Datagrams, Plug, Plugs, Recorded, Replay, Tap, remove_socket},
    vfio_user::{Guest, Server},
    virtio_net,
    wire::Wire,
};

/// How long a cable that is pulled stays out.
const UNPLUGGED: Duration = Duration::from_millis(300);

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
    /// `udp=LOCAL,REMOTE` (datagrams as QEMU's `-netdev dgram`), `pcap=IN[,OUT]` (the frames of a capture, with their
    /// gaps, once the device takes frames; what it sends goes to OUT), `device=NUMBER` (another one here, counted from
    /// 1), `loop` (back) or `none`
    #[arg(long, value_name = "WHERE")]
    wire: Vec<WireTo>,
    /// Address of the first network device, six bytes in hexadecimal with colons between them
    #[arg(long, value_name = "MAC")]
    mac: Option<Mac>,
    /// Write all frames of the first network device to this file
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Pull the cable of each 82599 every so many seconds, and plug it in again 300 ms later
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    unplug: Option<u64>,
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

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Device {
    /// An NVMe controller with one namespace
    Nvme,
    /// A virtio-net device
    VirtioNet,
    /// An Intel 82599 with an SFP+ module
    Ixgbe,
    /// The next virtual function of the `ixgbe` before it, whose driver has to answer its mailbox
    IxgbeVf,
    /// A virtual function of a card whose physical function stays here and is driven here, as on a host that gives its
    /// guests virtual functions only; several in a row are of one card
    IxgbeHostedVf,
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
    Pcap(PathBuf, Option<PathBuf>),
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
            "pcap" => match rest.split_once(',') {
                Some((from, to)) => Self::Pcap(from.into(), Some(to.into())),
                None => Self::Pcap(rest.into(), None),
            },
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
    let mut made = make_all(options, &world)?;
    let ends: Vec<End> = made.iter_mut().filter_map(|made| made.end.take()).collect();
    let mut server = Server::new(&world, plugs(options, ends)?);
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
    /// If it is one for the network, and the first one of its card.
    end: Option<End>,
}

/// A network device's end of its wire.
struct End {
    wire: Wire,
    /// Whether its driver takes frames.
    is_open: Box<dyn Fn() -> bool + Send>,
}

/// Makes all devices, in their order.
fn make_all(options: &Serve, world: &World) -> Result<Vec<Made>> {
    let mut made = Vec::new();
    let mut rest = options.device.as_slice();
    while let Some((device, after)) = rest.split_first() {
        let number = u8::try_from(made.len() + 1).context("there are more than 255 devices")?;
        rest = match device {
            Device::Nvme => {
                made.push(make_nvme(options, number, world));
                after
            }
            Device::VirtioNet => {
                made.push(make_virtio_net(options, number, world));
                after
            }
            Device::Ixgbe => {
                let virtuals = count(after, Device::IxgbeVf);
                made.extend(make_card(options, number, (1, virtuals), world)?);
                &after[virtuals..]
            }
            Device::IxgbeVf => bail!("an `ixgbe-vf` stands behind its `ixgbe`"),
            Device::IxgbeHostedVf => {
                let virtuals = count(rest, Device::IxgbeHostedVf);
                made.extend(make_card(options, number, (0, virtuals), world)?);
                &rest[virtuals..]
            }
        };
    }
    Ok(made)
}

/// How many devices of this kind come first.
fn count(devices: &[Device], kind: Device) -> usize {
    devices.iter().take_while(|device| **device == kind).count()
}

/// The identity of a device by its number, and its address, if it is one for the network.
fn identity(options: &Serve, number: u8, mac: [u8; 6]) -> (RequesterId, [u8; 6]) {
    let first = options.mac.filter(|_| number == 1);
    let requester = RequesterId(u16::from(number) << 8);
    (requester, first.map_or(mac, |Mac(bytes)| bytes))
}

fn make_nvme(options: &Serve, number: u8, world: &World) -> Made {
    let guest = Guest::default();
    let memory = world.host_memory(guest.memory());
    let (requester, _) = identity(options, number, [0; 6]);
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
    Made {
        requester,
        endpoint: Nvme::new(world, &memory, requester, config).endpoint(),
        guest,
        end: None,
    }
}

fn make_virtio_net(options: &Serve, number: u8, world: &World) -> Made {
    let guest = Guest::default();
    let memory = world.host_memory(guest.memory());
    let (requester, mac) = identity(options, number, [0x52, 0x54, 0, 0x12, 0x34, number]);
    let config = virtio_net::Config {
        queue_pairs: options.queues,
        vectors: options.queues.saturating_mul(2).saturating_add(2),
        mac,
        mtu: 9000,
        ..virtio_net::Config::default()
    };
    let net = VirtioNet::pci(world, &memory, requester, config);
    Made {
        requester,
        endpoint: net.endpoint(),
        guest,
        end: Some(End {
            wire: net.wire(),
            is_open: Box::new(move || net.counts().receiving > 0),
        }),
    }
}

/// A card with so many physical functions, one or none, and virtual ones to serve.
fn make_card(
    options: &Serve,
    number: u8,
    (physical, virtuals): (usize, usize),
    world: &World,
) -> Result<Vec<Made>> {
    let (requester, mac) = identity(options, number, [0x02, 0x1b, 0x21, 0, 0, number]);
    let virtual_functions = u8::try_from(virtuals).ok().filter(|count| *count <= 63);
    let config = ixgbe::Config {
        mac,
        virtual_functions: virtual_functions
            .context("a card has no more than 63 virtual functions here")?,
        ..ixgbe::Config::default()
    };
    // Each function has memory of its own: what its machine maps for it.
    let guests: Vec<Guest> = (0..=virtuals).map(|_| Guest::default()).collect();
    let memory = |guest: &Guest| world.host_memory(guest.memory());
    let own = |function: RequesterId| {
        let n = usize::from(function.0 - requester.0 - 128) / 2;
        memory(guests.get(n + 1).unwrap_or(&guests[0]))
    };
    let card = Ixgbe::with_memories(world, &memory(&guests[0]), requester, config, own);
    if physical == 0 {
        card.host_virtual_functions(world);
    }
    if let Some(seconds) = options.unplug {
        let card = card.clone();
        thread::spawn(move || unplug_now_and_then(&card, Duration::from_secs(seconds)));
    }
    // The machine hides the SR-IOV capability from the physical function's driver, and has all functions from the start.
    card.keep_virtual_functions();
    let first = (requester, card.endpoint());
    let others = (0_u16..).map_while(|n| {
        let endpoint = card.virtual_function(usize::from(n))?;
        Some((RequesterId(requester.0 + 128 + 2 * n), endpoint))
    });
    let functions = iter::once(first).chain(others).zip(guests);
    let own = card.clone();
    let mut end = Some(End {
        wire: card.wire(),
        is_open: Box::new(move || own.takes_frames()),
    });
    let made = functions.skip(1 - physical).map(|(function, guest)| Made {
        requester: function.0,
        endpoint: function.1,
        guest,
        end: end.take(),
    });
    Ok(made.collect())
}

/// Until this program ends.
fn unplug_now_and_then(card: &Ixgbe, every: Duration) {
    loop {
        thread::sleep(every);
        card.set_link(false);
        thread::sleep(UNPLUGGED);
        card.set_link(true);
    }
}

/// Plugs the wires in where they lead to.
fn plugs(options: &Serve, ends: Vec<End>) -> Result<Plugs> {
    if options.wire.len() > ends.len() {
        bail!("there are more `--wire` than network devices");
    }
    let mut capture = options.pcap.as_deref().map(record).transpose()?;
    let mut plugs = Plugs::default();
    let wires: Vec<Wire> = ends.iter().map(|end| end.wire.clone()).collect();
    let places = options.wire.iter().chain(iter::repeat(&WireTo::Nowhere));
    for (end, to) in ends.into_iter().zip(places) {
        let wire = end.wire.clone();
        plugs.add(wire, plug(end, to, &wires)?, capture.take());
    }
    Ok(plugs)
}

/// The plug for a wire that leads out of here; the others are connected.
fn plug(end: End, to: &WireTo, wires: &[Wire]) -> Result<Option<Box<dyn Plug>>> {
    Ok(match to {
        WireTo::Tap(name) => {
            let tap = Tap::open(name);
            let tap = tap.with_context(|| format!("cannot open the tap `{name}`"))?;
            Some(Box::new(tap))
        }
        WireTo::Unix(local, remote) => {
            let made = Datagrams::unix(local, remote);
            let made = made.with_context(|| format!("cannot make {}", local.display()))?;
            Some(Box::new(made))
        }
        WireTo::Udp(local, remote) => {
            let made = Datagrams::udp(*local, *remote);
            let made = made.with_context(|| format!("cannot use {local}"))?;
            Some(Box::new(made))
        }
        WireTo::Pcap(from, to) => {
            let shown = from.display();
            let replay = Recorded::open(from).and_then(|recorded| {
                let capture = to.as_deref().map(Capture::create).transpose()?;
                Replay::new(Some(recorded), capture, end.is_open)
            });
            let replay = replay.with_context(|| format!("cannot replay {shown}"))?;
            Some(Box::new(replay))
        }
        WireTo::Device(number) => {
            let other = number.checked_sub(1).and_then(|index| wires.get(index));
            let other = other.with_context(|| format!("there is no network device {number}"))?;
            Wire::connect(&end.wire, other);
            None
        }
        WireTo::Loop => {
            end.wire.loop_back();
            None
        }
        WireTo::Nowhere => None,
    })
}

fn record(path: &Path) -> Result<Capture> {
    Capture::create(path).with_context(|| format!("cannot write {}", path.display()))
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
