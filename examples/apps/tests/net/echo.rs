//! The echo process, asked by another stack over a wire in memory.

use crate::peer::{Client, Next, Nic, SERVER, Sockets, wired};
use crate::wire::Behaviour;
use parakernel_apps::{
    echo::{self, Memory},
    net::Identity,
    nonce::{self, Message},
};
use parakernel_core::error::ErrorKind;
use proptest::prelude::*;
use smoltcp::{
    iface::{Interface, SocketHandle},
    phy::ChecksumCapabilities,
    socket::{icmp, tcp, udp},
    wire::{Icmpv4Packet, Icmpv4Repr},
};

const KEY: u64 = 0x1122_3344_5566_7788;

/// Runs the process until the client's script ends, and returns how many requests it says it served.
fn serve(device: Nic, mut client: Client<'_>) -> u64 {
    let identity = Identity {
        address: SERVER,
        key: KEY,
    };
    let flags = Box::leak(Box::new(echo::flags()));
    let mut memory = Box::new(Memory::new());
    let end = echo::run(&mut client, device, identity, &mut memory, flags);
    assert_eq!(end, ErrorKind::Revoked);
    client.served
}

#[test]
fn every_nonce_comes_back_transformed_by_the_key() {
    const REQUESTS: u64 = 5000;
    const WINDOW: u64 = 32;
    let request = |sequence: u64| Message {
        sequence,
        nonce: sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        sent_at: sequence + 1,
    };
    let (device, mut client) = wired(Behaviour::default());
    let socket = client.udp(1000);
    let (mut sent, mut answered) = (0, 0);
    let client = client.with_script(|sockets, _| {
        let socket = sockets.get_mut::<udp::Socket<'_>>(socket);
        while let Ok((datagram, _)) = socket.recv() {
            let answer = Message::parse_answer(datagram).unwrap();
            let asked = request(answered);
            let nonce = nonce::answer(KEY, asked.nonce);
            assert_eq!(answer, Message { nonce, ..asked });
            answered += 1;
        }
        while sent < REQUESTS && sent - answered < WINDOW {
            let mut datagram = [0; 100];
            request(sent).write_request(&mut datagram);
            socket
                .send_slice(&datagram, (SERVER.ip, nonce::PORT))
                .unwrap();
            sent += 1;
        }
        Next::end_if(answered == REQUESTS)
    });
    assert_eq!(serve(device, client), REQUESTS);
}

/// As many frames as a turn takes, each as long as a frame may be, come at once: where a card or a host kept them.
#[test]
fn a_turns_worth_of_the_longest_requests_is_answered() {
    const EACH: u64 = 32;
    let (device, mut client) = wired(Behaviour::default());
    let sockets = [1000, 1001].map(|port| client.udp(port));
    let (mut has_met, mut sent, mut answered) = (false, 0, 0);
    let mut turns = 0;
    let client = client.with_script(|all, _| {
        turns += 1;
        for socket in sockets {
            let socket = all.get_mut::<udp::Socket<'_>>(socket);
            while socket.recv().is_ok() {
                // The first makes the stacks known to each other.
                if has_met {
                    answered += 1;
                }
                has_met = true;
            }
            let wanted = if has_met { EACH } else { 1 };
            for sequence in 0..if sent < 1 + 2 * EACH { wanted } else { 0 } {
                if has_met || sent == 0 {
                    let mut datagram = [0; 1472];
                    let (nonce, sent_at) = (sequence, 0);
                    let message = Message {
                        sequence,
                        nonce,
                        sent_at,
                    };
                    message.write_request(&mut datagram);
                    socket
                        .send_slice(&datagram, (SERVER.ip, nonce::PORT))
                        .unwrap();
                    sent += 1;
                }
            }
        }
        Next::end_if(turns > 200)
    });
    serve(device, client);
    assert_eq!((sent, answered), (1 + 2 * EACH, 2 * EACH));
}

