//! The other end of the wire: a client with a stack of its own, run between the turns of the process under test.

use core::time::Duration;

use parakernel_apps::{
    net::Address,
    runtime::{Metric, Runtime},
};
use parakernel_core::{error::ErrorKind, time::Instant};
use parakernel_smoltcp::{Device, Joined, Link, Memory, QueuePair, instant};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::{icmp, tcp, udp},
    wire::{EthernetAddress, IpCidr, Ipv4Address},
};

use crate::wire::{Behaviour, Rx, Shared, Tx, direction, pool, words};

pub(crate) type Pair = QueuePair<'static, Rx, Tx>;

/// The process under test: a hardware and a virtual queue pair.
pub(crate) type Nic = Device<'static, Joined<Pair, Pair>>;

pub(crate) const SERVER: Address = Address {
    mac: [2, 0, 0, 0, 0, 1],
    ip: Ipv4Address::new(10, 0, 0, 1),
    prefix: 24,
    gateway: None,
};

pub(crate) type Sockets = SocketSet<'static>;

/// What a client does in each of its turns.
pub(crate) type Script<'s> = Box<dyn FnMut(&mut Sockets, &mut Interface) -> Next + 's>;

/// A client on the other end of the server's wires, and what it does between the server's turns.
pub(crate) struct Client<'s> {
    device: Nic,
    interface: Interface,
    sockets: Sockets,
    wires: Vec<Shared>,
    now: u64,
    script: Script<'s>,
    pub(crate) served: u64,
}

/// The next thing that a script wants.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Another turn.
    Turn,
    /// The end: the server's queues fail.
    End,
}

impl Next {
    pub(crate) fn end_if(over: bool) -> Self {
        if over { Self::End } else { Self::Turn }
    }
}

/// A server's device and a client, both with a hardware and a virtual queue pair.
pub(crate) fn wired(behaviour: Behaviour) -> (Nic, Client<'static>) {
    let mut wires = Vec::new();
    let mut pairs = || {
        let (a_tx, b_rx, there) = direction(behaviour);
        let (b_tx, a_rx, back) = direction(behaviour);
        wires.extend([there, back]);
        let a = QueuePair::new(a_rx, a_tx, words(64));
        (a, QueuePair::new(b_rx, b_tx, words(64)))
    };
    let (server_fast, client_fast) = pairs();
    let (server_slow, client_slow) = pairs();
    let server = device(Joined::new(server_fast, server_slow));
    let mut device = device(Joined::new(client_fast, client_slow));
    let mac = EthernetAddress([2, 0, 0, 0, 0, 2]);
    let mut interface = Interface::new(
        Config::new(mac.into()),
        &mut device,
        instant(Instant::default()),
    );
    interface.update_ip_addrs(|addresses| {
        let address = Ipv4Address::new(10, 0, 0, 2);
        addresses.push(IpCidr::new(address.into(), 24)).unwrap();
    });
    let client = Client {
        device,
        interface,
        sockets: SocketSet::new(Vec::new()),
        wires,
        now: 0,
        script: Box::new(|_, _| Next::End),
        served: 0,
    };
    (server, client)
}

fn device<L: Link>(link: L) -> Device<'static, L> {
    let mut receive = pool(384);
    let transmit = receive.split_off(64, words(64));
    let memory = Memory {
        receive,
        transmit,
        words: words(128),
        scratch: vec![0; 1514].leak(),
    };
    Device::new(link, memory, 1514)
}

impl Client<'_> {
    /// The same client, which follows `script`.
    pub(crate) fn with_script<'t>(
        self,
        script: impl FnMut(&mut Sockets, &mut Interface) -> Next + 't,
    ) -> Client<'t> {
        Client {
            script: Box::new(script),
            device: self.device,
            interface: self.interface,
            sockets: self.sockets,
            wires: self.wires,
            now: self.now,
            served: self.served,
        }
    }

    pub(crate) fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer = || {
            let metadata = vec![udp::PacketMetadata::EMPTY; 64];
            udp::PacketBuffer::new(metadata, vec![0; 0x1_0000])
        };
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 8192]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // Where the server has given up on a connection and the reset was lost, this fetches another.
        socket.set_keep_alive(Some(smoltcp::time::Duration::from_secs(1)));
        self.sockets.add(socket)
    }

    pub(crate) fn icmp(&mut self, ident: u16) -> SocketHandle {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(ident)).unwrap();
        self.sockets.add(socket)
    }
}

impl Client<'_> {
    fn turn(&mut self) {
        assert!(self.now < 600_000_000_000, "no end after ten minutes");
        let now = instant(Instant::from_nanos(self.now));
        // After the end both sides fail.
        if self.device.fill(32).is_err() {
            return;
        }
        self.interface
            .poll(now, &mut self.device, &mut self.sockets);
        if (self.script)(&mut self.sockets, &mut self.interface) == Next::End {
            for wire in &self.wires {
                wire.borrow_mut().failure = Some(ErrorKind::Revoked);
            }
        }
        let _ = self.device.flush();
    }
}

/// Between two turns of the server the client has one; a tenth of a millisecond passes, or ten when the server sleeps.
impl Runtime for Client<'_> {
    fn now(&mut self) -> Instant {
        Instant::from_nanos(self.now)
    }

    fn end_of_turn(&mut self) {
        self.now += 100_000;
        self.turn();
    }

    fn wait(&mut self, deadline: Option<Instant>) {
        let most = self.now().saturating_add(Duration::from_millis(10));
        let next = deadline.map_or(most, |deadline| deadline.min(most));
        self.now = self.now.max(next.as_nanos());
        self.turn();
    }

    fn report(&mut self, metric: Metric, value: u64) {
        assert_eq!(metric, Metric::Served);
        self.served = value;
    }
}
