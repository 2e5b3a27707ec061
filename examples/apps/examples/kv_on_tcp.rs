//! The key-value store on a socket of the host, so that stock memcached clients can be tried on it:
//! `cargo run -p parakernel-apps --example kv_on_tcp -- 127.0.0.1:11211`.
//!
//! It prints the address that it listens on; port 0 is one that is free. One thread, one shard.

use core::time::Duration;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Instant as Clock, SystemTime, UNIX_EPOCH},
};

use parakernel_apps::kv::{
    session::{Next, Session, UnixTime},
    store::{Chunk, Item, Store},
};
use parakernel_core::time::Instant;

/// Items, and chunks of 256 bytes each: 64 MiB.
const ITEMS: usize = 1 << 16;
const CHUNKS: usize = 1 << 18;

/// How long to sleep when no client has anything to say.
const NAP: Duration = Duration::from_micros(200);

struct Client {
    stream: TcpStream,
    session: Session,
    /// Bytes that were answered already and not sent yet.
    unsent: Vec<u8>,
}

/// Whether a client is to be kept, and whether it did something.
enum Turn {
    Idle,
    Busy,
    Over,
}

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1);
    let address = address.as_deref().unwrap_or("127.0.0.1:11211");
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    serve(&listener)
}

/// Serves all who connect; returns only where the listener fails.
pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH);
    let started = UnixTime(started.unwrap_or_default().as_secs());
    let clock = Clock::now();
    let mut items = vec![Item::EMPTY; ITEMS];
    let (mut buckets, mut chunks) = (vec![0; ITEMS], vec![Chunk::EMPTY; CHUNKS]);
    let seed = u64::from(std::process::id());
    let mut store = Store::in_slices(&mut items, &mut buckets, &mut chunks, seed);
    let mut clients = Vec::new();
    loop {
        let mut busy = false;
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            clients.push(Client {
                stream,
                session: Session::new(started),
                unsent: Vec::new(),
            });
            busy = true;
        }
        let elapsed = u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let now = Instant::from_nanos(elapsed);
        clients.retain_mut(|client| {
            let turn = client.turn(&mut store, now).unwrap_or(Turn::Over);
            busy |= !matches!(turn, Turn::Idle);
            let over = matches!(turn, Turn::Over);
            if over {
                client.session.end(&mut store);
            }
            !over
        });
        if !busy {
            thread::sleep(NAP);
        }
    }
}

impl Client {
    fn turn(&mut self, store: &mut Store<'_>, now: Instant) -> io::Result<Turn> {
        if !self.send()? {
            return Ok(Turn::Idle);
        }
        let mut input = [0; 16384];
        let len = match self.stream.read(&mut input) {
            Ok(0) => return Ok(Turn::Over),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Idle),
            Err(error) => return Err(error),
        };
        let mut rest = input.get(..len).unwrap_or_default();
        let mut output = [0; 16384];
        loop {
            let progress = self.session.feed(store, now, rest, &mut output);
            rest = rest.get(progress.consumed..).unwrap_or_default();
            let answer = output.get(..progress.produced).unwrap_or_default();
            self.unsent.extend_from_slice(answer);
            match progress.next {
                Next::Room => {}
                Next::Input => break,
                Next::End => {
                    self.send()?;
                    return Ok(Turn::Over);
                }
            }
        }
        self.send()?;
        Ok(Turn::Busy)
    }

    /// Sends what it can; returns whether that is all.
    fn send(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(len) => drop(self.unsent.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
