//! Answers each datagram with how many there were, and ends when one says so.
//!
//! Arguments: those of a network process.

#![no_std]
#![no_main]

use core::{cell::Cell, pin::pin};

use parakernel_apps::{
    executor::{self, Agenda, Flag, Task},
    kv::decimal::Decimal,
    net::{SocketStorage, Stack, UdpMemory},
    runtime::{Metric, Runtime},
};
use parakernel_process::{NetworkMemory, Place, Process};

/// The UDP port of the service.
const PORT: u16 = 2000;
/// The datagram that ends it.
const END: &[u8] = b"end";

static NETWORK: Place<NetworkMemory> = Place::new(NetworkMemory::new());
static SOCKET: Place<UdpMemory> = Place::new(UdpMemory::new());
/// One for each task.
static FLAGS: [Flag; 3] = [const { Flag::new() }; 3];

parakernel_process::entry!(main);

fn main(mut process: Process) -> u64 {
    let Some((memory, socket)) = NETWORK.take().zip(SOCKET.take()) else {
        return 1;
    };
    let strays = Cell::new(0);
    let mut network = match process.network() {
        Ok(network) => network,
        Err(error) => {
            process.log_line(format_args!("no network: {error:?}"));
            return 1;
        }
    };
    let address = network.identity.address;
    let device = match network.open(memory, &strays) {
        Ok(device) => device,
        Err(error) => {
            process.log_line(format_args!("no network: {error:?}"));
            return 1;
        }
    };
    let (agenda, mut sockets) = (Agenda::new(), [SocketStorage::EMPTY]);
    let stack = Stack::new(device, address, &mut sockets, &agenda);
    let socket = stack.add_udp(PORT, socket);
    let served = Cell::new(0);
    let count = async {
        // What is longer than this is not seen at all.
        let mut question = [0; 64];
        loop {
            let (len, from) = stack.receive_from(socket, &mut question).await;
            if &question[..len] == END {
                break agenda.stop();
            }
            served.set(served.get() + 1);
            let answer = Decimal::new(served.get());
            stack.send_to(socket, answer.as_bytes(), from).await;
        }
    };
    let (ingress, count, egress) = (pin!(stack.ingress()), pin!(count), pin!(stack.egress()));
    let tasks: &mut [Task<'_>] = &mut [ingress, count, egress];
    executor::run(&mut process, &agenda, &FLAGS, &mut [tasks], |process| {
        process.report(Metric::Served, served.get());
    });
    u64::from(stack.failure().is_some())
}
