//! Two stacks and a wire: what goes in at one end comes out at the other.
#![expect(clippy::unwrap_used, reason = "tests")]

mod wire;

use parakernel_core::error::{Error, ErrorKind};
use parakernel_smoltcp::{
    Device, Joined, JoinedError, Link, Memory, PairError, QueuePair, instant,
};
use proptest::prelude::*;
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{ChecksumCapabilities, Device as _, RxToken, TxToken},
    socket::{icmp, tcp, udp},
    time::Duration,
    wire::{
        EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, Ipv4Address,
        Ipv6Address,
    },
};
use wire::{Behaviour, Rx, Shared, Tx, direction, pool, words};

type Pair = QueuePair<'static, Rx, Tx>;

const SERVER: u8 = 1;
const CLIENT: u8 = 2;
const PORT: u16 = 7;

/// The queue pairs at the ends of a wire, and its two directions.
fn pairs(behaviour: Behaviour) -> (Pair, Pair, [Shared; 2]) {
    let (a_tx, b_rx, there) = direction(behaviour);
    let (b_tx, a_rx, back) = direction(behaviour);
    let a = QueuePair::new(a_rx, a_tx, words(64));
    let b = QueuePair::new(b_rx, b_tx, words(64));
    (a, b, [there, back])
}

fn device<L: Link>(link: L, scratch: usize) -> Device<'static, L> {
    let mut receive = pool(320);
    let transmit = receive.split_off(64, words(64));
    let memory = Memory {
        receive,
        transmit,
        words: words(64),
        scratch: vec![0; scratch].leak(),
    };
    Device::new(link, memory, 1514)
}

/// One side: a device, a stack over it, and its sockets.
struct Host<L: Link + 'static> {
    device: Device<'static, L>,
    interface: Interface,
    sockets: SocketSet<'static>,
}

impl<L: Link> Host<L> {
    fn new(mut device: Device<'static, L>, number: u8) -> Self {
        let mac = EthernetAddress([2, 0, 0, 0, 0, number]);
        let config = Config::new(HardwareAddress::Ethernet(mac));
        let mut interface = Interface::new(config, &mut device, instant(now(0)));
        interface.update_ip_addrs(|addresses| {
            let v4 = IpCidr::new(Ipv4Address::new(10, 0, 0, number).into(), 24);
            addresses.push(v4).unwrap();
            addresses.push(IpCidr::new(v6(number), 64)).unwrap();
        });
        Self {
            device,
            interface,
            sockets: SocketSet::new(Vec::new()),
        }
    }

    fn turn(&mut self, milliseconds: u64) {
        let now = instant(now(milliseconds));
        self.device.fill(32).unwrap();
        self.interface
            .poll(now, &mut self.device, &mut self.sockets);
        self.device.flush().unwrap();
    }

    fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer = || {
            let metadata = vec![udp::PacketMetadata::EMPTY; 64];
            udp::PacketBuffer::new(metadata, vec![0; 64 * 1500])
        };
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }
}

fn now(milliseconds: u64) -> parakernel_core::time::Instant {
    parakernel_core::time::Instant::from_nanos(milliseconds * 1_000_000)
}

fn v6(number: u8) -> IpAddress {
    Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into()
}

fn v4(number: u8) -> IpAddress {
    Ipv4Address::new(10, 0, 0, number).into()
}

/// Server and client over one wire.
fn hosts(behaviour: Behaviour, scratch: usize) -> (Host<Pair>, Host<Pair>, [Shared; 2]) {
    let (a, b, wire) = pairs(behaviour);
    let server = Host::new(device(a, scratch), SERVER);
    let client = Host::new(device(b, scratch), CLIENT);
    (server, client, wire)
}

/// Sends datagrams of `lengths` to `to` and returns those that came back, echoed, within `turns`.
fn udp_echo<A: Link, B: Link>(
    server: &mut Host<A>,
    client: &mut Host<B>,
    to: IpAddress,
    datagrams: &[Vec<u8>],
    turns: u64,
) -> Vec<Vec<u8>> {
    let (service, asker) = (server.udp(PORT), client.udp(1000));
    let (mut sent, mut echoed) = (datagrams.iter(), Vec::new());
    let mut next = sent.next();
    for time in 0..turns {
        let socket = client.sockets.get_mut::<udp::Socket<'_>>(asker);
        while let Some(datagram) = next {
            if socket.send_slice(datagram, (to, PORT)).is_err() {
                break;
            }
            next = sent.next();
        }
        client.turn(time);
        server.turn(time);
        let socket = server.sockets.get_mut::<udp::Socket<'_>>(service);
        while let Ok((datagram, from)) = socket.recv() {
            let datagram = datagram.to_vec();
            socket.send_slice(&datagram, from).unwrap();
        }
        let socket = client.sockets.get_mut::<udp::Socket<'_>>(asker);
        while let Ok((datagram, _)) = socket.recv() {
            echoed.push(datagram.to_vec());
        }
    }
    echoed
}

