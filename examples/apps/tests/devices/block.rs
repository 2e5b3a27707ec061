//! The block benchmark on the NVMe driver and its model.

use parakernel_apps::{
    block::{self, Job, Lane, Load, Statistics, Volume},
    executor::Flag,
    pattern::Stamp,
};
use parakernel_core::{memory::BlockArena, ring::RingSize};
use parakernel_mock_hw::{
    Memory, World,
    memory::Lease,
    nvme::{Config as ModelConfig, Nvme},
    pci::Bar,
};
use parakernel_nvme::{
    admin::{AdminMemory, AdminSlot},
    controller::{Config, Controller, ControllerMemory, PairMemory, PairSlot, PairState, QueueId},
    doorbell::RegisterDoorbell,
    queue::{CommandTable, DataPointer, Queue, QueueConfig, RangeMemory, Rings},
};

use super::{DEVICE, Kernel, PROCESS, poll};

const ENTRIES: usize = 16;
const KERNEL: Lease = Lease(0);

struct Machine {
    world: World,
    memory: Memory,
    nvme: Nvme,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let memory = world.memory(16 << 20);
        let nvme = Nvme::new(&world, &memory, DEVICE, ModelConfig::default());
        nvme.config_space().enable();
        Self {
            world,
            memory,
            nvme,
        }
    }

    /// The controller in service, with its tables in memory that is never freed.
    fn bring_up(&self) -> Controller<'_, Bar> {
        let block = |len| self.memory.lend(DEVICE, len, KERNEL).unwrap();
        let admin = AdminMemory {
            submission: block(4096),
            completion: block(4096),
            data: block(4096),
            slots: vec![AdminSlot::EMPTY; 8].leak(),
        };
        let pairs: Vec<_> = (0..4).map(|_| PairSlot::default()).collect();
        let memory = ControllerMemory {
            admin,
            pairs: pairs.leak(),
            namespaces: vec![None; 4].leak(),
            shadow: None,
        };
        let config = Config::default();
        Controller::bring_up(self.nvme.bar0(), memory, config, &mut &self.world).unwrap()
    }

    /// Queue pair `id`, on the controller's only namespace.
    fn queue<'m>(
        &'m self,
        controller: &mut Controller<'m, Bar>,
        id: u16,
        arena: &BlockArena<'_>,
    ) -> Queue<'m, RegisterDoorbell<'m, Bar>, ENTRIES> {
        let id = QueueId::new(id).unwrap();
        let memory = PairMemory {
            submission: self.memory.lend(DEVICE, 64 * ENTRIES, PROCESS).unwrap(),
            completion: self.memory.lend(DEVICE, 16 * ENTRIES, PROCESS).unwrap(),
            size: RingSize::new(16).unwrap(),
            vector: None,
        };
        let rings = Rings::new(memory.submission.memory(), memory.completion.memory()).unwrap();
        let begun = controller.begin_create(id, memory, self.world.now());
        begun.map_err(|(error, _)| error).unwrap();
        let state = poll(&self.world, |now| controller.poll_pair(id, now));
        assert_eq!(state, PairState::Live);
        let pair = controller.pair(id).unwrap();
        let ranges = self.memory.lend(DEVICE, 4096, PROCESS).unwrap();
        let namespace = *controller.namespaces().next().unwrap();
        let config = QueueConfig {
            queue: pair.queue,
            namespace: namespace.id,
            blocks: namespace.data.unwrap(),
            max_transfer: controller.limits().max_transfer,
            pointer: DataPointer::Sgl,
            ranges: Some(RangeMemory {
                memory: ranges.memory(),
                address: ranges.bus_address().as_u64(),
            }),
        };
        let bar = || self.nvme.bar0();
        let doorbells = [pair.tail_doorbell(bar()), pair.head_doorbell(bar())];
        let commands = Box::leak(Box::new(CommandTable::new()));
        Queue::new(config, rings, commands, arena, doorbells).unwrap()
    }
}

#[test]
fn a_volume_is_written_read_back_and_discarded_over_two_queue_pairs() {
    let machine = Machine::new(11);
    let mut controller = machine.bring_up();
    let buffer = 64 << 10;
    let mut arena = machine
        .memory
        .lend_blocks(DEVICE, buffer, 24, PROCESS)
        .unwrap();
    let mut buffers: Vec<_> = core::iter::from_fn(|| arena.take().map(Some)).collect();
    let block_len = 1
        << controller
            .namespaces()
            .next()
            .unwrap()
            .data
            .unwrap()
            .block_shift;
    let volume = Volume {
        owner: 0x51,
        namespace: 1,
        first: 100,
        blocks: 500,
        block_len,
    };
    let load = Load {
        depth: 15,
        transfer: u32::try_from(buffer / block_len).unwrap(),
        passes: Some(6),
        discard: true,
    };
    let mut lanes = [1, 2].map(|id| Lane::new(machine.queue(&mut controller, id, &arena)));
    let before = machine.nvme.read_blocks(1, 0, 100).unwrap();
    let behind = machine.nvme.read_blocks(1, 600, 100).unwrap();
    let statistics = Statistics::new();
    let mut kernel = Kernel {
        world: &machine.world,
        meanwhile: || {},
    };
    let mut run = |load: Load| {
        let job = Job::new(&mut lanes, &arena, &mut buffers, volume, load).unwrap();
        let flags = Box::leak(Box::new([Flag::new()]));
        block::run(&mut kernel, &mut [job], &statistics, flags).unwrap();
    };
    run(load);
    // Once more, and what it wrote stays.
    run(Load {
        passes: Some(1),
        discard: false,
        ..load
    });
    assert_eq!(statistics.written(), 7 * volume.blocks);
    assert_eq!(statistics.verified(), 13 * volume.blocks);
    assert_eq!((statistics.bad(), statistics.failed()), (0, 0));

    let bytes = machine.nvme.read_blocks(1, 100, 500).unwrap();
    for (lba, block) in (100..).zip(bytes.chunks_exact(block_len)) {
        let stamp = Stamp::check(block).unwrap();
        assert_eq!((stamp.owner, stamp.lba), (0x51, lba));
    }
    assert!(machine.nvme.read_blocks(1, 0, 100).unwrap() == before);
    assert!(machine.nvme.read_blocks(1, 600, 100).unwrap() == behind);
    machine.world.trace().assert_clean();
}
