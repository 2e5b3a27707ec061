//! The echo process: answers pings, and sends back what it is sent.
//!
//! | port | service |
//! |---|---|
//! | UDP [`nonce::PORT`] | requests answered with the process's key |
//! | UDP and TCP [`PORT`] | everything as it came (RFC 862) |

use core::{cell::Cell, pin::pin};

use parakernel_core::error::ErrorKind;
use parakernel_smoltcp::{Device, Link};
use smoltcp::iface::SocketHandle;

use crate::{
    executor::{self, Agenda, Flag, each},
    net::{Identity, ServerMemory, SocketStorage, Stack, answer},
    nonce,
    runtime::{Metric, Runtime},
};

/// The port of the echo service.
pub const PORT: u16 = 7;

/// TCP connections at a time.
const CONNECTIONS: usize = 4;

/// Sockets in all: the connections and two for UDP.
const SOCKETS: usize = CONNECTIONS + 2;

/// Tasks in all: one per socket, and two that drive the stack.
const TASKS: usize = SOCKETS + 2;

/// Memory of the echo process, fit for a `static`.
pub type Memory = ServerMemory<2, CONNECTIONS>;

/// Wake-up flags of the echo process, for a `static`; one run at a time uses them.
pub type Flags = [Flag; TASKS];

/// Flags as [`run`] takes them.
#[must_use]
pub const fn flags() -> Flags {
    [const { Flag::new() }; TASKS]
}

/// Serves until the link fails, and returns how it failed.
pub fn run<L: Link>(
    runtime: &mut impl Runtime,
    device: Device<'_, L>,
    identity: Identity,
    memory: &mut Memory,
    flags: &'static Flags,
) -> ErrorKind {
    let (agenda, served) = (Agenda::new(), Cell::new(0));
    let mut storage = [SocketStorage::EMPTY; SOCKETS];
    let stack = Stack::new(device, identity.address, &mut storage, &agenda);
    let [nonces, echoes] = &mut memory.udp;
    let (nonces, echoes) = (
        stack.add_udp(nonce::PORT, nonces),
        stack.add_udp(PORT, echoes),
    );
    let connections = memory.tcp.each_mut().map(|memory| stack.add_tcp(memory));

    let nonces = answer(&stack, nonces, &served, |datagram| {
        nonce::answer_in_place(identity.key, datagram)
    });
    let (mut nonces, mut echoes) = (
        pin!(nonces),
        pin!(answer(&stack, echoes, &served, |_| true)),
    );
    let mut connections = pin!(connections.map(|connection| echo(&stack, connection)));
    let (mut ingress, mut egress) = (pin!(stack.ingress()), pin!(stack.egress()));
    executor::run(
        runtime,
        &agenda,
        flags,
        &mut [
            &mut [ingress.as_mut(), nonces.as_mut(), echoes.as_mut()],
            &mut each(connections.as_mut()),
            &mut [egress.as_mut()],
        ],
        |runtime| runtime.report(Metric::Served, served.get()),
    );
    stack.failure().unwrap_or(ErrorKind::Other)
}

/// Sends everything back that connection after connection brings.
async fn echo<L: Link>(stack: &Stack<'_, L>, socket: SocketHandle) {
    let mut buffer = [0; 1024];
    loop {
        stack.accept(socket, PORT).await;
        while let Ok(count) = stack.read(socket, &mut buffer).await {
            let bytes = buffer.get(..count).unwrap_or_default();
            if stack.write(socket, bytes).await.is_err() {
                break;
            }
        }
        stack.close(socket).await;
    }
}
