//! The echo process: answers pings and nonces, and sends back what it is sent.
//!
//! Arguments: those of a network process (`nic`, `ip`, `mac`, `net`, `gateway`, `key`, `mode`).

#![no_std]
#![no_main]

use parakernel_apps::echo;
use parakernel_process::{NetworkMemory, Place, Process};

parakernel_process::entry!(main);

static NETWORK: Place<NetworkMemory> = Place::new(NetworkMemory::new());
static MEMORY: Place<echo::Memory> = Place::new(echo::Memory::new());
static FLAGS: echo::Flags = echo::flags();

fn main(mut process: Process) -> u64 {
    let (Some(network), Some(memory)) = (NETWORK.take(), MEMORY.take()) else {
        return 1;
    };
    let served = process.serve(network, |runtime, device, identity| {
        echo::run(runtime, device, identity, memory, &FLAGS)
    });
    match served {
        Ok(failure) => process.log_line(format_args!("the link failed: {failure:?}")),
        Err(error) => process.log_line(format_args!("{error}")),
    }
    1
}
