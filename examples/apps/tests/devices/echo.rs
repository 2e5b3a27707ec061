//! The echo process on the virtio-net driver and its model; at the other end of the wire is smoltcp alone.

use alloc::rc::Rc;
use core::cell::Cell;

use parakernel_apps::{
    echo::{self, Memory},
    net::{Address, Identity},
    nonce::{self, Message},
};
use parakernel_core::{
    error::{Error, ErrorKind},
    memory::{Arena, ArenaLayout, DmaBlock, Pool, Segment, SegmentList},
    mmio::{Registers, Width},
    pci::Config as PciConfig,
};
use parakernel_mock_hw::{
    World,
    memory::Lease,
    pci::Bar,
    virtio_net::{Config, VirtioNet},
    wire::Wire,
};
use parakernel_nic_virtio::{
    device::{Device, Pair, PairRings, Setup, Vectors},
    features::Features,
    notify::Notifier,
    rx::{Receiver, Spread},
    transport::{
        Transport,
        pci::{Layout, PciTransport},
    },
    tx::{HeaderSource, Sender},
    virtqueue::split::Split,
};
use parakernel_smoltcp::{self as adapter, Link, QueuePair, instant};
use smoltcp::{
    iface::{Config as StackConfig, Interface, SocketSet},
    phy::{self, DeviceCapabilities, Medium},
    socket::udp,
    time::Instant as StackInstant,
    wire::{EthernetAddress, IpCidr, Ipv4Address},
};

use super::{DEVICE, Kernel, PROCESS, poll};

const ENTRIES: usize = 32;
const KERNEL: Lease = Lease(0);
const LAYOUT: ArenaLayout = ArenaLayout {
    stride: 2112,
    headroom: 64,
    header: 12,
    count: 128,
};

const IDENTITY: Identity = Identity {
    address: Address {
        mac: [0x52, 0x54, 0x00, 0x12, 0x34, 0x56],
        ip: Ipv4Address::new(10, 0, 0, 1),
        prefix: 24,
        gateway: None,
    },
    key: 0x77,
};

/// A part of a BAR.
#[derive(Clone)]
struct Part {
    bar: Bar,
    offset: usize,
    len: usize,
}

impl Registers for Part {
    fn read(&self, offset: usize, width: Width) -> u64 {
        self.bar.read(self.offset + offset, width)
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        self.bar.write(self.offset + offset, width, value);
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// The host at the other end of the wire, as smoltcp sees it.
struct Host(Wire);

struct Received(Vec<u8>);

struct Sending<'w>(&'w Wire);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.send(&frame);
        result
    }
}

impl phy::Device for Host {
    type RxToken<'w> = Received;
    type TxToken<'w> = Sending<'w>;

    fn receive(&mut self, _now: StackInstant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.0.take()?), Sending(&self.0)))
    }

    fn transmit(&mut self, _now: StackInstant) -> Option<Sending<'_>> {
        Some(Sending(&self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A link that ends when the test says so, as a lease does that the kernel takes back.
struct Lent<L> {
    link: L,
    over: Rc<Cell<bool>>,
}

impl<L: Link> Link for Lent<L> {
    type Error = ErrorKind;

    fn receive(
        &mut self,
        pool: &mut Pool<'_>,
        frames: &mut SegmentList<'_>,
        budget: usize,
    ) -> Result<usize, ErrorKind> {
        if self.over.get() {
            return Err(ErrorKind::Revoked);
        }
        let received = self.link.receive(pool, frames, budget);
        received.map_err(|error| error.kind())
    }

    fn send(&mut self, arena: &Arena<'_>, frame: Segment) -> Result<(), Segment> {
        self.link.send(arena, frame)
    }

    fn flush(&mut self, pool: &mut Pool<'_>) -> Result<(), ErrorKind> {
        self.link.flush(pool).map_err(|error| error.kind())
    }
}

fn bring_up<'m>(
    world: &World,
    memory: &'m parakernel_mock_hw::Memory,
    net: &VirtioNet,
) -> Device<'m, PciTransport<Part>> {
    net.config_space().enable();
    let config = PciConfig::new(net.config_space()).unwrap();
    if let Ok(Some(vectors)) = config.msi_x() {
        vectors.set_enabled(true);
    }
    let layout = Layout::parse(&config).unwrap();
    let transport = PciTransport::new(&layout, |range| {
        let (offset, len) = (range.offset as usize, range.len as usize);
        let bar = net.bar(range.bar.into());
        Some(Part { bar, offset, len })
    });
    let setup = Setup {
        wanted: Features::PARTITION,
        control: memory.lend(DEVICE, 4096, KERNEL).unwrap(),
        idle: memory.lend(DEVICE, 4096, KERNEL).unwrap(),
        pairs: vec![Pair::EMPTY; 2].leak(),
        config_vector: Some(0),
        capacity: LAYOUT.capacity(),
    };
    Device::bring_up(transport.unwrap(), &mut world.clone(), setup).unwrap()
}

