//! The key-value process: serves memcached clients over TCP, one task per connection.
//!
//! | port | service |
//! |---|---|
//! | TCP [`PORT`] | the store |
//! | UDP [`nonce::PORT`] | requests answered with the process's key |

use core::{
    cell::{Cell, RefCell},
    pin::pin,
};

use parakernel_core::{error::ErrorKind, time::Instant};
use parakernel_smoltcp::{Device, Link};
use smoltcp::iface::SocketHandle;

use super::{
    session::{Next, Progress, Session, UnixTime},
    store::Store,
};
use crate::{
    executor::{self, Agenda, Flag, each},
    net::{Identity, ServerMemory, SocketStorage, Stack, answer},
    nonce,
    runtime::{Metric, Runtime},
};

/// The port that clients expect.
pub const PORT: u16 = 11211;

/// TCP connections at a time.
const CONNECTIONS: usize = 16;

/// Sockets in all.
const SOCKETS: usize = CONNECTIONS + 1;

/// Tasks in all: one per socket, and two that drive the stack.
const TASKS: usize = SOCKETS + 2;

/// Bytes that a task takes from or gives to its connection at once.
const PIECE: usize = 2048;

/// Memory of the process besides its store's, fit for a `static`.
pub type Memory = ServerMemory<1, CONNECTIONS>;

/// Wake-up flags of the process, for a `static`; one run at a time uses them.
pub type Flags = [Flag; TASKS];

/// Flags as [`run`] takes them.
#[must_use]
pub const fn flags() -> Flags {
    [const { Flag::new() }; TASKS]
}

/// Serves `store` until the link fails, and returns how it failed.
pub fn run<L: Link>(
    runtime: &mut impl Runtime,
    device: Device<'_, L>,
    identity: Identity,
    (store, memory): (&mut Store<'_>, &mut Memory),
    flags: &'static Flags,
) -> ErrorKind {
    let (agenda, served, store) = (Agenda::new(), Cell::new(0), RefCell::new(store));
    let mut storage = [SocketStorage::EMPTY; SOCKETS];
    let stack = Stack::new(device, identity.address, &mut storage, &agenda);
    let [nonces] = &mut memory.udp;
    let nonces = stack.add_udp(nonce::PORT, nonces);
    let connections = memory.tcp.each_mut().map(|memory| stack.add_tcp(memory));

    let mut nonces = pin!(answer(&stack, nonces, &served, |datagram| {
        nonce::answer_in_place(identity.key, datagram)
    }));
    let mut connections = pin!(connections.map(|socket| serve(&stack, socket, &store, &agenda)));
    let (mut ingress, mut egress) = (pin!(stack.ingress()), pin!(stack.egress()));
    executor::run(
        runtime,
        &agenda,
        flags,
        &mut [
            &mut [ingress.as_mut(), nonces.as_mut()],
            &mut each(connections.as_mut()),
            &mut [egress.as_mut()],
        ],
        |runtime| runtime.report(Metric::Served, served.get()),
    );
    stack.failure().unwrap_or(ErrorKind::Other)
}

/// The store, for one task after the other.
type Shared<'r, 's> = RefCell<&'r mut Store<'s>>;

/// A conversation, which gives back what it holds of the store however it ends: by a link that fails, too.
struct Talk<'t, 'r, 's> {
    session: Session,
    store: &'t Shared<'r, 's>,
}

impl Talk<'_, '_, '_> {
    fn feed(&mut self, now: Instant, input: &[u8], output: &mut [u8]) -> Progress {
        let mut store = self.store.borrow_mut();
        self.session.feed(&mut store, now, input, output)
    }
}

impl Drop for Talk<'_, '_, '_> {
    fn drop(&mut self) {
        self.session.end(&mut self.store.borrow_mut());
    }
}

/// Serves client after client.
async fn serve<L: Link>(
    stack: &Stack<'_, L>,
    socket: SocketHandle,
    store: &Shared<'_, '_>,
    agenda: &Agenda,
) {
    let (mut input, mut output) = ([0; PIECE], [0; PIECE]);
    loop {
        stack.accept(socket, PORT).await;
        // The process does not know the time of day.
        let mut talk = Talk {
            session: Session::new(UnixTime::default()),
            store,
        };
        while let Ok(len) = stack.read(socket, &mut input).await {
            let mut rest = input.get(..len).unwrap_or_default();
            let next = loop {
                let progress = talk.feed(agenda.now(), rest, &mut output);
                rest = rest.get(progress.consumed..).unwrap_or_default();
                let answer = output.get(..progress.produced).unwrap_or_default();
                let written = stack.write(socket, answer).await;
                if written.is_err() || progress.next != Next::Room {
                    break written.map(|()| progress.next);
                }
            };
            if next != Ok(Next::Input) {
                break;
            }
        }
        drop(talk);
        stack.close(socket).await;
    }
}
