//! Writes blocks to a model of an NVMe controller: the example of the README, as a program.
#![expect(
    clippy::unwrap_used,
    reason = "an example ends where something is wrong"
)]

use parakernel_core::memory::{BlockArena, BlockBuffer};
use parakernel_core::{
    queue::{BlockOperation, BlockQueue, BlockRequest, Lba},
    ring::RingSize,
};
use parakernel_mock_hw::{
    Memory, World,
    memory::{Lease, RequesterId},
    nvme::{Config as Model, Nvme},
};
use parakernel_nvme::controller::{
    Config, Controller, ControllerMemory, PairMemory, PairSlot, QueueId,
};
use parakernel_nvme::{
    admin::{AdminMemory, AdminSlot},
    queue::{CommandTable, DataPointer, Queue, Rings},
};

const DEVICE: RequesterId = RequesterId(0x0100);

/// A machine with a model of a controller; on hardware, the registers are a mapped BAR.
fn machine() -> (World, Memory, Nvme) {
    let world = World::new(1);
    let memory = world.memory(1 << 20);
    let nvme = Nvme::new(&world, &memory, DEVICE, Model::default());
    nvme.config_space().enable();
    (world, memory, nvme)
}

/// Fills `buffer`, and writes it to the eight blocks from `lba` on.
fn write(queue: &mut impl BlockQueue, arena: &BlockArena<'_>, mut buffer: BlockBuffer, lba: u64) {
    arena.bytes_mut(&mut buffer).fill(7);
    let request = BlockRequest {
        operation: BlockOperation::Write,
        lba: Lba::new(lba),
        blocks: 8,
        buffer: Some(buffer),
        user: 42,
    };
    assert!(matches!(queue.submit([request]), Ok(1)));
}

fn main() {
    let (world, memory, nvme) = machine();
    let block = || memory.lend(DEVICE, 4096, Lease(0)).unwrap();

    // The control half, in memory that the caller owns.
    let mut slots = [AdminSlot::EMPTY; 8];
    let (mut pairs, mut namespaces) = ([const { PairSlot::EMPTY }; 4], [None; 4]);
    let admin = AdminMemory {
        submission: block(),
        completion: block(),
        data: block(),
        slots: &mut slots,
    };
    let tables = ControllerMemory {
        admin,
        pairs: &mut pairs,
        namespaces: &mut namespaces,
        shadow: None,
    };
    let mut controller =
        Controller::bring_up(nvme.bar0(), tables, Config::default(), &mut &world).unwrap();

    // A queue pair: begun, then polled until the controller has it.
    let (id, size) = (QueueId::new(1).unwrap(), RingSize::new(64).unwrap());
    let pair = PairMemory {
        submission: block(),
        completion: block(),
        size,
        vector: None,
    };
    let rings = Rings::<64>::new(pair.submission.memory(), pair.completion.memory()).unwrap();
    controller.begin_create(id, pair, world.now()).unwrap();
    while controller.poll_pair(id, world.now()).is_pending() {
        world.step();
    }

    // The data half, on the first namespace.
    let config = controller
        .queue_config(id, 1, DataPointer::TwoPages)
        .unwrap();
    let pair = controller.pair(id).unwrap();
    let doorbells = [
        pair.tail_doorbell(nvme.bar0()),
        pair.head_doorbell(nvme.bar0()),
    ];
    let mut arena = memory.lend_blocks(DEVICE, 4096, 8, Lease(0)).unwrap();
    let mut commands = CommandTable::new();
    let mut queue = Queue::new(config, rings, &mut commands, &arena, doorbells).unwrap();
    let buffer = arena.take().unwrap();
    write(&mut queue, &arena, buffer, 3);
    world.settle(1000);
    let done = queue.poll(8, |done| {
        println!("request {} ended: {:?}", done.user, done.status);
    });
    assert_eq!(done, Ok(1));
    assert_eq!(nvme.read_blocks(1, 3, 8).unwrap(), [7; 4096]);
}
