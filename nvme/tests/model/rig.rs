//! A machine with one NVMe controller that is a model, and the driver's tables.

use core::task::Poll;
use core::time::Duration;

use parakernel_core::{
    memory::BlockArena,
    queue::{BlockOperation, BlockRequest, Lba},
    ring::RingSize,
    time::Instant,
};
use parakernel_mock_hw::{
    Memory, World,
    memory::{Lease, RequesterId},
    nvme::{Config as ModelConfig, Nvme},
    pci::Bar,
};
use parakernel_nvme::{
    admin::{AdminMemory, AdminSlot},
    controller::{
        Config, Controller, ControllerMemory, Pair, PairMemory, PairSlot, PairState, QueueId,
    },
    doorbell::{RegisterDoorbell, ShadowMemory},
    error::InitError,
    namespace::NamespaceSlot,
    queue::{CommandTable, DataPointer, Queue, QueueConfig, RangeMemory, Rings},
};

pub(crate) const DEVICE: RequesterId = RequesterId(0x0100);
/// Whose the control half's memory is, and that of the queues that the kernel uses itself.
pub(crate) const KERNEL: Lease = Lease(0);
pub(crate) const ENTRIES: usize = 16;

pub(crate) type Driver<'m> = Controller<'m, Bar>;
pub(crate) type KernelQueue<'m> = Queue<'m, RegisterDoorbell<'m, Bar>, ENTRIES>;

/// The machine.
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) memory: Memory,
    pub(crate) nvme: Nvme,
}

/// What the driver's records live in.
pub(crate) struct Tables<'m> {
    admin: [AdminSlot; 8],
    pairs: Vec<PairSlot<'m>>,
    namespaces: [NamespaceSlot; 4],
}

impl Tables<'_> {
    pub(crate) fn new(pairs: usize) -> Self {
        Self {
            admin: [AdminSlot::EMPTY; 8],
            pairs: (0..pairs).map(|_| PairSlot::default()).collect(),
            namespaces: [None; 4],
        }
    }
}

pub(crate) fn queue(id: u16) -> QueueId {
    QueueId::new(id).unwrap()
}

pub(crate) fn request(operation: BlockOperation, lba: u64, blocks: u32, user: u64) -> BlockRequest {
    BlockRequest {
        operation,
        lba: Lba::new(lba),
        blocks,
        buffer: None,
        user,
    }
}

impl Rig {
    pub(crate) fn new(seed: u64, config: ModelConfig) -> Self {
        let world = World::new(seed);
        let memory = world.memory(16 << 20);
        let nvme = Nvme::new(&world, &memory, DEVICE, config);
        nvme.config_space().enable();
        Self {
            world,
            memory,
            nvme,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.world.now()
    }

    pub(crate) fn try_bring_up<'m>(
        &'m self,
        tables: &'m mut Tables<'m>,
    ) -> Result<Driver<'m>, InitError> {
        let block = |len| self.memory.lend(DEVICE, len, KERNEL).unwrap();
        let admin = AdminMemory {
            submission: block(4096),
            completion: block(4096),
            data: block(4096),
            slots: &mut tables.admin,
        };
        let memory = ControllerMemory {
            admin,
            pairs: &mut tables.pairs,
            namespaces: &mut tables.namespaces,
            shadow: Some(ShadowMemory {
                values: block(4096),
                events: block(4096),
            }),
        };
        Controller::bring_up(
            self.nvme.bar0(),
            memory,
            Config::default(),
            &mut &self.world,
        )
    }

    pub(crate) fn bring_up<'m>(&'m self, tables: &'m mut Tables<'m>) -> Driver<'m> {
        self.try_bring_up(tables).unwrap()
    }

    /// Polls until there is a result, for at most ten seconds of the machine's time: a reset waits for three commands, two
    /// seconds each, and for the controller.
    pub(crate) fn wait<T>(&self, mut poll: impl FnMut(Instant) -> Poll<T>) -> Option<T> {
        for _ in 0..100_000 {
            if let Poll::Ready(result) = poll(self.now()) {
                return Some(result);
            }
            self.world.run_for(Duration::from_micros(100));
        }
        None
    }

    pub(crate) fn pair_memory(&self) -> PairMemory<'_> {
        PairMemory {
            submission: self.memory.lend(DEVICE, 64 * ENTRIES, KERNEL).unwrap(),
            completion: self.memory.lend(DEVICE, 16 * ENTRIES, KERNEL).unwrap(),
            size: RingSize::new(16).unwrap(),
            vector: None,
        }
    }

    pub(crate) fn create<'m>(
        &'m self,
        driver: &mut Driver<'m>,
        id: u16,
    ) -> (Pair<'m>, Rings<'m, ENTRIES>) {
        let memory = self.pair_memory();
        let rings = Rings::new(memory.submission.memory(), memory.completion.memory()).unwrap();
        driver
            .begin_create(queue(id), memory, self.now())
            .map_err(|(error, _)| error)
            .unwrap();
        let state = self.wait(|now| driver.poll_pair(queue(id), now));
        assert_eq!(state, Some(PairState::Live));
        (driver.pair(queue(id)).unwrap(), rings)
    }

    /// A queue of the kernel's own over a fresh pair 1, by SGLs.
    pub(crate) fn kernel_queue<'m>(
        &'m self,
        driver: &mut Driver<'m>,
        commands: &'m mut CommandTable<ENTRIES>,
        arena: &BlockArena<'_>,
    ) -> KernelQueue<'m> {
        let (_, rings) = self.create(driver, 1);
        self.queue_over(driver, rings, commands, arena).unwrap()
    }

    /// A queue over pair 1; `None` where it is not, or there is no namespace.
    pub(crate) fn queue_over<'m, 'c>(
        &'m self,
        driver: &Driver<'m>,
        rings: Rings<'m, ENTRIES>,
        commands: &'c mut CommandTable<ENTRIES>,
        arena: &BlockArena<'_>,
    ) -> Option<KernelQueue<'c>>
    where
        'm: 'c,
    {
        let pair = driver.pair(queue(1))?;
        let ranges = self.memory.lend(DEVICE, 4096, KERNEL)?;
        let namespace = *driver.namespaces().next()?;
        let config = QueueConfig {
            queue: pair.queue,
            namespace: namespace.id,
            blocks: namespace.data.ok()?,
            max_transfer: driver.limits().max_transfer,
            pointer: DataPointer::Sgl,
            ranges: Some(RangeMemory {
                memory: ranges.memory(),
                address: ranges.bus_address().as_u64(),
            }),
        };
        let doorbells = [
            pair.tail_doorbell(self.nvme.bar0()),
            pair.head_doorbell(self.nvme.bar0()),
        ];
        Queue::new(config, rings, commands, arena, doorbells)
    }

    pub(crate) fn arena(&self, count: usize, len: usize) -> BlockArena<'_> {
        self.memory.lend_blocks(DEVICE, len, count, KERNEL).unwrap()
    }
}
