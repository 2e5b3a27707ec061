//! The block benchmark as a process: stamps, rereads and verifies its volumes, over one queue pair or several.
//!
//! Arguments: `nvme` (the device), `volumes`, `owner`, `nvme_queues`; `depth`, `transfer` (bytes), `passes`.

#![no_std]
#![no_main]

use heapless::Vec;
use parakernel_apps::block::{self, Job, Lane, Load, Statistics, Volume};
use parakernel_apps::executor::Flag;
use parakernel_apps::runtime::Runtime;
use parakernel_core::abi::BlockMap;
use parakernel_core::device::DeviceId;
use parakernel_core::error::ErrorKind;
use parakernel_core::handle::VolumeId;
use parakernel_core::memory::{BlockArena, BlockBuffer};
use parakernel_process::{
    Arguments, BLOCK_ENTRIES, BlockMemory, BlockPair, Lease, Process, block_pair,
};

parakernel_process::entry!(main);

/// Most volumes, and most queue pairs on each.
const VOLUMES: usize = 2;
const LANES: usize = 8;
/// Most requests in flight on all queue pairs of a volume.
const BUFFERS: usize = 64;
/// Requests in flight on each queue pair, and bytes of a transfer, where nothing is said.
const DEPTH: usize = 8;
const TRANSFER: u64 = 128 * 1024;

static ONE: [Flag; 1] = [Flag::new()];
static TWO: [Flag; 2] = [const { Flag::new() }; 2];

/// Queue pairs on one volume.
struct Place {
    leases: Vec<Lease, LANES>,
    map: BlockMap,
}

/// How it ends where something failed, and where its queues are taken back.
const FAILED: u64 = 1;
const REVOKED: u64 = 2;
/// Why it ends then.
const TAKEN_BACK: &str = "the queues are taken back";

fn main(mut process: Process) -> u64 {
    match bench(&mut process) {
        Ok(()) => 0,
        Err(reason) => {
            process.log(reason);
            if reason == TAKEN_BACK {
                REVOKED
            } else {
                FAILED
            }
        }
    }
}

fn bench(process: &mut Process) -> Result<(), &'static str> {
    let arguments = process.arguments();
    let volumes: Vec<u64, VOLUMES> = arguments.numbers("volumes").take(VOLUMES).collect();
    match *volumes.as_slice() {
        [volume] => work(process, [volume], &ONE),
        [first, second] => work(process, [first, second], &TWO),
        _ => Err("no volume"),
    }
}

/// Works on all volumes at once.
fn work<const N: usize>(
    process: &mut Process,
    volumes: [u64; N],
    flags: &'static [Flag; N],
) -> Result<(), &'static str> {
    let pairs = process.arguments().number("nvme_queues");
    let pairs = pairs.unwrap_or(1).max(1);
    let pairs = usize::try_from(pairs).map_or(LANES, |pairs| pairs.div_ceil(N).min(LANES));
    let mut places: Vec<Place, N> = Vec::new();
    for volume in volumes {
        let place = claim(process, VolumeId::from_bits(volume), pairs)?;
        places.push(place).map_err(|_| "too many volumes")?;
    }
    let mut arenas: Vec<BlockArena<'static>, N> = Vec::new();
    for place in &places {
        let arena = arena(process, place)?;
        arenas.push(arena).map_err(|_| "too many volumes")?;
    }
    let mut buffers = [const { [const { None }; BUFFERS] }; N];
    for (arena, buffers) in arenas.iter_mut().zip(&mut buffers) {
        buffers.fill_with(|| arena.take());
    }
    let statistics = Statistics::new();
    while let Err(kind) = round(
        process,
        &places,
        &arenas,
        &mut buffers,
        (&statistics, flags),
    )? {
        let leases = places.iter_mut().flat_map(|place| &mut place.leases);
        let mut leases: Vec<&mut Lease, { VOLUMES * LANES }> = leases.collect();
        let is_back = process.rearm(&mut leases);
        if !is_back.map_err(|_| "a queue pair does not come back")? {
            return verdict(&statistics, Err(kind));
        }
        process.log("the SSD was reset, and works again");
    }
    verdict(&statistics, Ok(()))
}

