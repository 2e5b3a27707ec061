//! The key-value process, asked by clients with a stack of their own over a wire in memory.

use crate::peer::{Client, Next, Nic, SERVER, Sockets, wired};
use crate::wire::Behaviour;
use parakernel_apps::{
    kv::{
        server::{self, Memory},
        session::{Session, UnixTime},
        store::{Chunk, Item, Store},
    },
    net::Identity,
    nonce::{self, Message},
};
use parakernel_core::{error::ErrorKind, time::Instant};
use proptest::prelude::*;
use smoltcp::{
    iface::{Interface, SocketHandle},
    socket::{tcp, udp},
};

const KEY: u64 = 0x77;

fn serve(device: Nic, client: Client<'_>) {
    let (mut items, mut buckets) = (vec![Item::EMPTY; 64], vec![0; 64]);
    let mut chunks = vec![Chunk::EMPTY; 4096];
    let mut store = Store::in_slices(&mut items, &mut buckets, &mut chunks, 9);
    serve_from(&mut store, device, client);
}

fn serve_from(store: &mut Store<'_>, device: Nic, mut client: Client<'_>) {
    let identity = Identity {
        address: SERVER,
        key: KEY,
    };
    let flags = Box::leak(Box::new(server::flags()));
    let mut memory = Box::new(Memory::new());
    let end = server::run(&mut client, device, identity, (store, &mut memory), flags);
    assert_eq!(end, ErrorKind::Revoked);
}

/// A client's connection, what it has to say, and what it was answered.
struct Talk {
    socket: SocketHandle,
    port: u16,
    asked: Vec<u8>,
    sent: usize,
    answered: Vec<u8>,
    connected: bool,
}

impl Talk {
    fn new(client: &mut Client<'_>, port: u16, asked: Vec<u8>) -> Self {
        Self {
            socket: client.tcp(),
            port,
            asked,
            sent: 0,
            answered: Vec::new(),
            connected: false,
        }
    }

    /// Sends and receives what it can; returns whether the server has closed the connection.
    fn turn(&mut self, sockets: &mut Sockets, interface: &mut Interface) -> bool {
        let socket = sockets.get_mut::<tcp::Socket<'_>>(self.socket);
        if !self.connected {
            self.connected = true;
            let server = (SERVER.ip, server::PORT);
            socket
                .connect(interface.context(), server, self.port)
                .unwrap();
        }
        if socket.can_send() && self.sent < self.asked.len() {
            self.sent += socket.send_slice(&self.asked[self.sent..]).unwrap();
        }
        while socket.can_recv() {
            let take = |bytes: &mut [u8]| (bytes.len(), self.answered.extend_from_slice(bytes));
            socket.recv(take).unwrap();
        }
        if socket.state() == tcp::State::CloseWait {
            socket.close();
        }
        !socket.is_open() || socket.state() == tcp::State::LastAck
    }
}

/// Sets a large value and a counter, reads them back, and says goodbye; with the answers.
fn conversation(name: usize) -> (Vec<u8>, Vec<u8>) {
    let value: String = (0..20_000)
        .map(|at| ((at / 7 + name) % 10).to_string())
        .collect();
    let asked = format!(
        "set large{name} {name} 0 20000\r\n{value}\r\nset n{name} 0 0 1\r\n5\r\nincr n{name} 37\r\n\
         get large{name} nothing n{name}\r\nquit\r\n"
    );
    let answered = format!(
        "STORED\r\nSTORED\r\n42\r\nVALUE large{name} {name} 20000\r\n{value}\r\n\
         VALUE n{name} 0 2\r\n42\r\nEND\r\n"
    );
    (asked.into_bytes(), answered.into_bytes())
}

/// Clients side by side, each with a conversation of its own.
fn clients(behaviour: Behaviour, count: u16) {
    let (device, mut client) = wired(behaviour);
    let mut talks: Vec<_> = (0..count)
        .map(|number| Talk::new(&mut client, 3000 + number, conversation(number.into()).0))
        .collect();
    let client = client.with_script(|sockets, interface| {
        let over = talks.iter_mut().filter_map(|talk| {
            let over = talk.turn(sockets, interface);
            over.then_some(())
        });
        Next::end_if(over.count() == usize::from(count))
    });
    serve(device, client);
    for (name, talk) in talks.iter().enumerate() {
        assert!(talk.answered == conversation(name).1, "client {name}");
    }
}

#[test]
fn clients_side_by_side_get_their_own_answers() {
    clients(Behaviour::default(), 16);
}

/// A server that begins anew on another link finds the whole store, whatever its clients were in the middle of.
#[test]
fn a_link_that_fails_in_the_middle_of_a_value_leaves_no_room_taken() {
    let (mut items, mut buckets) = (vec![Item::EMPTY; 4], vec![0; 4]);
    // Room for one such value, but not for two.
    let mut chunks = vec![Chunk::EMPTY; 20];
    let mut store = Store::in_slices(&mut items, &mut buckets, &mut chunks, 9);
    let set = format!("set whole 0 0 3000\r\n{:03000}\r\n", 7).into_bytes();
    let (device, mut client) = wired(Behaviour::default());
    let mut talk = Talk::new(&mut client, 3000, set[..2500].to_vec());
    let mut turns = 0;
    let client = client.with_script(|sockets, interface| {
        talk.turn(sockets, interface);
        turns += u32::from(talk.sent == talk.asked.len());
        Next::end_if(turns == 50)
    });
    serve_from(&mut store, device, client);
    let (mut session, mut answer) = (Session::new(UnixTime::default()), [0; 64]);
    let progress = session.feed(&mut store, Instant::from_nanos(0), &set, &mut answer);
    assert_eq!(&answer[..progress.produced], b"STORED\r\n");
}

#[test]
fn the_nonce_service_answers_while_clients_are_served() {
    let (device, mut client) = wired(Behaviour::default());
    let mut talk = Talk::new(&mut client, 3000, conversation(0).0);
    let socket = client.udp(1000);
    let request = Message {
        sequence: 1,
        nonce: 2,
        sent_at: 3,
    };
    let (mut asked, mut answer) = (false, None);
    let client = client.with_script(|sockets, interface| {
        let over = talk.turn(sockets, interface);
        let socket = sockets.get_mut::<udp::Socket<'_>>(socket);
        if !asked {
            let mut datagram = [0; nonce::LEN];
            request.write_request(&mut datagram);
            socket
                .send_slice(&datagram, (SERVER.ip, nonce::PORT))
                .unwrap();
            asked = true;
        }
        if let Ok((datagram, _)) = socket.recv() {
            answer = Message::parse_answer(datagram);
        }
        Next::end_if(over && answer.is_some())
    });
    serve(device, client);
    let nonce = nonce::answer(KEY, request.nonce);
    assert_eq!(answer, Some(Message { nonce, ..request }));
    assert!(talk.answered == conversation(0).1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn conversations_are_whole_over_a_lossy_wire(loss in 1..20_u8, seed in 1..u64::MAX) {
        clients(Behaviour { loss, seed, chunk: 700, ring: 64 }, 3);
    }
}