/// Gives pair 0 to the process.
fn claim<'m>(
    world: &World,
    memory: &'m parakernel_mock_hw::Memory,
    device: &mut Device<'m, PciTransport<Part>>,
    over: Rc<Cell<bool>>,
) -> adapter::Device<'m, impl Link> {
    let block = || -> DmaBlock<'m> {
        memory
            .lend(DEVICE, Split::<ENTRIES>::BYTES, PROCESS)
            .unwrap()
    };
    let blocks = [block(), block()];
    let [rx_ring, tx_ring] = blocks
        .each_ref()
        .map(|block| Split::<ENTRIES>::in_block(block.memory()).unwrap());
    let [receive, transmit] = blocks.each_ref().map(Split::<ENTRIES>::addresses);
    let bell = |ring, queue| {
        let registers = device.transport().notify_registers().clone();
        let register = device.notify_register(queue).unwrap();
        Notifier::new(ring, registers, register, device.events())
    };
    let arena = memory.lend_arena(DEVICE, LAYOUT, PROCESS).unwrap();
    let mut pool = Pool::new(arena, vec![0; LAYOUT.count.into()].leak());
    let order = device.order();
    let rx =
        Receiver::<_, _, ENTRIES>::new(rx_ring, bell(rx_ring, 0), &LAYOUT, (order, Spread::Single))
            .unwrap();
    let options = (order, HeaderSource::Queue);
    let tx = Sender::<_, _, ENTRIES>::new(tx_ring, bell(tx_ring, 1), pool.arena().again(), options)
        .unwrap();
    let vectors = Vectors {
        receive: Some(1),
        transmit: None,
    };
    let rings = PairRings { receive, transmit };
    device.begin_claim(0, rings, vectors, world.now()).unwrap();
    poll(world, |now| device.poll_claim(0, now)).unwrap();

    let words = || vec![0; 32].leak();
    let memory = adapter::Memory {
        transmit: pool.split_off(32, words()),
        receive: pool,
        words: vec![0; 64].leak(),
        scratch: &mut [],
    };
    let link = Lent {
        link: QueuePair::new(rx, tx, words()),
        over,
    };
    adapter::Device::new(link, memory, 1514)
}

#[test]
fn nonces_are_answered_until_the_lease_ends() {
    const REQUESTS: u64 = 1000;
    let world = World::new(3);
    let memory = world.memory(4 << 20);
    let net = VirtioNet::pci(&world, &memory, DEVICE, Config::default());
    let over = Rc::new(Cell::new(false));
    let mut card = bring_up(&world, &memory, &net);
    let device = claim(&world, &memory, &mut card, Rc::clone(&over));

    let mut host = Host(net.wire());
    let mac = EthernetAddress([2, 0, 0, 0, 0, 2]);
    let start = instant(world.now());
    let mut interface = Interface::new(StackConfig::new(mac.into()), &mut host, start);
    interface.update_ip_addrs(|addresses| {
        let address = Ipv4Address::new(10, 0, 0, 2);
        addresses.push(IpCidr::new(address.into(), 24)).unwrap();
    });
    let mut sockets = SocketSet::new(Vec::new());
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 8192]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(1000).unwrap();
    let socket = sockets.add(socket);
    let (mut sent, mut answered) = (0, 0);
    let meanwhile = || {
        interface.poll(instant(world.now()), &mut host, &mut sockets);
        let socket = sockets.get_mut::<udp::Socket<'_>>(socket);
        while let Ok((datagram, _)) = socket.recv() {
            let answer = Message::parse_answer(datagram).unwrap();
            assert_eq!(answer.sequence, answered);
            assert_eq!(answer.nonce, nonce::answer(IDENTITY.key, answered * 3));
            answered += 1;
        }
        while sent < REQUESTS && sent < answered + 16 {
            let request = Message {
                sequence: sent,
                nonce: sent * 3,
                sent_at: 0,
            };
            let mut datagram = [0; nonce::LEN];
            request.write_request(&mut datagram);
            socket
                .send_slice(&datagram, (IDENTITY.address.ip, nonce::PORT))
                .unwrap();
            sent += 1;
        }
        interface.poll(instant(world.now()), &mut host, &mut sockets);
        over.set(answered == REQUESTS);
    };
    let mut kernel = Kernel {
        world: &world,
        meanwhile,
    };
    let flags = Box::leak(Box::new(echo::flags()));
    let mut buffers = Box::new(Memory::new());
    let end = echo::run(&mut kernel, device, IDENTITY, &mut buffers, flags);
    assert_eq!((end, answered), (ErrorKind::Revoked, REQUESTS));
    world.trace().assert_clean();
}