/// Works until all is done, or a queue fails: then what was in flight is given up. After a reset nobody knows which of it was
/// carried out, and a round that begins writes anew whatever the one before had not finished.
fn round<const N: usize>(
    process: &mut Process,
    places: &[Place],
    arenas: &[BlockArena<'static>],
    buffers: &mut [[Option<BlockBuffer>; BUFFERS]; N],
    (statistics, flags): (&Statistics, &'static [Flag; N]),
) -> Result<Result<(), ErrorKind>, &'static str> {
    let arguments = process.arguments();
    let mut commands = [const { [const { BlockMemory::new() }; LANES] }; N];
    let mut lanes: Vec<_, N> = Vec::new();
    for ((place, arena), commands) in places.iter().zip(arenas).zip(&mut commands) {
        let pairs = open(place, arena, commands).ok_or("a map that makes no sense")?;
        lanes.push(pairs).map_err(|_| "too many volumes")?;
    }
    let mut jobs: Vec<Job<'_, BlockPair<'_>>, N> = Vec::new();
    let parts = lanes.iter_mut().zip(&mut *buffers).zip(arenas).zip(places);
    for (((lanes, buffers), arena), place) in parts {
        let (volume, load) = (volume(arguments, place), load(arguments, place, arena));
        let job = Job::new(lanes, arena, buffers, volume, load).ok_or("the volume does not fit")?;
        jobs.push(job).map_err(|_| "too many volumes")?;
    }
    let mut jobs = jobs.into_array::<N>().map_err(|_| "too few volumes")?;
    let worked = block::run(process, &mut jobs, statistics, flags);
    for (lanes, buffers) in lanes.into_iter().zip(buffers) {
        let mut vacant = buffers.iter_mut().filter(|place| place.is_none());
        let mut put = |buffer| {
            if let Some(place) = vacant.next() {
                *place = Some(buffer);
            }
        };
        let pairs = lanes.into_iter().map(Lane::into_queue);
        pairs.for_each(|pair| pair.abandon(&mut put));
    }
    Ok(worked)
}

/// What there is to say in the end. A bad block counts, whatever else ended the work.
fn verdict(statistics: &Statistics, worked: Result<(), ErrorKind>) -> Result<(), &'static str> {
    if statistics.bad() == 0 && statistics.failed() == 0 {
        worked.map_err(ending)
    } else {
        Err("blocks were not what they had to be")
    }
}

/// Why all queues have failed together with one.
fn ending(kind: ErrorKind) -> &'static str {
    let known = [
        (ErrorKind::Revoked, TAKEN_BACK),
        (ErrorKind::Device, "the device was reset"),
        (ErrorKind::Timeout, "the device does not answer"),
    ];
    let found = known.into_iter().find(|(known, _)| *known == kind);
    found.map_or("a queue failed", |(_, reason)| reason)
}

fn claim(process: &mut Process, volume: VolumeId, pairs: usize) -> Result<Place, &'static str> {
    let device = process.arguments().number("nvme");
    let device = device.and_then(|device| u32::try_from(device).ok());
    let device = DeviceId::new(device.ok_or("no NVMe device")?);
    let (first, map) = process
        .claim_block(device, volume)
        .map_err(|_| "no queue pair")?;
    let mut leases = Vec::new();
    leases.push(first).map_err(|_| "too many queue pairs")?;
    for _ in 1..pairs {
        let (lease, _) = process
            .claim_block(device, volume)
            .map_err(|_| "too few queue pairs")?;
        leases.push(lease).map_err(|_| "too many queue pairs")?;
    }
    Ok(Place { leases, map })
}

/// As many buffers as requests may be in flight, each for the longest transfer.
fn arena(process: &mut Process, place: &Place) -> Result<BlockArena<'static>, &'static str> {
    let arguments = process.arguments();
    let transfer = transfer(arguments, place);
    let count = (depth(arguments) * place.leases.len()).min(BUFFERS);
    let len = usize::try_from(transfer)
        .unwrap_or(0)
        .next_multiple_of(4096);
    process.block_arena(count, len).map_err(|_| "no memory")
}

fn open<'m>(
    place: &Place,
    arena: &BlockArena<'_>,
    commands: &'m mut [BlockMemory; LANES],
) -> Option<Vec<Lane<BlockPair<'m>>, LANES>> {
    let mut lanes = Vec::new();
    for (lease, commands) in place.leases.iter().zip(commands) {
        let map = match lease.map().queue {
            parakernel_core::abi::QueueMap::Block(map) => map,
            parakernel_core::abi::QueueMap::Network(_) => return None,
        };
        let pair = block_pair(lease, &map, commands, arena)?;
        lanes.push(Lane::new(pair)).ok()?;
    }
    Some(lanes)
}

fn depth(arguments: Arguments) -> usize {
    let depth = arguments.parse("depth").unwrap_or(DEPTH);
    depth.clamp(1, BLOCK_ENTRIES - 1)
}

/// Bytes of the longest transfer.
fn transfer(arguments: Arguments, place: &Place) -> u64 {
    let wanted = arguments.number("transfer").unwrap_or(TRANSFER);
    wanted.clamp(1 << place.map.block_shift, place.map.max_transfer)
}

fn load(arguments: Arguments, place: &Place, arena: &BlockArena<'_>) -> Load {
    let transfer = transfer(arguments, place).min(arena.buffer_len() as u64);
    Load {
        depth: depth(arguments),
        transfer: u32::try_from(transfer >> place.map.block_shift).unwrap_or(1),
        passes: arguments.number("passes"),
        discard: false,
    }
}

fn volume(arguments: Arguments, place: &Place) -> Volume {
    Volume {
        owner: arguments.number("owner").unwrap_or(0),
        namespace: place.map.namespace,
        first: place.map.first,
        blocks: place.map.blocks,
        block_len: 1 << place.map.block_shift,
    }
}
