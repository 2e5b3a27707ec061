//! `mock-hw serve`: a device model as a PCI device of a virtual machine.

use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use parakernel_mock_hw::{
    Ixgbe, Nvme, VirtioNet, World, ixgbe,
    memory::RequesterId,
    nvme,
    pci::Endpoint,
    plug::{Capture, Datagrams, Plug, Plugs, Tap},
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
    /// Be a PCI device of a virtual machine, over vfio-user
    Serve(Serve),
}

#[derive(Debug, Args)]
struct Serve {
    /// Which device
    #[arg(long)]
    device: Device,
    /// Where the virtual machine finds it: a Unix socket, made here
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Serve one machine after another, until interrupted
    #[arg(long)]
    keep: bool,
    /// Seed of the order in which the device works
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    network: Network,
    /// Size of the disk in MiB
    #[arg(long, default_value_t = 256)]
    disk_mib: u64,
    /// Bytes of a block of the disk
    #[arg(long, default_value_t = 512)]
    block: usize,
    /// Queue pairs
    #[arg(long, default_value_t = 4)]
    queues: u16,
}

/// What a network device is plugged into; nothing, if none is given.
#[derive(Args, Debug)]
#[group(multiple = true)]
struct Network {
    /// A tap of this machine
    #[arg(long, value_name = "NAME", group = "plug")]
    tap: Option<String>,
    /// Datagrams between two Unix sockets, as QEMU's `-netdev dgram`
    #[arg(long, value_names = ["LOCAL", "REMOTE"], num_args = 2, group = "plug")]
    unix: Vec<PathBuf>,
    /// Datagrams between two UDP addresses, as QEMU's `-netdev dgram`
    #[arg(long, value_names = ["LOCAL", "REMOTE"], num_args = 2, group = "plug")]
    udp: Vec<SocketAddr>,
    /// Itself: what it sends comes back
    #[arg(long, group = "plug")]
    loopback: bool,
    /// Write all frames to this file
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
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

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Serve(options) => serve(&options),
    }
}

fn serve(options: &Serve) -> Result<()> {
    let world = World::new(options.seed);
    let guest = Guest::default();
    let (endpoint, wire) = device(options, &world, &guest);
    let mut plugs = Plugs::default();
    if let Some(wire) = wire {
        plug(&options.network, wire, &mut plugs)?;
    }
    let listener = listen(&options.socket)?;
    let mut server = Server::new(&world, &guest, endpoint, plugs);
    loop {
        let served = server.serve_one(&listener.0);
        match served {
            Ok(()) if !options.keep => return Ok(()),
            Err(error) if !options.keep => return Err(error.into()),
            Ok(()) => {}
            Err(error) => eprintln!("{:#}", anyhow::Error::from(error)),
        }
    }
}

/// Makes the device; the wire if it is one for the network.
fn device(options: &Serve, world: &World, guest: &Guest) -> (Endpoint, Option<Wire>) {
    let memory = world.host_memory(guest.memory());
    let requester = RequesterId(0x0100);
    match options.device {
        Device::Nvme => {
            let namespace = nvme::NamespaceConfig {
                blocks: (options.disk_mib << 20) / options.block as u64,
                block_len: options.block,
                ..nvme::NamespaceConfig::default()
            };
            let config = nvme::Config {
                namespaces: vec![namespace],
                queue_pairs: options.queues,
                vectors: options.queues + 1,
                ..nvme::Config::default()
            };
            let nvme = Nvme::new(world, &memory, requester, config);
            (nvme.endpoint(), None)
        }
        Device::VirtioNet => {
            let config = virtio_net::Config {
                queue_pairs: options.queues,
                vectors: 2 * options.queues + 2,
                ..virtio_net::Config::default()
            };
            let net = VirtioNet::pci(world, &memory, requester, config);
            (net.endpoint(), Some(net.wire()))
        }
        Device::Ixgbe => {
            let card = Ixgbe::new(world, &memory, requester, ixgbe::Config::default());
            (card.endpoint(), Some(card.wire()))
        }
    }
}

fn plug(network: &Network, wire: Wire, plugs: &mut Plugs) -> Result<()> {
    let capture = network.pcap.as_deref().map(|path| {
        Capture::create(path).with_context(|| format!("cannot write {}", path.display()))
    });
    let capture = capture.transpose()?;
    let plug: Box<dyn Plug> = if let Some(name) = &network.tap {
        Box::new(Tap::open(name).with_context(|| format!("cannot open the tap `{name}`"))?)
    } else if let [local, remote] = &network.unix[..] {
        let made = Datagrams::unix(local, remote);
        Box::new(made.with_context(|| format!("cannot make {}", local.display()))?)
    } else if let [local, remote] = network.udp[..] {
        let made = Datagrams::udp(local, remote);
        Box::new(made.with_context(|| format!("cannot use {local}"))?)
    } else {
        if network.loopback {
            wire.loop_back();
        }
        return Ok(());
    };
    plugs.add(wire, plug, capture);
    Ok(())
}

/// A socket that is removed at the end.
struct Listener(UnixListener, PathBuf);

impl Drop for Listener {
    fn drop(&mut self) {
        // That somebody removed it before is as good.
        let _gone = fs::remove_file(&self.1);
    }
}

fn listen(path: &Path) -> Result<Listener> {
    parakernel_mock_hw::plug::remove_socket(path)?;
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(Listener(listener, path.to_owned()))
}