fn datagrams(lengths: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
    let content =
        |(number, len): (usize, usize)| (0..len).map(move |at| (at + number).to_le_bytes()[0]);
    let lengths = lengths.into_iter().enumerate();
    lengths.map(|pair| content(pair).collect()).collect()
}

#[test]
fn datagrams_come_back_over_ipv4_and_ipv6() {
    let sent = datagrams((0..300).map(|number| number * 4));
    for to in [v4(SERVER), v6(SERVER)] {
        let (mut server, mut client, _) = hosts(Behaviour::default(), 0);
        let echoed = udp_echo(&mut server, &mut client, to, &sent, 2000);
        assert!(echoed == sent, "{} of {}", echoed.len(), sent.len());
    }
}

#[test]
fn a_ping_is_answered() {
    let (mut server, mut client, _) = hosts(Behaviour::default(), 0);
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(9)).unwrap();
    let request = Icmpv4Repr::EchoRequest {
        ident: 9,
        seq_no: 1,
        data: &[0x5a; 1000],
    };
    let place = socket.send(request.buffer_len(), v4(SERVER)).unwrap();
    let checksums = ChecksumCapabilities::default();
    request.emit(&mut Icmpv4Packet::new_unchecked(place), &checksums);
    let handle = client.sockets.add(socket);
    for time in 0..10 {
        client.turn(time);
        server.turn(time);
    }
    let (answer, from) = client
        .sockets
        .get_mut::<icmp::Socket<'_>>(handle)
        .recv()
        .unwrap();
    let answer = Icmpv4Repr::parse(&Icmpv4Packet::new_checked(answer).unwrap(), &checksums);
    let expected = Icmpv4Repr::EchoReply {
        ident: 9,
        seq_no: 1,
        data: &[0x5a; 1000],
    };
    assert_eq!((answer.unwrap(), from), (expected, v4(SERVER)));
}

/// Streams `bytes` from client to server, and returns what arrived within `turns`.
fn stream(server: &mut Host<Pair>, client: &mut Host<Pair>, bytes: &[u8], turns: u64) -> Vec<u8> {
    let (listening, connecting) = (server.tcp(), client.tcp());
    let socket = server.sockets.get_mut::<tcp::Socket<'_>>(listening);
    socket.listen(PORT).unwrap();
    let socket = client.sockets.get_mut::<tcp::Socket<'_>>(connecting);
    socket
        .connect(client.interface.context(), (v4(SERVER), PORT), 2000)
        .unwrap();
    socket.set_timeout(Some(Duration::from_secs(3600)));
    let (mut rest, mut arrived) = (bytes, Vec::new());
    for time in (0..turns).map(|turn| turn * 10) {
        let socket = client.sockets.get_mut::<tcp::Socket<'_>>(connecting);
        if socket.can_send() {
            let taken = socket.send_slice(rest).unwrap();
            rest = &rest[taken..];
        }
        client.turn(time);
        server.turn(time);
        let socket = server.sockets.get_mut::<tcp::Socket<'_>>(listening);
        if socket.can_recv() {
            socket
                .recv(|bytes| (bytes.len(), arrived.extend_from_slice(bytes)))
                .unwrap();
        }
        if arrived.len() == bytes.len() {
            break;
        }
    }
    arrived
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_stream_arrives_whole_over_a_lossy_wire_in_any_cut(
        loss in 0..40_u8,
        seed in 1..u64::MAX,
        chunk in prop::sample::select(vec![100_usize, 700, 2000]),
        len in 1..60_000_usize,
    ) {
        let behaviour = Behaviour { loss, seed, chunk, ring: 64 };
        let (mut server, mut client, _) = hosts(behaviour, 1514);
        let sent: Vec<u8> = (0..len).map(|at| (at / 3).to_le_bytes()[0]).collect();
        let arrived = stream(&mut server, &mut client, &sent, 200_000);
        prop_assert!(arrived == sent, "{} of {}", arrived.len(), sent.len());
        let counters = server.device.counters();
        prop_assert_eq!(counters.oversized, 0);
        prop_assert_eq!(counters.gathered > 0, chunk < 700 || (chunk == 700 && len > 700));
    }
}

#[test]
fn frames_of_several_buffers_are_dropped_and_counted_without_scratch_memory() {
    let behaviour = Behaviour {
        chunk: 256,
        ..Behaviour::default()
    };
    let (mut server, mut client, _) = hosts(behaviour, 200);
    let sent = datagrams([100, 1000, 150, 1400, 60]);
    let echoed = udp_echo(&mut server, &mut client, v4(SERVER), &sent, 200);
    assert_eq!(echoed, datagrams_at(&sent, &[0, 2, 4]));
    assert_eq!(server.device.counters().oversized, 2);
}

