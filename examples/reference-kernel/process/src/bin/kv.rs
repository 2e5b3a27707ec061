//! The key-value process: memcached's text protocol over TCP, and the nonce service.
//!
//! Arguments: those of a network process (`nic`, `ip`, `mac`, `net`, `gateway`, `key`, `mode`).

#![no_std]
#![no_main]

use parakernel_apps::{
    kv::{
        server,
        store::{Chunk, Item, Store},
    },
    runtime::Runtime,
};
use parakernel_process::{NetworkMemory, Place, Process};

parakernel_process::entry!(main);

/// How much the store holds: so many items, in so many pieces of 64 bytes.
const ITEMS: usize = 8192;
const BUCKETS: usize = 8192;
const CHUNKS: usize = 64 * 1024;

static NETWORK: Place<NetworkMemory> = Place::new(NetworkMemory::new());
static MEMORY: Place<server::Memory> = Place::new(server::Memory::new());
static ITEM_MEMORY: Place<[Item; ITEMS]> = Place::new([Item::EMPTY; _]);
static BUCKET_MEMORY: Place<[u32; BUCKETS]> = Place::new([0; _]);
static CHUNK_MEMORY: Place<[Chunk; CHUNKS]> = Place::new([Chunk::EMPTY; _]);
static FLAGS: server::Flags = server::flags();

fn main(mut process: Process) -> u64 {
    // It ends only where something fails.
    let _no_memory = serve(&mut process).is_none();
    1
}

/// Serves until the link fails for good. What is stored outlives a reset of the card.
fn serve(process: &mut Process) -> Option<()> {
    // Nobody outside knows the time stamp at which the process was started, so nobody can choose keys that collide.
    let seed = process.now().as_nanos() ^ process.info().tsc_start.rotate_left(32);
    let mut store = Store::in_slices(
        ITEM_MEMORY.take()?,
        BUCKET_MEMORY.take()?,
        CHUNK_MEMORY.take()?,
        seed,
    );
    let memory = MEMORY.take()?;
    let served = process.serve(NETWORK.take()?, |runtime, device, identity| {
        server::run(runtime, device, identity, (&mut store, memory), &FLAGS)
    });
    match served {
        Ok(failure) => process.log_line(format_args!("the link failed: {failure:?}")),
        Err(error) => process.log_line(format_args!("{error}")),
    }
    Some(())
}
