//! The echo process: answers pings and nonces, and sends back what it is sent.
//!
//! Arguments: those of a network process (`nic`, `ip`, `mac`, `net`, `gateway`, `key`, `mode`).

#![no_std]
#![no_main]

use core::cell::Cell;

use parakernel_apps::echo;
use parakernel_process::{NetworkMemory, Place, Process, WithStrays};

parakernel_process::entry!(main);

static NETWORK: Place<NetworkMemory> = Place::new(NetworkMemory::new());
static MEMORY: Place<echo::Memory> = Place::new(echo::Memory::new());
static FLAGS: echo::Flags = echo::flags();

fn main(mut process: Process) -> u64 {
    let (Some(network), Some(memory)) = (NETWORK.take(), MEMORY.take()) else {
        return 1;
    };
    let strays = Cell::new(0);
    let network = match process.network(network, &strays) {
        Ok(network) => network,
        Err(error) => {
            process.log_line(format_args!("{error}"));
            return 1;
        }
    };
    process.log_line(format_args!("steered by {:?}", network.placement));
    let mut runtime = WithStrays::new(&mut process, &strays);
    let failure = echo::run(
        &mut runtime,
        network.device,
        network.identity,
        memory,
        &FLAGS,
    );
    process.log_line(format_args!("the link failed: {failure:?}"));
    1
}