#[test]
fn a_datagram_that_is_no_request_is_not_answered() {
    let (device, mut client) = wired(Behaviour::default());
    let socket = client.udp(1000);
    let mut turns = 0;
    let client = client.with_script(|sockets, _| {
        let socket = sockets.get_mut::<udp::Socket<'_>>(socket);
        if turns == 0 {
            let to = |port| (SERVER.ip, port);
            socket.send_slice(&[0x55; 32], to(nonce::PORT)).unwrap();
            socket.send_slice(b"hello", to(echo::PORT)).unwrap();
        }
        turns += 1;
        let received = socket.recv();
        if let Ok((datagram, from)) = received {
            assert_eq!((datagram, from.endpoint.port), (&b"hello"[..], echo::PORT));
        }
        Next::end_if(received.is_ok())
    });
    assert_eq!(serve(device, client), 1);
}

#[test]
fn a_ping_is_answered() {
    let request = Icmpv4Repr::EchoRequest {
        ident: 5,
        seq_no: 1,
        data: b"ping",
    };
    let checksums = ChecksumCapabilities::default();
    let (device, mut client) = wired(Behaviour::default());
    let socket = client.icmp(5);
    let mut sent = false;
    let client = client.with_script(|sockets, _| {
        let socket = sockets.get_mut::<icmp::Socket<'_>>(socket);
        if !sent {
            let place = socket.send(request.buffer_len(), SERVER.ip.into()).unwrap();
            request.emit(&mut Icmpv4Packet::new_unchecked(place), &checksums);
            sent = true;
        }
        let received = socket.recv();
        if let Ok((_, from)) = received {
            assert_eq!(from, SERVER.ip.into());
        }
        Next::end_if(received.is_ok())
    });
    serve(device, client);
}

/// One connection of a client: what it has sent and what came back.
struct Stream {
    socket: SocketHandle,
    port: u16,
    rounds: u16,
    position: usize,
    arrived: Vec<u8>,
}

impl Stream {
    /// Sends and receives what it can, and connects anew while rounds are left; returns whether all are done.
    fn turn(&mut self, sent: &[u8], sockets: &mut Sockets, interface: &mut Interface) -> bool {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        if !socket.is_open() && self.rounds > 0 {
            self.port += 100;
            self.position = 0;
            self.arrived.clear();
            let server = (SERVER.ip, echo::PORT);
            socket
                .connect(interface.context(), server, self.port)
                .unwrap();
        }
        if socket.can_send() && self.position < sent.len() {
            self.position += socket.send_slice(&sent[self.position..]).unwrap();
        }
        while socket.can_recv() {
            let take = |bytes: &mut [u8]| (bytes.len(), self.arrived.extend_from_slice(bytes));
            socket.recv(take).unwrap();
        }
        if self.arrived.len() == sent.len() && socket.may_send() {
            assert!(self.arrived == sent);
            self.rounds -= 1;
            socket.close();
        }
        if socket.state() == tcp::State::TimeWait {
            socket.abort();
        }
        self.rounds == 0
    }
}

/// Streams `len` bytes through each of `connections` connections at a time, `rounds` times over.
fn stream(behaviour: Behaviour, connections: u16, rounds: u16, len: usize) {
    let sent: Vec<u8> = (0..len).map(|at| (at / 7).to_le_bytes()[0]).collect();
    let (device, mut client) = wired(behaviour);
    let stream = |number| Stream {
        socket: client.tcp(),
        port: 2000 + number,
        rounds,
        position: 0,
        arrived: Vec::new(),
    };
    let mut streams: Vec<_> = (0..connections).map(stream).collect();
    let client = client.with_script(|sockets, interface| {
        let done = streams
            .iter_mut()
            .filter_map(|stream| stream.turn(&sent, sockets, interface).then_some(()));
        Next::end_if(done.count() == usize::from(connections))
    });
    serve(device, client);
}

#[test]
fn streams_come_back_whole_side_by_side() {
    stream(Behaviour::default(), 4, 1, 100_000);
}

#[test]
fn a_connection_follows_the_other() {
    stream(Behaviour::default(), 4, 20, 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_stream_comes_back_whole_over_a_lossy_wire(loss in 1..30_u8, seed in 1..u64::MAX) {
        let behaviour = Behaviour { loss, seed, chunk: 700, ring: 64 };
        stream(behaviour, 2, 2, 20_000);
    }
}
