//! Takes as many queue pairs as it may have, reads a block through each while it has all before it, and gives all back; twice.
//!
//! Arguments: `nvme` (the device), `volumes`, `nvme_queues`.

#![no_std]
#![no_main]

use core::time::Duration;

use heapless::Vec;
use parakernel_apps::runtime::{Metric, Runtime};
use parakernel_core::device::DeviceId;
use parakernel_core::handle::{LeaseId, VolumeId};
use parakernel_core::memory::{BlockArena, BlockBuffer};
use parakernel_core::queue::{BlockOperation, BlockQueue, BlockRequest, Lba};
use parakernel_process::{BlockMemory, Process, block_pair};

parakernel_process::entry!(main);

/// Most queue pairs that it keeps the names of.
const PAIRS: usize = 4096;
const ROUNDS: u64 = 2;
/// How long a block may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a block is read with.
struct Block {
    arena: BlockArena<'static>,
    buffer: Option<BlockBuffer>,
    commands: BlockMemory,
}

fn main(mut process: Process) -> u64 {
    match hoard(&mut process) {
        Ok(pairs) => {
            process.log_line(format_args!("{pairs} queue pairs, each read through"));
            0
        }
        Err(reason) => {
            process.log(reason);
            1
        }
    }
}

fn hoard(process: &mut Process) -> Result<usize, &'static str> {
    let arguments = process.arguments();
    let device = arguments.number("nvme").map(u32::try_from);
    let device = DeviceId::new(device.and_then(Result::ok).ok_or("no NVMe device")?);
    let volume = arguments.numbers("volumes").next().ok_or("no volume")?;
    let volume = VolumeId::from_bits(volume);
    let wanted = arguments.number("nvme_queues").map(usize::try_from);
    let wanted = wanted.and_then(Result::ok).unwrap_or(1);
    let mut arena = process.block_arena(1, 4096).map_err(|_| "no memory")?;
    let mut block = Block {
        buffer: arena.take(),
        arena,
        commands: BlockMemory::new(),
    };
    let mut leases: Vec<LeaseId, PAIRS> = Vec::new();
    for round in 0..ROUNDS {
        for number in 0..wanted {
            let lease = read_through_one(process, (device, volume), &mut block)?;
            leases.push(lease).map_err(|_| "too many queue pairs")?;
            process.report(Metric::Served, round * wanted as u64 + number as u64 + 1);
        }
        while let Some(lease) = leases.pop() {
            process.release(lease).map_err(|_| "not taken back")?;
        }
    }
    Ok(wanted)
}

/// Claims a queue pair and reads the first block of the volume through it.
fn read_through_one(
    process: &mut Process,
    (device, volume): (DeviceId, VolumeId),
    block: &mut Block,
) -> Result<LeaseId, &'static str> {
    let (lease, map) = process
        .claim_block(device, volume)
        .map_err(|_| "no queue pair")?;
    let pair = block_pair(&lease, &map, &mut block.commands, &block.arena);
    let mut pair = pair.ok_or("a map that makes no sense")?;
    let request = BlockRequest {
        operation: BlockOperation::Read,
        lba: Lba::new(map.first),
        blocks: 1,
        buffer: Some(block.buffer.take().ok_or("no buffer")?),
        user: 0,
    };
    let submitted = pair.submit([request]).map_err(|_| "a queue failed")?;
    let deadline = process.now().saturating_add(PATIENCE);
    let mut outcome = None;
    while outcome.is_none() && process.now() < deadline {
        process.end_of_turn();
        let polled = pair.poll(1, |done| {
            block.buffer = done.buffer;
            outcome = Some(done.status.is_ok());
        });
        if polled.map_err(|_| "a queue failed")? == 0 {
            process.wait(Some(deadline));
        }
    }
    if submitted == 1 && outcome == Some(true) {
        Ok(lease.id())
    } else {
        Err("a block was not read")
    }
}
