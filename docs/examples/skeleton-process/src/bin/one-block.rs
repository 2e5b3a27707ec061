//! Writes one block of its volume, reads it back, and ends.
//!
//! Arguments: `nvme` (the device), `volumes`.

#![no_std]
#![no_main]

use parakernel_apps::runtime::{Metric, Runtime};
use parakernel_core::{
    abi::BlockMap,
    device::DeviceId,
    handle::VolumeId,
    memory::{BlockBuffer, PAGE_SIZE},
    queue::{BlockOperation, BlockQueue, BlockRequest, Lba},
};
use parakernel_process::{BlockMemory, BlockPair, Lease, Process, block_pair};

parakernel_process::entry!(main);

/// What is written.
const MARK: &[u8] = b"one block";

fn main(mut process: Process) -> u64 {
    match run(&mut process) {
        Ok(()) => 0,
        Err(reason) => {
            process.log(reason);
            1
        }
    }
}

fn run(process: &mut Process) -> Result<(), &'static str> {
    let (lease, map) = claim(process)?;
    let mut arena = process.block_arena(1, PAGE_SIZE).map_err(|_| "no memory")?;
    let mut commands = BlockMemory::new();
    let mut pair = block_pair(&lease, &map, &mut commands, &arena).ok_or("no such pair")?;
    let mut buffer = arena.take().ok_or("no buffer")?;

    arena.bytes_mut(&mut buffer)[..MARK.len()].copy_from_slice(MARK);
    let mut buffer = perform(process, &mut pair, &map, BlockOperation::Write, buffer)?;
    process.report(Metric::Written, 1);

    arena.bytes_mut(&mut buffer).fill(0);
    let buffer = perform(process, &mut pair, &map, BlockOperation::Read, buffer)?;
    if !arena.bytes(&buffer).starts_with(MARK) {
        return Err("another block came back");
    }
    process.report(Metric::Verified, 1);
    process.release(lease.id()).map_err(|_| "not given back")
}

/// Claims a queue pair on the first volume.
fn claim(process: &mut Process) -> Result<(Lease, BlockMap), &'static str> {
    let arguments = process.arguments();
    let device: u32 = arguments.parse("nvme").ok_or("no NVMe device")?;
    let volume = arguments.numbers("volumes").next().ok_or("no volume")?;
    process
        .claim_block(DeviceId::new(device), VolumeId::from_bits(volume))
        .map_err(|_| "no queue pair")
}

/// Does one operation on the volume's first block, and sleeps until it is done.
fn perform(
    process: &mut Process,
    pair: &mut BlockPair<'_>,
    map: &BlockMap,
    operation: BlockOperation,
    buffer: BlockBuffer,
) -> Result<BlockBuffer, &'static str> {
    let request = BlockRequest {
        operation,
        lba: Lba::new(map.first),
        blocks: 1,
        buffer: Some(buffer),
        user: 0,
    };
    pair.submit([request]).map_err(|_| "not submitted")?;
    let mut ended = None;
    while ended.is_none() {
        // Publishes what was submitted, and sleeps where nothing has arrived.
        process.wait(None);
        pair.poll(1, |done| ended = Some(done))
            .map_err(|_| "the queue failed")?;
    }
    let done = ended.ok_or("nothing came")?;
    done.status.map_err(|_| "the command failed")?;
    done.buffer.ok_or("no buffer came back")
}