fn datagrams_at(all: &[Vec<u8>], indices: &[usize]) -> Vec<Vec<u8>> {
    indices.iter().map(|&index| all[index].clone()).collect()
}

#[test]
fn a_frame_beyond_the_mtu_is_not_shown() {
    let (server, _, [_, to_server]) = hosts(Behaviour::default(), 4096);
    let mut device = server.device;
    device.fill(1).unwrap(); // arms
    to_server.borrow_mut().put(vec![0xff; 1515]);
    to_server.borrow_mut().put(vec![0xff; 1514]);
    assert_eq!(device.fill(8), Ok(2));
    let (received, _) = device.receive(instant(now(0))).unwrap();
    assert_eq!(received.consume(<[u8]>::len), 1514);
    assert!(device.receive(instant(now(0))).is_none());
    assert_eq!(device.counters().oversized, 1);
}

#[test]
fn a_full_transmit_ring_delays_frames_and_loses_none() {
    let (a, b, _) = pairs(Behaviour {
        ring: 3,
        ..Behaviour::default()
    });
    // The receiving ring is as small, so the client listens after each flush.
    let (mut server, mut client) = (device(a, 0), device(b, 0));
    client.fill(1).unwrap();
    let mut sent = 0_u8;
    let mut arrived = Vec::new();
    for _ in 0..200 {
        while sent < 100
            && let Some(token) = server.transmit(instant(now(0)))
        {
            token.consume(60, |frame| frame.fill(sent));
            sent += 1;
        }
        server.flush().unwrap();
        client.fill(3).unwrap();
        while let Some((token, _)) = client.receive(instant(now(0))) {
            arrived.push(token.consume(|frame| frame[0]));
        }
    }
    assert_eq!(arrived, (0..100).collect::<Vec<u8>>());
    assert_eq!(server.counters().unsent, 0);
}

#[test]
fn unused_tokens_keep_frame_and_buffer() {
    let (server, _, [_, to_server]) = hosts(Behaviour::default(), 0);
    let mut device = server.device;
    device.fill(1).unwrap();
    to_server.borrow_mut().put(vec![7; 60]);
    device.fill(1).unwrap();
    for _ in 0..1000 {
        assert!(device.receive(instant(now(0))).is_some());
        assert!(device.transmit(instant(now(0))).is_some());
    }
    let (token, _) = device.receive(instant(now(0))).unwrap();
    assert_eq!(token.consume(<[u8]>::to_vec), [7; 60]);
}

#[test]
fn discovery_takes_the_virtual_pair_and_the_rest_the_hardware_pair() {
    for to in [v4(SERVER), v6(SERVER)] {
        let (fast_a, fast_b, fast) = pairs(Behaviour::default());
        let (slow_a, slow_b, slow) = pairs(Behaviour::default());
        let mut server = Host::new(device(Joined::new(fast_a, slow_a), 0), SERVER);
        let mut client = Host::new(device(Joined::new(fast_b, slow_b), 0), CLIENT);
        let sent = datagrams(50..150);
        let echoed = udp_echo(&mut server, &mut client, to, &sent, 2000);
        assert!(echoed == sent, "{} of {}", echoed.len(), sent.len());
        for direction in fast {
            let is_udp = |frame: &Vec<u8>| frame[23] == 17 || frame[20] == 17;
            assert!(direction.borrow().seen.iter().all(is_udp));
            assert_eq!(direction.borrow().seen.len(), 100);
        }
        for direction in slow {
            let is_discovery = |frame: &Vec<u8>| parakernel_smoltcp::is_discovery(frame);
            assert!(direction.borrow().seen.iter().all(is_discovery));
            assert!(!direction.borrow().seen.is_empty());
        }
    }
}

#[test]
fn a_failure_is_kept_and_the_device_falls_silent() {
    let (fast, _, [_, from_host]) = pairs(Behaviour::default());
    let (slow, _, [to_kernel, _]) = pairs(Behaviour::default());
    let mut device = device(Joined::new(fast, slow), 0);
    assert_eq!(device.fill(4), Ok(0));
    from_host.borrow_mut().put(vec![1; 60]);
    assert_eq!(device.fill(4), Ok(1));
    to_kernel.borrow_mut().failure = Some(ErrorKind::Revoked);
    let expected = JoinedError::Virtual(PairError::Transmit(ErrorKind::Revoked));
    assert_eq!(device.flush(), Err(&expected));
    assert_eq!(expected.kind(), ErrorKind::Revoked);
    to_kernel.borrow_mut().failure = None;
    assert_eq!(device.fill(4), Err(&expected), "an error is for good");
    assert!(device.receive(instant(now(0))).is_none());
    assert!(device.transmit(instant(now(0))).is_none());
}
