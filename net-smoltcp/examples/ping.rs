//! Two stacks at the ends of a wire in memory: one pings the other and prints the answers.
//!
//! The wire stands in for a NIC; with real queues only the `QueuePair`s change.

#[path = "../tests/wire/mod.rs"]
mod wire;

use parakernel_smoltcp::{Device, Memory, QueuePair, instant};
use smoltcp::{
    iface::{Config, Interface, SocketSet},
    phy::ChecksumCapabilities,
    socket::icmp,
    wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpCidr, Ipv4Address},
};
use wire::{Behaviour, Rx, Tx, direction, pool, words};

const IDENT: u16 = 0x70_6b;
const PINGS: u16 = 4;

type Nic = Device<'static, QueuePair<'static, Rx, Tx>>;

fn device(rx: Rx, tx: Tx) -> Nic {
    let mut receive = pool(128);
    let transmit = receive.split_off(32, words(32));
    let memory = Memory {
        receive,
        transmit,
        words: words(32),
        scratch: &mut [],
    };
    Device::new(QueuePair::new(rx, tx, words(32)), memory, 1514)
}

fn interface(device: &mut Nic, number: u8) -> Interface {
    let mac = EthernetAddress([2, 0, 0, 0, 0, number]);
    let mut interface = Interface::new(Config::new(mac.into()), device, instant(at(0)));
    interface.update_ip_addrs(|addresses| {
        let address = Ipv4Address::new(10, 0, 0, number);
        // There is room for the first one.
        let _ = addresses.push(IpCidr::new(address.into(), 24));
    });
    interface
}

fn at(milliseconds: u64) -> parakernel_core::time::Instant {
    parakernel_core::time::Instant::from_nanos(milliseconds * 1_000_000)
}

fn icmp_socket() -> icmp::Socket<'static> {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 2048]);
    icmp::Socket::new(buffer(), buffer())
}

fn main() -> Result<(), Box<dyn core::error::Error>> {
    let (ask_tx, serve_rx, _) = direction(Behaviour::default());
    let (serve_tx, ask_rx, _) = direction(Behaviour::default());
    let mut hosts = [device(ask_rx, ask_tx), device(serve_rx, serve_tx)];
    let [asker, server] = &mut hosts;
    let mut interfaces = [interface(asker, 2), interface(server, 1)];
    let mut sockets = [SocketSet::new(Vec::new()), SocketSet::new(Vec::new())];
    let handle = sockets[0].add(icmp_socket());
    sockets[0]
        .get_mut::<icmp::Socket<'_>>(handle)
        .bind(icmp::Endpoint::Ident(IDENT))?;

    let (mut sent, mut answered) = (0, 0);
    for time in 0..1000 {
        let socket = sockets[0].get_mut::<icmp::Socket<'_>>(handle);
        if sent == answered && sent < PINGS {
            sent += 1;
            ping(socket, sent)?;
        }
        while let Ok((answer, from)) = socket.recv() {
            answered += 1;
            println!("{} bytes from {from}, turn {time}", answer.len());
        }
        for ((device, interface), sockets) in
            hosts.iter_mut().zip(&mut interfaces).zip(&mut sockets)
        {
            device.fill(16).map_err(|error| *error)?;
            interface.poll(instant(at(time)), device, sockets);
            device.flush().map_err(|error| *error)?;
        }
    }
    println!("{answered} of {PINGS} answered");
    if answered == PINGS {
        Ok(())
    } else {
        Err("pings without an answer".into())
    }
}

fn ping(socket: &mut icmp::Socket<'_>, seq_no: u16) -> Result<(), icmp::SendError> {
    let request = Icmpv4Repr::EchoRequest {
        ident: IDENT,
        seq_no,
        data: b"parakernel",
    };
    let to = Ipv4Address::new(10, 0, 0, 1);
    let place = socket.send(request.buffer_len(), to.into())?;
    let checksums = ChecksumCapabilities::default();
    request.emit(&mut Icmpv4Packet::new_unchecked(place), &checksums);
    Ok(())
}
